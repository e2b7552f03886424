"""Examples of the routing families: their couplings, squashes, presence and losses (see examples.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaps.capsules import (
    DynamicRouting,
    EMRouting,
    Entmax,
    ExponentialSquash,
    Frozen,
    Hard,
    InvertedAttentionRouting,
    Leaky,
    Prior,
    Routing,
    SelfAttentionRouting,
    Sparsemax,
    Squash,
    TopK,
)
from minicaps.layers import Example, LayerNorm
from minicaps.proof.examples import examples_of
from minicaps.proof.matrix_examples import STEEP, with_betas


def drawn(layer: Any) -> Any:
    """Return the layer with parameters that are not those of its start, which may be 0."""
    rng = np.random.default_rng(1)
    for param in layer.params.values():
        param[...] = rng.uniform(0.2, 1.5, size=param.shape) * rng.choice([-1.0, 1.0], size=param.shape)
    return layer


# -- squashes and layer normalisation -----------------------------------------------------------


@examples_of("Squash")
def squash(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    for name, scale in {"short": 0.1, "medium": 1.0, "long": 10.0}.items():
        yield Example(name, cls(), ((scale * rng.normal(size=(2, 3, 4))).astype(dtype),))
        yield Example(
            f"{name}, offset", cls(offset=0.5), ((scale * rng.normal(size=(2, 3, 4))).astype(dtype),)
        )


@examples_of("ExponentialSquash")
def exponential_squash(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    for name, scale in {"short": 0.1, "medium": 1.0, "long": 5.0}.items():
        yield Example(name, cls(), ((scale * rng.normal(size=(2, 3, 4))).astype(dtype),))


@examples_of("LayerNorm")
def layer_norm(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    x = rng.normal(size=(2, 3, 5)).astype(dtype)
    yield Example("normal", drawn(cls(5, dtype=dtype)), (x,))
    yield Example("large epsilon", drawn(cls(5, epsilon=0.3, dtype=dtype)), (x,))


# -- couplings ----------------------------------------------------------------------------------


@examples_of("TopK")
def top_k(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    b = rng.normal(size=(2, 5, 4)).astype(dtype)  # (B, I, J)
    for k in (2, 3, 4):
        yield Example(f"{k} of 4", cls(k), (b,))
    yield Example("1 of 4", cls(1), (b,), zero_gradient=True)


@examples_of("Sparsemax", "Entmax")
def sparse(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    for name, scale in {"many parents": 0.2, "some parents": 1.0, "few parents": 2.0}.items():
        yield Example(name, cls(), ((scale * rng.normal(size=(2, 5, 4))).astype(dtype),))


@examples_of("Prior")
def prior(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    b = rng.normal(size=(2, 5, 3)).astype(dtype)  # (B, I, J)
    for name, inner in {"softmax": None, "leaky": Leaky(), "sparsemax": Sparsemax()}.items():
        yield Example(name, drawn(cls(5, 3, inner, dtype=dtype)), (b,))


# -- routings -----------------------------------------------------------------------------------


@examples_of("SelfAttentionRouting")
def self_attention(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    u_hat = (0.5 * rng.normal(size=(2, 5, 3, 4))).astype(dtype)  # (B, I, J, E), for couplings of any size
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "bias": {"bias_shape": (5, 3), "dtype": dtype},
        "prior": {"coupling": Prior(5, 3, dtype=dtype)},
        "other squash": {"squash": Squash()},
        "entmax": {"coupling": Entmax()},
        "hard": {"coupling": Hard()},
        "frozen": {"coupling": Frozen(rng.uniform(size=(5, 3)).astype(dtype))},
    }
    for name, options in cases.items():
        yield Example(name, drawn(cls(**options)), (u_hat,))


@examples_of("InvertedAttentionRouting")
def inverted_attention(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    u_hat = rng.normal(size=(2, 5, 3, 4)).astype(dtype)  # (B, I, J, E)
    cases: dict[str, dict[str, Any]] = {
        "1 iteration": {"iterations": 1},
        "2 iterations": {},
        "4 iterations": {"iterations": 4},
        "prior": {"coupling": Prior(5, 3, dtype=dtype), "iterations": 3},
        "prior, 1 iteration": {"coupling": Prior(5, 3, dtype=dtype), "iterations": 1},
        "top 2": {"coupling": TopK(2), "iterations": 3},
    }
    for name, options in cases.items():
        yield Example(name, drawn(cls(4, dtype=dtype, **options)), (u_hat,))


def more_ways_to_route(I: int, J: int, dtype: Any) -> dict[str, dict[str, Any]]:
    """Return sets of options for DynamicRouting, by name, beside those of ``capsule_examples``."""
    return {
        "top 2": {"coupling": TopK(2)},
        "sparsemax": {"coupling": Sparsemax()},
        "entmax": {"coupling": Entmax()},
        "prior": {"coupling": drawn(Prior(I, J, dtype=dtype))},
        "prior, 1 iteration": {"coupling": drawn(Prior(I, J, dtype=dtype)), "iterations": 1},
        "prior and leaky": {"coupling": drawn(Prior(I, J, Leaky(), dtype=dtype)), "iterations": 2},
        "other squash": {"squash": ExponentialSquash()},
    }


def routings(I: int, J: int, E: int, dtype: Any) -> dict[str, Routing]:
    """Return routings of every family, by name, for a CapsuleLayer of these sizes."""
    return {
        "self-attention": drawn(SelfAttentionRouting(bias_shape=(I, J), dtype=dtype)),
        "self-attention, prior": drawn(SelfAttentionRouting(coupling=Prior(I, J, dtype=dtype))),
        "self-attention, hard, bias": drawn(
            SelfAttentionRouting(coupling=Hard(), bias_shape=(I, J), dtype=dtype)
        ),
        "inverted attention": drawn(InvertedAttentionRouting(E, dtype=dtype)),
        "EM": with_betas(EMRouting(J, 2, **STEEP, dtype=dtype), np.random.default_rng(1)),
        "inverted attention, prior": drawn(
            InvertedAttentionRouting(E, iterations=3, coupling=Prior(I, J, dtype=dtype), dtype=dtype)
        ),
        "inverted attention, prior, 1 iteration": drawn(
            InvertedAttentionRouting(E, iterations=1, coupling=Prior(I, J, dtype=dtype), dtype=dtype)
        ),
        "inverted attention, hard": drawn(InvertedAttentionRouting(E, coupling=Hard(), dtype=dtype)),
        "dynamic, bias": DynamicRouting(2, bias_shape=(J, E), dtype=dtype),
        "dynamic, other outputs": DynamicRouting(2, outputs=("v", "c", "change")),
        "dynamic, couplings too": DynamicRouting(2, outputs=("v", "c"), coupling=TopK(2)),
        "dynamic, hard, change too": DynamicRouting(3, outputs=("v", "change"), coupling=Hard()),
        "dynamic, hard, couplings too": DynamicRouting(3, outputs=("v", "c"), coupling=Hard()),
        "dynamic, other squash": drawn(DynamicRouting(2, squash=LayerNorm(E, dtype=dtype))),
    }


def with_outputs(dtype: Any) -> dict[str, dict[str, Any]]:
    """Return sets of options for DynamicRouting with several outputs, by name."""
    return {
        "with couplings": {"outputs": ("v", "c")},
        "with change": {"outputs": ("v", "change"), "iterations": 2},
        "with both": {"outputs": ("v", "c", "change")},
        "with both, bias, leaky": {"outputs": ("v", "c", "change"), "coupling": Leaky()},
        "with both, hard": {"outputs": ("v", "c", "change"), "coupling": Hard()},
        "with both, prior": {"outputs": ("v", "c", "change"), "coupling": drawn(Prior(5, 3, dtype=dtype))},
        "with couplings, prior, 1 iteration": {
            "outputs": ("v", "c"), "coupling": drawn(Prior(5, 3, dtype=dtype)), "iterations": 1,
        },
    }  # fmt: skip


# -- presence and losses --------------------------------------------------------------------------


@examples_of("Length")
def length(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    yield Example("normal", cls(), (rng.normal(size=(2, 3, 4)).astype(dtype),))


@examples_of("Given")
def given(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    v, a = rng.normal(size=(2, 3, 4)).astype(dtype), rng.uniform(size=(2, 3)).astype(dtype)
    yield Example("normal", cls(), (v, a), zero_gradient=True)


@examples_of("Line")
def line(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    v = rng.normal(size=(2, 3, 4)).astype(dtype)  # (B, J, E)
    yield Example("normal", cls(4, rng=rng, dtype=dtype), (v,))


@examples_of("CouplingEntropy")
def coupling_entropy(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    c = rng.dirichlet(np.full(3, 5.0), size=(2, 5)).astype(dtype)  # (B, I, J)
    yield Example("shares", cls(), (c, None))


@examples_of("Unrest")
def unrest(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    change = rng.normal(size=(2, 3, 4)).astype(dtype)  # (B, J, E)
    yield Example("normal", cls(), (change, None))
