"""The MLP and the CNN that CapsNet is compared with (Shaikh 2018)."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_positive
from minicaps.fast import Conv2d, Dense, ReLU
from minicaps.layers import Layer, MaxPool2d, Pair, Reshape, Seed, Sequential, generator
from minicaps.networks.network import Network, NetworkConfig, check_images, window_grid


class Chain(Network):
    """A network of layers one after another that ends in logits."""

    chain: Sequential

    @abstractmethod
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)

    def forward(self, images: Array) -> tuple[Array, list[Any]]:
        """images (B, H, W, C), pixels 0 to 1 -> logits (B, J)."""
        check_images(f"{type(self).__name__}.forward", images, self)
        return self.chain.forward(images)

    def backward(self, dy: Array, cache: list[Any]) -> Array:
        """dy (B, J) -> dimages (B, H, W, C)."""
        return self.chain.backward(dy, cache)

    def backward_params(self, dy: Array, cache: list[Any]) -> None:
        self.chain.backward_params(dy, cache)

    def __call__(self, images: Array) -> Array:
        check_images(type(self).__name__, images, self)
        return self.chain(images)

    def stages(self) -> list[tuple[str, Layer]]:
        return self.chain.items()


@dataclass(frozen=True)
class MLPConfig(NetworkConfig):
    """The options of an MLP: those of every network, and the width of the hidden layer."""

    hidden: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("MLPConfig", hidden=self.hidden)

    def count_params(self) -> int:
        return (math.prod(self.image_shape) + 1) * self.hidden + (self.hidden + 1) * self.classes


class MLP(Chain):
    r"""A multilayer perceptron: pixels -> Dense, ReLU -> Dense -> logits.

    Gradient: dlogits through Dense, ReLU, Dense in reverse, then in the shape of the images.

    Parameters
    ----------
    config : MLPConfig, optional
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    Shaikh, *Essentials of Deep Learning: Getting to know CapsuleNets*, 2018: its MLP.
    """

    Config = MLPConfig
    config: MLPConfig

    def __init__(
        self,
        config: MLPConfig = MLPConfig(),
        *,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(config)
        pixels, options = math.prod(config.image_shape), {"rng": generator(rng), "dtype": dtype}
        self.chain = Sequential(
            flatten=Reshape(pixels),
            fc1=Dense(pixels, config.hidden, **options),
            relu1=ReLU(),
            fc2=Dense(config.hidden, config.classes, **options),
        )


@dataclass(frozen=True)
class CNNConfig(NetworkConfig):
    """The options of a CNN: those of every network, the channels of every convolution (`filters`), and
    the width of the dense hidden layer."""

    filters: int = 25
    hidden: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("CNNConfig", filters=self.filters, hidden=self.hidden)

    @property
    def grid(self) -> Pair:
        """(rows, columns) of the last convolution's output."""
        grid = self.image_shape[:2]
        windows = {"conv1": (5, 1), "pool1": (2, 2), "conv2": (5, 1), "pool2": (2, 2), "conv3": (4, 1)}
        for name, (kernel, stride) in windows.items():
            grid = window_grid(f"CNN: {name}", grid, kernel, stride)
        return grid

    def count_params(self) -> int:
        filters = self.filters
        count = (25 * self.image_shape[2] + 1) * filters + (25 * filters + 1) * filters
        count += (16 * filters + 1) * filters + (math.prod(self.grid) * filters + 1) * self.hidden
        return count + (self.hidden + 1) * self.classes


class CNN(Chain):
    r"""A convolutional network: three convolutions, two max pools, two dense layers -> logits.

    At 28×28: Conv 5×5 -> 24×24, pool -> 12×12, Conv 5×5 -> 8×8, pool -> 4×4, Conv 4×4 -> 1×1,
    each convolution with 25 filters and a ReLU; Dense 50, ReLU, Dense 10.

    Gradient: dlogits through the chain in reverse: dense layers, ReLUs, convolutions, and each pool
    hands its gradient to the pixel that won.

    Parameters
    ----------
    config : CNNConfig, optional
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    Raises
    ------
    ValueError
        If the image is smaller than 28×28.

    References
    ----------
    Shaikh, *Essentials of Deep Learning: Getting to know CapsuleNets*, 2018: its CNN.
    """

    Config = CNNConfig
    config: CNNConfig

    def __init__(
        self,
        config: CNNConfig = CNNConfig(),
        *,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(config)
        filters, hidden = config.filters, config.hidden
        features, options = math.prod(config.grid) * filters, {"rng": generator(rng), "dtype": dtype}
        self.chain = Sequential(
            conv1=Conv2d(config.image_shape[2], filters, 5, **options),
            relu1=ReLU(),
            pool1=MaxPool2d(2),
            conv2=Conv2d(filters, filters, 5, **options),
            relu2=ReLU(),
            pool2=MaxPool2d(2),
            conv3=Conv2d(filters, filters, 4, **options),
            relu3=ReLU(),
            flatten=Reshape(features),
            fc1=Dense(features, hidden, **options),
            relu4=ReLU(),
            fc2=Dense(hidden, config.classes, **options),
        )
