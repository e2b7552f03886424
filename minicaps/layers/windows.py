"""Windows that slide over an image: their sizes, and how many there are."""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import numpy as np

Pair: TypeAlias = tuple[int, int]  # rows and columns


def as_pair(where: str, name: str, value: Any, minimum: int = 1) -> Pair:
    """Return (height, width) from one number or two, each a whole number of at least `minimum`."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not whole or min(pair) < minimum:
        raise ValueError(
            f"{where}: {name} is {value!r}, expected one or two whole numbers of at least {minimum}"
        )
    return pair


@functools.lru_cache(maxsize=256)  # asked for some thirty times in a training step
def output_size(where: str, size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Pair:
    """Return the grid (P, Q) of positions where a window fits: ⌊(size + 2·padding - kernel)/stride⌋ + 1.

    Raises
    ------
    ValueError
        If the window is larger than the padded image.
    """
    for axis, n, k, p in zip(("height", "width"), size, kernel, padding, strict=True):
        if n + 2 * p < k:
            raise ValueError(
                f"{where}: a window of {axis} {k} does not fit an image of {axis} {n} with padding "
                f"{p}; use a larger image, a smaller kernel, a smaller stride before, or padding"
            )
    rows, columns = (
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )
    return rows, columns


def transposed_size(where: str, size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Return the image (H, W) that a grid of windows covers: (size - 1)·stride + kernel - 2·padding.

    Of all images with this grid of windows it is the smallest.

    Raises
    ------
    ValueError
        If the padding cuts everything off.
    """
    height, width = (
        (n - 1) * s + k - 2 * p for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )
    for axis, n, covered, p in zip(("height", "width"), size, (height, width), padding, strict=True):
        if covered < 1:
            raise ValueError(
                f"{where}: a padding of {p} cuts off all of the {axis} {covered + 2 * p} that {n} windows "
                "cover; use less padding or a larger kernel"
            )
    return height, width
