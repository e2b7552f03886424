"""The capsule layer without building û (B, I, J, E) of large batches, for all routings linear in the votes.

The votes and their gradient by factors are in ``factored.py``, what each routing does with them beside its
fast form; here samples are dealt to threads, and the gradient goes on to u and W.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import Iteration, Routing
from minicaps.checks import check_gradient
from minicaps.fast import dynamic_routing, inverted_attention_routing, self_attention_routing
from minicaps.fast.dynamic_routing import DynamicRouting
from minicaps.fast.factored import (
    AnyVotes,
    BuiltVotes,
    Factored,
    FactoredVotes,
    OuterProducts,
    constant,
    even_share,
)
from minicaps.fast.precision import rounded
from minicaps.fast.threads import parallel, product, sample_slices, slices_of, work_slices
from minicaps.fast.votes import Votes

FEW = 2  # û is as many times as large as W where votes are built, at most; measured
COPIED = 32  # lower capsules whose weights are copied at a time; 8 to 128 were measured
FAMILIES = dynamic_routing.FACTORED, self_attention_routing.FACTORED, inverted_attention_routing.FACTORED


class SliceCache(NamedTuple):
    """The routing of some samples."""

    samples: slice
    votes: AnyVotes
    iterations: list[Iteration]


class CapsuleCache(NamedTuple):
    """What CapsuleLayer keeps; ``b``, ``c``, ``s``, ``v`` are lists with one array per iteration."""

    u: Array  # (B, I, D)
    slices: list[SliceCache]
    shapes: tuple[tuple[int, ...], ...]  # of what the routing gave

    def _whole(self, name: str) -> list[Array]:
        each = [[getattr(iteration, name) for iteration in part.iterations] for part in self.slices]
        return [get_xp(self.u).concatenate(arrays) for arrays in zip(*each, strict=True)]

    @property
    def b(self) -> list[Array]:
        return self._whole("b")  # each (B, I, J)

    @property
    def c(self) -> list[Array]:
        return self._whole("c")  # each (B, I, J)

    @property
    def s(self) -> list[Array]:
        return self._whole("s")  # each (B, J, E)

    @property
    def v(self) -> list[Array]:
        return self._whole("v")  # each (B, J, E)


class CapsuleLayer(capsules.CapsuleLayer):
    """capsules.CapsuleLayer, without building û but of a few samples, and some samples on each thread.

    That is for dynamic routing, self-attention and inverted attention; any other, such as EM routing, which
    asks for squares of votes, does what its definition says.
    """

    DynamicRouting, Votes = DynamicRouting, Votes

    def forward(self, u: Array, *activations: Array) -> tuple[Any, Any]:
        family = family_of(self.routing)
        if activations or family is None:
            return super().forward(u, *activations)
        self._check_input(u)
        xp, W, u = get_xp(u), self.votes.params["W"], rounded(self, u)  # (I, D, J, E), (B, I, D)
        I, D, J, E = W.shape
        self.routing._check_votes(constant(0, (len(u), I, J, E), u.dtype, xp))  # of the shape of û
        votes_of = self._votes_of(len(u))
        share = even_share(self.routing.coupling, xp.zeros((1, I, J), dtype=u.dtype))

        def work(samples: slice) -> tuple[Any, SliceCache]:
            votes = votes_of(u[samples])
            y, iterations = family.route(self.routing, votes, share)
            return y, SliceCache(samples, votes, iterations)

        found = parallel(work, sample_slices(self.routing, len(u), I * D * J, xp, halved=True))
        outputs = [y if isinstance(y, tuple) else (y,) for y, _ in found]
        whole = tuple(outputs[0])
        if len(found) > 1:
            whole = tuple(xp.concatenate(each) for each in zip(*outputs, strict=True))
        whole = tuple(map(xp.ascontiguousarray, whole))
        cache = CapsuleCache(u, [part for _, part in found], tuple(y.shape for y in whole))
        return whole if isinstance(found[0][0], tuple) else whole[0], cache

    def _votes_of(self, batch: int) -> Callable[[Array], AnyVotes]:
        """Return what makes the votes of some samples u (B, I, D) of a batch."""
        W = self.votes.params["W"]  # (I, D, J, E)
        if batch <= FEW * W.shape[1]:
            rounded_W = rounded(self, W)  # (I, D, J, E)
            return lambda u: BuiltVotes(u, rounded_W)
        by_parent = self._kept("by parent", W, lambda: by_parents(rounded(self, W)))  # (J, D, E, I)
        return lambda u: FactoredVotes(get_xp(u).ascontiguousarray(u.transpose(2, 0, 1)), by_parent)

    def backward(self, dy: Any, cache: Any) -> Any:
        family = family_of(self.routing)
        if family is None or not isinstance(cache, CapsuleCache):
            return super().backward(dy, cache)
        check_gradients("CapsuleLayer.backward", dy, cache)
        count = family.count_products(self.routing, cache.slices[0].iterations)
        gradient = self._empty_products(count, cache.u)

        learns, parts = bool(self.routing.params), range(len(cache.slices))
        routings = [with_own_grads(self.routing) if learns and k > 0 else self.routing for k in parts]

        def work(k: int) -> None:
            part = cache.slices[k]
            upstream = tuple(d[part.samples] for d in dy) if isinstance(dy, tuple) else dy[part.samples]
            products = gradient.of_samples(part.samples)
            family.route_backward(routings[k], upstream, part.votes, part.iterations, products)

        parallel(work, parts)
        if learns:
            add_grads(self.routing, routings[1:])
        return self._votes_backward(gradient, cache.u)

    def _empty_products(self, count: int, u: Array) -> OuterProducts:
        (B, I, _), (_, _, J, E), xp = u.shape, self.votes.params["W"].shape, get_xp(u)
        weights = xp.empty((J, B, count, I), dtype=u.dtype)  # (J, B, K, I)
        return OuterProducts(weights, xp.empty((J, B, count, E), dtype=u.dtype))

    def _votes_backward(self, gradient: OuterProducts, u: Array) -> Array:
        """Return du (B, I, D) and add dW, some lower capsules at a time."""
        xp, W, dW = get_xp(u), rounded(self, self.votes.params["W"]), self.votes.grads["W"]  # (I, D, J, E)
        I, D, J, E = W.shape
        du = xp.empty_like(u)  # (B, I, D)

        def work(lower: slice) -> None:
            matrices = W[lower].reshape(-1, D, J * E)  # (i, D, J·E)
            du_hat = rounded(self, gradient.of_capsules(lower))  # (i, B, J, E)
            rows = du_hat.reshape(len(matrices), len(u), -1)  # (i, B, J·E)
            products = product(u[:, lower].transpose(1, 2, 0), rows)  # (i, D, B) @ (i, B, J·E)
            dW[lower] += rounded(self, products).reshape(W[lower].shape)  # (i, D, J, E)
            du[:, lower] = (rows @ matrices.swapaxes(1, 2)).swapaxes(0, 1)  # (i, B, J·E) @ (i, J·E, D)

        parallel(work, work_slices(I, len(u) * J * E, xp, halved=True))
        return rounded(self, du)


def by_parents(W: Array) -> Array:
    """W (I, D, J, E) -> (J, D, E, I), as FactoredVotes takes it.

    NumPy copies a transposed array number by number, and would fetch a line of the cache for each; the lines
    of a few lower capsules stay there until they are used up. Of 1,152 that takes 0.5 instead of 2.3 ms.
    """
    (I, D, J, E), xp = W.shape, get_xp(W)
    by_parent = xp.empty((J, D, E, I), dtype=W.dtype)  # (J, D, E, I)
    for lower in slices_of(I, COPIED if xp is np else I):
        by_parent[..., lower] = W[lower].transpose(2, 1, 3, 0)  # (i, D, J, E) -> (J, D, E, i)
    return by_parent


def family_of(routing: Routing) -> Factored | None:
    """Return how this routing runs on votes by their factors, if it is one of those that can."""
    return next((family for family in FAMILIES if family.does(routing)), None)


def check_gradients(where: str, dy: Any, cache: CapsuleCache) -> None:
    """Check the upstream gradient, or several for several outputs."""
    several = dy if isinstance(dy, tuple) else (dy,)
    if len(several) != len(cache.shapes):
        raise ValueError(
            f"{where}: got {len(several)} gradients, expected {len(cache.shapes)}: one for every output of "
            "the routing"
        )
    for gradient, shape in zip(several, cache.shapes, strict=True):
        check_gradient(where, gradient, shape, cache.u)


def with_own_grads(routing: Any) -> Any:
    """Return a routing with the same parameters, and gradients of its own, 0, for one slice to add to."""
    own = copy.deepcopy(routing, {id(param): param for param in routing.params.values()})
    own.zero_grad()
    return own


def add_grads(routing: Any, each: list[Any]) -> None:
    """Add up what slices found, in their order, so that sums have the same bits each time."""
    for name, grad in routing.grads.items():
        for own in each:
            grad += own.grads[name]
