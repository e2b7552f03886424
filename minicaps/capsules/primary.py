"""The first capsules: a convolution whose channels are read as vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps import layers
from minicaps.arrays import Array
from minicaps.capsules.squash import Squash, SquashCache
from minicaps.checks import check_positive
from minicaps.layers import Layer, Pair, Seed


class PrimaryCache(NamedTuple):
    conv: Any
    squash: SquashCache
    shape: tuple[int, ...]  # (B, P, Q, types·D), of the convolution's output


class PrimaryCaps(Layer):
    r"""The first capsules: u = squash(reshape(conv(x))) (Sabour et al. 2017, §4).

    Images are channels-last, so the D numbers of one capsule are D neighbouring channels at one
    position, and the reshape cannot mix positions. Capsule number i = (p·Q + q)·types + t stands at
    row p, column q and is of type t.

    Gradient: of squash, then of the convolution; the reshape only moves numbers.

    Deviation: no nonlinearity before squash and no scaling by 1/32, which the authors' code has.

    Parameters
    ----------
    in_channels : int
        C.
    types, dimension : int
        How many capsules stand at each position, and D.
    kernel_size, stride, padding : int or (int, int)
        Of the convolution.
    rng, dtype
        As for Conv2d.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 4.
    """

    Conv2d, Squash = layers.Conv2d, Squash  # fast.PrimaryCaps puts its own here

    def __init__(
        self,
        in_channels: int,
        types: int,
        dimension: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("PrimaryCaps", in_channels=in_channels, types=types, dimension=dimension)
        self.in_channels, self.types, self.dimension = in_channels, types, dimension
        options: dict[str, Any] = {"stride": stride, "padding": padding, "rng": rng, "dtype": dtype}
        self.conv = self.Conv2d(in_channels, types * dimension, kernel_size, **options)
        self.squash = self.Squash()

    def forward(self, x: Array) -> tuple[Array, PrimaryCache]:
        """x (B, H, W, C) -> u (B, I, D), I = P·Q·types."""
        y, conv = self.conv.forward(x)  # (B, P, Q, types·D)
        s = y.reshape(len(y), -1, self.dimension)  # (B, I, D)
        u, squash = self.squash.forward(s)  # (B, I, D)
        return u, PrimaryCache(conv, squash, y.shape)

    def backward(self, du: Array, cache: PrimaryCache) -> Array:
        """du (B, I, D) -> dx (B, H, W, C)."""
        ds = self.squash.backward(du, cache.squash)  # (B, I, D)
        dy = ds.reshape(cache.shape)  # (B, P, Q, types·D)
        return self.conv.backward(dy, cache.conv)  # (B, H, W, C)
