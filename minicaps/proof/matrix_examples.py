"""Examples of EM routing and matrix capsules (see examples.py).

At the paper's λ and σ²_min activations are all near 1/2 and little of the gradient shows, so that most have
larger ones; and matrices that are far from the identity, so that couplings leave 1/J.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaps.capsules import Leaky, Prior
from minicaps.layers import Example
from minicaps.proof.examples import examples_of

STEEP: dict[str, Any] = {"inverse_temperature": 0.5, "min_variance": 0.3}  # where every gradient shows


def with_betas(layer: Any, rng: np.random.Generator) -> Any:
    """Return the layer with costs and biases that are drawn anew: they begin at 0."""
    for name, param in layer.params.items():
        if "beta" in name:
            param[...] = rng.normal(size=param.shape) * (0.3 if "beta_u" in name else 1)
    return layer


def ways_to_fit() -> dict[str, dict[str, Any]]:
    """Return a set of options for every way to route by EM, by name."""
    return {
        "1 iteration": {"iterations": 1, **STEEP},
        "2 iterations": {"iterations": 2, **STEEP},
        "3 iterations": {"iterations": 3, **STEEP},
        "paper": {"iterations": 3},
        "start of β": {"iterations": 2, "beta_u_start": 1.5, **STEEP},
    }


@examples_of("EMRouting")
def em_routing(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    prior = Prior(5, 3, dtype=dtype)
    prior.params["prior"][...] = rng.normal(size=(5, 3))  # (I, J)
    couplings = {"leaky": {"coupling": Leaky(), **STEEP}, "prior": {"coupling": prior, **STEEP}}
    for name, options in {**ways_to_fit(), **couplings}.items():
        u_hat = rng.normal(size=(2, 5, 3, 4)).astype(dtype)  # (B, I, J, E)
        a = rng.uniform(0.1, 0.9, size=(2, 5)).astype(dtype)  # (B, I)
        yield Example(name, with_betas(cls(3, **options, dtype=dtype), rng), (u_hat, a))


@examples_of("WindowSoftmax")
def window_softmax(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    b = rng.normal(size=(2, 5, 4, 18, 3)).astype(dtype)  # (B, P, Q, I, J)
    strides: dict[str, int | tuple[int, int]] = {"overlapping": 1, "stride": (2, 1), "apart": 4}
    for name, stride in strides.items():
        yield Example(name, cls((3, 2), stride=stride), (b,))


@examples_of("MatrixVotes")
def matrix_votes(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    yield Example("start", cls(3, 5, rng=rng, dtype=dtype), (poses_of(rng, (2, 3), dtype),))
    yield Example("large W", cls(3, 5, std=1.0, rng=rng, dtype=dtype), (poses_of(rng, (2, 4, 3), dtype),))


def poses_of(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Draw the poses (..., 16) of so many capsules."""
    return rng.normal(size=(*shape, 16)).astype(dtype)


@examples_of("PrimaryMatrixCaps")
def primary_matrix_caps(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    x = rng.normal(size=(2, 6, 5, 3)).astype(dtype)  # (B, H, W, C)
    yield Example("plain", cls(3, 4, rng=rng, dtype=dtype), (x,))


@examples_of("ConvMatrixCaps")
def conv_matrix_caps(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    windows = {"stride": {"stride": 2, **STEEP}, "large W": {"std": 0.8, **STEEP}}
    for name, options in {**ways_to_fit(), "paper": {"std": 0.2}, **windows}.items():
        shape = (2, 5, 4, 3)  # (B, H, W, types)
        poses, a = 0.3 * poses_of(rng, shape, dtype), rng.uniform(0.1, 0.9, size=shape).astype(dtype)
        layer = cls(3, 2, (3, 2), **{"std": 0.4, "rng": rng, **options}, dtype=dtype)
        yield Example(name, with_betas(layer, rng), (poses, a))


@examples_of("ClassMatrixCaps")
def class_matrix_caps(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    others = {"no coordinates": {"coordinates": False, **STEEP}, "large W": {"std": 0.8, **STEEP}}
    for name, options in {**ways_to_fit(), **others}.items():
        shape = (2, 4, 3, 5)  # (B, H, W, types)
        poses, a = 0.3 * poses_of(rng, shape, dtype), rng.uniform(0.1, 0.9, size=shape).astype(dtype)
        options = {**options, "inverse_temperature": 0.1 * options.get("inverse_temperature", 0.01)}
        layer = cls(5, 6, **{"std": 0.4, "rng": rng, **options}, dtype=dtype)
        yield Example(name, with_betas(layer, rng), (poses, a))


@examples_of("SpreadLoss")
def spread_loss(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    a = (rng.permutation(np.arange(12)) / 12 + 0.003).reshape(3, 4).astype(dtype)  # off the kinks
    labels = np.array([2, 0, 3])
    for name, options in {
        "paper": {},
        "small margin": {"margin": 0.4},
        "steady": {"first_margin": 0.9},
    }.items():
        yield Example(name, cls(**options), (a, labels))


@examples_of("MatrixCapsNet")
def matrix_capsnet(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    images = rng.uniform(size=(2, 9, 8, 3)).astype(dtype)
    small: dict[str, Any] = {
        "image_shape": (9, 8, 3), "classes": 5, "conv_channels": 4, "conv_kernel": 3, "conv_stride": 1,
        "primary_types": 2, "types": (3, 2), "kernels": (3, 2), "strides": (2, 1), "iterations": 2,
        "inverse_temperature": 0.1, "min_variance": 0.05, "std": 0.4, "beta_u_start": 0.5,
    }  # fmt: skip
    others: dict[str, dict[str, Any]] = {
        "small": {},
        "3 iterations": {"iterations": 3, "inverse_temperature": 0.02, "min_variance": 0.02, "std": 0.2},
        "other sizes": {
            "conv_channels": 3, "conv_kernel": (2, 3), "conv_stride": 2, "primary_types": 3, "types": (2, 4),
            "kernels": (2, 2), "strides": (1, 2), "coordinates": False, "beta_u_start": 1.0,
        },
    }  # fmt: skip
    for name, options in others.items():
        network = cls(cls.Config(**{**small, **options}), rng=rng, dtype=dtype)
        yield Example(name, with_betas(network, rng), (images,))
