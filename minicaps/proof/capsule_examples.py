"""Examples of capsules, and of the networks made of layers and capsules (see examples.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules import Hard, Leaky, Softmax, Stopped
from minicaps.layers import Example
from minicaps.proof.examples import examples_of, trained
from minicaps.proof.routing_examples import more_ways_to_route, routings, with_outputs

# -- capsules ---------------------------------------------------------------------------------


@examples_of("Softmax")
def softmax(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    yield Example("normal", cls(), (rng.normal(size=(2, 5, 3)).astype(dtype),))


@examples_of("Hard")
def hard(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    yield Example("normal", cls(), (rng.normal(size=(2, 5, 3)).astype(dtype),), zero_gradient=True)


@examples_of("Leaky")
def leaky(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    b = rng.normal(size=(2, 5, 3)).astype(dtype)  # (B, I, J)
    yield Example("softmax", cls(), (b,))
    yield Example("hard", cls(Hard()), (b,), zero_gradient=True)


@examples_of("Stopped")
def stopped(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    b = rng.normal(size=(2, 5, 3)).astype(dtype)  # (B, I, J)
    for name, inner in {"softmax": Softmax(), "leaky": Leaky()}.items():
        layer = cls(inner)
        c = layer(b)  # (B, I, J), what the gradient takes for constant
        yield Example(name, layer, (b,), lambda _, c=c: (c, None), zero_gradient=True)


@examples_of("Frozen")
def frozen(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    b, c = rng.normal(size=(2, 5, 3)).astype(dtype), rng.uniform(size=(5, 3)).astype(dtype)
    yield Example("uniform", cls(c), (b,), zero_gradient=True)


def ways_to_route() -> dict[str, dict[str, Any]]:
    """Return a set of options for every way to route, by name."""
    return {
        "1 iteration": {"iterations": 1},
        "2 iterations": {"iterations": 2},
        "3 iterations": {"iterations": 3},
        "5 iterations": {"iterations": 5},
        "bias": {"iterations": 2, "bias": True},
        "leaky": {"iterations": 3, "coupling": Leaky()},
        "stopped": {"iterations": 3, "coupling": Stopped(), "bias": True},
        "stopped and leaky": {"iterations": 2, "coupling": Stopped(Leaky())},
        "hard": {"iterations": 3, "coupling": Hard()},
        "hard and leaky": {"iterations": 3, "coupling": Leaky(Hard())},
    }


def with_couplings(routing: Any, u_hat: Array, c: Array) -> tuple[Array, Any]:
    """Return v for given couplings c (B, I, J), which is what stopped couplings differentiate."""
    return routing.squash.forward((c[..., None] * u_hat).sum(axis=1) + routing.params.get("bias", 0))


@examples_of("DynamicRouting")
def dynamic_routing(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    more = {**more_ways_to_route(5, 3, dtype), **with_outputs(dtype)}
    for name, options in {**ways_to_route(), **more}.items():
        u_hat = rng.normal(size=(2, 5, 3, 4)).astype(dtype)  # (B, I, J, E)
        layer = cls(**options_of_routing(options, (3, 4)), dtype=dtype)
        check_forward = None
        if isinstance(layer.coupling, Stopped):
            c = layer.forward(u_hat)[1].c[-1]  # (B, I, J)

            def check_forward(u_hat: Array, layer: Any = layer, c: Array = c) -> Any:
                return with_couplings(layer, u_hat, c)

        yield Example(name, layer, (u_hat,), check_forward)


def options_of_routing(options: dict[str, Any], bias_shape: tuple[int, int]) -> dict[str, Any]:
    """Return the options as DynamicRouting takes them: a shape for the bias."""
    bias = {"bias_shape": bias_shape} if options.get("bias") else {}
    return {**{name: value for name, value in options.items() if name != "bias"}, **bias}


@examples_of("Votes")
def votes(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    u = rng.normal(size=(2, 5, 4)).astype(dtype)  # (B, I, D)
    yield Example("start", cls(5, 4, 3, 6, rng=rng, dtype=dtype), (u,))
    yield Example("large W", cls(5, 4, 3, 6, std=0.5, rng=rng, dtype=dtype), (u,))


@examples_of("PrimaryCaps")
def primary_caps(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    x = rng.normal(size=(2, 6, 5, 3)).astype(dtype)  # (B, H, W, C)
    for name, options in {"plain": {}, "stride and padding": {"stride": 2, "padding": 1}}.items():
        yield Example(name, cls(3, 2, 4, (3, 2), rng=rng, dtype=dtype, **options), (x,))


# The fast CapsuleLayer builds the votes of a few samples; these ask for all that is asked of votes.
BY_BUILT_VOTES = (
    "bias",
    "prior",
    "stopped",
    "self-attention",
    "inverted attention",
    "dynamic, other outputs",
)


def ways_of_capsule_layers(I: int, J: int, E: int, dtype: Any) -> dict[str, dict[str, Any]]:
    """Return a set of options for every way in which a CapsuleLayer of these sizes can route, by name."""
    more = {name: o for name, o in more_ways_to_route(I, J, dtype).items() if "squash" not in o}
    others = {name: {"routing": routing} for name, routing in routings(I, J, E, dtype).items()}
    return {**ways_to_route(), "small W": {"std": 0.1}, **more, **others}


@examples_of("CapsuleLayer")
def capsule_layer(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    B, (I, D, J, E) = 5, (7, 2, 3, 4)
    for name, options in ways_of_capsule_layers(I, J, E, dtype).items():
        u = rng.normal(size=(B, I, D)).astype(dtype)  # (B, I, D)
        yield capsule_example(name, cls(I, D, J, E, **{"std": 0.6, **options}, rng=rng, dtype=dtype), u)
    B, (I, D, J, E) = 2, (5, 3, 4, 6)
    ways = ways_of_capsule_layers(I, J, E, dtype)
    for name in BY_BUILT_VOTES:
        u = rng.normal(size=(B, I, D)).astype(dtype)  # (B, I, D)
        layer = cls(I, D, J, E, **{"std": 0.7, **ways[name]}, rng=rng, dtype=dtype)
        yield capsule_example(f"{name}, few samples", layer, u)


def capsule_example(name: str, layer: Any, u: Array) -> Example:
    """Return a CapsuleLayer as an example; its couplings are held fixed where the gradient stops at them."""
    if not isinstance(getattr(layer.routing, "coupling", None), Stopped):
        return Example(name, layer, (u,))
    c = layer.forward(u)[1].c[-1]  # (B, I, J)
    return Example(name, layer, (u,), lambda u: with_couplings(layer.routing, layer.votes(u), c))


@examples_of("Mask")
def mask(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    v = rng.normal(size=(3, 4, 5)).astype(dtype)  # (B, J, E)
    yield Example("by label", cls(), (v, np.array([1, 3, 0])))
    yield Example("longest", cls(), (v,))


@examples_of("Decoder")
def decoder(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    masked = rng.normal(size=(2, 6)).astype(dtype)  # (B, J·E)
    yield Example("paper's widths", cls(6, (4, 5, 3), rng=rng, dtype=dtype), (masked,))
    yield Example("narrow", cls(6, (4, 5, 3), hidden=(7, 8), rng=rng, dtype=dtype), (masked,))


# -- networks ---------------------------------------------------------------------------------


@examples_of("MLP")
def mlp(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    images = rng.uniform(size=(2, 5, 4, 3)).astype(dtype)
    for name, options in {"walk-through": {}, "narrow": {"hidden": 7}}.items():
        yield Example(name, cls(cls.Config((5, 4, 3), 6, **options), rng=rng, dtype=dtype), (images,))


@examples_of("CNN", "OverlapCNN")
def cnn(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    images = rng.uniform(size=(2, 29, 28, 3)).astype(dtype)
    for name, options in {"walk-through": {}, "narrow": {"filters": 4, "hidden": 7}}.items():
        yield Example(name, cls(cls.Config((29, 28, 3), 6, **options), rng=rng, dtype=dtype), (images,))


@examples_of("CapsNet")
def capsnet(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    images = rng.uniform(size=(2, 9, 8, 3)).astype(dtype)
    yield from capsnets(cls, images, np.array([3, 1]), rng, dtype)


@examples_of("DepthwisePrimaryCaps")
def depthwise_primary_caps(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    x = rng.normal(size=(2, 4, 3, 10)).astype(dtype)  # (B, P, Q, C)
    yield Example("5 of 2", cls((4, 3), 5, 2, rng=rng, dtype=dtype), (x,))
    yield Example("2 of 5", cls((4, 3), 2, 5, rng=rng, dtype=dtype), (x,))


@examples_of("EfficientCapsNet")
def efficient_capsnet(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    images, labels = rng.uniform(size=(4, 9, 8, 3)).astype(dtype), np.array([3, 1, 4, 0])
    small: dict[str, Any] = {
        "image_shape": (9, 8, 3), "classes": 5, "conv_channels": (3, 4, 2, 6), "conv_kernels": (3, 2, 2, 2),
        "conv_strides": (1, 1, 1, 2), "primary_dimension": 3, "class_dimension": 6, "decoder_hidden": (7, 11),
        "std": 1.0,
    }  # fmt: skip
    cases: dict[str, tuple[dict[str, Any], tuple[Array, ...]]] = {
        "by label": ({}, (images, labels)),
        "longest": ({"reconstruction_scale": 0.01}, (images,)),
        "no decoder": (
            {"decoder": False, "conv_strides": (2, 1, 1, 1), "conv_kernels": (2, 2, 2, 1), "std": 0.7},
            (images,),
        ),
        "other sizes": (
            {
                "conv_channels": (2, 3, 5, 4), "conv_kernels": (2, 3, 1, 2), "primary_dimension": 2,
                "class_dimension": 4, "decoder_hidden": (6, 5),
            },
            (images, labels),
        ),
    }  # fmt: skip
    for name, (options, inputs) in cases.items():
        yield Example(
            name, trained(cls(cls.Config(**{**small, **options}), rng=rng, dtype=dtype), rng), inputs
        )


@examples_of("OverlapCapsNet")
def overlap_capsnet(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    images = rng.uniform(size=(4, 9, 8, 3)).astype(dtype)
    yield from capsnets(cls, images, np.array([[3, 1], [0, 2], [4, 3], [1, 0]]), rng, dtype)


OF_EM = {"iterations": 2, "inverse_temperature": 0.5}  # activations that are not all near 1/2


def capsnets(cls: Any, images: Array, labels: Array, rng: Any, dtype: Any) -> Iterator[Example]:
    """Yield small networks for images (B, 9, 8, 3) of 5 classes, one at least for every option."""
    small = {
        "image_shape": (9, 8, 3), "classes": 5, "conv_channels": 4, "conv_kernel": 3, "primary_types": 2,
        "primary_dimension": 3, "primary_kernel": (3, 2), "class_dimension": 6, "decoder_hidden": (7, 11),
        "std": 1.0,  # couplings that are not near uniform
    }  # fmt: skip
    cases: dict[str, tuple[dict[str, Any], tuple[Array, ...]]] = {
        "by label": ({}, (images, labels)),
        "longest": ({}, (images,)),
        "no decoder": ({"decoder": False, "conv_stride": 2, "primary_stride": 1}, (images,)),
        "routing options": (
            {"iterations": 2, "bias": True, "coupling": "leaky", "reconstruction_scale": 0.01},
            (images, labels),
        ),
        "hard": ({"coupling": "hard", "decoder": False}, (images,)),
        "stopped": ({"stopped_gradient": True, "std": 0.9}, (images, labels)),
        "self-attention": ({"routing": "self-attention"}, (images, labels)),
        "inverted attention": ({"routing": "inverted-attention", "iterations": 2}, (images, labels)),
        "inverted attention, highest": ({"routing": "inverted-attention"}, (images,)),
        "inverted attention, no decoder": ({"routing": "inverted-attention", "decoder": False}, (images,)),
        "line": ({"presence": "line"}, (images, labels)),
        "EM": ({"routing": "em", **OF_EM}, (images, labels)),
        "EM, highest": ({"routing": "em", **OF_EM, "iterations": 1}, (images,)),
        "EM, line, no decoder": ({"routing": "em", "presence": "line", "decoder": False, **OF_EM}, (images,)),
        "prior": ({"prior": True, "coupling": "entmax", "decoder": False}, (images,)),
        "other sizes": (
            {
                "conv_channels": 3, "conv_kernel": (2, 3), "primary_types": 3, "primary_dimension": 2,
                "primary_kernel": 4, "class_dimension": 4, "decoder_hidden": (6, 5),
            },
            (images, labels),
        ),
        "hidden layers": ({"layers": ((4, 3), (3, 2)), "std": 1.5, "decoder": False}, (images,)),
        "hidden layer, bias": ({"layers": ((4, 3),), "bias": True, "iterations": 2}, (images, labels)),
        "hidden layer, self-attention": (
            {"layers": ((4, 3),), "routing": "self-attention", "coupling": "entmax"}, (images, labels),
        ),
        "hidden layer, inverted attention": (
            {"layers": ((4, 3),), "routing": "inverted-attention", "prior": True, "iterations": 2},
            (images, labels),
        ),
        "hidden layers, EM": ({"layers": ((4, 3), (3, 2)), "routing": "em", **OF_EM}, (images, labels)),
    }  # fmt: skip
    for name, (options, inputs) in cases.items():
        network = cls(cls.Config(**{**small, **options}), rng=rng, dtype=dtype)
        for param in network.params.values():
            if not param.any():  # prior logits and biases of a start at 0
                param[...] = 0.3 * rng.normal(size=param.shape)
        stopped = network.config.stopped_gradient
        yield Example(name, network, inputs, frozen_network(network, *inputs) if stopped else None)


def frozen_network(network: Any, *inputs: Array) -> Callable[..., Any]:
    """Return a forward whose couplings stay those of `inputs`: what stopped couplings differentiate."""
    c = network.forward(*inputs)[1].capsules.c[-1]  # (B, I, J)

    def forward(images: Array, labels: Array) -> tuple[Any, Any]:
        x, relu = network.relu.forward(network.conv(images))
        v, _ = with_couplings(network.capsules.routing, network.capsules.votes(network.primary(x)), c)
        image, mask, decoder = network.decode(v, labels)
        return (v, image), (relu, mask, decoder)

    return forward
