"""The capsule layer: votes, then routing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules.couplings import Coupling
from minicaps.capsules.dynamic_routing import DynamicRouting, RoutingCache
from minicaps.capsules.votes import Votes, VotesCache
from minicaps.checks import check_array, check_flag, check_gradient
from minicaps.layers import Layer, Seed


class CapsuleCache(NamedTuple):
    """What CapsuleLayer keeps; ``b``, ``c``, ``s``, ``v`` are lists with one array per iteration."""

    votes: VotesCache
    routing: RoutingCache

    @property
    def b(self) -> list[Array]:
        return self.routing.b  # each (B, I, J)

    @property
    def c(self) -> list[Array]:
        return self.routing.c  # each (B, I, J)

    @property
    def s(self) -> list[Array]:
        return self.routing.s  # each (B, J, E)

    @property
    def v(self) -> list[Array]:
        return self.routing.v  # each (B, J, E)


class CapsuleLayer(Layer):
    r"""Capsules that are routed to by those below: v = route(u W) (Sabour et al. 2017, §2).

    Gradient: of the routing, then of the votes: dû = route'ᵀ dv, and with it
    du_i = Σ_j dû_ij W_ijᵀ, dW_ij = Σ_B u_iᵀ dû_ij.

    Parameters
    ----------
    lower_capsules, lower_dimension, upper_capsules, upper_dimension, std
        As for Votes.
    iterations, coupling
        As for DynamicRouting.
    bias : bool
        Add a learned bias (J, E) to every s.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 2.
    """

    DynamicRouting = DynamicRouting  # fast.CapsuleLayer puts its own here

    def __init__(
        self,
        lower_capsules: int,
        lower_dimension: int,
        upper_capsules: int,
        upper_dimension: int,
        *,
        iterations: int = 3,
        coupling: Coupling | None = None,
        bias: bool = False,
        std: float | None = None,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_flag("CapsuleLayer", bias=bias)
        self.bias = bias
        bias_shape = (upper_capsules, upper_dimension) if bias else None
        sizes = (lower_capsules, lower_dimension, upper_capsules, upper_dimension)
        self.votes = Votes(*sizes, std=std, rng=rng, dtype=dtype)
        routing_options: dict[str, Any] = {"bias_shape": bias_shape, "dtype": dtype}
        self.routing = self.DynamicRouting(iterations, coupling=coupling, **routing_options)

    def forward(self, u: Array) -> tuple[Array, Any]:
        """u (B, I, D) -> v (B, J, E), of lengths 0 to 1."""
        self._check_input(u)
        u_hat, votes = self.votes.forward(u)  # (B, I, J, E), eq. 2
        v, routing = self.routing.forward(u_hat)  # (B, J, E), procedure 1
        return v, CapsuleCache(votes, routing)

    def backward(self, dv: Array, cache: Any) -> Array:
        """dv (B, J, E) -> du (B, I, D)."""
        check_gradient("CapsuleLayer.backward", dv, cache.v[-1].shape, cache.v[-1])
        du_hat = self.routing.backward(dv, cache.routing)  # (B, I, J, E)
        return self.votes.backward(du_hat, cache.votes)  # (B, I, D)

    def _check_input(self, u: Array) -> None:
        W = self.votes.params["W"]  # (I, D, J, E)
        axes = ("batch B", None), ("lower capsules I", W.shape[0]), ("capsule dimension D", W.shape[1])
        check_array("CapsuleLayer.forward", "u", u, *axes, like=W)
