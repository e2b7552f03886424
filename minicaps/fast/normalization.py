"""Layer normalisation with its means as products of matrices."""

from __future__ import annotations

from minicaps import layers
from minicaps.arrays import Array, get_xp


def mean(x: Array) -> Array:
    """Return the mean over the last axis: (..., N) -> (..., 1).

    A product with a column of ones sums a short axis several times faster than ``mean`` does.
    """
    N = x.shape[-1]
    return x @ get_xp(x).ones((N, 1), dtype=x.dtype) / N  # (..., N) @ (N, 1) -> (..., 1)


class LayerNorm(layers.LayerNorm):
    """layers.LayerNorm, with its means over a short last axis as products of matrices."""

    _mean = staticmethod(mean)
