"""The files of a run: what resuming needs, and what tells data sets apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets import Dataset
from minicaps.networks import Network, files
from minicaps.training.config import MAY_CHANGE, TrainConfig
from minicaps.training.loss_scale import LossScale
from minicaps.training.optimizers import Optimizer
from minicaps.training.progress import EpochProgress
from minicaps.training.stored_config import CONFIG, config_of

METRICS, CHECKPOINT = "metrics.jsonl", "checkpoint.npz"
MODEL, BEST, SUMMARY = "model.npz", "best.npz", "summary.json"  # weights of the last epoch, of the best one
REPORT = "report.html"  # which whoever draws the run writes
FIRST_FORMAT = 3  # of checkpoints; older ones hold the state of a generator that nothing draws from now


def fingerprint(dataset: Dataset) -> str:
    """Return a SHA-256 that tells data sets apart, by every pixel, label and class name."""
    arrays = {name: array for name, array in vars(dataset).items() if isinstance(array, np.ndarray)}
    return files.digest(arrays, json.dumps(dataset.class_names))


class Checkpoint(NamedTuple):
    """All that a run needs to continue with the same bits."""

    network: Mapping[str, Array]  # state
    optimizer: Mapping[str, Array]  # state
    loss_scale: Mapping[str, Array] | None  # state, in mixed precision
    config: TrainConfig
    data: str  # fingerprint
    source: str  # where the data lay
    epochs: list[dict[str, Any]]  # metrics of those that are complete
    progress: EpochProgress  # of the one that is not

    def arrays(self) -> dict[str, Array]:
        """Return the arrays of the states by the names that they have in the file."""
        parts = {"network": self.network, "optimizer": self.optimizer, "loss_scale": self.loss_scale or {}}
        return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def write(self, path: Path) -> None:
        """Write it, all or nothing."""
        description = {
            "config": asdict(self.config),
            "data": self.data,
            "source": self.source,
            "epochs": self.epochs,
            "progress": asdict(self.progress),
        }
        files.write(path, self.arrays(), description)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read what ``write`` wrote.

        Raises
        ------
        ValueError
            If the file is damaged, of an older format, or not a checkpoint.
        """
        arrays, description = files.read(path)
        if description["format"] < FIRST_FORMAT:
            raise ValueError(
                f"{path}: a checkpoint of format {description['format']}, whose order of images cannot be "
                "continued here; train again with --out, or finish the run with minicaps 0.1.0 "
                "(of a finished run, model.npz still loads)"
            )
        parts: dict[str, dict[str, Array]] = {"network": {}, "optimizer": {}, "loss_scale": {}}
        try:
            for name, array in arrays.items():
                part, _, key = name.partition("/")
                parts[part][key] = array
            config, progress = config_of(description["config"]), EpochProgress(**description["progress"])
            return cls(
                **parts,
                config=config,
                data=description["data"],
                source=description.get("source", ""),  # which older ones do not say
                epochs=list(description["epochs"]),
                progress=progress,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise not_of_this_run(path, error) from None

    def load_into(self, network: Network, optimizer: Optimizer, loss_scale: LossScale | None) -> None:
        """Set them to the states.

        Raises
        ------
        TypeError, ValueError
            If one of them is of another kind.
        """
        network.load_state(self.network)
        optimizer.load_state(self.optimizer)
        if loss_scale is not None:
            loss_scale.load_state(self.loss_scale or {})

    def check_origin(self, config: TrainConfig, dataset: Dataset, data: str) -> None:
        """Raise ValueError unless the run began with this data, wherever it lies, and configuration."""
        for option in fields(config):
            if option.name in (*MAY_CHANGE, "init"):
                continue
            there, here = getattr(self.config, option.name), getattr(config, option.name)
            if there != here:
                raise ValueError(f"{option.name} is {there!r} in it, {here!r} in {CONFIG}")
        if self.data != data:
            lay = f", in {self.source}" if self.source not in ("", dataset.source) else ""
            raise ValueError(f"it began with other data than {dataset.source} holds now{lay}")


def not_of_this_run(path: Path, reason: Exception) -> ValueError:
    """Return the error that a checkpoint does not belong to the run in whose folder it is."""
    return ValueError(f"{path}: does not belong to this run ({reason})")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote a file of the run."""
    for name in (CONFIG, METRICS, CHECKPOINT, MODEL, BEST, SUMMARY, REPORT):
        files.remove_leftovers(folder / name)
