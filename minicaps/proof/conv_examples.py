"""Examples of convolutional and deconvolutional capsules, and of 3-D routing (see examples.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules import DynamicRouting3D, Entmax, ExponentialSquash, Leaky, Prior, Squash, Stopped, TopK
from minicaps.layers import Example
from minicaps.proof.examples import examples_of
from minicaps.proof.routing_examples import drawn, more_ways_to_route, routings

WINDOWS: dict[str, dict[str, Any]] = {  # of a kernel 3×2
    "plain": {},
    "stride": {"stride": (2, 3)},
    "padding": {"padding": (2, 1)},
    "all": {"stride": 2, "padding": (1, 0)},
    "shared": {"shared": True, "stride": (1, 2)},
}


def capsules_on_a_grid(rng: np.random.Generator, dtype: Any) -> Array:
    """Draw capsules u (B, H, W, I, D) = (2, 5, 4, 3, 6)."""
    return rng.normal(size=(2, 5, 4, 3, 6)).astype(dtype)  # (B, H, W, I, D)


@examples_of("ConvVotes", "DeconvVotes")
def votes(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    for name, options in {**WINDOWS, "large W": {"std": 1.5}}.items():
        layer = cls(3, 6, 4, 7, (3, 2), rng=rng, dtype=dtype, **options)
        yield Example(name, layer, (capsules_on_a_grid(rng, dtype),))


@examples_of("ConvCaps", "DeconvCaps")
def capsules(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    by_votes = {name: r for name, r in routings(3, 4, 7, dtype).items() if not r.reads_activations}
    ways: dict[str, dict[str, Any]] = {
        **WINDOWS,
        "1 iteration": {"iterations": 1},
        "bias": {"iterations": 2, "bias": True},
        "leaky": {"coupling": Leaky()},
        "top 2": {"coupling": TopK(2)},
        "entmax": {"coupling": Entmax(), "std": 0.25},
        "prior": {"coupling": drawn(Prior(3, 4, dtype=dtype)), "iterations": 2},
        **{name: {"routing": routing} for name, routing in by_votes.items()},
        "3-D": {"routing": DynamicRouting3D(4, 2), "std": 5.0},
    }
    for name, options in ways.items():
        layer = cls(3, 6, 4, 7, (3, 2), **{"std": 0.5, "rng": rng, **options}, dtype=dtype)
        yield Example(name, layer, (capsules_on_a_grid(rng, dtype),))
    layer = cls(3, 6, 4, 7, (3, 2), coupling=Stopped(), std=0.5, rng=rng, dtype=dtype)
    u = capsules_on_a_grid(rng, dtype)
    c = layer.forward(u)[1].c[-1]  # (B, P, Q, I, J), what the gradient takes for constant

    def check_forward(u: Array) -> Any:
        return layer.routing.squash.forward((c[..., None] * layer.votes(u)).sum(axis=3))  # (B, P, Q, J, E)

    yield Example("stopped", layer, (u,), check_forward)


@examples_of("MapSquash")
def map_squash(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    for name, options in {"paper": {}, "exponential": {"squash": ExponentialSquash()}}.items():
        for scale in (0.1, 1.0):
            s = (scale * rng.normal(size=(2, 12, 5))).astype(dtype)  # (B, J·P·Q, E)
            yield Example(f"{name}, {scale:g}", cls(3, **options), (s,))


@examples_of("DynamicRouting3D")
def dynamic_routing_3d(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    more = more_ways_to_route(5, 6 * 4 * 3, dtype)
    ways: dict[str, dict[str, Any]] = {
        "1 iteration": {"iterations": 1},
        "2 iterations": {"iterations": 2},
        "3 iterations": {},
        "each capsule squashed": {"squash": Squash()},
        "leaky": {"coupling": Leaky()},
        **{name: more[name] for name in ("entmax", "prior")},
    }
    for name, options in ways.items():
        u_hat = (5 * rng.normal(size=(2, 4, 3, 5, 6, 7))).astype(dtype)  # (B, P, Q, I, J, E)
        yield Example(name, cls(6, **options), (u_hat,))
