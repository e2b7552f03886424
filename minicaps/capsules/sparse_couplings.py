r"""Sparse couplings: a capsule serves few of its parents, and the others not at all.

They save no time here: products of matrices with zeros in them are faster than gathering the few pairs.
In the first iteration of a routing, when all logits are 0, each of them is uniform.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.capsules.couplings import LOGITS, Coupling
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers import softmax, softmax_backward


def largest(z: Array, k: int) -> Array:
    """Return the k largest logits of every capsule, in falling order: z (B, I, J) -> (B, I, k)."""
    return -get_xp(z).sort(-z, axis=-1)[..., :k]  # (B, I, k)


def cumulated(z: Array) -> Array:
    """Return the sums of the first 1, 2, …, J numbers over the parents: z (B, I, J) -> (B, I, J)."""
    return get_xp(z).cumsum(z, axis=-1)  # (B, I, J)


class SparseCoupling(Coupling):
    """Base of the couplings that look at the largest logits."""

    _largest = staticmethod(largest)  # fast forms have a faster one
    _cumulated = staticmethod(cumulated)  # as of this


class TopKCache(NamedTuple):
    c: Array  # (B, I, J)
    chosen: Array  # (B, I, J), boolean


class TopK(SparseCoupling):
    r"""A softmax over the k parents with the largest logits; the others get 0.

    c_ij = exp b_ij / Σ exp b_ih over the chosen h. Parents that tie with the k-th are chosen too, so that
    no order of the parents matters: logits that are all 0 choose all. k = J is ``Softmax()``, k = 1
    ``Hard()``.

    Gradient: that of the softmax, db_ij = c_ij (dc_ij - Σ_h c_ih dc_ih), which is 0 where c is 0. Where the
    choice changes, c jumps, and no gradient tells.

    Parameters
    ----------
    k : int
        From 1 to J.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        check_positive("TopK", k=k)
        self.k = k

    def forward(self, b: Array) -> tuple[Array, TopKCache]:
        """b (B, I, J) -> c (B, I, J), over the parents j they sum to 1."""
        check_array("TopK.forward", "b", b, *LOGITS)
        xp, J = get_xp(b), b.shape[2]
        if self.k > J:
            raise ValueError(
                f"TopK.forward: k is {self.k}, but b has {J} upper capsules J; expected 1 to {J}"
            )
        smallest = self._largest(b, self.k)[..., -1:]  # (B, I, 1)
        chosen = b >= smallest  # (B, I, J)
        c = softmax(xp.where(chosen, b, -math.inf))  # (B, I, J)
        return c, TopKCache(c, chosen)

    def backward(self, dc: Array, cache: TopKCache) -> Array:
        """dc (B, I, J) -> db (B, I, J)."""
        check_gradient("TopK.backward", dc, cache.c.shape, cache.c)
        return softmax_backward(dc, cache.c)  # (B, I, J)


class SparsemaxCache(NamedTuple):
    support: Array  # (B, I, J), boolean: where c > 0


class Sparsemax(SparseCoupling):
    r"""c_ij = max(0, b_ij - τ_i), with τ_i such that they sum to 1 (Martins and Astudillo 2016).

    c is the point of the simplex that is nearest to b. Of the sorted logits the k largest alone would
    have τ = (their sum - 1)/k, and τ_i is the largest of these.

    Gradient: db_ij = dc_ij - mean of dc_i over the support (where c > 0), and 0 outside.

    References
    ----------
    Martins and Astudillo, `From softmax to sparsemax <https://arxiv.org/abs/1602.02068>`_, 2016:
    algorithm 1.
    """

    def forward(self, b: Array) -> tuple[Array, SparsemaxCache]:
        """b (B, I, J) -> c (B, I, J), over the parents j they sum to 1."""
        check_array("Sparsemax.forward", "b", b, *LOGITS)
        z = below_largest(b)  # (B, I, J)
        count = counted(z)  # (J,)
        total = self._cumulated(self._largest(z, z.shape[-1]))  # (B, I, J)
        tau = ((total - 1) / count).max(axis=-1, keepdims=True)  # (B, I, 1)
        c = get_xp(b).maximum(z - tau, 0)  # (B, I, J)
        return c, SparsemaxCache(c > 0)

    def backward(self, dc: Array, cache: SparsemaxCache) -> Array:
        """dc (B, I, J) -> db (B, I, J)."""
        check_gradient("Sparsemax.backward", dc, cache.support.shape, dc)
        support = cache.support.astype(dc.dtype)  # (B, I, J), 0 and 1
        mean = (support * dc).sum(axis=-1, keepdims=True) / support.sum(axis=-1, keepdims=True)  # (B, I, 1)
        return support * (dc - mean)  # (B, I, J)


class EntmaxCache(NamedTuple):
    root: Array  # (B, I, J), √c


class Entmax(SparseCoupling):
    r"""c_ij = max(0, b_ij/2 - τ_i)², with τ_i such that they sum to 1: 1.5-entmax (Peters et al. 2019).

    Between softmax and sparsemax: zeros, but no kink where a parent comes in. With z = b/2, parent k is in
    the support if Σ (z_h - z_k)² over the larger z_h is below 1; over the n of the support
    τ = mean z - √((1 - Σ (z - mean z)²)/n).

    Gradient: with g = √c, db_ij = g_ij (dc_ij - Σ_h g_ih dc_ih / Σ_h g_ih).

    References
    ----------
    Peters, Niculae and Martins, `Sparse sequence-to-sequence models <https://arxiv.org/abs/1905.05702>`_,
    2019: algorithm 2.
    """

    def forward(self, b: Array) -> tuple[Array, EntmaxCache]:
        """b (B, I, J) -> c (B, I, J), over the parents j they sum to 1."""
        check_array("Entmax.forward", "b", b, *LOGITS)
        xp, z = get_xp(b), below_largest(b / 2)  # (B, I, J)
        falling, count = self._largest(z, z.shape[-1]), counted(z)  # (B, I, J), (J,)
        total, squares = self._cumulated(falling), self._cumulated(falling * falling)  # (B, I, J)
        inside = (
            squares - 2 * falling * total + count * falling * falling < 1
        )  # (B, I, J), Σ (z_h - z_k)² < 1
        support = z >= xp.where(inside, falling, 0).min(axis=-1, keepdims=True)  # (B, I, J)
        n = support.astype(b.dtype).sum(axis=-1, keepdims=True)  # (B, I, 1); at the border all that tie count
        mean = xp.where(support, z, 0).sum(axis=-1, keepdims=True) / n  # (B, I, 1)
        spread = (xp.where(support, z - mean, 0) ** 2).sum(axis=-1, keepdims=True)  # (B, I, 1)
        tau = mean - xp.sqrt(xp.maximum(1 - spread, 0) / n)  # (B, I, 1)
        root = xp.maximum(z - tau, 0)  # (B, I, J)
        return root * root, EntmaxCache(root)

    def backward(self, dc: Array, cache: EntmaxCache) -> Array:
        """dc (B, I, J) -> db (B, I, J)."""
        g = cache.root  # (B, I, J)
        check_gradient("Entmax.backward", dc, g.shape, g)
        mean = (g * dc).sum(axis=-1, keepdims=True) / g.sum(axis=-1, keepdims=True)  # (B, I, 1)
        return g * (dc - mean)  # (B, I, J)


def below_largest(z: Array) -> Array:
    """Return z minus its largest over the parents, and at least -1: whoever is so far below gets nothing.

    Neither changes c, and no square can overflow.
    """
    return get_xp(z).maximum(z - z.max(axis=-1, keepdims=True), -1)  # (B, I, J)


def counted(z: Array) -> Array:
    """Return 1, 2, …, J (J,) in the dtype of z (B, I, J)."""
    return get_xp(z).arange(1, z.shape[-1] + 1).astype(z.dtype)  # (J,)
