"""The folder of a run: where one may begin, what is written there, and what others find in it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from minicaps.networks import PRESETS_OF, Network, files, save_network
from minicaps.training.config import TrainConfig
from minicaps.training.files import (
    BEST,
    CHECKPOINT,
    FIRST_FORMAT,
    METRICS,
    MODEL,
    SUMMARY,
    Checkpoint,
    remove_leftovers,
)
from minicaps.training.guards import FolderLock
from minicaps.training.progress import best_epoch
from minicaps.training.ranks import in_first_rank
from minicaps.training.stored_config import CONFIG, read_config

RUNS = "runs"  # the folder of runs that were given none of their own


def as_path(name: str, path: str | Path) -> Path:
    """Return a path as people write it: ``~`` is their home.

    Raises
    ------
    ValueError
        If it is empty, as that of a variable of the shell that is not set.
    """
    if not str(path):
        raise ValueError(f"{name} is empty, expected a path")
    return Path(os.path.expanduser(path))


# -- where a run may begin ---------------------------------------------------------------------


@in_first_rank
def take_new_folder(config: TrainConfig) -> Path:
    """Make the first of runs/MODEL-PRESET-001, -002, … that is not there, and return it.

    Of several processes at once each gets another.
    """
    name = config.model + (f"-{config.preset}" if config.model in PRESETS_OF else "")
    Path(RUNS).mkdir(exist_ok=True)
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            folder = Path(RUNS) / f"{name}-{number:03d}"
            folder.mkdir()
            break
    return folder


@in_first_rank
def check_unused(folder: Path) -> None:
    """Raise FileExistsError if a run has trained in the folder; one that only began there is none."""
    if any((folder / name).exists() for name in (MODEL, SUMMARY)) or _has_progress(folder / CHECKPOINT):
        raise FileExistsError(
            f"{folder}: holds a run already; continue it with --resume {folder}, or name "
            "another folder with --out"
        )


def _has_progress(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        checkpoint = Checkpoint.read(path)
    except ValueError:  # damaged, or of an older version: not ours to throw away
        return True
    return bool(checkpoint.epochs or checkpoint.progress.batches)


# -- what is written there ---------------------------------------------------------------------


class RunFolder:
    """The folder of a run and its files, for the run itself. Only the first rank reads and writes there.

    Between two calls others may use the folder: ``check_alone`` tells whether they have.

    Parameters
    ----------
    path : path
    say : callable
        Receives the warning of a file system without locks.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = print) -> None:
        self.path, self._lock = path, FolderLock(path, say)
        self._seen: Any = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within it, nobody else trains in the folder.

        Raises
        ------
        RuntimeError
            If somebody does.
        """
        self._take()
        try:
            yield
        finally:
            self._lock.__exit__()

    @in_first_rank
    def _take(self) -> None:
        self._lock.__enter__()

    @in_first_rank
    def begin(self, config: TrainConfig) -> None:
        """Take the folder for a new run, and remove what one left behind that only began.

        Raises
        ------
        FileExistsError
            If a run has trained there.
        RuntimeError
            If one trains there now.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock:
            check_unused(self.path)  # by another process, meanwhile
            for name in (CHECKPOINT, METRICS, BEST):
                (self.path / name).unlink(missing_ok=True)
            self._write_config(config)

    @in_first_rank
    def resume(self) -> Checkpoint | None:
        """Return the run's checkpoint, if there is one yet."""
        path = self.path / CHECKPOINT
        with self._lock:
            remove_leftovers(self.path)
            self._look()
            return Checkpoint.read(path) if path.exists() else None

    @in_first_rank
    def check_alone(self) -> None:
        """Raise RuntimeError if somebody else has written into the folder since this run did, or read it."""
        if self._seen != self._stamps():
            raise RuntimeError(
                f"{self.path}: another process has begun or trained this run meanwhile; resume it again"
            )

    def _look(self) -> None:
        self._seen = self._stamps()

    def _stamps(self) -> list[tuple[int, ...] | None]:
        """Return what tells versions of the files apart: each is written as a new one."""
        stamps: list[tuple[int, ...] | None] = []
        for path in (self.path / CONFIG, self.path / CHECKPOINT):
            about = path.stat() if path.exists() else None
            stamps.append(about and (about.st_ino, about.st_mtime_ns, about.st_size))
        return stamps

    @in_first_rank
    def holds_checkpoint(self) -> bool:
        return (self.path / CHECKPOINT).exists()

    @in_first_rank
    def save(self, checkpoint: Checkpoint, network: Network, class_names: tuple[str, ...]) -> None:
        """Write the checkpoint and the metrics, and the weights if the epoch that has ended is the best."""
        epochs = checkpoint.epochs
        if epochs and not checkpoint.progress.batches and best_epoch(epochs) == len(epochs):
            save_network(self.path / BEST, network, class_names)
        checkpoint.write(self.path / CHECKPOINT)  # last, since a run that is resumed makes no epoch again
        self._look()
        self._write_metrics(epochs)

    def best_epoch(self, epochs: list[dict[str, Any]]) -> int | None:
        """Return which epoch the best weights are of; None if there are none, as older runs had none."""
        return best_epoch(epochs) if (self.path / BEST).exists() else None

    @in_first_rank
    def update(self, config: TrainConfig, epochs: list[dict[str, Any]]) -> None:
        """Write the configuration if it is another one; cut off metrics that the checkpoint does not have."""
        if config != read_config(self.path):
            self._write_config(config)
        self._write_metrics(epochs)

    def _write_config(self, config: TrainConfig) -> None:
        files.write_text(self.path / CONFIG, json.dumps(asdict(config), indent=2) + "\n")
        self._look()

    def _write_metrics(self, epochs: list[dict[str, Any]]) -> None:
        files.write_text(self.path / METRICS, "".join(json.dumps(metrics) + "\n" for metrics in epochs))

    def write_summary(self, summary: dict[str, Any]) -> None:
        files.write_text(self.path / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """Return the summary, or an empty one if there is none that can be read."""
        try:
            return dict(json.loads((self.path / SUMMARY).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}


# -- what a run made ---------------------------------------------------------------------------


def find_weights(path: Path) -> Path:
    """Return the file of weights that is meant: a run's last ones, or the file itself.

    Raises
    ------
    FileNotFoundError
        If the folder has none; the message says how to finish a run that is not finished.
    """
    if not path.is_dir() or (path / MODEL).exists():
        return path / MODEL if path.is_dir() else path
    if (path / CONFIG).exists():
        best = f" (the best weights so far are {path / BEST})" if (path / BEST).exists() else ""
        raise FileNotFoundError(
            f"{path}: the run is not finished{best}; continue it with: python -m minicaps train "
            f"--resume {path}"
        )
    raise FileNotFoundError(f"{path}: holds no run (no {MODEL})")


def run_of(path: Path) -> Path | None:
    """Return the folder of the run that a folder or a file of weights belongs to, if there is one."""
    if path.is_dir():
        return path
    return path.parent if path.name in (MODEL, BEST) and (path.parent / CONFIG).exists() else None


class Origin(NamedTuple):
    """What a run was trained on."""

    fingerprint: str
    source: str  # where it lay; "" if that is not known


def trained_on(run: Path) -> Origin | None:
    """Return what the run in a folder was trained on, or None if none of its files says so."""
    summary = RunFolder(run).read_summary()
    if "data_sha256" in summary:
        return Origin(summary["data_sha256"], summary.get("data", ""))
    with contextlib.suppress(OSError, ValueError, KeyError):
        _, description = files.read(run / CHECKPOINT)
        if description["format"] >= FIRST_FORMAT:
            return Origin(description["data"], description.get("source", ""))
    return None


@contextmanager
def data_may_have_moved() -> Iterator[None]:
    """Add the cure to the error that the data of a run are not where they were."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; if the data have moved, name their folder with --data") from None
