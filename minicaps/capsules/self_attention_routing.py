"""Routing by self-attention: each vote is compared with the sum of all, once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules.couplings import Coupling, check_coupling
from minicaps.capsules.routing import (
    Iteration,
    Routing,
    RoutingCache,
    agree,
    check_layer_inside,
    check_votes,
    combine,
    outer,
)
from minicaps.capsules.squash import ExponentialSquash
from minicaps.checks import check_gradient
from minicaps.layers import Layer


class SelfAttentionRouting(Routing):
    r"""Self-attention routing (Mazzia, Salvetti and Chiaberge 2021): no iteration.

    t_j = Σ_k û_kj; b_ij = ⟨û_ij, t_j⟩/√E; c = softmax_j(b) (+ bias_ij); s_j = Σ_i c_ij û_ij;
    v = squash(s) with lengths 1 - e⁻ⁿ. b_ij is the sum of row i of the matrix û_j û_jᵀ/√E, in which every
    vote for j attends to every other; it need not be built.

    Gradient: ds = squash'ᵀ dv, dc = ⟨û, ds⟩, dbias = Σ_B dc, db = softmax'ᵀ dc / √E,
    dû_ij = c_ij ds_j + db_ij t_j + dt_j with dt_j = Σ_k db_kj û_kj.

    The bias is added after the softmax, so with it the couplings of a capsule need not add up to 1, and
    may be negative; the paper calls it log priors. E is the dimension of the upper capsules, as in
    the authors' code; the paper's formula has that of the lower ones.

    Parameters
    ----------
    coupling : Coupling, optional
        What makes c of b; by default the paper's ``Softmax()``, over the parents.
    squash : Layer, optional
        What makes v of s; by default the paper's ``ExponentialSquash()``.
    bias_shape : (int, int), optional
        (I, J): add a learned bias, which starts at 0, to the couplings, as the paper does.
    dtype : float32 or float64, of the bias

    References
    ----------
    Mazzia, Salvetti and Chiaberge, `Efficient-CapsNet: capsule network with self-attention routing
    <https://arxiv.org/abs/2101.12491>`_, 2021. The authors' code:
    `EscVM/Efficient-CapsNet <https://github.com/EscVM/Efficient-CapsNet>`_.
    """

    ExponentialSquash = ExponentialSquash  # fast.SelfAttentionRouting puts its own here

    def __init__(
        self,
        *,
        coupling: Coupling | None = None,
        squash: Layer | None = None,
        bias_shape: tuple[int, int] | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        if bias_shape is not None and not (isinstance(bias_shape, tuple) and len(bias_shape) == 2):
            raise ValueError(f"SelfAttentionRouting: bias_shape is {bias_shape!r}, expected (I, J)")
        self.bias_shape = bias_shape
        self.coupling = check_coupling("SelfAttentionRouting", coupling)
        squash = self.ExponentialSquash() if squash is None else squash
        self.squash = check_layer_inside("SelfAttentionRouting", "squash", squash)
        if bias_shape is not None:
            self.add_param("bias", np.zeros(bias_shape, dtype=dtype))  # (I, J)

    def forward(self, u_hat: Array) -> tuple[Array, RoutingCache]:
        """u_hat (B, I, J, E) -> v (B, J, E), of lengths 0 to 1."""
        self._check_votes(u_hat)
        bias = self.params.get("bias")  # (I, J)
        total = u_hat.sum(axis=1)  # (B, J, E)
        b = agree(u_hat, total) / math.sqrt(u_hat.shape[3])  # (B, I, J)
        c, coupling = self.coupling.forward(b)  # (B, I, J)
        if bias is not None:
            c = c + bias  # (B, I, J)
        s = combine(c, u_hat)  # (B, J, E)
        v, squash = self.squash.forward(s)  # (B, J, E)
        return v, RoutingCache(u_hat, [Iteration(b, c, s, v, coupling, squash)])

    def _check_votes(self, u_hat: Array) -> None:
        (lower, upper), bias = self.bias_shape or (None, None), self.params.get("bias")  # (I, J)
        check_votes("SelfAttentionRouting.forward", u_hat, lower=lower, upper=upper, like=bias)

    def backward(self, dv: Array, cache: RoutingCache) -> Array:
        """dv (B, J, E) -> du_hat (B, I, J, E)."""
        u_hat, ((_, c, _, v, coupling, squash),) = cache
        check_gradient("SelfAttentionRouting.backward", dv, v.shape, u_hat)
        ds = self.squash.backward(dv, squash)  # of v = squash(s): (B, J, E)
        dc = agree(u_hat, ds)  # of s = Σ_i c û: (B, I, J)
        if self.bias_shape is not None:
            self.grads["bias"] += dc.sum(axis=0)  # of c = … + bias: (I, J)
        db = self.coupling.backward(dc, coupling) / math.sqrt(u_hat.shape[3])  # of c = softmax(b): (B, I, J)
        dtotal = combine(db, u_hat)  # of b = ⟨û, t⟩: (B, J, E)
        total = u_hat.sum(axis=1)  # (B, J, E)
        return outer(c, ds) + outer(db, total) + dtotal[:, None]  # of s, of b, of t = Σ_k û: (B, I, J, E)
