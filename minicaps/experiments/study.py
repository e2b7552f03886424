"""What every experiment is made of: its settings, and a result that grows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minicaps import figures
from minicaps.checks import check_above_zero, check_choice, check_positive
from minicaps.datasets import Dataset, load
from minicaps.experiments.needs import Needs, check_needs
from minicaps.experiments.training import Batches, Row, fit, prepared, seconds_per_step
from minicaps.networks import PRESETS, Network, build, files
from minicaps.training import Adam, in_first_rank, load_together


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
    networks, arms : tuples of str
        Those to train.
    data : str, optional
        Path of a data set, as for ``datasets.load``.
    folds : int, optional
        Of a cross-validation; 2 or more.

    Raises
    ------
    ValueError
        If a setting has a value that cannot be.
    """

    seeds: int = 1
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    preset: str = "small"
    networks: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    data: str | None = None
    folds: int | None = None

    def __post_init__(self) -> None:
        check_positive("experiment", seeds=self.seeds)
        if self.steps is not None:
            check_positive("experiment", steps=self.steps)
        if self.minutes is not None:
            check_above_zero("experiment", minutes=self.minutes)
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"experiment: folds is {self.folds!r}, expected a whole number, 2 or more")
        if self.seed < 0:
            raise ValueError(f"experiment: seed is {self.seed!r}, expected a whole number, 0 or more")
        check_choice("experiment", "preset", self.preset, tuple(PRESETS))


class Study:
    """An experiment's folder: ``result.json``, ``table.md`` and figures.

    ``result.json`` is written after every training. A study in a folder that holds the result of the
    same settings goes on where that one ended. Among several ranks the first one reads and writes there,
    and all have its rows.

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
    ValueError
        If what it holds is no result.
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
        described = as_in_file(asdict(settings))
        self.result: dict[str, Any] = {"experiment": name, "settings": described, "steps": None, "rows": []}
        if before := self._begin(described):
            self.result = before
            self.say(f"{self.folder}: {len(before['rows'])} finished trainings are taken over")

    @in_first_rank
    def _begin(self, described: dict[str, Any]) -> dict[str, Any] | None:
        """Make the folder, or return the result that it holds."""
        if not (self.folder / "result.json").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            return None
        path = self.folder / "result.json"
        try:
            before = json.loads(path.read_text())
            settings = (
                as_in_file(asdict(Settings())) | before["settings"]
            )  # an older one has not all of today's
            same = before["experiment"] == self.name and settings == described
            if not isinstance(before["rows"], list):
                raise TypeError("it has no list of rows")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged, or of another version ({error})") from None
        if not same:
            raise FileExistsError(
                f"{self.folder}: holds the result of other settings; name another folder with --out, "
                "or repeat the settings to go on"
            )
        return before

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    # -- training ------------------------------------------------------------------------------

    def load(self, needs: Needs) -> Dataset:
        """Load the data set of the settings.

        Raises
        ------
        ValueError
            If it has not what the experiment needs, or if a network cannot look at images of its size.
        """
        dataset = load_together(lambda: load(self.settings.data))
        check_needs(self.name, dataset, needs)
        if needs.frame is None:  # else the networks look at the frame
            for name in self.settings.networks or ("capsnet",):
                try:
                    self.build(name, dataset, self.settings.seed)
                except ValueError as error:
                    raise ValueError(f"experiment {self.name}: {dataset.source}: {error}") from None
        return dataset

    def build(self, name: str, dataset: Dataset, seed: int, **options: Any) -> Network:
        """Build a network of the preset for a data set, with first weights from the seed.

        Parameters
        ----------
        name, **options
            As for ``networks.build``; the options win over what the data set says.
        dataset : Dataset
        seed : int
        """
        of_data = {"image_shape": dataset.image_shape, "classes": dataset.classes}
        rng = np.random.default_rng([seed, 0])
        return build(name, self.settings.preset, rng=rng, **{**of_data, **options})

    def fix_steps(self, network: Network, batches: Batches, default: int | None = None) -> int:
        """Return how many steps the CapsNet is trained for, and record it.

        That is what `steps` says, or as many as fit into `minutes`, or `default`.

        Parameters
        ----------
        network, batches
            A CapsNet and its batches. It is trained for a moment, to time it, and then thrown away.
        default : int, optional
        """
        if self.result["steps"] is None:
            steps, minutes = self.settings.steps, self.settings.minutes
            if steps is None and minutes is not None:
                with prepared(network, batches) as (source, batches):
                    seconds = seconds_per_step(partial(fit, source, Adam(network, 1e-3), batches))
                steps = max(1, round(60 * minutes / seconds))
            self.result["steps"] = steps or default
            self.save()
        steps = self.result["steps"]
        self.say(f"{self.name}: {steps:,} steps of the CapsNet for each seed; --steps {steps} repeats them")
        return steps

    def progress_of(self, label: str) -> Callable[[str], None]:
        """Return what shows the progress line of one training."""
        return lambda line: self.progress(f"{label}  {line}")

    # -- the result ----------------------------------------------------------------------------

    def row(self, work: Callable[..., Row], kind: str | None = None, /, **key: Any) -> Row:
        """Return the row of this key: the recorded one, or that of ``work(**key)``, then recorded.

        Parameters
        ----------
        work : callable
            Takes the key as its arguments, and returns what to record beside it.
        kind : str, optional
            Told apart by it, and recorded, where several rows have one key.
        **key
            Of JSON's types.

        Raises
        ------
        ValueError
            If the work returns another value for what the row is known by.
        """
        label = key if kind is None else {"kind": kind, **key}
        for row in self.rows(**label):
            return row
        found = work(**key)
        if changed := [name for name in label if found.get(name, label[name]) != label[name]]:
            raise ValueError(  # such a row would not be found again
                f"Study.row: the work returned another {' and '.join(changed)} than the row is known by"
            )
        row = self._agree({**label, **found})
        self.result["rows"].append(row)
        self.save()
        return row

    @in_first_rank
    def _agree(self, row: Row) -> Row:
        """Return the row of the first rank, as it is read from the file; clocks differ."""
        return as_in_file(row)

    def rows(self, **key: Any) -> list[Row]:
        """Return the rows that agree with the key."""
        rows = self.result["rows"]
        return [row for row in rows if all(row[name] == value for name, value in key.items())]

    def values(self, name: str, /, **key: Any) -> list[Any]:
        """Return what the rows that agree with the key say under `name`."""
        return [row[name] for row in self.rows(**key)]

    @in_first_rank
    def save(self) -> None:
        """Write ``result.json``."""
        files.write_text(self.folder / "result.json", json.dumps(self.result, indent=1) + "\n")

    @in_first_rank
    def draw(self, name: str, draw: Callable[..., Figure], *arguments: Any) -> None:
        """Save the figure that ``draw(*arguments)`` returns into the folder; one that fails is a warning."""
        figures.save_or_warn(self.folder / f"{name}.png", partial(draw, *arguments), self.say)

    def finish(self, text: str, **summary: Any) -> None:
        """Record the summary, write the table, a Markdown text, and say it."""
        self.result |= as_in_file(summary)
        self.save()
        in_first_rank(files.write_text)(self.folder / "table.md", text + "\n")
        self.say(text)


def as_in_file(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as it comes back from a file of JSON: tuples become lists, and keys text."""
    return json.loads(json.dumps(document))
