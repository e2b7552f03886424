"""Self-attention routing with a fast squash, and on votes that need not be built."""

from __future__ import annotations

import math

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import Iteration
from minicaps.fast.couplings import plus_pairs
from minicaps.fast.factored import AnyVotes, Factored, OuterProducts, is_constant
from minicaps.fast.squash import ExponentialSquash


class SelfAttentionRouting(capsules.SelfAttentionRouting):
    """capsules.SelfAttentionRouting, with a fast squash."""

    ExponentialSquash = ExponentialSquash


def route(
    routing: capsules.SelfAttentionRouting, votes: AnyVotes, share: float | None
) -> tuple[Array, list[Iteration]]:
    """Do what SelfAttentionRouting.forward does, for such votes; there are no logits of 0."""
    b = votes.agree(votes.total) / math.sqrt(votes.dimension)  # (B, I, J)
    c, coupling = routing.coupling.forward(b)  # (B, I, J)
    if routing.bias_shape is not None:
        c = plus_pairs(c, routing.params["bias"])  # (B, I, J)
    s = votes.combine(c)  # (B, J, E)
    v, squash = routing.squash.forward(s)  # (B, J, E)
    return v, [Iteration(b, c, s, v, coupling, squash)]


def count_products(routing: capsules.SelfAttentionRouting, iterations: list[Iteration]) -> int:
    """Return K: c ⊗ ds, db ⊗ t and 1 ⊗ dt, or the first alone."""
    return 1 if is_constant(routing.coupling) else 3


def route_backward(
    routing: capsules.SelfAttentionRouting,
    dv: Array,
    votes: AnyVotes,
    iterations: list[Iteration],
    gradient: OuterProducts,
) -> None:
    """Do what SelfAttentionRouting.backward does, but keep dû as outer products."""
    ((_, c, _, _, coupling, squash),) = iterations
    ds = routing.squash.backward(dv, squash)  # (B, J, E)
    gradient.set_product(0, c, ds)
    dc = votes.agree(ds)  # (B, I, J)
    if routing.bias_shape is not None:
        routing.grads["bias"] += dc.sum(axis=0)  # (I, J)
    if is_constant(routing.coupling):
        return
    db = routing.coupling.backward(dc, coupling) / math.sqrt(votes.dimension)  # (B, I, J)
    gradient.set_product(1, db, votes.total)
    ones = get_xp(dv).broadcast_to(get_xp(dv).ones(1, dtype=dv.dtype), db.shape)  # (B, I, J)
    gradient.set_product(2, ones, votes.combine(db))


FACTORED = Factored(capsules.SelfAttentionRouting, route, count_products, route_backward)
