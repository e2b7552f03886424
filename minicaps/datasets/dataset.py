"""Labelled images, split into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minicaps.arrays import Array


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
    """

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    class_names: tuple[str, ...]
    source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.train_images.shape[1:]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def remarks(self) -> list[str]:
        """Return what is odd about the data, a line for each."""
        return []

    def split(self) -> tuple[Array, Array, Array, Array]:
        """Keep the last 5,000 training images apart (of fewer than 50,000 a tenth, and one at least).

        Returns
        -------
        train_images, train_labels, validation_images, validation_labels
            Views of the training images and labels.
        """
        kept = len(self.train_images) - max(1, min(5000, len(self.train_images) // 10))
        images, labels = self.train_images, self.train_labels
        return images[:kept], labels[:kept], images[kept:], labels[kept:]


def to_float(images: Array) -> Array:
    """Turn 8-bit pixels of any shape into new ones of the same shape, float32 between 0 and 1."""
    x = images.astype(np.float32)  # a copy, also of float32
    x /= np.float32(255)
    return x
