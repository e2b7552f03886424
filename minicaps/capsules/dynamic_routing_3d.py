"""Dynamic routing over a whole grid at once: the parents at all positions compete."""

from __future__ import annotations

from typing import Any, NamedTuple

from minicaps.arrays import Array
from minicaps.capsules.couplings import Coupling
from minicaps.capsules.dynamic_routing import DynamicRouting
from minicaps.capsules.routing import Routing, RoutingCache, check_layer_inside
from minicaps.capsules.squash import Squash
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers import Layer


class MapSquashCache(NamedTuple):
    shape: tuple[int, ...]  # of s
    squash: Any


class MapSquash(Layer):
    r"""One length for the whole map of a type: v_j = squash(s_j), s_j being its poses at all positions.

    What is between 0 and 1 is then how much of a type there is on the grid, of which a pose is a part.

    Gradient: of the squash.

    Parameters
    ----------
    types : int
        J.
    squash : Layer, optional
        What shrinks a map; by default the paper's ``Squash()``.

    References
    ----------
    The code of Rajasegaran et al. 2019, `brjathu/deepcaps <https://github.com/brjathu/deepcaps>`_.
    """

    def __init__(self, types: int, squash: Layer | None = None) -> None:
        super().__init__()
        check_positive("MapSquash", types=types)
        self.types = types
        self.squash = check_layer_inside("MapSquash", "squash", Squash() if squash is None else squash)

    def forward(self, s: Array) -> tuple[Array, MapSquashCache]:
        """s (B, J·P·Q, E), type by type -> v (B, J·P·Q, E), the map of each type of length 0 to 1."""
        check_array("MapSquash.forward", "s", s, ("batch B", None), ("maps J·P·Q", None), ("pose E", None))
        if s.shape[1] % self.types:
            raise ValueError(
                f"MapSquash.forward: s has shape {s.shape}; axis 1 (maps J·P·Q) is {s.shape[1]}, expected a "
                f"multiple of {self.types}, since there are as many types"
            )
        v, squash = self.squash.forward(s.reshape(len(s), self.types, -1))  # (B, J, P·Q·E)
        return v.reshape(s.shape), MapSquashCache(s.shape, squash)  # (B, J·P·Q, E)

    def backward(self, dv: Array, cache: MapSquashCache) -> Array:
        """dv (B, J·P·Q, E) -> ds (B, J·P·Q, E)."""
        check_gradient("MapSquash.backward", dv, cache.shape, dv)
        maps = dv.reshape(len(dv), self.types, -1)  # (B, J, P·Q·E)
        return self.squash.backward(maps, cache.squash).reshape(cache.shape)


class DynamicRouting3DCache(NamedTuple):
    """What DynamicRouting3D keeps; ``c`` is a list with one array per iteration."""

    shape: tuple[int, ...]  # (B, P, Q, I, J, E), of u_hat
    routing: RoutingCache

    @property
    def c(self) -> list[Array]:
        B, P, Q, I, J, _ = self.shape
        return [c.reshape(B, I, J, P, Q).transpose(0, 3, 4, 1, 2) for c in self.routing.c]  # (B, P, Q, I, J)


class DynamicRouting3D(Routing):
    r"""3-D routing (DeepCaps, Rajasegaran et al. 2019): all types at all positions are a child's parents.

    b¹ = 0; for r = 1..R: c_ijpq = exp b_ijpq / Σ_{k,x,y} exp b_ikxy, s_jpq = Σ_i c_ijpq û_ijpq,
    v_j = squash(s_j) over the pose and all positions, b_ijpq += ⟨û_ijpq, v_jpq⟩. So it is dynamic routing to
    J·P·Q parents, and couplings start at 1/(J·P·Q).

    Gradient: that of DynamicRouting, through every iteration.

    Couplings, and with them s, are P·Q times smaller than where each position is routed to for itself; start
    with a larger W. Deviation: no bias; the authors' code adds one, which starts at 0.1, to every s.

    Parameters
    ----------
    types : int
        J.
    iterations : int
        R, 1 or more.
    coupling : Coupling, optional
        What makes c of b (B, I, J·P·Q); by default ``Softmax()``.
    squash : Layer, optional
        What makes v of s (B, J·P·Q, E); by default ``MapSquash(types)``, as in the authors' code.
        ``Squash()`` shrinks each capsule for itself.

    References
    ----------
    Rajasegaran, Jayasundara, Jayasekara, Jayasekara, Seneviratne and Rodrigo, `DeepCaps: going deeper with
    capsule networks <https://arxiv.org/abs/1904.09546>`_, 2019. The authors' code: `brjathu/deepcaps
    <https://github.com/brjathu/deepcaps>`_.
    """

    takes_grid = True

    def __init__(
        self,
        types: int,
        iterations: int = 3,
        *,
        coupling: Coupling | None = None,
        squash: Layer | None = None,
    ) -> None:
        super().__init__()
        check_positive("DynamicRouting3D", types=types, iterations=iterations)
        self.types = types
        squash = MapSquash(types) if squash is None else squash
        self.routing = DynamicRouting(iterations, coupling=coupling, squash=squash)

    def forward(self, u_hat: Array) -> tuple[Array, DynamicRouting3DCache]:
        """u_hat (B, P, Q, I, J, E) -> v (B, P, Q, J, E), the map of each type of length 0 to 1."""
        grid = ("batch B", None), ("rows P", None), ("columns Q", None)
        axes = ("lower types I", None), ("upper types J", self.types), ("capsule dimension E", None)
        check_array("DynamicRouting3D.forward", "u_hat", u_hat, *grid, *axes)
        B, P, Q, I, J, E = u_hat.shape
        votes = u_hat.transpose(0, 3, 4, 1, 2, 5).reshape(B, I, J * P * Q, E)  # (B, I, J·P·Q, E)
        v, routing = self.routing.forward(votes)  # (B, J·P·Q, E)
        return v.reshape(B, J, P, Q, E).transpose(0, 2, 3, 1, 4), DynamicRouting3DCache(u_hat.shape, routing)

    def backward(self, dv: Array, cache: DynamicRouting3DCache) -> Array:
        """dv (B, P, Q, J, E) -> du_hat (B, P, Q, I, J, E)."""
        B, P, Q, I, J, E = cache.shape
        check_gradient("DynamicRouting3D.backward", dv, (B, P, Q, J, E), cache.routing.u_hat)
        parents = dv.transpose(0, 3, 1, 2, 4).reshape(B, J * P * Q, E)  # (B, J·P·Q, E)
        du_hat = self.routing.backward(parents, cache.routing)  # (B, I, J·P·Q, E)
        return du_hat.reshape(B, I, J, P, Q, E).transpose(0, 3, 4, 1, 2, 5)  # (B, P, Q, I, J, E)
