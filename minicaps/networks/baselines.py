"""The MLP and the CNN that CapsNet is compared with."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaps.arrays import Array, generator
from minicaps.checks import check_positive
from minicaps.layers.contract import Example, Layer, Sequential
from minicaps.layers.convolution import Conv2d, MaxPool2d
from minicaps.layers.dense import Dense, Flatten, ReLU
from minicaps.networks.network import ImageShape, Network, check_image_shape, check_images, window_grid


class _Chain(Network):
    """A network of layers one after another that ends in logits."""

    def __init__(self, image_shape: ImageShape, classes: int) -> None:
        super().__init__()
        self.image_shape = check_image_shape(type(self).__name__, image_shape)
        check_positive(type(self).__name__, classes=classes)
        self.classes = classes

    def forward(self, images: Array) -> tuple[Array, list]:
        """images (B, H, W, C), pixels 0 to 1 -> logits (B, J)."""
        check_images(f"{type(self).__name__}.forward", images, self)
        return self.chain.forward(images)

    def backward(self, dy: Array, cache: list) -> Array:
        """dy (B, J) -> dimages (B, H, W, C)."""
        return self.chain.backward(dy, cache)

    def backward_params(self, dy: Array, cache: list) -> None:
        self.chain.backward_params(dy, cache)

    def __call__(self, images: Array) -> Array:
        check_images(type(self).__name__, images, self)
        return self.chain(images)

    def stages(self) -> list[tuple[str, Layer]]:
        return self.chain.stages()

    @classmethod
    @abstractmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        """Abstract here, since this class builds no chain."""


class MLP(_Chain):
    r"""A multilayer perceptron: pixels -> Dense, ReLU -> Dense -> logits.

    Gradient: that of its parts, in reverse.

    Parameters
    ----------
    image_shape, classes, rng, dtype
        As for CapsNet.
    hidden : int
        Width of the hidden layer.
    """

    def __init__(
        self,
        image_shape: ImageShape = (28, 28, 1),
        classes: int = 10,
        *,
        hidden: int = 50,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(image_shape, classes)
        self.hidden = hidden
        options = {"rng": generator(rng), "dtype": dtype}
        self.add_sublayers(chain=Sequential(
            flatten=Flatten(),
            fc1=Dense(math.prod(self.image_shape), hidden, **options),
            relu1=ReLU(),
            fc2=Dense(hidden, classes, **options),
        ))  # fmt: skip

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        images = rng.uniform(size=(2, 5, 4, 3)).astype(dtype)
        yield Example("walk-through", cls((5, 4, 3), 6, rng=rng, dtype=dtype), (images,))
        yield Example("narrow", cls((5, 4, 3), 6, hidden=7, rng=rng, dtype=dtype), (images,))


class CNN(_Chain):
    r"""A convolutional network: three convolutions, two max pools, two dense layers -> logits.

    At 28×28: Conv 5×5 -> 24×24, pool -> 12×12, Conv 5×5 -> 8×8, pool -> 4×4, Conv 4×4 -> 1×1,
    each convolution with 25 filters and a ReLU; Dense 50, ReLU, Dense 10. This is the CNN of a
    published Keras walk-through.

    Gradient: that of its parts, in reverse.

    Parameters
    ----------
    image_shape, classes, rng, dtype
        As for CapsNet.
    filters : int
        Channels of every convolution.
    hidden : int
        Width of the dense hidden layer.

    Raises
    ------
    ValueError
        If the image is smaller than 28×28.
    """

    def __init__(
        self,
        image_shape: ImageShape = (28, 28, 1),
        classes: int = 10,
        *,
        filters: int = 25,
        hidden: int = 50,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(image_shape, classes)
        self.filters, self.hidden = filters, hidden
        grid = self.image_shape[:2]
        windows = {"conv1": (5, 1), "pool1": (2, 2), "conv2": (5, 1), "pool2": (2, 2), "conv3": (4, 1)}
        for name, (kernel, stride) in windows.items():
            grid = window_grid(f"CNN: {name}", grid, kernel, stride)
        options = {"rng": generator(rng), "dtype": dtype}
        self.add_sublayers(chain=Sequential(
            conv1=Conv2d(self.image_shape[2], filters, 5, **options),
            relu1=ReLU(),
            pool1=MaxPool2d(2),
            conv2=Conv2d(filters, filters, 5, **options),
            relu2=ReLU(),
            pool2=MaxPool2d(2),
            conv3=Conv2d(filters, filters, 4, **options),
            relu3=ReLU(),
            flatten=Flatten(),
            fc1=Dense(math.prod(grid) * filters, hidden, **options),
            relu4=ReLU(),
            fc2=Dense(hidden, classes, **options),
        ))  # fmt: skip

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        images = rng.uniform(size=(2, 29, 28, 3)).astype(dtype)
        options = {"rng": rng, "dtype": dtype}
        yield Example("walk-through", cls((29, 28, 3), 6, **options), (images,))
        yield Example("narrow", cls((29, 28, 3), 6, filters=4, hidden=7, **options), (images,))
