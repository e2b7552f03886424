"""Putting images and labels together to a data set: what every reader of files hands in, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.order import TEST_EVERY, every_fifth, natural
from minicaps.datasets.pixels import scale

MAX_CLASSES = 1 << 16  # a larger label is no class number; it would make as many outputs


class Part(NamedTuple):
    """Images with labels, for training or for the test, and what a message calls them."""

    images: Array  # uint8, (N, H, W) or (N, H, W, C)
    labels: Array  # (N,), integers or text
    images_from: str
    labels_from: str


def assemble(
    source: str,
    train: Part,
    test: Part | None,
    size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Return the data set of two parts, or of one, of which every fifth image of a class is for the test.

    Parameters
    ----------
    source : str
        For messages, and for the data set.
    train, test : Part
    size : (int, int), optional
        Height and width to scale the images to.
    class_names : sequence of str, optional
        By class number. Without it a class is called what its label says: its number, or the text.

    Raises
    ------
    ValueError
        If images and labels do not belong together, there are fewer than two classes, or a class that
        only the test has.
    """
    notes: tuple[str, ...] = ()
    has_test_part = test is not None
    for part in (train, test) if test else (train,):
        check_part(part)
    if test is None:
        train, test = _every_fifth_apart(train)
        notes = (f"{source} has no labelled test images; every fifth of a class is taken for the test",)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"{source}: training images are {train.images.shape[1:]} pixels, test "
            f"images {test.images.shape[1:]}; expected one size"
        )
    if len(train.images) < 2:
        raise ValueError(f"{source}: one training image; at least one more is needed to validate")
    train_labels, test_labels, names = _number_classes(source, train.labels, test.labels, class_names)
    return Dataset(
        scale(with_channels(train.images), size),
        train_labels,
        scale(with_channels(test.images), size),
        test_labels,
        class_names=names,
        source=source,
        notes=notes,
        has_test_part=has_test_part,
    )


def check_part(part: Part) -> None:
    """Raise ValueError unless images and labels are what they should be, and one label for each image."""
    images, labels = part.images, part.labels
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(
            f"{part.images_from}: holds {images.dtype} of shape {images.shape}, expected "
            "uint8 images (N, height, width) or (N, height, width, channels)"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(
            f"{part.images_from}: holds images of shape {images.shape}, expected channels as the last "
            "axis; move them there, as in numpy.moveaxis(images, 1, 3)"
        )
    if labels.dtype.kind not in "iuU" or labels.ndim != 1:
        raise ValueError(
            f"{part.labels_from}: holds {labels.dtype} of shape {labels.shape}, expected integer labels "
            "(N,); convert them, as in labels.astype(int), or labels.argmax(axis=1) of one-hot rows"
        )
    if len(images) != len(labels):
        name = part.images_from.replace("\\", "/").rpartition("/")[2]
        raise ValueError(f"{part.labels_from}: {len(labels):,} labels for {len(images):,} images in {name}")
    if labels.dtype.kind != "U" and not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
        raise ValueError(
            f"{part.labels_from}: labels run from {labels.min()} to {labels.max()}, expected class numbers "
            f"from 0, below {MAX_CLASSES:,}"
        )


def _every_fifth_apart(part: Part) -> tuple[Part, Part]:
    chosen = every_fifth(part.labels)  # (N,)
    if not chosen.any():
        raise ValueError(
            f"{part.labels_from}: no class has {TEST_EVERY} images; without a test part every fifth "
            "of a class is for the test"
        )
    apart = [part._replace(images=part.images[k], labels=part.labels[k]) for k in (~chosen, chosen)]
    return apart[0], apart[1]


def _number_classes(
    source: str, train: Array, test: Array, class_names: Sequence[str] | None
) -> tuple[Array, Array, tuple[str, ...]]:
    """Return labels as class numbers, and the names of the classes; text is numbered in natural order."""
    if train.dtype.kind == "U":
        texts = sorted(set(train.tolist()), key=natural)
        if unknown := sorted(set(test.tolist()) - set(texts), key=natural):
            raise ValueError(f"{source}: has test images of the class {unknown[0]}, but none to train on")
        numbers = {text: number for number, text in enumerate(texts)}
        train, test = (np.array([numbers[text] for text in labels.tolist()]) for labels in (train, test))
        class_names = texts
    classes = int(train.max()) + 1
    if classes < 2 or test.max() >= classes:
        raise ValueError(
            f"{source}: training labels run from {train.min()} to {classes - 1}, test labels to "
            f"{test.max()}; expected at least two classes, and no class that only the test has"
        )
    if class_names is None or len(class_names) < classes:
        class_names = [str(k) for k in range(classes)]
    return train.astype(np.int64), test.astype(np.int64), tuple(class_names)


def with_channels(images: Array) -> Array:
    """Give images (N, H, W) the axis of channels that others (N, H, W, C) have."""
    return images if images.ndim == 4 else images[..., None]  # (N, H, W, C)
