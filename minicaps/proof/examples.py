"""Small examples of every class, for the proof: at least one for every option that a class has.

They are found by the name of the class, so a plain layer and its fast twin are proven on the same ones.
Every axis has another size, above 1, and no parameter is 0. A class of your own may bring its
``examples(cls, rng, dtype)``, a class method that yields (name, layer, inputs), and then needs none here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minicaps.layers import Dense, Example, MarginLoss, ReconstructionLoss, Sigmoid, WeightedSum

Maker = Callable[[Any, np.random.Generator, Any], Iterator[Example]]
EXAMPLES: dict[str, Maker] = {}  # name of the class -> what yields its examples


def examples_of(*names: str) -> Callable[[Maker], Maker]:
    """Register a function that yields the examples of the classes of these names."""

    def register(make: Maker) -> Maker:
        EXAMPLES.update(dict.fromkeys(names, make))
        return make

    return register


# -- layers -----------------------------------------------------------------------------------


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers with 0.1 < |x| < 2, for layers with a kink at 0."""
    return rng.uniform(0.1, 2.0, size=shape) * rng.choice([-1.0, 1.0], size=shape)


@examples_of("Dense")
def dense(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    layer = cls(5, 4, rng=rng, dtype=dtype)
    yield Example("5 to 4", layer, (rng.normal(size=(3, 5)).astype(dtype),))


@examples_of("ReLU")
def relu(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    yield Example("away from 0", cls(), (away_from_zero(rng, (3, 4, 2)).astype(dtype),))


@examples_of("Sigmoid")
def sigmoid(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    yield Example("normal", cls(), (rng.normal(size=(3, 4, 2)).astype(dtype),))


@examples_of("Reshape")
def reshape(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    x = rng.normal(size=(2, 3, 4)).astype(dtype)
    yield Example("split", cls(2, 6), (x,))
    yield Example("to a row", cls(60), (rng.normal(size=(2, 3, 4, 5)).astype(dtype),))


@examples_of("Sequential")
def sequential(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    x, options = rng.normal(size=(3, 5)).astype(dtype), {"rng": rng, "dtype": dtype}
    chain = cls(fc1=Dense(5, 4, **options), sigmoid=Sigmoid(), fc2=Dense(4, 2, **options))
    yield Example("chain", chain, (x,))
    shared = Dense(5, 5, **options)
    yield Example("shared weights", cls(a=shared, sigmoid=Sigmoid(), b=shared), (x,))


@examples_of("Conv2d")
def conv2d(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    x = rng.normal(size=(2, 7, 6, 3)).astype(dtype)
    few: dict[str, dict[str, Any]] = {
        "plain": {"kernel_size": (3, 2)},
        "stride": {"kernel_size": (2, 3), "stride": (3, 2)},
        "padding": {"kernel_size": (3, 4), "padding": (2, 1)},
        "all": {"kernel_size": (4, 3), "stride": (2, 3), "padding": (1, 2)},
    }
    for name, options in few.items():
        yield Example(name, cls(3, 4, rng=rng, dtype=dtype, **options), (x,))
    # With more channels and images the fast twin takes points (up to 6×6 pixels) or frequencies.
    many: dict[str, tuple[tuple[int, int, int], int, int, dict[str, Any]]] = {
        "many channels": ((10, 6, 5), 29, 31, {"kernel_size": (4, 3)}),
        "many channels, padding": ((8, 4, 3), 37, 41, {"kernel_size": (4, 3), "padding": (1, 1)}),
        "many channels, stride": ((15, 11, 10), 37, 41, {"kernel_size": (5, 4), "stride": 2}),
        "many channels, large": ((13, 8, 7), 37, 41, {"kernel_size": 4}),
    }
    for name, (size, channels, filters, options) in many.items():
        x = rng.normal(size=(*size, channels)).astype(dtype)  # (B, H, W, C)
        yield Example(name, cls(channels, filters, rng=rng, dtype=dtype, **options), (x,))


@examples_of("BatchNorm")
def batch_norm(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    shapes: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "features": ((5, 3), {}),
        "images": ((2, 4, 5, 3), {}),
        "large ε": ((4, 5, 3), {"epsilon": 0.5}),
        "short memory": ((5, 4, 3), {"momentum": 0.5}),
    }
    for name, (shape, options) in shapes.items():
        layer, x = cls(3, **options, dtype=dtype), rng.normal(0.3, 2, size=shape).astype(dtype)
        yield Example(name, trained(layer, rng), (x,))


def trained(layer: Any, rng: np.random.Generator) -> Any:
    """Return the layer with gains, biases and running sums as of a training: they begin at 0 and 1."""
    for name, array in {**layer.params, **layer.running}.items():
        if name.endswith(("gain", "count", "squares")):
            array[...] = rng.uniform(1, 3, size=array.shape)
        elif not array.any():
            array[...] = 0.3 * rng.normal(size=array.shape)
    return layer


@examples_of("MaxPool2d")
def max_pool2d(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    numbers = rng.permutation(2 * 7 * 6 * 3)  # all different, so no window is near a tie
    x = (numbers.reshape(2, 7, 6, 3) / len(numbers)).astype(dtype)
    yield Example("plain", cls((3, 2)), (x,))
    yield Example("overlapping", cls((2, 3), stride=(1, 2)), (x,))


# -- losses -----------------------------------------------------------------------------------

SEVERAL = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]])  # (B, J), several classes present


@examples_of("MarginLoss")
def margin_loss(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    v = rng.normal(size=(3, 4, 5))
    lengths = rng.permutation(np.linspace(0.03, 0.97, 12)).reshape(3, 4, 1)  # off the kinks
    v = (v / np.linalg.norm(v, axis=-1, keepdims=True) * lengths).astype(dtype)
    yield Example("one class", cls(), (v, np.array([2, 0, 3])))
    yield Example("several classes", cls(), (v, SEVERAL))
    yield Example("of lengths", cls(), (np.linalg.norm(v, axis=-1).astype(dtype), np.array([3, 1, 0])))
    other = cls(present=0.8, absent=0.25, down_weight=0.7)
    yield Example("other margins", other, (v, np.array([1, 0, 3])))


@examples_of("ReconstructionLoss")
def reconstruction_loss(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    images = [rng.uniform(size=(2, 4, 3, 5)).astype(dtype) for _ in range(2)]
    yield Example("paper", cls(), tuple(images))
    yield Example("strong", cls(scale=0.3), tuple(images))


@examples_of("CrossEntropyLoss")
def cross_entropy_loss(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    logits = rng.normal(size=(3, 4)).astype(dtype)
    yield Example("one class", cls(), (logits, np.array([1, 3, 0])))
    yield Example("several classes", cls(), (logits, SEVERAL))


@examples_of("WeightedSum")
def weighted_sum(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    v, labels = next(margin_loss(MarginLoss, rng, dtype)).inputs
    images = [rng.uniform(size=(3, 4, 5, 2)).astype(dtype) for _ in range(2)]
    losses = [MarginLoss(), ReconstructionLoss(scale=0.01)]
    inputs = ((v, images[0]), (labels, images[1]))
    yield Example("plain", cls(losses), inputs)
    yield Example("weighted", cls(losses, [0.3, 20.0]), inputs)


@examples_of("ScaledLoss")
def scaled_loss(cls: Any, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
    v, labels = next(margin_loss(MarginLoss, rng, dtype)).inputs
    yield Example("of one prediction", cls(MarginLoss(), 8), (v, labels))
    _, losses, inputs, *_ = next(weighted_sum(WeightedSum, rng, dtype))
    yield Example("of several", cls(losses, 2), inputs)
