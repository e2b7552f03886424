"""A CNN with the trunk of a CapsNet, for the experiment ``routing``: only the capsules are missing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.checks import check_positive
from minicaps.fast import Conv2d, Dense, ReLU
from minicaps.layers import Example, Pair, Reshape, Seed, Sequential, as_pair, generator
from minicaps.networks import CapsNetConfig, Chain, NetworkConfig, window_grid


@dataclass(frozen=True)
class TrunkCNNConfig(NetworkConfig):
    """The options of a TrunkCNN.

    Attributes
    ----------
    channels, kernels, strides : two of each
        Of the convolutions.
    hidden : int
        Width of the dense hidden layer.
    """

    channels: Pair = (256, 256)
    kernels: tuple[int | Pair, int | Pair] = (9, 9)
    strides: tuple[int | Pair, int | Pair] = (1, 2)
    hidden: int = 160

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("TrunkCNNConfig", channels=min(self.channels), hidden=self.hidden)

    @classmethod
    def of(cls, config: CapsNetConfig) -> TrunkCNNConfig:
        """Return that with the trunk of a CapsNet, and as many hidden units as its class capsules numbers."""
        return cls(
            config.image_shape,
            config.classes,
            channels=(config.conv_channels, config.primary_types * config.primary_dimension),
            kernels=(config.conv_kernel, config.primary_kernel),
            strides=(config.conv_stride, config.primary_stride),
            hidden=config.classes * config.class_dimension,
        )

    @property
    def features(self) -> int:
        """How many numbers the second convolution gives."""
        grid = self.image_shape[:2]
        for name, kernel, stride in zip(("first", "second"), self.kernels, self.strides, strict=True):
            grid = window_grid(f"TrunkCNN: the {name} convolution", grid, kernel, stride)
        return math.prod(grid) * self.channels[1]

    def count_params(self) -> int:
        below, count = self.image_shape[2], 0
        for channels, kernel in zip(self.channels, self.kernels, strict=True):
            count += (math.prod(as_pair("TrunkCNN", "kernel", kernel)) * below + 1) * channels
            below = channels
        return count + (self.features + 1) * self.hidden + (self.hidden + 1) * self.classes


class TrunkCNN(Chain):
    r"""Two convolutions and two dense layers -> logits, with a ReLU behind all but the last.

    Gradient: dlogits through the chain in reverse.

    Parameters
    ----------
    config : TrunkCNNConfig
    rng : numpy.random.Generator or int, optional
        The convolutions draw from it first, as in a CapsNet, so that one seed gives both one trunk.
    dtype : float32 or float64
    """

    Config = TrunkCNNConfig
    config: TrunkCNNConfig

    def __init__(self, config: TrunkCNNConfig, *, rng: Seed = None, dtype: Any = np.float32) -> None:
        super().__init__(config)
        (first, second), start = config.channels, {"rng": generator(rng), "dtype": dtype}
        kernels, strides = config.kernels, config.strides
        self.chain = Sequential(
            conv1=Conv2d(config.image_shape[2], first, kernels[0], stride=strides[0], **start),
            relu1=ReLU(),
            conv2=Conv2d(first, second, kernels[1], stride=strides[1], **start),
            relu2=ReLU(),
            flatten=Reshape(config.features),
            fc1=Dense(config.features, config.hidden, **start),
            relu3=ReLU(),
            fc2=Dense(config.hidden, config.classes, **start),
        )

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        images = rng.uniform(size=(2, 9, 8, 3)).astype(dtype)  # (B, H, W, C)
        sizes: dict[str, dict[str, Any]] = {
            "small": {"channels": (4, 6), "kernels": (3, (3, 2)), "hidden": 7},
            "strides": {"channels": (3, 5), "kernels": ((2, 3), 2), "strides": (2, 1), "hidden": 6},
        }
        for name, options in sizes.items():
            yield Example(name, cls(cls.Config((9, 8, 3), 5, **options), rng=rng, dtype=dtype), (images,))
