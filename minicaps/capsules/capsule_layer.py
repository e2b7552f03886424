"""The capsule layer: votes, then routing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules.couplings import Coupling
from minicaps.capsules.dynamic_routing import DynamicRouting
from minicaps.capsules.routing import Routing, check_routing
from minicaps.capsules.votes import Votes, VotesCache
from minicaps.checks import check_array, check_flag
from minicaps.layers import Layer, Seed, length_and_direction


class CapsuleCache(NamedTuple):
    """What CapsuleLayer keeps; ``b``, ``c``, ``s``, ``v`` are lists with one array per iteration.

    They are those of the routing's cache: EM routing has ``c`` alone.
    """

    votes: VotesCache
    routing: Any  # the cache of the routing
    e: Array | None = None  # (B, I, D), the direction of u, where its lengths are the activations

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


def refuse_options_beside(where: str, iterations: int, coupling: Coupling | None, bias: bool) -> None:
    """Raise ValueError if a caller who gave a routing gave options of dynamic routing too."""
    if bias or coupling is not None or iterations != 3:
        raise ValueError(
            f"{where}: got a routing, and iterations, coupling or bias for another one; "
            "give these options to the routing"
        )


class CapsuleLayer(Layer):
    r"""Capsules that are routed to by those below: v = route(u W) (Sabour et al. 2017, §2).

    A routing that reads activations takes the lengths of u for them, a_i = ‖u_i‖, unless it is handed others.

    Gradient: of the routing, then of the votes: dû = route'ᵀ dv, and with it
    du_i = Σ_j dû_ij W_ijᵀ (+ da_i u_i/‖u_i‖), dW_ij = Σ_B u_iᵀ dû_ij.

    Parameters
    ----------
    lower_capsules, lower_dimension, upper_capsules, upper_dimension, std
        As for Votes.
    routing : Routing, optional
        By default dynamic routing, with the next three options.
    iterations, coupling
        As for DynamicRouting.
    bias : bool
        Add a learned bias (J, E) to every s of dynamic routing.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 2.
    """

    DynamicRouting, Votes = DynamicRouting, Votes  # fast.CapsuleLayer puts its own here

    def __init__(
        self,
        lower_capsules: int,
        lower_dimension: int,
        upper_capsules: int,
        upper_dimension: int,
        *,
        routing: Routing | None = None,
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
        sizes = (lower_capsules, lower_dimension, upper_capsules, upper_dimension)
        self.votes = self.Votes(*sizes, std=std, rng=rng, dtype=dtype)
        if routing is None:
            bias_shape = (upper_capsules, upper_dimension) if bias else None
            routing = self.DynamicRouting(iterations, coupling=coupling, bias_shape=bias_shape, dtype=dtype)
        else:
            refuse_options_beside("CapsuleLayer", iterations, coupling, bias)
        self.routing: Any = check_routing("CapsuleLayer", routing)  # each kind has options of its own

    def forward(self, u: Array, *activations: Array) -> tuple[Any, Any]:
        """u (B, I, D) -> v (B, J, E), or whatever the routing gives.

        A routing that reads activations gets those handed in, a (B, I), or the lengths of u.
        """
        self._check_input(u)
        e = None
        if self.routing.reads_activations and not activations:
            n, e = length_and_direction(u)  # (B, I, 1), (B, I, D)
            activations = (n[..., 0],)  # (B, I)
        u_hat, votes = self.votes.forward(u)  # (B, I, J, E), eq. 2
        v, routing = self.routing.forward(u_hat, *activations)  # (B, J, E)
        return v, CapsuleCache(votes, routing, e)

    def backward(self, dv: Any, cache: Any) -> Any:
        """dv (B, J, E), or a gradient for whatever the routing gave -> du (B, I, D), or (du, da)."""
        gradient = self.routing.backward(dv, cache.routing)  # (B, I, J, E), or with da (B, I)
        du_hat, *da = gradient if isinstance(gradient, tuple) else (gradient,)
        du = self.votes.backward(du_hat, cache.votes)  # (B, I, D)
        if cache.e is not None:
            return du + da[0][..., None] * cache.e  # of a = ‖u‖: (B, I, 1) (B, I, D) -> (B, I, D)
        return (du, *da) if da else du

    def _check_input(self, u: Array) -> None:
        W = self.votes.params["W"]  # (I, D, J, E)
        axes = ("batch B", None), ("lower capsules I", W.shape[0]), ("capsule dimension D", W.shape[1])
        check_array("CapsuleLayer.forward", "u", u, *axes, like=W)
