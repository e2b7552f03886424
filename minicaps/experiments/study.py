"""What every experiment is made of: training in one place, a result that grows, tables."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minicaps import figures
from minicaps.checks import check_choice, check_positive
from minicaps.networks import PRESETS, Network
from minicaps.networks import weights as checkpoint
from minicaps.training import DataParallel, Optimizer, batches, to_batch

Batches = Iterator[tuple[np.ndarray, np.ndarray]]  # 8-bit images and labels
Row = dict[str, Any]  # of JSON's types


@dataclass(frozen=True)
class Settings:
    """What an experiment can be told.

    Attributes
    ----------
    seeds : int
        Networks of each kind, from the seeds `seed`, `seed` + 1, …
    seed : int
    minutes : float, optional
        About the time that the training of the CapsNet takes, for each seed.
    steps : int, optional
        Training steps of the CapsNet; they win over `minutes`.
    preset : {"tiny", "small", "paper"}
        Size of the CapsNet.
    networks : tuple of str
        Those to train.
    data : str, optional
        Folder of four IDX files.
    """

    seeds: int = 1
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    preset: str = "small"
    networks: tuple[str, ...] = ()
    data: str | None = None

    def __post_init__(self) -> None:
        check_positive("experiment", seeds=self.seeds)
        if self.steps is not None:
            check_positive("experiment", steps=self.steps)
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ValueError(f"experiment: minutes is {self.minutes!r}, expected a number above 0")
        if self.seed < 0:
            raise ValueError(f"experiment: seed is {self.seed!r}, expected a whole number, 0 or more")
        check_choice("experiment", "preset", self.preset, tuple(PRESETS))


class Study:
    """An experiment's folder: ``result.json``, ``table.md`` and figures.

    ``result.json`` is written after every training. A study in a folder that holds the result of the
    same settings goes on where that one ended.

    Parameters
    ----------
    name : str
    settings : Settings
    folder : path
    say, progress : callable
        Receive every line of the report, and the progress line.

    Raises
    ------
    FileExistsError
        If the folder holds the result of other settings.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        folder: str | Path,
        say: Callable[[str], None] = print,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name, self.settings, self.folder = name, settings, Path(folder)
        self.say, self.progress = say, progress
        described = json.loads(json.dumps(asdict(settings)))  # tuples become lists, as in the file
        self.result: dict[str, Any] = {"experiment": name, "settings": described, "steps": None, "rows": []}
        if (self.folder / "result.json").exists():
            self._continue(described)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _continue(self, described: dict[str, Any]) -> None:
        path = self.folder / "result.json"
        try:
            before = json.loads(path.read_text())
            same = before["experiment"] == self.name and before["settings"] == described
            count = len(before["rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged, or of another version ({error})") from None
        if not same:
            raise FileExistsError(f"{self.folder}: holds the result of other settings; name another folder "
                                  "with --out, or repeat the settings to go on")  # fmt: skip
        self.result = before
        self.say(f"{self.folder}: {count} finished trainings are taken over")

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def fix_steps(
        self, network: Network, optimizer: Optimizer, batches: Batches, default: int | None = None
    ) -> int:
        """Return how many steps the CapsNet is trained for, and record it.

        That is what `steps` says, or as many as fit into `minutes`, or `default`.

        Parameters
        ----------
        network, optimizer, batches
            A CapsNet that is trained for a moment, to time it, and then thrown away.
        default : int, optional
        """
        if self.result["steps"] is None:
            steps, minutes = self.settings.steps, self.settings.minutes
            if steps is None and minutes is not None:
                with prepared(network, batches) as (parallel, batches):
                    step = seconds_per_step(lambda count: fit(parallel, optimizer, batches, count))
                steps = max(1, round(60 * minutes / step))
            self.result["steps"] = steps or default
            self.save()
        steps = self.result["steps"]
        self.say(f"{self.name}: {steps:,} steps of the CapsNet for each seed; --steps {steps} repeats them")
        return steps

    def row(self, work: Callable[[], Row], **key: Any) -> Row:
        """Return the row of this key: the one of the result, or what `work` returns, then recorded."""
        for row in self.result["rows"]:
            if all(row[name] == value for name, value in key.items()):
                return row
        row = json.loads(json.dumps({**key, **work()}))
        self.result["rows"].append(row)
        self.save()
        return row

    def rows(self, **key: Any) -> list[Row]:
        """Return the rows that agree with the key."""
        return [row for row in self.result["rows"]
                if all(row[name] == value for name, value in key.items())]  # fmt: skip

    def progress_of(self, label: str) -> Callable[[str], None]:
        """Return what shows the progress line of one training."""
        return lambda line: self.progress(f"{label}  {line}")

    def save(self) -> None:
        checkpoint.write_text(self.folder / "result.json", json.dumps(self.result, indent=1) + "\n")

    def draw(self, name: str, figure: Figure) -> None:
        """Save a figure into the folder."""
        figures.save(figure, self.folder / f"{name}.png")

    def finish(self, text: str, **summary: Any) -> None:
        """Record the summary, write the table, a Markdown text, and say it."""
        self.result |= json.loads(json.dumps(summary))
        self.save()
        checkpoint.write_text(self.folder / "table.md", text + "\n")
        self.say(text)


# -- training ---------------------------------------------------------------------------------


class Diverged(RuntimeError):
    """The loss of a training step is not finite."""


@contextmanager
def prepared(network: Network, batches: Batches) -> Iterator[tuple[DataParallel, Batches]]:
    """Yield what trains `network` on batches no larger than the first, and the batches."""
    first = next(batches)
    with DataParallel(network, network.objective(), len(first[1])) as parallel:
        yield parallel, chain([first], batches)


def fit(
    parallel: DataParallel,
    optimizer: Optimizer,
    batches: Batches,
    steps: int,
    report: Callable[[float], None] = lambda loss: None,
) -> float:
    """Make `steps` training steps and return their mean loss: every experiment trains here.

    Parameters
    ----------
    parallel : DataParallel
    optimizer : Optimizer
        Of its network.
    batches : iterator of (images, labels)
        8-bit images; it is left after the last batch used.
    steps : int
    report : callable
        Receives the loss of every step.

    Raises
    ------
    Diverged
        If the loss is not finite. The weights are those before the step.
    """
    xp, total = parallel.network.xp, 0.0
    for images, labels in islice(batches, steps):
        x, y = to_batch(images, labels, xp)
        with np.errstate(over="ignore", invalid="ignore"):  # told in words, below
            loss = float(parallel.backpropagate(x, y).loss)
        if not math.isfinite(loss):
            rate = optimizer.schedule(optimizer.steps)
            raise Diverged(f"the loss is {loss} at step {optimizer.steps + 1}; a smaller learning rate "
                               f"may help (it is {rate:g})")  # fmt: skip
        optimizer.step()
        total += loss
        report(loss)
    return total / steps


def learn(
    network: Network,
    optimizer: Optimizer,
    batches: Batches,
    steps: int,
    examine: Callable[[Network], Row],
    rounds: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Train, and examine the network after each of `rounds` equal parts of the training.

    Parameters
    ----------
    network, optimizer, batches, steps
        As for ``fit``.
    examine : callable
        Returns what to note of a network.
    rounds : int
        No more than the steps, or there are as many as steps.
    progress : callable
        Receives the progress line.

    Returns
    -------
    list of dict
        For every round: ``step``, ``seconds`` of training so far, the mean ``loss`` of the round, and
        what `examine` returned.
    """
    curve: list[Row] = []
    seconds, done, rounds = 0.0, 0, min(rounds, steps)
    with prepared(network, batches) as (parallel, batches):
        for k in range(1, rounds + 1):
            start = time.perf_counter()
            count = steps * k // rounds - done

            def report(loss: float, before: float = seconds, start: float = start) -> None:
                spent = before + time.perf_counter() - start
                left = spent / optimizer.steps * (steps - optimizer.steps)
                progress(f"step {optimizer.steps:,}/{steps:,}  loss {loss:.4f}  "
                         f"{left // 60:.0f}:{left % 60:02.0f} left")  # fmt: skip

            loss = fit(parallel, optimizer, batches, count, report)
            seconds, done = seconds + time.perf_counter() - start, done + count
            curve.append({"step": done, "seconds": seconds, "loss": loss, **examine(network)})
    return curve


def endless(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    rng: np.random.Generator,
    change: Callable[[np.ndarray], np.ndarray] = lambda images: images,
) -> Batches:
    """Yield batches in random order, epoch after epoch, of images changed by `change`."""
    while True:
        for chosen in batches(len(images), batch_size, rng):
            yield change(images[chosen]), labels[chosen]


def seconds_per_step(train: Callable[[int], Any], least: float = 2.0) -> float:
    """Time `train`, which makes as many steps as it is told, for `least` seconds or more."""
    train(3)  # the first steps allocate
    steps, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < least:
        train(5)
        steps += 5
    return spent / steps


# -- tables -----------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation of a sample; 0 of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def percent(values: Sequence[float], digits: int = 2, sign: bool = False) -> str:
    """Write shares as percent: "98.70 ± 0.12", or "98.70" for a single value."""
    mean, spread = mean_and_spread(values)
    text = f"{100 * mean:{'+' if sign else ''}.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {100 * spread:.{digits}f}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}, no spread is known"
    return f"seeds {seeds[0]} to {seeds[-1]}, mean ± standard deviation"
