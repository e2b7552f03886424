"""What an experiment asks of a data set, so that one that will not do is told before anything is trained."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicaps.datasets import Dataset


class Needs(NamedTuple):
    """What an experiment asks of the data set that ``--data`` names.

    Attributes
    ----------
    images : int
        To train on, at least, without those that are kept to validate.
    frame : int, optional
        Pixels of the side of a square in which every image has to fit.
    grey : bool
        Whether it takes images of one channel only.
    classes : int
        That the images to train on, to validate and to test have, at least, each.
    of_each : int
        Training images of every class that there is, at least.
    """

    images: int = 1
    frame: int | None = None
    grey: bool = False
    classes: int = 1
    of_each: int = 1


def check_needs(experiment: str, dataset: Dataset, needs: Needs) -> None:
    """Raise ValueError, with the name of the experiment, if a data set has not what it needs."""
    height, width, channels = dataset.image_shape
    images, labels, _, held_out = dataset.split()
    where = f"experiment {experiment}: {dataset.source}:"
    if needs.grey and channels != 1:
        raise ValueError(f"{where} images of {channels} channels, expected 1: it takes grey images only")
    if needs.frame is not None and max(height, width) > needs.frame:
        raise ValueError(
            f"{where} images of {height}×{width} pixels, expected at most {needs.frame}×{needs.frame}, "
            "the frame into which it puts them"
        )
    if len(images) < needs.images:
        raise ValueError(
            f"{where} {len(images):,} images to train on, after those kept to validate, "
            f"expected at least {needs.images:,}"
        )
    for part, some in {"train": labels, "validate": held_out, "test": dataset.test_labels}.items():
        if (count := len(np.unique(some))) < needs.classes:
            raise ValueError(
                f"{where} the images to {part} are of {count} class{'es' * (count != 1)}, "
                f"expected at least {needs.classes}"
            )
    present, counts = np.unique(dataset.train_labels, return_counts=True)
    if counts.min() < needs.of_each:
        name = dataset.class_names[present[counts.argmin()]]
        raise ValueError(
            f"{where} {counts.min()} of the training images show class {name!r}, "
            f"expected at least {needs.of_each} of every class"
        )
