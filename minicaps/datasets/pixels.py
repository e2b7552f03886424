"""Pixels of any form made 8-bit images, and images scaled."""

from __future__ import annotations

import math

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.pictures import fit_picture

BLOCK = 1024  # images that are worked on at once


def to_8_bit(where: str, pixels: Array) -> Array:
    """Return pixels as uint8: whole numbers from 0 to 255 as they are, floats from 0 to 1 times 255.

    Raises
    ------
    ValueError
        If they are anything else; `where` names them.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "biuf" or pixels.ndim == 0:
        raise ValueError(f"{where}: holds {pixels.dtype} of shape {pixels.shape}, expected images of numbers")
    lowest, highest = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
    if not (lowest >= 0 and highest <= 255):  # so that NaN fails too
        raise ValueError(f"{where}: pixels run from {lowest} to {highest}, expected 0 to 255, or 0.0 to 1.0")
    scale = 255.0 if pixels.dtype.kind in "bf" and highest <= 1 else 1.0
    made = np.empty(pixels.shape, dtype=np.uint8)  # as `pixels`
    for start in range(0, len(pixels), BLOCK):
        scaled = pixels[start : start + BLOCK] * scale
        made[start : start + BLOCK] = np.rint(scaled)
        if scale == 1 and (made[start : start + BLOCK] != scaled).any():
            raise ValueError(
                f"{where}: pixels are fractions up to {highest}, expected 0 to 255, or 0.0 to 1.0"
            )
    return made


def unfold(where: str, rows: Array) -> Array:
    """Return pixels (N, S·S) or (N, S·S·3) as square images (N, S, S, C), without a copy.

    Raises
    ------
    ValueError
        If no square has that many pixels.
    """
    count = rows.shape[1]
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if count and side * side * channels == count:
            return rows.reshape(-1, side, side, channels)  # (N, S, S, C)
    raise ValueError(f"{where}: {count:,} pixels in a row, expected a square number, or three times one")


def scale(images: Array, size: tuple[int, int] | None) -> Array:
    """Scale images (N, H, W, C) to fit `size` (height, width) and centre them; None leaves them.

    Each is scaled as a picture is, so no more memory is taken than that of the new images.
    """
    if size is None or images.shape[1:3] == size:
        return images
    channels = images.shape[3]
    scaled = np.empty((len(images), *size, channels), dtype=np.uint8)  # (N, H, W, C)
    for new, old in zip(scaled, images, strict=True):
        if channels in (1, 3):
            new[:] = fit_picture(old, new.shape)
        else:  # Pillow would take others for what they are not, as 4 for one with transparency
            for k in range(channels):
                new[..., k : k + 1] = fit_picture(old[..., k : k + 1], (*size, 1))
    return scaled


def turn(images: Array) -> Array:
    """Swap rows and columns of images (N, H, W), those of a square within their own memory."""
    if images.shape[1] != images.shape[2]:
        return np.ascontiguousarray(images.swapaxes(1, 2))  # (N, W, H)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        block[:] = block.swapaxes(1, 2).copy()
    return images
