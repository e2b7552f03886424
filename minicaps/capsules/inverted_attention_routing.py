"""Routing by inverted dot-product attention: those above ask, and those below choose whom to answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules.couplings import Coupling, check_coupling
from minicaps.capsules.routing import (
    Iteration,
    Routing,
    RoutingCache,
    agree,
    check_votes,
    combine,
    outer,
    zero_logits,
)
from minicaps.checks import check_gradient, check_positive
from minicaps.layers import LayerNorm


class InvertedAttentionRouting(Routing):
    r"""Inverted dot-product attention routing (Tsai, Srivastava, Goh and Salakhutdinov 2020).

    b¹ = 0; for r = 1..R: cʳ = softmax_j(bʳ), vʳ_j = LayerNorm(Σ_i cʳ_ij û_ij), bʳ⁺¹ = ⟨û_ij, vʳ_j⟩/√E. The
    output is v^R. It is attention with the roles turned: the pose above is the query, the vote is key and
    value, and the softmax runs over those who ask. Agreements do not add up, as they do in dynamic
    routing.

    Gradient, through every iteration: dv = upstream; for r = R..1: ds = LayerNorm'ᵀ dv, dû += cʳ ⊗ ds;
    and for r > 1: db = softmax'ᵀ⟨û, ds⟩/√E, dû += db ⊗ vʳ⁻¹, dv = Σ_i db û. A coupling with parameters
    gets its db for r = 1 too.

    All poses have about one length, so it says nothing about presence: put a ``Line`` behind. √E is that
    of the authors' code.

    Parameters
    ----------
    upper_dimension : int
        E; all parents share gain and bias of the LayerNorm.
    iterations : int
        R, 1 or more. With 1 the couplings stay uniform: a plain average.
    coupling : Coupling, optional
        What makes c of b; by default the paper's ``Softmax()``, over the parents.
    dtype : float32 or float64

    References
    ----------
    Tsai, Srivastava, Goh and Salakhutdinov, `Capsules with inverted dot-product attention routing
    <https://arxiv.org/abs/2002.04764>`_, 2020. `The authors' code
    <https://github.com/apple/ml-capsules-inverted-attention-routing>`_.
    """

    LayerNorm = LayerNorm  # fast.InvertedAttentionRouting puts its own here

    def __init__(
        self,
        upper_dimension: int,
        *,
        iterations: int = 2,
        coupling: Coupling | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("InvertedAttentionRouting", upper_dimension=upper_dimension, iterations=iterations)
        self.upper_dimension, self.iterations = upper_dimension, iterations
        self.coupling = check_coupling("InvertedAttentionRouting", coupling)
        self.norm = self.LayerNorm(upper_dimension, dtype=dtype)

    def forward(self, u_hat: Array) -> tuple[Array, RoutingCache]:
        """u_hat (B, I, J, E) -> v (B, J, E)."""
        self._check_votes(u_hat)
        iterations = []
        b = zero_logits(u_hat)  # (B, I, J)
        for _ in range(self.iterations):
            c, coupling = self.coupling.forward(b)  # (B, I, J)
            s = combine(c, u_hat)  # (B, J, E)
            v, norm = self.norm.forward(s)  # (B, J, E)
            iterations.append(Iteration(b, c, s, v, coupling, norm))
            # After the last iteration, nobody reads it.
            b = agree(u_hat, v) / math.sqrt(self.upper_dimension)  # (B, I, J)
        return v, RoutingCache(u_hat, iterations)

    def _check_votes(self, u_hat: Array) -> None:
        dimension, like = self.upper_dimension, self.norm.params["gain"]
        check_votes("InvertedAttentionRouting.forward", u_hat, dimension=dimension, like=like)

    def backward(self, dv: Array, cache: RoutingCache) -> Array:
        """dv (B, J, E) -> du_hat (B, I, J, E)."""
        u_hat, iterations = cache
        check_gradient("InvertedAttentionRouting.backward", dv, iterations[-1].v.shape, u_hat)
        du_hat = get_xp(dv).zeros_like(u_hat)  # (B, I, J, E)
        for r in reversed(range(len(iterations))):
            _, c, _, _, coupling, norm = iterations[r]
            ds = self.norm.backward(dv, norm)  # of v = LayerNorm(s): (B, J, E)
            du_hat += outer(c, ds)  # of s = Σ_i c û: (B, I, J, E)
            if r == 0 and not self.coupling.params:
                break  # b¹ = 0 is constant
            dc = agree(u_hat, ds)  # of s = Σ_i c û: (B, I, J)
            db = self.coupling.backward(dc, coupling) / math.sqrt(self.upper_dimension)  # (B, I, J)
            if r == 0:
                break
            du_hat += outer(db, iterations[r - 1].v)  # of b = ⟨û, v⟩: (B, I, J, E)
            dv = combine(db, u_hat)  # of b = ⟨û, v⟩: (B, J, E)
        return du_hat
