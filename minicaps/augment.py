"""Augmentation of training images (never of validation or test images)."""

from __future__ import annotations

import numpy as np

from minicaps.layer import check_whole


def shift(images: np.ndarray, largest: int, rng: np.random.Generator) -> np.ndarray:
    """Move every image by its own random number of pixels, and fill with zeros.

    Parameters
    ----------
    images : array (B, H, W, C) of any dtype
    largest : int
        Largest shift, in pixels, up, down, left and right; every shift is equally likely.
    rng : numpy.random.Generator

    Returns
    -------
    array of the same shape and dtype
        A new one; `images` is left as it is.
    """
    if images.ndim != 4:
        raise ValueError(f"shift: images have shape {images.shape}, expected (B, H, W, C)")
    check_whole("shift", 0, largest=largest)
    offsets = rng.integers(-largest, largest, size=(2, len(images)), endpoint=True)  # (2, B)
    return shift_by(images, *offsets)


def shift_by(images: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Move image k by down[k] and right[k] pixels (negative: up, left), and fill with zeros."""
    batch, height, width, _ = images.shape
    rows = np.arange(height) - down[:, None]  # (B, H), the row that each new row comes from
    columns = np.arange(width) - right[:, None]  # (B, W)
    moved = images[
        np.arange(batch)[:, None, None],
        rows.clip(0, height - 1)[:, :, None],
        columns.clip(0, width - 1)[:, None, :],
    ]  # (B, H, W, C)
    outside = ((rows < 0) | (rows >= height))[:, :, None] | (
        (columns < 0) | (columns >= width)
    )[:, None, :]  # (B, H, W)  # fmt: skip
    moved[outside] = 0
    return moved
