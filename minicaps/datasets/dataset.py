"""Labelled images, split into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train_images.shape[1:]

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def split(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Keep the last 5,000 training images (a tenth, if there are fewer than 50,000; one at least)
        apart.

        Returns
        -------
        train_images, train_labels, validation_images, validation_labels
        """
        kept = len(self.train_images) - max(1, min(5000, len(self.train_images) // 10))
        images, labels = self.train_images, self.train_labels
        return images[:kept], labels[:kept], images[kept:], labels[kept:]


def to_float(images: np.ndarray) -> np.ndarray:
    """Turn 8-bit pixels into float32 between 0 and 1."""
    x = images.astype(np.float32)  # a copy, also of float32
    x /= np.float32(255)
    return x
