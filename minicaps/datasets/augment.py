"""New images from old: shifts, positions in a frame, overlapping pairs, affine warps.

Training shifts its images; the experiments also place, overlay and warp those that they test with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_whole


def shift(images: Array, largest: int, rng: np.random.Generator) -> Array:
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

    Raises
    ------
    ValueError
        If `images` has other axes, or `largest` is not a whole number, 0 or more.
    """
    if images.ndim != 4:
        raise ValueError(f"shift: images have shape {images.shape}, expected (B, H, W, C)")
    check_whole("shift", 0, largest=largest)
    offsets = rng.integers(-largest, largest, size=(2, len(images)), endpoint=True)  # (2, B)
    return shift_by(images, *offsets)


def shift_by(images: Array, down: Array, right: Array) -> Array:
    """Move image k of (B, H, W, C) by down[k] and right[k] pixels, and fill with zeros.

    Parameters
    ----------
    images : array (B, H, W, C) of any dtype
    down, right : integer arrays (B,)
        Negative: up, left.

    Returns
    -------
    array of the same shape and dtype
    """
    height, width = images.shape[1:3]
    down, right = down.clip(-height, height), right.clip(-width, width)  # (B,); further changes nothing
    moved = np.zeros_like(images)  # (B, H, W, C)
    for new, old, d, r in zip(moved, images, down, right, strict=True):  # copies win over one gather
        inside = new[max(d, 0) : height + min(d, 0), max(r, 0) : width + min(r, 0)]
        inside[...] = old[max(-d, 0) : height - max(d, 0), max(-r, 0) : width - max(r, 0)]
    return moved


# -- frames and pairs -------------------------------------------------------------------------


def place(images: Array, size: int, rng: np.random.Generator) -> Array:
    """Put every image at a random position into a black frame of `size` × `size` pixels.

    Parameters
    ----------
    images : array (B, H, W, C) of any dtype
    size : int
        Every position at which the whole image lies in the frame is equally likely.
    rng : numpy.random.Generator

    Returns
    -------
    array (B, size, size, C) of the same dtype

    Raises
    ------
    ValueError
        If an image is larger than the frame.
    """
    batch, height, width, channels = images.shape
    if size < max(height, width):
        raise ValueError(
            f"place: size is {size}, expected {max(height, width)} or more, the larger side of the images"
        )
    frames = np.zeros((batch, size, size, channels), dtype=images.dtype)  # (B, size, size, C)
    down = rng.integers(0, size - height, size=batch, endpoint=True)  # (B,)
    right = rng.integers(0, size - width, size=batch, endpoint=True)  # (B,)
    for frame, image, d, r in zip(frames, images, down, right, strict=True):
        frame[d : d + height, r : r + width] = image
    return frames


def pairs(
    images: Array, labels: Array, batch_size: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Yield batches of pairs of images of different classes, without end, each batch made anew.

    The two parts of a pair stand at random positions in a frame; laid over each other by ``overlay``
    they are an image of MultiMNIST (Sabour et al. 2017, §6).

    Parameters
    ----------
    images : array (N, H, W, C)
    labels : integer array (N,)
        Of two classes at least.
    batch_size : int
    size : int
        Side of the frame: 36 for MNIST's 28 pixels, shifted by up to 4.
    rng : numpy.random.Generator

    Yields
    ------
    parts : array (B, 2, size, size, C) of the dtype of `images`
    labels : array (B, 2)

    Raises
    ------
    ValueError
        If all labels are of one class; like all of a generator, with the first batch.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("pairs: all labels are of one class, expected two classes at least")
    while True:
        chosen = rng.integers(len(images), size=(batch_size, 2))  # (B, 2)
        while (same := labels[chosen[:, 0]] == labels[chosen[:, 1]]).any():
            chosen[same, 1] = rng.integers(len(images), size=same.sum())
        parts = place(images[chosen.reshape(-1)], size, rng)  # (2B, size, size, C)
        yield parts.reshape(batch_size, 2, *parts.shape[1:]), labels[chosen]


def overlay(parts: Array) -> Array:
    """Add the parts (B, K, H, W, C) of images, clipped at white: 255, or 1 for floats: (B, H, W, C)."""
    if parts.dtype == np.uint8:
        return np.minimum(parts.sum(axis=1, dtype=np.uint16), 255).astype(np.uint8)  # (B, H, W, C)
    return get_xp(parts).minimum(parts.sum(axis=1), 1)  # (B, H, W, C)


# -- affine warps -----------------------------------------------------------------------------


class Warps(NamedTuple):
    """An affine warp for each of B images: scaled, then sheared, turned and moved, about its centre."""

    angle: Array  # (B,), in degrees, counter-clockwise
    shear: Array  # (B,), columns to the right for each row down
    scale: Array  # (B, 2), of rows and columns
    move: Array  # (B, 2), pixels down and right

    @classmethod
    def none(cls, count: int) -> Warps:
        """Return the warps that leave `count` images as they are."""
        return cls(np.zeros(count), np.zeros(count), np.ones((count, 2)), np.zeros((count, 2)))

    @classmethod
    def random(cls, count: int, rng: np.random.Generator, strength: float = 1.0) -> Warps:
        """Draw warps from the ranges of affNIST, or from `strength` times these, without moves.

        Angles up to ±20°, shear up to ±0.2, each axis scaled by 0.8 to 1.2, all evenly.
        """
        turn, slant = 20 * strength, 0.2 * strength
        angle, shear = rng.uniform(-turn, turn, size=count), rng.uniform(-slant, slant, size=count)  # (B,)
        scale = rng.uniform(1 - slant, 1 + slant, size=(count, 2))  # (B, 2)
        return cls(angle, shear, scale, np.zeros((count, 2)))

    def sources(self) -> Array:
        """Return the matrices (B, 2, 2) from (row, column) in the warped image to that in the old."""
        radians = np.deg2rad(self.angle)
        cos, sin, zero, one = np.cos(radians), np.sin(radians), 0 * radians, 0 * radians + 1  # (B,)
        turn = np.array([[cos, sin], [-sin, cos]])  # (2, 2, B)
        shear = np.array([[one, zero], [-self.shear, one]])  # (2, 2, B)
        scale = np.array([[1 / self.scale[:, 0], zero], [zero, 1 / self.scale[:, 1]]])  # (2, 2, B)
        return scale.transpose(2, 0, 1) @ shear.transpose(2, 0, 1) @ turn.transpose(2, 0, 1)

    def sources_of(self, height: int, width: int) -> Array:
        """Return the (row, column) in the old image of every pixel of the warped one: (2, B, H, W)."""
        centre = np.array([(height - 1) / 2, (width - 1) / 2])
        down = np.arange(height) - centre[0] - self.move[:, :1]  # (B, H)
        across = np.arange(width) - centre[1] - self.move[:, 1:]  # (B, W)
        M = self.sources().transpose(1, 2, 0)[..., None, None]  # (2, 2, B, 1, 1)
        moved = M[:, 0] * down[:, :, None] + M[:, 1] * across[:, None]  # (2, B, H, W)
        return moved + centre[:, None, None, None]


def warp(images: Array, warps: Warps) -> Array:
    """Warp images, each pixel from the four nearest of the old one (bilinear), black outside.

    Parameters
    ----------
    images : array (B, H, W, C)
        8-bit values are rounded.
    warps : Warps
        Of B images.

    Returns
    -------
    array of the same shape and dtype

    Raises
    ------
    ValueError
        If there is not one warp for each image.
    """
    batch, height, width, _ = images.shape
    if len(warps.angle) != batch:
        raise ValueError(f"warp: got {len(warps.angle)} warps for {batch} images, expected one for each")
    rows, columns = warps.sources_of(height, width)  # (B, H, W) each, where every pixel comes from
    above, left = np.floor(rows), np.floor(columns)  # (B, H, W), the nearest pixel above and left
    lower, right = (rows - above)[..., None], (columns - left)[..., None]  # (B, H, W, 1), shares of the next
    black = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))  # (B, H + 2, W + 2, C)
    pixels, first = black.reshape(-1, images.shape[3]), (height + 2) * (width + 2) * np.arange(batch)

    def line(rows: Array) -> Array:
        """Return between columns what is in these rows of `black`: (B, H, W, C)."""
        starts = first[:, None, None] + (width + 2) * rows.clip(0, height + 1).astype(int)  # (B, H, W)
        near, far = (pixels.take(starts + (left + k).clip(0, width + 1).astype(int), axis=0) for k in (1, 2))
        return near * (1 - right) + far * right  # (B, H, W, C)

    mixed = line(above + 1) * (1 - lower) + line(above + 2) * lower  # (B, H, W, C)
    return (np.rint(mixed) if images.dtype.kind in "iu" else mixed).astype(images.dtype)


def vary(images: Array, largest: int, strength: float, rng: np.random.Generator) -> Array:
    """Change every image at random, as training does: shift it, and with a `strength` warp it as well.

    Parameters
    ----------
    images : array (B, H, W, C) of any dtype
    largest : int
        Largest shift, in pixels; together with a warp it need not be of whole ones.
    strength : float
        Of ``Warps.random``; with 0 this is ``shift``.
    rng : numpy.random.Generator

    Returns
    -------
    array of the same shape and dtype
    """
    if strength == 0:
        return shift(images, largest, rng)
    warps = Warps.random(len(images), rng, strength)
    move = rng.uniform(-largest, largest, size=(len(images), 2))  # (B, 2)
    return warp(images, warps._replace(move=move))
