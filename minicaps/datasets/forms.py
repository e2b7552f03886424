"""Arrays of people's own as images: which axes are which, what is black and white, how large."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array

LEAST_SIDE = 20  # pixels; smaller images are enlarged by whole factors, so that the kernels of a network fit


class ImageForm(NamedTuple):
    """How arrays of one kind become images, found from those that are trained on."""

    shape: tuple[int, int, int]  # (H, W, C)
    offset: float  # taken off the numbers, and
    scale: float  # what they are then divided by, to be 0 to 1

    @classmethod
    def of(cls, where: str, X: Array, image_shape: tuple[int, ...] | None = None) -> ImageForm:
        """Return the form of images X (N, H, W), (N, H, W, C), or flat (N, features).

        Flat ones have the `image_shape` (H, W) or (H, W, C); without it they are squares where the number of
        features is a square, and else single rows. 8-bit numbers are 0 to 255, floats 0 to 1; floats that
        reach beyond are scaled by their least and largest.

        Raises
        ------
        ValueError
            If the `image_shape` does not have as many numbers.
        """
        shape = X.shape[1:]
        if len(shape) == 1:
            features, side = shape[0], math.isqrt(shape[0])
            shape = tuple(image_shape or ((side, side) if side * side == features else (1, features)))
            if len(shape) not in (2, 3) or math.prod(shape) != features:
                raise ValueError(f"{where}: X has {features} features, but image_shape is {shape}")
        height, width, channels = (*shape, 1) if len(shape) == 2 else shape
        return cls((height, width, channels), *_range_of(X))

    def images(self, X: Array) -> Array:
        """Return X as float32 images (N, H, W, C), enlarged to sides of at least LEAST_SIDE."""
        images = X.reshape(-1, *self.shape).astype(np.float32)  # (N, H, W, C)
        images = (images - np.float32(self.offset)) / np.float32(self.scale)  # (N, H, W, C)
        rows, columns = (math.ceil(LEAST_SIDE / side) for side in self.shape[:2])
        return images.repeat(rows, axis=1).repeat(columns, axis=2)  # (N, H, W, C)


def _range_of(X: Array) -> tuple[float, float]:
    """Return the offset and the scale of numbers."""
    if X.dtype == np.uint8:
        return 0.0, 255.0
    least, largest = float(X.min()), float(X.max())
    if least >= 0 and largest <= 1:
        return 0.0, 1.0
    return least, largest - least or 1.0


def check_numbers(where: str, X: Any, least: int = 1) -> Array:
    """Return X as an array of finite numbers with 2 to 4 axes and at least so many samples.

    Raises
    ------
    TypeError
        If it is sparse.
    ValueError
        If it is anything else.
    """
    if hasattr(X, "toarray"):
        raise TypeError(f"{where}: X is sparse, expected a dense array; X.toarray() makes one")
    array = np.asarray(X)
    if array.dtype.kind == "O":
        array = array.astype(np.float64)
    if array.dtype.kind == "c":
        raise ValueError(f"{where}: Complex data not supported, expected real numbers")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: X has dtype {array.dtype}, expected numbers")
    if array.ndim not in (2, 3, 4):
        form = "(N, H, W), (N, H, W, C) or (N, features)"
        raise ValueError(f"{where}: X has shape {array.shape}, expected {form}. Reshape your data")
    if array.size == 0 or len(array) < least:
        features = math.prod(array.shape[1:])
        raise ValueError(
            f"{where}: X has {len(array)} sample(s) and {features} feature(s) (shape={array.shape}) while a "
            f"minimum of {least if features else 1} is required."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{where}: X contains NaN or infinity, expected finite numbers")
    return array


def check_classes(where: str, y: Any, count: int) -> Array:
    """Return y as labels (N,), one for each of so many samples.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if y is None:
        raise ValueError(f"{where} requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]  # (N,)
    if labels.shape != (count,):
        raise ValueError(
            f"{where}: y has shape {labels.shape}, expected ({count},), one label for each sample"
        )
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise ValueError(f"{where}: Input y contains NaN or infinity")
        if (labels != np.floor(labels)).any():
            raise ValueError(f"{where}: Unknown label type: continuous; expected classes, not measurements")
    return labels
