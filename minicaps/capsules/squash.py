"""Squash: a vector's length becomes a probability, its direction stays."""

from __future__ import annotations

from typing import NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.checks import any_axes, check_array, check_gradient
from minicaps.layers import Layer, length_and_direction


class SquashCache(NamedTuple):
    n: Array  # (..., 1), the length of s
    e: Array  # (..., D), the direction of s


class Squash(Layer):
    r"""Shrink a vector's length n to n²/(1 + n²) and keep its direction (Sabour et al. 2017, eq. 1).

    v = n²/(1 + n²) · s/n = g s  with  g(n) = n/(1 + n²): no division by n, so no epsilon.

    Gradient: ds = g dv + (g'/n)(s·dv) s with g' = (1 - n²)/(1 + n²)². In terms of the direction
    e = s/n it reads ds = g dv + n g' (e·dv) e, which is 0 at n = 0.

    With q = min(n, 1/n), g = q/(1 + q²) and n g' = ± g (1 - q²)/(1 + q²), + for n ≤ 1: the same
    numbers without n², which is too large for float32 from n = 1e19 on.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    eq. 1.
    """

    def forward(self, s: Array) -> tuple[Array, SquashCache]:
        """s (..., D) -> v (..., D), of length 0 to 1."""
        check_array("Squash.forward", "s", s, *any_axes(s))
        n, e = self._length_and_direction(s)  # (..., 1), (..., D)
        q = self._q(n)  # (..., 1)
        return q / (1 + q * q) * s, SquashCache(n, e)  # (..., D), eq. 1: v = g s

    def backward(self, dv: Array, cache: SquashCache) -> Array:
        """dv (..., D) -> ds (..., D)."""
        n, e = cache
        check_gradient("Squash.backward", dv, e.shape, e)
        q = self._q(n)  # (..., 1)
        g = q / (1 + q * q)  # (..., 1)
        n_dg = get_xp(n).where(n <= 1, g, -g) * (1 - q * q) / (1 + q * q)  # (..., 1), n g'
        return g * dv + n_dg * self._dot(e, dv) * e  # (..., D)

    @staticmethod
    def _q(n: Array) -> Array:
        xp = get_xp(n)
        return xp.where(n <= 1, n, 1 / xp.maximum(n, 1))  # min(n, 1/n) without dividing by 0

    @staticmethod
    def _dot(a: Array, b: Array) -> Array:
        return (a * b).sum(axis=-1, keepdims=True)  # (..., 1)

    _length_and_direction = staticmethod(
        length_and_direction
    )  # fast.Squash has faster ones here, and as _dot
