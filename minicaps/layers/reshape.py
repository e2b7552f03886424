"""The same numbers in another shape."""

from __future__ import annotations

import math
from typing import NamedTuple

from minicaps.arrays import Array
from minicaps.checks import any_axes, check_array, check_gradient, check_positive
from minicaps.layers.contract import Layer


class ReshapeCache(NamedTuple):
    shape: tuple[int, ...]  # of x


class Reshape(Layer):
    r"""The same numbers in another shape: y = x, sample by sample.

    Gradient: dx = dy in the shape of x.

    Parameters
    ----------
    *shape : int
        The new shape without the batch, as in ``Reshape(28, 28, 1)``; ``Reshape(784)`` makes a row.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        check_positive("Reshape", **{f"axis {k}": n for k, n in enumerate(shape, start=1)})
        self.shape = shape

    def forward(self, x: Array) -> tuple[Array, ReshapeCache]:
        """x (B, ...) -> y (B, *shape)."""
        check_array("Reshape.forward", "x", x, *any_axes(x))
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"Reshape.forward: x has shape {x.shape}, that is {math.prod(x.shape[1:])} numbers "
                f"in each sample, expected {math.prod(self.shape)} for the shape {self.shape}"
            )
        return x.reshape(len(x), *self.shape), ReshapeCache(x.shape)

    def backward(self, dy: Array, cache: ReshapeCache) -> Array:
        """dy (B, *shape) -> dx of the shape of x."""
        check_gradient("Reshape.backward", dy, (cache.shape[0], *self.shape), dy)
        return dy.reshape(cache.shape)
