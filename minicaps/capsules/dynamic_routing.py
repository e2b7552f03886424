"""Dynamic routing between capsules, forward and backward through every iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules.couplings import Coupling, check_coupling
from minicaps.capsules.squash import Squash, SquashCache
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers import Layer


class Iteration(NamedTuple):
    """One look at the votes."""

    b: Array  # (B, I, J), the logits that the iteration began with
    c: Array  # (B, I, J), couplings
    s: Array  # (B, J, E)
    v: Array  # (B, J, E)
    coupling: Any  # the caches of both layers
    squash: SquashCache


class RoutingCache(NamedTuple):
    """The course of one routing. ``b``, ``c``, ``s``, ``v`` are lists with one array per iteration."""

    u_hat: Array  # (B, I, J, E)
    iterations: list[Iteration]

    @property
    def b(self) -> list[Array]:
        return [iteration.b for iteration in self.iterations]  # each (B, I, J)

    @property
    def c(self) -> list[Array]:
        return [iteration.c for iteration in self.iterations]  # each (B, I, J)

    @property
    def s(self) -> list[Array]:
        return [iteration.s for iteration in self.iterations]  # each (B, J, E)

    @property
    def v(self) -> list[Array]:
        return [iteration.v for iteration in self.iterations]  # each (B, J, E)


class DynamicRouting(Layer):
    r"""Routing by agreement (Sabour et al. 2017, procedure 1): which parent does a capsule serve?

    b¹ = 0; for r = 1..R: cʳ = softmax_j(bʳ), sʳ_j = Σ_i cʳ_ij û_ij (+ bias_j), vʳ = squash(sʳ),
    bʳ⁺¹ = bʳ + ⟨û_ij, vʳ_j⟩. The output is v^R.

    Gradient, through every iteration: dv = upstream, db = 0; for r = R..1: ds = squash'ᵀ dv;
    dû += cʳ ⊗ ds; and for r > 1: db += softmax'ᵀ⟨û, ds⟩, dû += db ⊗ vʳ⁻¹, dv = Σ_i db û.

    Parameters
    ----------
    iterations : int
        R, 1 or more. With 1 the couplings stay uniform: a plain average.
    coupling : Coupling, optional
        What makes c of b; by default the paper's ``Softmax()``, over the parents.
    bias_shape : (int, int), optional
        (J, E): add a learned bias, which starts at 0.1, to every s (the authors' code does, the
        paper does not).
    dtype : float32 or float64, of the bias

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    procedure 1.
    """

    Squash = Squash  # fast.DynamicRouting puts its own here

    def __init__(
        self,
        iterations: int = 3,
        *,
        coupling: Coupling | None = None,
        bias_shape: tuple[int, int] | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("DynamicRouting", iterations=iterations)
        if bias_shape is not None and not (isinstance(bias_shape, tuple) and len(bias_shape) == 2):
            raise ValueError(f"DynamicRouting: bias_shape is {bias_shape!r}, expected (J, E)")
        self.iterations, self.bias_shape = iterations, bias_shape
        self.coupling, self.squash = check_coupling("DynamicRouting", coupling), self.Squash()
        if bias_shape is not None:
            self.add_param("bias", np.full(bias_shape, 0.1, dtype=dtype))  # (J, E)

    def forward(self, u_hat: Array) -> tuple[Array, RoutingCache]:
        """u_hat (B, I, J, E) -> v (B, J, E), of lengths 0 to 1."""
        self._check_input(u_hat)
        bias = self.params.get("bias", 0)  # (J, E)
        iterations = []
        b = get_xp(u_hat).zeros(u_hat.shape[:3], dtype=u_hat.dtype)  # (B, I, J)
        for _ in range(self.iterations):
            c, coupling = self.coupling.forward(b)  # (B, I, J), eq. 3
            s = (c[..., None] * u_hat).sum(axis=1) + bias  # Σ_i (B, I, J, 1) (B, I, J, E) -> (B, J, E), eq. 2
            v, squash = self.squash.forward(s)  # (B, J, E), eq. 1
            iterations.append(Iteration(b, c, s, v, coupling, squash))
            # The agreements are added up; those of the last iteration, nobody reads.
            b = b + (u_hat * v[:, None]).sum(axis=-1)  # Σ_e (B, I, J, E) (B, 1, J, E) -> (B, I, J)
        return v, RoutingCache(u_hat, iterations)

    def backward(self, dv: Array, cache: RoutingCache) -> Array:
        """dv (B, J, E) -> du_hat (B, I, J, E)."""
        u_hat, iterations = cache
        check_gradient("DynamicRouting.backward", dv, iterations[-1].v.shape, u_hat)
        du_hat = get_xp(dv).zeros_like(u_hat)  # (B, I, J, E)
        db = 0
        for r in reversed(range(len(iterations))):
            _, c, _, _, coupling, squash = iterations[r]
            ds = self.squash.backward(dv, squash)  # of v = squash(s): (B, J, E)
            if self.bias_shape is not None:
                self.grads["bias"] += ds.sum(axis=0)  # of s = … + bias: (J, E)
            du_hat += c[..., None] * ds[:, None]  # of s = Σ_i c û: (B, I, J, 1) (B, 1, J, E) -> (B, I, J, E)
            if r == 0:
                break  # b¹ = 0 is constant
            dc = (u_hat * ds[:, None]).sum(axis=-1)  # of s = Σ_i c û: (B, I, J)
            db = db + self.coupling.backward(dc, coupling)  # of c = softmax(b); b feeds the next b too
            du_hat += db[..., None] * iterations[r - 1].v[:, None]  # of b = … + ⟨û, v⟩: (B, I, J, E)
            dv = (db[..., None] * u_hat).sum(axis=1)  # of b = … + ⟨û, v⟩: (B, J, E)
        return du_hat

    def _check_input(self, u_hat: Array) -> None:
        bias = self.params.get("bias")
        parents, dimension = self.bias_shape or (None, None)
        lower = ("batch B", None), ("lower capsules I", None)
        upper = ("upper capsules J", parents), ("capsule dimension E", dimension)
        check_array("DynamicRouting.forward", "u_hat", u_hat, *lower, *upper, like=bias)
