"""Batches: which images, in what order, and as what a network takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaps.arrays import Array, to_backend
from minicaps.checks import check_positive
from minicaps.datasets import to_float


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield the numbers 0 to count - 1 in random order, in groups of `size` (the last may be smaller).

    Parameters
    ----------
    count, size : int
    rng : numpy.random.Generator
        The order is its next permutation.

    Yields
    ------
    integer array (size,)

    Raises
    ------
    ValueError
        If `size` is not a whole number above 0.
    """
    check_positive("batches", size=size)
    order = rng.permutation(count)  # (N,)
    for start in range(0, count, size):
        yield order[start : start + size]  # (B,)


def to_batch(images: Array, labels: Array, xp: Any) -> tuple[Array, Array]:
    """Turn 8-bit images (B, H, W, C) and labels (B,) into a batch for a network on the library `xp`.

    Returns
    -------
    images : float32 array (B, H, W, C), 0 to 1
    labels : integer array (B,)
    """
    return to_backend(to_float(images), xp), to_backend(labels, xp)
