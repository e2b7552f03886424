"""What a run says of itself: its summary, and what has changed since it was last trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from minicaps.datasets import Dataset
from minicaps.networks import PRESETS_OF
from minicaps.training.config import TrainConfig
from minicaps.training.evaluation import Evaluation
from minicaps.training.notation import words_of
from minicaps.training.optimizers import Optimizer
from minicaps.training.options import BadOption
from minicaps.training.progress import EpochProgress
from minicaps.training.recipes import RECIPES


def summarize(
    config: TrainConfig,
    dataset: Dataset,
    test: Evaluation,
    epochs: Sequence[Mapping[str, Any]],
    best: int | None,
) -> dict[str, Any]:
    """Return what ``summary.json`` says of a complete run; `best` is the epoch of ``best.npz``."""
    return {
        "test_accuracy": test.accuracy,
        "test_error_percent": round(100 * (1 - test.accuracy), 6),
        "unshifted_test_accuracy": test.unshifted_accuracy,
        "test_images": len(dataset.test_images),
        "validation_accuracy": epochs[-1].get("validation_accuracy"),
        "best_epoch": best,
        "best_validation_accuracy": best and epochs[best - 1]["validation_accuracy"],
        "epochs": config.epochs,
        "seconds": sum(row["seconds"] for row in epochs),
        "images_per_second": len(epochs) / sum(1 / row["images_per_second"] for row in epochs),
        "seed": config.seed,
        "model": config.model,
        "preset": config.preset if config.model in PRESETS_OF else None,
        "data": dataset.source,
    }


def commands_of(config: TrainConfig, epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the commands that repeat a run with these metrics: several, if it was trained further."""
    goals = [row.get("epochs", config.epochs) for row in epochs] or [config.epochs]  # that it had in each
    lines = [_command(config, goals[0])]
    for k in range(1, len(goals)):
        if goals[k] != goals[k - 1]:
            stopped = "" if goals[k - 1] == k else f"  # it had been stopped after epoch {k}"
            lines.append(f"python -m minicaps train --resume RUN --epochs {goals[k]}{stopped}")
    return lines if len(lines) == 1 else [f"{lines[0]} --out RUN", *lines[1:]]


def _command(config: TrainConfig, epochs: int) -> str:
    words = ["python", "-m", "minicaps", "train"]
    written, recipe = config.options() | {"epochs": epochs}, RECIPES[config.recipe]
    if config.learning_rate is None and "learning_rate" not in recipe:
        written["learning_rate"] = None
    for option in fields(config):
        value = written.get(option.name, option.default)
        if value != recipe.get(option.name, option.default):
            words += words_of(option.name, value)
    return shlex.join(words)


def changes_of(
    config: TrainConfig, before: TrainConfig, optimizer: Optimizer, epochs: int, current: EpochProgress
) -> list[str]:
    """Return in words what is no more as `before` in a run that is resumed after so many epochs.

    Raises
    ------
    BadOption
        If the run has begun more epochs than it is to have.
    """
    begun, lines = epochs + bool(current.batches), []
    if config.epochs < begun:
        raise BadOption(f"train: epochs is {config.epochs}, but the run has begun its epoch {begun} already")
    if config.epochs != before.epochs:
        lines.append(
            f"epochs: {config.epochs}, where it was to have {before.epochs}; from here on the learning rate "
            f"is that of a run of {config.epochs} epochs ({optimizer.schedule(optimizer.steps):.2g} next)"
        )
    if config.backend != before.backend:
        lines.append(f"backend: {config.backend}, where it was {before.backend}; the last bits may differ")
    return lines
