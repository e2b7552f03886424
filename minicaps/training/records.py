"""The runs below a folder: what each was told, how far it came, and how well it does."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicaps.training.config import TrainConfig
from minicaps.training.files import BEST, CHECKPOINT, METRICS, MODEL, SUMMARY
from minicaps.training.folder import RunFolder
from minicaps.training.stored_config import CONFIG, read_config

NUMBERS = ("epoch", "train_loss", "train_accuracy", "seconds")
VALIDATED = ("validation_loss", "validation_accuracy")  # only where images are held back
SHOWN = ("model", "preset", "epochs")  # of every run, so they are no differences
FILES = {CHECKPOINT, METRICS, MODEL, BEST, SUMMARY}  # that only runs have
MAX_METRICS = 1 << 26  # bytes of metrics.jsonl


@dataclass(frozen=True)
class RunRecord:
    """What the files of a run say of it.

    Attributes
    ----------
    folder : Path
    config : TrainConfig
    epochs : list of dict
        The metrics of every complete epoch.
    summary : dict
        Empty until the run was complete once.
    written : float
        When it was last trained, in seconds since 1970.
    """

    folder: Path
    config: TrainConfig
    epochs: list[dict[str, Any]]
    summary: dict[str, Any]
    written: float

    @property
    def finished(self) -> bool:
        """Whether the run is complete, as ``Run.finished`` says."""
        return len(self.epochs) == self.config.epochs == self.summary.get("epochs")

    @property
    def test_accuracy(self) -> float | None:
        """That of the last epoch's weights, 0 to 1; None if the run is not complete."""
        return self.summary["test_accuracy"] if self.finished else None

    @property
    def validation_accuracy(self) -> float | None:
        """That of the last epoch, 0 to 1; None before the first is complete, and of a run that has none."""
        return self.epochs[-1].get("validation_accuracy") if self.epochs else None

    @property
    def seconds(self) -> float:
        """Spent on the complete epochs."""
        return sum(row["seconds"] for row in self.epochs)

    def options(self) -> dict[str, Any]:
        """Return the options that its network has, as they are written."""
        return self.config.options()


def read_record(folder: str | Path) -> RunRecord:
    """Read the files of the run in `folder`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    ValueError
        If one of them is damaged, foreign, or of another version.
    OSError
        If one cannot be read.
    """
    folder = Path(folder)
    config, summary = read_config(folder), RunFolder(folder).read_summary()
    epochs = _read_epochs(folder / METRICS)
    if summary and not _is_number(summary.get("test_accuracy")):
        raise ValueError(f"{folder / SUMMARY}: damaged, or of another version (no test_accuracy)")
    times = [(folder / name).stat().st_mtime for name in (CONFIG, METRICS) if (folder / name).exists()]
    return RunRecord(folder, config, epochs, summary, max(times))


def _read_epochs(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    if path.stat().st_size > MAX_METRICS:
        raise ValueError(f"{path}: no metrics of a run ({path.stat().st_size:,} bytes long)")
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            names = NUMBERS + VALIDATED * any(name in row for name in VALIDATED)
            damaged = not all(_is_number(row[name]) for name in names)
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged = True
        if damaged:
            raise ValueError(f"{path}: line {number} is damaged, or of another version")
        rows.append(row)
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# -- of many runs ------------------------------------------------------------------------------


def find_runs(folder: str | Path) -> tuple[list[RunRecord], dict[Path, Exception]]:
    """Return the runs in and below a folder, the one trained last at the end, and what is none and why.

    Folders that begin with a dot, and links to folders, are not looked into.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    among_runs = not (folder / CONFIG).exists()  # else what lies in it are the run's figures and the like
    records: list[RunRecord] = []
    others: dict[Path, Exception] = {}
    for path, below, names in os.walk(folder, onerror=lambda error: _note(others, error)):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if CONFIG in names:
            try:
                records.append(read_record(path))
            except (ValueError, OSError) as error:
                others[Path(path)] = error
        elif FILES.intersection(names) or (among_runs and Path(path).parent == folder and not below):
            others[Path(path)] = FileNotFoundError(f"{path}: holds no run (no {CONFIG})")
    return sorted(records, key=lambda record: (record.written, str(record.folder))), others


def _note(others: dict[Path, Exception], error: OSError) -> None:
    others[Path(error.filename)] = error


def differing_options(records: Sequence[RunRecord]) -> list[str]:
    """Return the names of the options that are not the same in all runs that have them."""
    found = [record.options() for record in records]
    names = {name: None for options in found for name in options if name not in SHOWN}
    return [name for name in names if len({str(each[name]) for each in found if name in each}) > 1]
