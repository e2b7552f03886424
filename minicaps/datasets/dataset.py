"""Labelled images, split into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.order import Index, cut, first
from minicaps.datasets.remarks import about_classes, about_images


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split into training and test.

    Attributes
    ----------
    train_images, test_images : uint8 arrays (N, H, W, C)
    train_labels, test_labels : int64 arrays (N,)
        Class numbers, from 0.
    class_names : tuple of str
    source : str
        Where they come from.
    notes : tuple of str
        What whoever uses it should know of how it was read, for ``remarks``.
    has_test_part : bool
        Whether the test images are a part of their own, and not every fifth of all.
    """

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    class_names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()
    has_test_part: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.train_images.shape[1:]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def split(self, limit: int | None = None, validate: bool = True) -> tuple[Array, Array, Array, Array]:
        """Keep the last 5,000 training images apart (of fewer than 50,000 a tenth, and one at least).

        Where the images are sorted, so that such a cut leaves out a class or distorts its share, the
        classes are spread evenly first (``datasets.cut`` says when and how).

        Parameters
        ----------
        limit : int, optional
            Train on the first `limit` images only, with the same care.
        validate : bool
            Whether to keep images apart; else those to validate are none.

        Returns
        -------
        train_images, train_labels, validation_images, validation_labels
            Views of the training images and labels where their order is kept, copies elsewhere.
        """
        kept, held_out = self._split(limit, validate)
        images, labels = self.train_images, self.train_labels
        return images[kept], labels[kept], images[held_out], labels[held_out]

    def _split(self, limit: int | None, validate: bool) -> tuple[Index, Index]:
        count = len(self.train_images)
        if not validate:
            return first(self.train_labels, limit), slice(count, None)
        kept, held_out = cut(self.train_labels, count - max(1, min(5000, count // 10)))
        few = first(self.train_labels[kept], limit)
        if isinstance(kept, slice):  # from 0, so that numbers within it are numbers of all images
            return few, held_out
        return kept[few], held_out

    def remarks(self, limit: int | None = None, validate: bool = True) -> list[str]:
        """Say in a line each what may be wrong with the data set; mostly there is nothing to say.

        Those are classes without images, or without training, validation or test images; images that
        are all equal, of one colour, or dark throughout; and the `notes`.

        Parameters
        ----------
        limit, validate
            As for ``split``.
        """
        kept, held_out = self._split(limit, validate)
        parts = {
            "training": self.train_labels[kept],
            **({"validation": self.train_labels[held_out]} if validate else {}),
            "test": self.test_labels,
        }
        labels = np.concatenate([self.train_labels, self.test_labels])  # (N,)
        return [
            *self.notes,
            *about_classes(self.class_names, labels, parts),
            *about_images("training", self.train_images),
            *about_images("test", self.test_images),
        ]


def to_float(images: Array) -> Array:
    """Turn 8-bit pixels of any shape into new ones of the same shape, float32 between 0 and 1."""
    x = images.astype(np.float32)  # a copy, also of float32
    x /= np.float32(255)
    return x
