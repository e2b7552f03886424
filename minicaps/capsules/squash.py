"""Squash: a vector's length becomes a probability, its direction stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_array, check_gradient
from minicaps.layers.contract import Example, Layer
from minicaps.layers.dense import any_axes


def dot(a: Array, b: Array, xp: Any) -> Array:
    """Return ⟨a, b⟩ over the last axis: (..., D), (..., D) -> (..., 1).

    A product with a column of ones sums a short axis several times faster than ``sum`` does.
    """
    return (a * b) @ xp.ones((a.shape[-1], 1), dtype=a.dtype)  # (..., 1)


def length_and_direction(s: Array, xp: Any) -> tuple[Array, Array]:
    """Return n = ‖s‖ (..., 1) and e = s/n (..., D), with e = 0 where s = 0.

    Safe from 0 to 1e30 in float32. The plain formula serves where no square comes near the limits
    of float32; on a GPU a look at them would have to wait for it, so there the safe one always does.
    """
    if xp is np:
        with np.errstate(over="ignore", invalid="ignore"):
            n2 = dot(s, s, np)  # (..., 1)
        if n2.min() > 1e-30 and n2.max() < 1e30:
            n = np.sqrt(n2)  # (..., 1)
            return n, s / n
    return safe_length_and_direction(s, xp)


def safe_length_and_direction(s: Array, xp: Any) -> tuple[Array, Array]:
    """As above for all s: scaled by the largest component, so that neither squaring 1e30 overflows
    nor squaring 1e-30 vanishes."""
    m = xp.abs(s).max(axis=-1, keepdims=True)  # (..., 1)
    scaled = s / xp.where(m > 0, m, 1)  # (..., D), largest component ±1
    n = xp.sqrt(dot(scaled, scaled, xp))  # (..., 1), 0 or 1 to √D
    return m * n, scaled / xp.where(n > 0, n, 1)


class SquashCache(NamedTuple):
    n: Array  # (..., 1), the length of s
    e: Array  # (..., D), the direction of s


class Squash(Layer):
    r"""Shrink a vector's length n to n²/(1 + n²) and keep its direction (Sabour et al. 2017, eq. 1).

    v = n²/(1 + n²) · s/n = g s  with  g(n) = n/(1 + n²): no division by n, so no epsilon.

    Gradient: ds = g dv + (g'/n)(s·dv) s. Split along and across the direction e = s/n this reads
    ds = g (dv - (e·dv) e) + ρ (e·dv) e, with ρ = d‖v‖/dn = 2n/(1 + n²)²; at n = 0 it is 0.

    With q = min(n, 1/n), n/(1 + n²) = q/(1 + q²), which holds from 0 to 1e30 in float32.
    """

    def forward(self, s: Array) -> tuple[Array, SquashCache]:
        """s (..., D) -> v (..., D), of length 0 to 1."""
        xp = check_array("Squash.forward", "s", s, *any_axes(s))
        n, e = length_and_direction(s, xp)
        q = self._q(n, xp)  # (..., 1)
        length = xp.where(n <= 1, q * q, 1) / (1 + q * q)  # (..., 1), n²/(1 + n²)
        return length * e, SquashCache(n, e)

    def backward(self, dv: Array, cache: SquashCache) -> Array:
        """dv (..., D) -> ds (..., D)."""
        n, e = cache
        xp = check_array("Squash.backward", "dv", dv, *any_axes(dv), like=e)
        check_gradient("Squash.backward", dv, e.shape, e)
        q = self._q(n, xp)  # (..., 1)
        g = q / (1 + q * q)  # (..., 1)
        rho = 2 * g * xp.where(n <= 1, 1, q * q) / (1 + q * q)  # (..., 1), 2n/(1 + n²)²
        along = dot(e, dv, xp)  # (..., 1)
        return g * dv + ((rho - g) * along) * e  # (..., D)

    @staticmethod
    def _q(n: Array, xp: Any) -> Array:
        return xp.where(n <= 1, n, 1 / xp.maximum(n, 1))  # min(n, 1/n) without dividing by 0

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        for name, scale in {"short": 0.1, "medium": 1.0, "long": 10.0}.items():
            s = scale * rng.normal(size=(2, 3, 4))
            yield Example(name, cls(), (s.astype(dtype),))
