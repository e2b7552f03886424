"""Dynamic routing with a fast squash, and on votes that need not be built."""

from __future__ import annotations

from typing import Any

from minicaps import capsules
from minicaps.capsules import Iteration
from minicaps.fast.factored import AnyVotes, Factored, OuterProducts, couple, is_constant
from minicaps.fast.squash import Squash


class DynamicRouting(capsules.DynamicRouting):
    """capsules.DynamicRouting, with a fast squash: it is called in every iteration."""

    Squash = Squash


def route(
    routing: capsules.DynamicRouting, votes: AnyVotes, share: float | None
) -> tuple[Any, list[Iteration]]:
    """Do what DynamicRouting.forward does, for such votes."""
    bias = routing.params["bias"] if routing.bias_shape is not None else None  # (J, E)
    b = votes.zero_logits()  # (B, I, J)
    iterations: list[Iteration] = []
    for r in range(routing.iterations):
        if r > 0:
            b = b + votes.agree(iterations[-1].v)  # (B, I, J)
        c, s, coupling = couple(routing.coupling, votes, b, share if r == 0 else None)
        if bias is not None:
            s = s + bias  # (B, J, E)
        v, squash = routing.squash.forward(s)  # (B, J, E)
        iterations.append(Iteration(b, c, s, v, coupling, squash))
    return routing._outputs(iterations), iterations


def only_last_counts(routing: capsules.DynamicRouting) -> bool:
    """Whether only the last iteration has a gradient."""
    return is_constant(routing.coupling) and "change" not in routing.outputs


def count_products(routing: capsules.DynamicRouting, iterations: list[Iteration]) -> int:
    """Return K: cʳ ⊗ dsʳ of every iteration and db ⊗ vʳ⁻¹ between them, or the last alone."""
    return 1 if only_last_counts(routing) else 2 * len(iterations) - 1


def route_backward(
    routing: capsules.DynamicRouting,
    dy: Any,
    votes: AnyVotes,
    iterations: list[Iteration],
    gradient: OuterProducts,
) -> None:
    """Do what DynamicRouting.backward does, but keep dû as outer products."""
    dv, dc_given, dchange = routing._gradients(dy, iterations[-1])  # (B, J, E), (B, I, J), (B, J, E)
    last = len(iterations) - 1
    db: Any = 0
    for r in reversed(range(len(iterations))):
        iteration, k = iterations[r], 2 * (last - r)
        ds = routing.squash.backward(dv, iteration.squash)  # (B, J, E)
        if routing.bias_shape is not None:
            routing.grads["bias"] += ds.sum(axis=0)  # (J, E)
        gradient.set_product(k, iteration.c, ds)
        if only_last_counts(routing) or (r == 0 and not routing.coupling.params):
            break
        dc = votes.agree(ds)  # (B, I, J)
        if r == last and "c" in routing.outputs:
            dc = dc + dc_given
        db = db + routing.coupling.backward(dc, iteration.coupling)  # (B, I, J)
        if r == 0:
            break
        gradient.set_product(k + 1, db, iterations[r - 1].v)
        dv = votes.combine(db)  # (B, J, E)
        if r == last and "change" in routing.outputs:
            dv = dv - dchange


FACTORED = Factored(capsules.DynamicRouting, route, count_products, route_backward)
