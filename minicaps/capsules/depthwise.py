"""Primary capsules of a depthwise convolution: every number of a capsule looks at one whole feature map."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules.squash import ExponentialSquash, SquashCache
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers import Layer, Pair, Seed, as_pair, generator, uniform


class DepthwiseCache(NamedTuple):
    x: Array  # (B, P, Q, C)
    squash: SquashCache


class DepthwisePrimaryCaps(Layer):
    r"""Primary capsules as in Efficient-CapsNet: u = squash(reshape(s)) (Mazzia et al. 2021).

    s_c = Σ_pq x_pqc W_pqc + bias_c is a depthwise convolution whose kernel is as large as the map, so
    that one number is left of each channel. The D numbers of capsule i are channels iD to iD + D - 1;
    its length is 1 - e⁻ⁿ.

    Gradient: ds = squash'ᵀ du, then dx_pqc = W_pqc ds_c, dW_pqc = Σ_B x_pqc ds_c, dbias = Σ_B ds.

    Parameters
    ----------
    grid : int or (int, int)
        (P, Q), the size of the map.
    capsules, dimension : int
        I and D; the map has C = I·D channels.
    rng, dtype
        As for Conv2d.

    References
    ----------
    Mazzia, Salvetti and Chiaberge, `Efficient-CapsNet: capsule network with self-attention routing
    <https://arxiv.org/abs/2101.12491>`_, 2021.
    """

    def __init__(
        self, grid: int | Pair, capsules: int, dimension: int, *, rng: Seed = None, dtype: Any = np.float32
    ) -> None:
        super().__init__()
        check_positive("DepthwisePrimaryCaps", capsules=capsules, dimension=dimension)
        self.grid = as_pair("DepthwisePrimaryCaps", "grid", grid)
        self.count, self.dimension = capsules, dimension
        rng, channels, fan_in = generator(rng), capsules * dimension, math.prod(self.grid)
        self.add_param("W", uniform(rng, (*self.grid, channels), fan_in, dtype))  # (P, Q, C)
        self.add_param("bias", uniform(rng, (channels,), fan_in, dtype))  # (C,)
        self.squash = ExponentialSquash()

    def forward(self, x: Array) -> tuple[Array, DepthwiseCache]:
        """x (B, P, Q, C) -> u (B, I, D)."""
        W, bias = self.params["W"], self.params["bias"]  # (P, Q, C), (C,)
        rows, columns, channels = W.shape
        axes = ("batch B", None), ("rows P", rows), ("columns Q", columns), ("channels I·D", channels)
        check_array("DepthwisePrimaryCaps.forward", "x", x, *axes, like=W)
        s = (x * W).sum(axis=(1, 2)) + bias  # (B, C)
        u, squash = self.squash.forward(s.reshape(-1, self.count, self.dimension))  # (B, I, D)
        return u, DepthwiseCache(x, squash)

    def backward(self, du: Array, cache: DepthwiseCache) -> Array:
        """du (B, I, D) -> dx (B, P, Q, C)."""
        x = cache.x  # (B, P, Q, C)
        check_gradient("DepthwisePrimaryCaps.backward", du, (len(x), self.count, self.dimension), x)
        ds = self.squash.backward(du, cache.squash).reshape(len(x), 1, 1, -1)  # of u: (B, 1, 1, C)
        self.grads["W"] += (x * ds).sum(axis=0)  # of s = Σ_pq x W: (P, Q, C)
        self.grads["bias"] += ds.sum(axis=(0, 1, 2))  # of s = … + bias: (C,)
        return self.params["W"] * ds  # of s = Σ_pq x W: (B, P, Q, C)
