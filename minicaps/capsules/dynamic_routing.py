"""Dynamic routing between capsules, forward and backward through every iteration."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicaps.arrays import Array, get_xp
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
    zero_logits,
)
from minicaps.capsules.squash import Squash
from minicaps.checks import check_choice, check_gradient, check_positive
from minicaps.layers import Layer

OUTPUTS = ("v",), ("v", "c"), ("v", "change"), ("v", "c", "change")


class DynamicRouting(Routing):
    r"""Routing by agreement (Sabour et al. 2017, procedure 1): which parent does a capsule serve?

    b¹ = 0; for r = 1..R: cʳ = softmax_j(bʳ), sʳ_j = Σ_i cʳ_ij û_ij (+ bias_j), vʳ = squash(sʳ),
    bʳ⁺¹ = bʳ + ⟨û_ij, vʳ_j⟩. The output is v^R.

    Gradient, through every iteration: dv = upstream, db = 0; for r = R..1: ds = squash'ᵀ dv;
    dû += cʳ ⊗ ds; and for r > 1: db += softmax'ᵀ⟨û, ds⟩, dû += db ⊗ vʳ⁻¹, dv = Σ_i db û. A coupling
    with parameters gets its db for r = 1 too. Of further outputs: dc joins ⟨û, ds⟩ at r = R, dchange
    joins dv at r = R and leaves it at r = R - 1.

    Parameters
    ----------
    iterations : int
        R, 1 or more. With 1 the couplings stay uniform: a plain average.
    coupling : Coupling, optional
        What makes c of b; by default the paper's ``Softmax()``, over the parents.
    squash : Layer, optional
        What makes v of s; by default the paper's ``Squash()``.
    bias_shape : (int, int), optional
        (J, E): add a learned bias, which starts at 0.1, to every s (the authors' code does, the
        paper does not).
    outputs : tuple of str
        ("v",), or more outputs for a loss to look at: ("v", "c"), ("v", "change") or
        ("v", "c", "change"). c are the last couplings, change is v^R - v^(R-1).
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
        squash: Layer | None = None,
        bias_shape: tuple[int, int] | None = None,
        outputs: tuple[str, ...] = ("v",),
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("DynamicRouting", iterations=iterations)
        if bias_shape is not None and not (isinstance(bias_shape, tuple) and len(bias_shape) == 2):
            raise ValueError(f"DynamicRouting: bias_shape is {bias_shape!r}, expected (J, E)")
        check_choice("DynamicRouting", "outputs", outputs, OUTPUTS)
        if "change" in outputs and iterations == 1:
            raise ValueError("DynamicRouting: outputs has 'change', which takes 2 iterations or more, not 1")
        self.iterations, self.bias_shape, self.outputs = iterations, bias_shape, outputs
        self.coupling = check_coupling("DynamicRouting", coupling)
        squash = self.Squash() if squash is None else squash
        self.squash = check_layer_inside("DynamicRouting", "squash", squash)
        if bias_shape is not None:
            self.add_param("bias", np.full(bias_shape, 0.1, dtype=dtype))  # (J, E)

    def forward(self, u_hat: Array) -> tuple[Any, RoutingCache]:
        """u_hat (B, I, J, E) -> v (B, J, E), of lengths 0 to 1, or a tuple of `outputs`."""
        self._check_votes(u_hat)
        bias = self.params.get("bias")  # (J, E)
        iterations = []
        b = zero_logits(u_hat)  # (B, I, J)
        for _ in range(self.iterations):
            c, coupling = self.coupling.forward(b)  # (B, I, J), eq. 3
            s = combine(c, u_hat) + (0 if bias is None else bias)  # (B, J, E), eq. 2
            v, squash = self.squash.forward(s)  # (B, J, E), eq. 1
            iterations.append(Iteration(b, c, s, v, coupling, squash))
            # The agreements are added up; those of the last iteration, nobody reads.
            b = b + agree(u_hat, v)  # (B, I, J)
        return self._outputs(iterations), RoutingCache(u_hat, iterations)

    def backward(self, dy: Any, cache: RoutingCache) -> Array:
        """dv (B, J, E), or a tuple for `outputs` -> du_hat (B, I, J, E)."""
        u_hat, iterations = cache
        dv, dc, dchange = self._gradients(dy, iterations[-1])  # (B, J, E), (B, I, J), (B, J, E)
        du_hat = get_xp(dv).zeros_like(u_hat)  # (B, I, J, E)
        db: Any = 0
        for r in reversed(range(len(iterations))):
            _, c, _, _, coupling, squash = iterations[r]
            ds = self.squash.backward(dv, squash)  # of v = squash(s): (B, J, E)
            if self.bias_shape is not None:
                self.grads["bias"] += ds.sum(axis=0)  # of s = … + bias: (J, E)
            du_hat += outer(c, ds)  # of s = Σ_i c û: (B, I, J, E)
            if r == 0 and not self.coupling.params:
                break  # b¹ = 0 is constant
            dc = dc + agree(u_hat, ds)  # of s = Σ_i c û: (B, I, J)
            db = db + self.coupling.backward(dc, coupling)  # of c = softmax(b); b feeds the next b too
            if r == 0:
                break
            du_hat += outer(db, iterations[r - 1].v)  # of b = … + ⟨û, v⟩: (B, I, J, E)
            dv = combine(db, u_hat) - dchange  # of b = … + ⟨û, v⟩, and of v^R - v^(R-1): (B, J, E)
            dc = dchange = 0  # outputs of the last iteration alone
        return du_hat

    def _check_votes(self, u_hat: Array) -> None:
        parents, dimension = self.bias_shape or (None, None)
        bias = self.params.get("bias")  # (J, E)
        check_votes("DynamicRouting.forward", u_hat, upper=parents, dimension=dimension, like=bias)

    def _outputs(self, iterations: list[Iteration]) -> Any:
        """Return v, or a tuple of `outputs`."""
        if self.outputs == ("v",):
            return iterations[-1].v
        found = {"v": iterations[-1].v, "c": iterations[-1].c}  # (B, J, E), (B, I, J)
        if "change" in self.outputs:
            found["change"] = iterations[-1].v - iterations[-2].v  # (B, J, E)
        return tuple(found[name] for name in self.outputs)

    def _gradients(self, dy: Any, last: Iteration) -> tuple[Array, Any, Any]:
        """Return dv of v^R in both its uses, dc and dchange; the latter two 0 where they are no outputs."""
        where = "DynamicRouting.backward"
        several = dy if isinstance(dy, tuple) else (dy,)
        if len(several) != len(self.outputs):
            raise ValueError(
                f"{where}: got {len(several)} gradients, expected one for each of {self.outputs}"
            )
        given: dict[str, Any] = dict(zip(self.outputs, several, strict=True))
        for name, gradient in given.items():
            check_gradient(where, gradient, (last.c if name == "c" else last.v).shape, last.s)
        dv, dc, dchange = (given.get(name, 0) for name in ("v", "c", "change"))
        return dv + dchange, dc, dchange
