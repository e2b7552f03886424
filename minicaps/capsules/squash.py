"""Squash: a vector's length becomes a probability, its direction stays."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.checks import any_axes, check_above_zero, check_array, check_gradient
from minicaps.layers import Layer, length_and_direction


class SquashCache(NamedTuple):
    n: Array  # (..., 1), the length of s
    e: Array  # (..., D), the direction of s


class Squashing(Layer):
    r"""Base of all that shrink a vector's length n and keep its direction: v = ρ(n) e = g(n) s, g = ρ/n.

    Gradient: ds = g dv + (g'/n)(s·dv) s. In terms of the direction e = s/n it reads
    ds = g dv + n g' (e·dv) e, which needs no division by n.
    """

    def forward(self, s: Array) -> tuple[Array, SquashCache]:
        """s (..., D) -> v (..., D), of length 0 to 1."""
        check_array(f"{type(self).__name__}.forward", "s", s, *any_axes(s))
        n, e = self._length_and_direction(s)  # (..., 1), (..., D)
        return self._g(n) * s, SquashCache(n, e)  # (..., D), v = g s

    def backward(self, dv: Array, cache: SquashCache) -> Array:
        """dv (..., D) -> ds (..., D)."""
        n, e = cache
        check_gradient(f"{type(self).__name__}.backward", dv, e.shape, e)
        g, n_dg = self._g_and_n_dg(n)  # (..., 1), (..., 1)
        return g * dv + n_dg * self._dot(e, dv) * e  # (..., D)

    @abstractmethod
    def _g(self, n: Array) -> Array:
        """Return g(n) = ρ(n)/n (..., 1)."""

    @abstractmethod
    def _g_and_n_dg(self, n: Array) -> tuple[Array, Array]:
        """Return g(n) and n g'(n) (..., 1)."""

    @staticmethod
    def _dot(a: Array, b: Array) -> Array:
        return (a * b).sum(axis=-1, keepdims=True)  # (..., 1)

    _length_and_direction = staticmethod(length_and_direction)  # fast forms have faster ones, as of _dot


class Squash(Squashing):
    r"""Shrink a vector's length n to n²/(1 + n²) and keep its direction (Sabour et al. 2017, eq. 1).

    v = n²/(1 + n²) · s/n = g s  with  g(n) = n/(1 + n²): no division by n, so no epsilon.

    Gradient: ds = g dv + (g'/n)(s·dv) s with g' = (1 - n²)/(1 + n²)². In terms of the direction
    e = s/n it reads ds = g dv + n g' (e·dv) e, which is 0 at n = 0.

    With q = min(n, 1/n), g = q/(1 + q²) and n g' = ± g (1 - q²)/(1 + q²), + for n ≤ 1: the same
    numbers without n², which is too large for float32 from n = 1e19 on.

    Parameters
    ----------
    offset : float
        κ, above 0, in n²/(κ + n²): the paper has 1; with 0.5, which some codes take, vectors come out
        longer. All of the above holds for n/√κ in the place of n, with g and n g' divided by √κ.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    eq. 1.
    """

    def __init__(self, *, offset: float = 1.0) -> None:
        super().__init__()
        check_above_zero("Squash", offset=offset)
        self.offset = float(offset)
        self._scale = self.offset**-0.5  # 1/√κ

    def _g(self, n: Array) -> Array:
        q = self._q(n)  # (..., 1)
        return self._scale * (q / (1 + q * q))  # (..., 1), eq. 1: g of v = g s

    def _g_and_n_dg(self, n: Array) -> tuple[Array, Array]:
        q = self._q(n)  # (..., 1)
        g = self._scale * (q / (1 + q * q))  # (..., 1)
        rising = self._scale * n <= 1  # (..., 1)
        return g, get_xp(n).where(rising, g, -g) * (1 - q * q) / (1 + q * q)  # (..., 1), n g'

    def _q(self, n: Array) -> Array:
        xp, m = get_xp(n), self._scale * n  # (..., 1)
        return xp.where(m <= 1, m, 1 / xp.maximum(m, 1))  # min(m, 1/m) without dividing by 0


class ExponentialSquash(Squashing):
    r"""Shrink a vector's length n to 1 - e⁻ⁿ and keep its direction (Mazzia et al. 2021).

    v = (1 - e⁻ⁿ) s/n = g s with g(n) = (1 - e⁻ⁿ)/n, which is 1 at n = 0: where Squash has slope 0, so
    that short capsules hardly learn, this has slope 1.

    Gradient: ds = g dv + n g' (e·dv) e with e = s/n, n g' = e⁻ⁿ - g.

    References
    ----------
    Mazzia, Salvetti and Chiaberge, `Efficient-CapsNet: capsule network with self-attention routing
    <https://arxiv.org/abs/2101.12491>`_, 2021.
    """

    def _g(self, n: Array) -> Array:
        xp = get_xp(n)
        return xp.where(n > 0, -xp.expm1(-n), 1) / xp.where(n > 0, n, 1)  # (..., 1)

    def _g_and_n_dg(self, n: Array) -> tuple[Array, Array]:
        g = self._g(n)  # (..., 1)
        return g, get_xp(n).exp(-n) - g  # (..., 1), (..., 1)
