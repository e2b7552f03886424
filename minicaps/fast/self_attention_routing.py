"""Self-attention routing with a fast squash, and on votes that are built a tile at a time."""

from __future__ import annotations

import math

from minicaps import capsules
from minicaps.arrays import Array
from minicaps.fast.factored import is_constant
from minicaps.fast.squash import ExponentialSquash
from minicaps.fast.tiled import Course, Term, Tiled, TiledVotes, by_query


class SelfAttentionRouting(capsules.SelfAttentionRouting):
    """capsules.SelfAttentionRouting, with a fast squash."""

    ExponentialSquash = ExponentialSquash


def route(routing: capsules.SelfAttentionRouting, votes: TiledVotes) -> list[Course]:
    """Do what SelfAttentionRouting.forward does: one look, and its query is the sum of all votes."""
    query = by_query(votes.total()) / math.sqrt(votes.W.shape[3])  # (E, J, B)
    look = votes.look(query, routing.coupling, routing.params.get("bias"))
    v, squash = routing.squash.forward(look.s)  # (B, J, E)
    return [Course(look, v, squash)]


def route_backward(
    routing: capsules.SelfAttentionRouting, dv: Array, votes: TiledVotes, courses: list[Course]
) -> list[Term]:
    """Do what SelfAttentionRouting.backward does, but return dû as c ⊗ ds, db ⊗ query and dtotal."""
    ((look, _, squash),) = courses
    ds = by_query(routing.squash.backward(dv, squash))  # (E, J, B)
    terms, query, dbias = [Term(look.weights, ds)], look.query, routing.grads.get("bias")
    if is_constant(routing.coupling) and dbias is None:
        return terms
    db, dquery = votes.look_backward(look, ds, routing.coupling, dbias)  # of every tile, (E, J, B)
    if is_constant(routing.coupling) or query is None:
        return terms
    return [*terms, Term(db, query), Term(None, dquery / math.sqrt(votes.W.shape[3]))]


TILED = Tiled(capsules.SelfAttentionRouting, route, route_backward)
