"""Squash with shorter ways to a sum over a short axis and to a length."""

from __future__ import annotations

import numpy as np

from minicaps import capsules, layers
from minicaps.arrays import Array, get_xp


def dot(a: Array, b: Array) -> Array:
    """Return ⟨a, b⟩ over the last axis: (..., D), (..., D) -> (..., 1).

    A product with a column of ones sums a short axis several times faster than ``sum`` does.
    """
    return (a * b) @ get_xp(a).ones((a.shape[-1], 1), dtype=a.dtype)  # (..., 1)


def length_and_direction(s: Array) -> tuple[Array, Array]:
    """Return n = ‖s‖ (..., 1) and e = s/n (..., D) as layers.length_and_direction does.

    The plain root of the sum of squares serves where no square comes near the limits of float32; on a
    GPU a look at them would have to wait for it, so there the careful way always does.
    """
    if get_xp(s) is np:
        with np.errstate(over="ignore", invalid="ignore"):
            n2 = dot(s, s)  # (..., 1)
        if n2.min() > 1e-30 and n2.max() < 1e30:
            n = np.sqrt(n2)  # (..., 1)
            return n, s / n
    return layers.length_and_direction(s)


class Squash(capsules.Squash):
    """capsules.Squash, with its sums over the short last axis as products of matrices.

    It takes a third of the time of the plain form, which is 2 % of a training step of ``small``.
    """

    _length_and_direction = staticmethod(length_and_direction)
    _dot = staticmethod(dot)


class ExponentialSquash(capsules.ExponentialSquash):
    """capsules.ExponentialSquash, with its sums over the short last axis as products of matrices."""

    _length_and_direction = staticmethod(length_and_direction)
    _dot = staticmethod(dot)
