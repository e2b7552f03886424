"""What the routings share: their base, what they do with votes, and the course that they keep."""

from __future__ import annotations

from typing import Any, NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array
from minicaps.layers import Layer


class Routing(Layer):
    """Base of the routings: a layer from votes u_hat (B, I, J, E) to the capsules above, v (B, J, E).

    One whose capsules have activations takes and gives them too: (u_hat, a) -> (v, a'), with a (B, I)
    and a' (B, J); its backward takes (dv, da') and returns (du_hat, da). ``CapsuleLayer(routing=...)``
    hands on whatever a routing takes and gives.

    Attributes
    ----------
    reads_activations : bool
        Whether it has to have a.
    takes_grid : bool
        Whether it takes the votes of a whole grid at once: (B, P, Q, I, J, E) -> (B, P, Q, J, E).
    """

    reads_activations = False
    takes_grid = False


class Iteration(NamedTuple):
    """One look at the votes."""

    b: Array  # (B, I, J), the logits that the iteration began with
    c: Array  # (B, I, J), couplings
    s: Array  # (B, J, E)
    v: Array  # (B, J, E)
    coupling: Any  # the cache of c = coupling(b)
    squash: Any  # the cache of v = squash(s), or of what stands in its place


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


def combine(c: Array, u_hat: Array) -> Array:
    """Return Σ_i c_ij û_ij: c (B, I, J), u_hat (B, I, J, E) -> (B, J, E)."""
    return (c[..., None] * u_hat).sum(axis=1)  # Σ_i (B, I, J, 1) (B, I, J, E) -> (B, J, E)


def agree(u_hat: Array, v: Array) -> Array:
    """Return the agreements ⟨û_ij, v_j⟩: u_hat (B, I, J, E), v (B, J, E) -> (B, I, J)."""
    return (u_hat * v[:, None]).sum(axis=-1)  # Σ_e (B, I, J, E) (B, 1, J, E) -> (B, I, J)


def outer(c: Array, v: Array) -> Array:
    """Return c_ij v_j: c (B, I, J), v (B, J, E) -> (B, I, J, E)."""
    return c[..., None] * v[:, None]  # (B, I, J, 1) (B, 1, J, E) -> (B, I, J, E)


def zero_logits(u_hat: Array) -> Array:
    """Return the logits of 0 that a routing begins with: u_hat (B, I, J, E) -> (B, I, J)."""
    return get_xp(u_hat).zeros(u_hat.shape[:3], dtype=u_hat.dtype)  # (B, I, J)


def check_votes(
    where: str,
    u_hat: Array,
    *,
    lower: int | None = None,
    upper: int | None = None,
    dimension: int | None = None,
    like: Array | None = None,
) -> None:
    """Check votes (B, I, J, E), with I, J and E as given (None: any)."""
    axes = ("lower capsules I", lower), ("upper capsules J", upper), ("capsule dimension E", dimension)
    check_array(where, "u_hat", u_hat, ("batch B", None), *axes, like=like)


def check_routing(where: str, routing: Any) -> Routing:
    """Return the routing; raise TypeError if it is something else."""
    if not isinstance(routing, Routing):
        raise TypeError(f"{where}: routing is {routing!r}, expected a Routing such as DynamicRouting()")
    return routing


def check_layer_inside(where: str, name: str, layer: Any) -> Layer:
    """Return a layer that was handed in by name; raise TypeError if it is something else."""
    if not isinstance(layer, Layer):
        raise TypeError(f"{where}: {name} is {layer!r}, expected a layer such as Squash()")
    return layer
