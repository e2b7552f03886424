"""Inverted attention routing with a fast LayerNorm, and on votes that are built a tile at a time."""

from __future__ import annotations

import math

from minicaps import capsules
from minicaps.arrays import Array
from minicaps.fast.factored import even_share, is_constant
from minicaps.fast.normalization import LayerNorm
from minicaps.fast.tiled import Course, Term, Tiled, TiledVotes, by_query, by_sample


class InvertedAttentionRouting(capsules.InvertedAttentionRouting):
    """capsules.InvertedAttentionRouting, with a fast LayerNorm: it is called in every iteration."""

    LayerNorm = LayerNorm


def route(routing: capsules.InvertedAttentionRouting, votes: TiledVotes) -> list[Course]:
    """Do what InvertedAttentionRouting.forward does: an iteration is a look, and its query the last v."""
    query, courses = None, []
    for _ in range(routing.iterations):
        share = even_share(routing.coupling, votes.zero_logits()) if query is None else None
        look = votes.look(query, routing.coupling) if share is None else votes.look_evenly(share)
        v, norm = routing.norm.forward(look.s)  # (B, J, E)
        courses.append(Course(look, v, norm))
        query = by_query(v) / math.sqrt(routing.upper_dimension)  # (E, J, B)
    return courses


def route_backward(
    routing: capsules.InvertedAttentionRouting, dv: Array, votes: TiledVotes, courses: list[Course]
) -> list[Term]:
    """Do what InvertedAttentionRouting.backward does, but return dû as c ⊗ ds and db ⊗ query of each look."""
    terms: list[Term] = []
    for look, _, norm in reversed(courses):
        ds = by_query(routing.norm.backward(dv, norm))  # (E, J, B)
        if look.share is not None:
            return [*terms, Term(None, look.share * ds)]
        terms.append(Term(look.weights, ds))
        if is_constant(routing.coupling) or (look.query is None and not routing.coupling.params):
            break
        db, dquery = votes.look_backward(look, ds, routing.coupling)  # of every tile, (E, J, B)
        if look.query is None:
            break
        terms.append(Term(db, look.query))
        dv = by_sample(dquery) / math.sqrt(routing.upper_dimension)  # (B, J, E)
    return terms


TILED = Tiled(capsules.InvertedAttentionRouting, route, route_backward)
