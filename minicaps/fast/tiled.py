r"""Votes that are built for a few lower capsules at a time, for routings that look at them by queries.

**A look** is all that an attention asks for: with a query for every parent, b_ij = ⟨û_ij, q_j⟩,
c = coupling(b) and s_j = Σ_i c_ij û_ij. Each lower capsule does its part of that alone. So û of a few of
them, a tile, is one product of matrices, and serves agreements and sum while it is in the processor's
cache; ``FactoredVotes`` takes a product for either.

**Layout.** Within a tile û lies as (i, E, J, B): whatever goes with a pair of capsules, (i, J, B), or with a
parent, (E, J, B), then meets it along rows of J·B numbers. No result depends on the number of threads: tiles
depend on sizes alone, and their sums are added up in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules import Coupling, Routing
from minicaps.fast.couplings import can_be_sliced, of_lower
from minicaps.fast.factored import follows
from minicaps.fast.threads import in_groups, matmul, parallel, work_slices

TILE_NUMBERS = 1 << 18  # 1 MB in float32, about a core's own cache


class Seen(NamedTuple):
    """What a look saw of the lower capsules of a tile."""

    lower: slice
    b: Array  # (B, i, J)
    c: Array  # (B, i, J)
    weights: Array  # (i, J, B), c in the order of the votes
    coupling: Any  # the cache of c = coupling(b)


class Look(NamedTuple):
    """One look at all votes."""

    query: Array | None  # (E, J, B), or None where all logits were 0
    seen: list[list[Seen]]  # of every tile, slice by slice
    s: Array  # (B, J, E)
    share: float | None = None  # the coupling of all pairs, where it is known to be one number

    @property
    def weights(self) -> list[list[Array]]:
        return [[tile.weights for tile in tiles] for tiles in self.seen]  # each (i, J, B)

    def whole(self, name: str) -> Array:
        """Return the logits b or the couplings c (B, I, J)."""
        seen = sorted((tile for tiles in self.seen for tile in tiles), key=lambda tile: tile.lower.start)
        arrays = [getattr(tile, name) for tile in seen]  # each (B, i, J)
        return get_xp(self.s).concatenate(arrays, axis=1)  # (B, I, J)


class Course(NamedTuple):
    """A look, and what it led to."""

    look: Look
    v: Array  # (B, J, E)
    squash: Any  # the cache of v = squash(s), or of what stands in its place


class Term(NamedTuple):
    """One of the terms that dû is the sum of: weights_ij · vectors_j, or vectors_j alone."""

    weights: list[list[Array]] | None  # each (i, J, B), of every tile
    vectors: Array  # (E, J, B)


@dataclass(frozen=True)
class TiledVotes:
    """û = u W, a tile of lower capsules at a time."""

    u: Array  # (B, I, D)
    W: Array  # (I, D, J, E)
    matrices: Array  # (I, E·J, D), as by_lower makes them of W
    slices: list[list[slice]]  # of the lower capsules: tiles, slice by slice

    def total(self) -> Array:
        """Return Σ_i û_ij (B, J, E)."""
        B, (I, D, J, E) = len(self.u), self.W.shape
        return matmul(self.u.reshape(B, I * D), self.W.reshape(I * D, J * E)).reshape(B, J, E)

    def zero_logits(self) -> Array:
        """Return logits of 0 (1, I, J)."""
        I, _, J, _ = self.W.shape
        return get_xp(self.u).zeros((1, I, J), dtype=self.u.dtype)  # (1, I, J)

    def look_evenly(self, share: float) -> Look:
        """Look at every vote when all couplings are this number."""
        xp, b = get_xp(self.u), self.zero_logits()  # (1, I, J)
        b = xp.broadcast_to(b, (len(self.u), *b.shape[1:]))  # (B, I, J)
        c = xp.broadcast_to(xp.full(1, share, dtype=b.dtype), b.shape)  # (B, I, J)
        return Look(None, [[Seen(slice(0, b.shape[1]), b, c, c, None)]], self.total() * share, share)

    def look(self, query: Array | None, coupling: Coupling, bias: Array | None = None) -> Look:
        """Look at every vote, by a query (E, J, B), or None for logits of 0; a bias (I, J) joins c."""

        def work(tiles: list[slice]) -> tuple[list[Seen], Any]:
            s: Any = 0
            seen = []
            for lower in tiles:
                u_hat = self._build(lower)  # (i, E, J, B)
                b = self._zeros(lower) if query is None else agree(u_hat, query)  # (i, J, B)
                b = b.transpose(2, 0, 1)  # (B, i, J)
                c, cache = of_lower(coupling, lower).forward(b)  # (B, i, J)
                if bias is not None:
                    c = c + bias[lower]  # (B, i, J)
                weights = by_vote(c)  # (i, J, B)
                s = s + combine(weights, u_hat)  # (E, J, B)
                seen.append(Seen(lower, b, c, weights, cache))
            return seen, s

        found = parallel(work, self.slices)
        return Look(query, [seen for seen, _ in found], by_sample(sum(s for _, s in found)))

    def look_backward(
        self, look: Look, ds: Array, coupling: Coupling, dbias: Array | None = None
    ) -> tuple[list[list[Array]], Any]:
        """Return db, (i, J, B) of every tile, and dquery (E, J, B) for ds (E, J, B); add to dbias (I, J)."""

        def work(k: int) -> tuple[list[Array], Any]:
            dquery: Any = 0
            every = []
            for lower, seen in zip(self.slices[k], look.seen[k], strict=True):
                u_hat = self._build(lower)  # (i, E, J, B)
                dc = agree(u_hat, ds)  # (i, J, B)
                if dbias is not None:
                    dbias[lower] += dc.sum(axis=2)  # (i, J)
                own = of_lower(coupling, lower)
                db = by_vote(own.backward(dc.transpose(2, 0, 1), seen.coupling))  # (i, J, B)
                if look.query is not None:
                    dquery = dquery + combine(db, u_hat)  # (E, J, B)
                every.append(db)
            return every, dquery

        found = parallel(work, range(len(self.slices)))
        return [every for every, _ in found], sum(dquery for _, dquery in found)

    def backward(self, terms: list[Term], dW: Array, rounded: Callable[[Array], Array]) -> Array:
        """Return du (B, I, D) and add to dW (I, D, J, E), for dû as a sum of terms, weighted ones first."""
        du = get_xp(self.u).empty_like(self.u)  # (B, I, D)
        (_, D, J, E), B = self.W.shape, len(self.u)

        def work(k: int) -> None:
            for m, lower in enumerate(self.slices[k]):
                du_hat = rounded(sum_up(terms, k, m, lower.stop - lower.start))  # (i, E, J, B)
                rows = du_hat.reshape(-1, E * J, B)  # (i, E·J, B)
                products = rows @ self.u[:, lower].swapaxes(0, 1)  # (i, E·J, B) @ (i, B, D)
                each = rounded(products).reshape(-1, E, J, D)  # (i, E, J, D)
                dW[lower] += each.transpose(0, 3, 2, 1)  # (i, D, J, E)
                columns = rows.swapaxes(1, 2) @ self.matrices[lower]  # (i, B, E·J) @ (i, E·J, D)
                du[:, lower] = rounded(columns).swapaxes(0, 1)  # (B, i, D)

        parallel(work, range(len(self.slices)))
        return du

    def _build(self, lower: slice) -> Array:
        """Return û of a tile (i, E, J, B)."""
        (_, _, J, E), B = self.W.shape, len(self.u)
        u_hat = self.matrices[lower] @ self.u[:, lower].transpose(1, 2, 0)  # (i, E·J, D) @ (i, D, B)
        return u_hat.reshape(-1, E, J, B)  # (i, E, J, B)

    def _zeros(self, lower: slice) -> Array:
        B, J = len(self.u), self.W.shape[2]
        return get_xp(self.u).zeros((lower.stop - lower.start, J, B), dtype=self.u.dtype)  # (i, J, B)


class Tiled(NamedTuple):
    """How a family of routings works on votes a tile at a time.

    ``route(routing, votes)`` does what the routing's forward does: it returns every look and what it led to,
    the last one to the output. ``route_backward(routing, dv, votes, courses)`` does what its backward does,
    but returns the terms of dû.
    """

    plain: type[Routing]
    route: Callable[[Any, TiledVotes], list[Course]]
    route_backward: Callable[[Any, Array, TiledVotes, list[Course]], list[Term]]

    def does(self, routing: Routing) -> bool:
        """Whether forward and backward of a routing are those of the definition."""
        return follows(routing, self.plain)


def by_lower(W: Array) -> Array:
    """W (I, D, J, E) -> (I, E·J, D), as TiledVotes takes it."""
    I, D, J, E = W.shape
    return get_xp(W).ascontiguousarray(W.transpose(0, 3, 2, 1)).reshape(I, E * J, D)  # (I, E·J, D)


def by_query(x: Array) -> Array:
    """(B, J, E) -> (E, J, B), as a look takes it."""
    return get_xp(x).ascontiguousarray(x.transpose(2, 1, 0))  # (E, J, B)


def by_sample(x: Array) -> Array:
    """(E, J, B) -> (B, J, E)."""
    return get_xp(x).ascontiguousarray(x.transpose(2, 1, 0))  # (B, J, E)


def by_vote(x: Array) -> Array:
    """(B, i, J) -> (i, J, B), which a coupling gives as it was given its logits: then nothing is moved."""
    return get_xp(x).ascontiguousarray(x.transpose(1, 2, 0))  # (i, J, B)


def agree(u_hat: Array, query: Array) -> Array:
    """Return ⟨û_ij, q_j⟩: û (i, E, J, B), q (E, J, B) -> (i, J, B)."""
    return get_xp(u_hat).einsum("iejb,ejb->ijb", u_hat, query)  # (i, J, B)


def combine(weights: Array, u_hat: Array) -> Array:
    """Return Σ_i c_ij û_ij of a tile: c (i, J, B), û (i, E, J, B) -> (E, J, B)."""
    return get_xp(u_hat).einsum("ijb,iejb->ejb", weights, u_hat)  # (E, J, B)


def sum_up(terms: list[Term], k: int, m: int, count: int) -> Array:
    """Return dû of tile m of slice k, of `count` lower capsules: (i, E, J, B)."""
    products = (v if w is None else w[k][m][:, None] * v for w, v in terms)  # each ([i,] E, J, B)
    du_hat = next(products)  # (i, E, J, B), or for a term without weights (E, J, B)
    for product in products:
        du_hat += product
    return get_xp(du_hat).broadcast_to(du_hat, (count, *du_hat.shape[-3:]))  # (i, E, J, B)


def in_tiles(coupling: Coupling, u: Array, W: Array) -> list[list[slice]]:
    """Return the lower capsules in tiles, dealt to slices for the threads.

    On a GPU, and for a coupling that has to see all of them, they are one tile.
    """
    (I, _, J, E), B, xp = W.shape, len(u), get_xp(u)
    if xp is not np or not can_be_sliced(coupling):
        return [[slice(0, I)]]
    size, parts = max(1, TILE_NUMBERS // max(B * J * E, 1)), work_slices(I, B * J * E, xp)
    tiles = [slice(k, min(k + size, part.stop)) for part in parts for k in range(part.start, part.stop, size)]
    return [list(each) for each in in_groups(tiles)] if len(parts) > 1 else [tiles]
