"""Convolutional and deconvolutional capsules: votes by (transposed) convolution, then any routing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules.capsule_layer import refuse_options_beside
from minicaps.capsules.conv_votes import ConvVotes, DeconvVotes, GridVotes, GridVotesCache
from minicaps.capsules.couplings import Coupling
from minicaps.capsules.dynamic_routing import DynamicRouting
from minicaps.capsules.routing import Routing, check_routing
from minicaps.checks import check_flag, check_gradient
from minicaps.layers import Layer, Pair, Seed


class ConvCapsCache(NamedTuple):
    """What ConvCaps keeps; ``c`` is a list with one array per iteration."""

    votes: GridVotesCache
    routing: Any  # the cache of the routing, whose batch is B·P·Q positions unless it takes a grid
    grid: tuple[int, ...]  # (B, P, Q)
    shapes: list[tuple[int, ...]]  # of the outputs

    @property
    def c(self) -> list[Array]:
        return [c.reshape(*self.grid, *c.shape[-2:]) for c in self.routing.c]  # each (B, P, Q, I, J)


class ConvCaps(Layer):
    r"""Convolutional capsules (LaLonde and Bagci 2018): v_pq = route(û_pq), with votes û = conv(u; W).

    At every position (p, q) of a grid the I types below are routed to the J types here. Each has one vote,
    a sum over its window: ConvVotes, and then a routing to which every position is a sample of its own.

    Gradient: of the routing, then of the votes.

    Any routing serves; ``DynamicRouting3D`` sees the whole grid at once. But one by activations, such as
    EMRouting, is refused, since votes that are sums have none; ``ConvMatrixCaps`` routes by EM. What a
    coupling learns or is given for each pair of types (``Prior``, ``Frozen``) is the same at all positions.

    Parameters
    ----------
    in_types, in_dimension, types, dimension, kernel_size, stride, padding, shared, std
        As for ConvVotes.
    routing : Routing, optional
        By default dynamic routing, with the next three options.
    iterations, coupling
        As for DynamicRouting.
    bias : bool
        Add a learned bias (J, E), which starts at 0.1, to every s of dynamic routing; the authors' code does.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    LaLonde and Bagci, `Capsules for object segmentation <https://arxiv.org/abs/1804.04241>`_, 2018.
    The authors' code: `lalonderodney/SegCaps <https://github.com/lalonderodney/SegCaps>`_.
    """

    Votes: type[GridVotes] = ConvVotes
    DynamicRouting = DynamicRouting

    def __init__(
        self,
        in_types: int,
        in_dimension: int,
        types: int,
        dimension: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        shared: bool = False,
        routing: Routing | None = None,
        iterations: int = 3,
        coupling: Coupling | None = None,
        bias: bool = False,
        std: float | None = None,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        name, sizes = type(self).__name__, (in_types, in_dimension, types, dimension)
        check_flag(name, bias=bias)
        self.bias = bias
        window: dict[str, Any] = {"stride": stride, "padding": padding, "shared": shared}
        self.votes = self.Votes(*sizes, kernel_size, **window, std=std, rng=rng, dtype=dtype)
        if routing is None:
            bias_shape = (types, dimension) if bias else None
            routing = self.DynamicRouting(iterations, coupling=coupling, bias_shape=bias_shape, dtype=dtype)
        else:
            refuse_options_beside(name, iterations, coupling, bias)
        self.routing: Any = check_routing(name, routing)  # each kind has options of its own
        if self.routing.reads_activations:
            raise TypeError(
                f"{name}: {type(routing).__name__} reads activations, and votes that are sums over a window "
                "have none; take ConvMatrixCaps, or another routing"
            )

    def output_size(self, size: Pair) -> Pair:
        """Return the grid (P, Q) of the capsules here for one (H, W) below.

        Raises
        ------
        ValueError
            If there would be none.
        """
        return self.votes.output_size(size)

    def forward(self, u: Array) -> tuple[Any, ConvCapsCache]:
        """u (B, H, W, in_types, D) -> v (B, P, Q, types, E), or whatever the routing gives, on the grid."""
        self.votes.check_input(f"{type(self).__name__}.forward", u)
        u_hat, votes = self.votes.forward(u)  # (B, P, Q, I, J, E)
        grid = u_hat.shape[:3]  # (B, P, Q)
        if not self.routing.takes_grid:
            u_hat = u_hat.reshape(-1, *u_hat.shape[3:])  # (B·P·Q, I, J, E)
        y, routing = self.routing.forward(u_hat)  # (B·P·Q, J, E), or (B, P, Q, J, E)
        if not self.routing.takes_grid:
            y = each(y, lambda part: part.reshape(*grid, *part.shape[1:]))  # (B, P, Q, J, E)
        shapes = [part.shape for part in as_tuple(y)]
        return y, ConvCapsCache(votes, routing, grid, shapes)

    def backward(self, dv: Any, cache: ConvCapsCache) -> Array:
        """dv (B, P, Q, types, E), or one for whatever the routing gave -> du (B, H, W, in_types, D)."""
        for part, shape in zip(as_tuple(dv), cache.shapes, strict=False):  # the routing counts them
            check_gradient(f"{type(self).__name__}.backward", part, shape, self.votes.params["W"])
        if not self.routing.takes_grid:
            dv = each(dv, lambda part: part.reshape(-1, *part.shape[3:]))  # (B·P·Q, J, E)
        du_hat = self.routing.backward(dv, cache.routing)  # (B·P·Q, I, J, E), or (B, P, Q, I, J, E)
        return self.votes.backward(du_hat.reshape(*cache.grid, *du_hat.shape[-3:]), cache.votes)


class DeconvCaps(ConvCaps):
    r"""Deconvolutional capsules (LaLonde and Bagci 2018), on a finer grid: ConvCaps with DeconvVotes.

    v_pq = route(û_pq), with votes û = col2im(u W) by a transposed convolution. A grid of n capsules along an
    axis becomes one of (n - 1)·stride + kernel - 2·padding.

    Gradient: of the routing, then of the votes.

    Parameters
    ----------
    in_types, in_dimension, types, dimension, kernel_size, stride, padding, shared, std
        As for DeconvVotes.
    routing, iterations, coupling, bias, rng, dtype
        As for ConvCaps.

    References
    ----------
    LaLonde and Bagci, `Capsules for object segmentation <https://arxiv.org/abs/1804.04241>`_, 2018.
    """

    Votes: type[GridVotes] = DeconvVotes


def as_tuple(y: Any) -> tuple[Array, ...]:
    """Return the outputs as a tuple, if there is one too."""
    return y if isinstance(y, tuple) else (y,)


def each(y: Any, function: Callable[[Array], Array]) -> Any:
    """Apply a function to an output, or to each of several."""
    return tuple(function(part) for part in y) if isinstance(y, tuple) else function(y)
