"""Where a run stands within an epoch, and what it has added up there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.training.batch import batches
from minicaps.training.evaluation import Evaluation
from minicaps.training.loss_scale import LossScale
from minicaps.training.step import Result


@dataclass
class EpochProgress:
    """What an epoch has done so far; its numbers are sums over the batches that it has trained on."""

    batches: int = 0
    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    without_loss: int = 0  # images of batches whose loss is not finite, which are left out of the mean

    def add(self, result: Result, images: int) -> None:
        """Count one more batch, of so many images."""
        self.batches += 1
        self.images += images
        self.correct += result.correct
        if math.isfinite(result.loss):
            self.loss_sum += result.loss * images
        else:
            self.without_loss += images

    @property
    def loss(self) -> float:
        """The mean of the images; NaN if there is none."""
        images = self.images - self.without_loss
        return self.loss_sum / images if images else math.nan

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def line(self, epoch: int, epochs: int, images: int) -> str:
        """Return the progress line, in an epoch of so many images."""
        left = ((epochs - epoch + 1) * images - self.images) / self.images_per_second
        return (
            f"epoch {epoch}/{epochs}  {self.images:,}/{images:,} images  loss {self.loss:.4f}  "
            f"{self.images_per_second:,.0f} images/s  {left // 60:.0f}:{left % 60:02.0f} left"
        )

    def metrics(
        self,
        epoch: int,
        epochs: int,
        learning_rate: float,
        validation: Evaluation | None,
        loss_scale: LossScale | None = None,
    ) -> dict[str, Any]:
        """Return what ``metrics.jsonl`` says of a complete epoch, but for the seconds of its validation."""
        mixed = {} if loss_scale is None else loss_scale.metrics()
        validated = {}
        if validation is not None:
            validated = {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
        return {
            "epoch": epoch,
            "epochs": epochs,  # that the run was to have then, which its schedule follows
            "train_loss": self.loss,
            "train_accuracy": self.correct / self.images,
            "learning_rate": learning_rate,
            "images_per_second": self.images_per_second,
            **validated,
            "seconds": self.seconds,
            **mixed,
        }


def epoch_line(metrics: Mapping[str, Any], epochs: int) -> str:
    """Return the line of the report about a complete epoch."""
    mixed, validated = "", ""
    if "validation_accuracy" in metrics:
        validated = f"validation {100 * metrics['validation_accuracy']:.2f} %  "
    if "loss_scale" in metrics:
        mixed = f"  {metrics['skipped_steps']} steps skipped, loss scale {metrics['loss_scale']:,.0f}"
    return (
        f"epoch {metrics['epoch']}/{epochs}  "
        f"loss {metrics['train_loss']:.4f}  accuracy {100 * metrics['train_accuracy']:.2f} %  "
        f"{validated}{metrics['images_per_second']:,.0f} images/s  {metrics['seconds']:.0f} s{mixed}"
    )


def position(epochs: Sequence[Mapping[str, Any]], current: EpochProgress, batches: int) -> str:
    """Return in words where a run is, whose epochs have so many batches."""
    within = f" and {current.batches} of {batches} batches" if current.batches else ""
    return f"after epoch {len(epochs)}{within}"


def best_epoch(epochs: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number, from 1, of the epoch with the highest validation accuracy, if these validate.

    Of several the one with the lowest validation loss, and of these the first.
    """
    if not all("validation_accuracy" in row for row in epochs):
        return None
    ranks = [(row["validation_accuracy"], -row["validation_loss"]) for row in epochs]
    return ranks.index(max(ranks)) + 1


def epoch_batches(
    seed: int, epoch: int, count: int, size: int
) -> Iterator[tuple[Array, np.random.Generator]]:
    """Yield each batch of an epoch, as numbers of images, and the source of its shifts.

    Both follow from the seed, the epoch (from 1) and the number of the batch alone, so a run that was
    stopped between two batches goes on as if it had not been.
    """
    order = np.random.default_rng([seed, 1, epoch])  # the first weights have [seed, 0]
    for k, chosen in enumerate(batches(count, size, order), start=1):
        yield chosen, np.random.default_rng([seed, 1, epoch, k])
