"""Inverted attention routing with a fast LayerNorm, and on votes that need not be built."""

from __future__ import annotations

import math

from minicaps import capsules
from minicaps.arrays import Array
from minicaps.capsules import Iteration
from minicaps.fast.factored import AnyVotes, Factored, OuterProducts, couple, is_constant
from minicaps.fast.normalization import LayerNorm


class InvertedAttentionRouting(capsules.InvertedAttentionRouting):
    """capsules.InvertedAttentionRouting, with a fast LayerNorm: it is called in every iteration."""

    LayerNorm = LayerNorm


def route(
    routing: capsules.InvertedAttentionRouting, votes: AnyVotes, share: float | None
) -> tuple[Array, list[Iteration]]:
    """Do what InvertedAttentionRouting.forward does, for such votes."""
    b = votes.zero_logits()  # (B, I, J)
    iterations: list[Iteration] = []
    for r in range(routing.iterations):
        if r > 0:
            b = votes.agree(iterations[-1].v) / math.sqrt(routing.upper_dimension)  # (B, I, J)
        c, s, coupling = couple(routing.coupling, votes, b, share if r == 0 else None)
        v, norm = routing.norm.forward(s)  # (B, J, E)
        iterations.append(Iteration(b, c, s, v, coupling, norm))
    return iterations[-1].v, iterations


def count_products(routing: capsules.InvertedAttentionRouting, iterations: list[Iteration]) -> int:
    """Return K: cʳ ⊗ dsʳ of every iteration and db ⊗ vʳ⁻¹ between them, or the last alone."""
    return 1 if is_constant(routing.coupling) else 2 * len(iterations) - 1


def route_backward(
    routing: capsules.InvertedAttentionRouting,
    dv: Array,
    votes: AnyVotes,
    iterations: list[Iteration],
    gradient: OuterProducts,
) -> None:
    """Do what InvertedAttentionRouting.backward does, but keep dû as outer products."""
    last = len(iterations) - 1
    for r in reversed(range(len(iterations))):
        iteration, k = iterations[r], 2 * (last - r)
        ds = routing.norm.backward(dv, iteration.squash)  # (B, J, E)
        gradient.set_product(k, iteration.c, ds)
        if is_constant(routing.coupling) or (r == 0 and not routing.coupling.params):
            break
        dc = votes.agree(ds)  # (B, I, J)
        db = routing.coupling.backward(dc, iteration.coupling) / math.sqrt(routing.upper_dimension)
        if r == 0:
            break
        gradient.set_product(k + 1, db, iterations[r - 1].v)
        dv = votes.combine(db)  # (B, J, E)


FACTORED = Factored(capsules.InvertedAttentionRouting, route, count_products, route_backward)
