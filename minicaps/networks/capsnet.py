"""CapsNet, the capsule network of 2017."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules import COUPLINGS, Coupling, Mask, Stopped
from minicaps.checks import check_choice, check_flag, check_number, check_positive
from minicaps.fast import CapsuleLayer, Conv2d, Decoder, PrimaryCaps, ReLU
from minicaps.layers import (
    Layer,
    Loss,
    MarginLoss,
    Pair,
    ReconstructionLoss,
    Seed,
    WeightedSum,
    as_pair,
    generator,
    length_and_direction,
)
from minicaps.networks.network import Network, NetworkConfig, check_images, window_grid


@dataclass(frozen=True)
class CapsNetConfig(NetworkConfig):
    """The options of a CapsNet; the defaults are the network of the paper (Sabour et al. 2017, §4).

    Attributes
    ----------
    image_shape : (int, int, int)
        Height, width and channels.
    classes : int
        J.
    conv_channels, conv_kernel, conv_stride
        The first convolution.
    primary_types, primary_dimension, primary_kernel, primary_stride
        The primary capsules; their dimension is D.
    class_dimension : int
        E.
    iterations : int
        R, of the routing.
    coupling : {"softmax", "leaky", "hard", "leaky hard"}
        How a capsule shares itself out among the classes.
    stopped_gradient : bool
        Whether the last couplings count as constants in backward.
    bias : bool
        Whether the class capsules have a learned bias.
    std : float
        Standard deviation of the votes' first weights.
    decoder : bool
        Whether there is one.
    decoder_hidden : (int, int)
        Widths of its hidden layers.
    reconstruction_scale : float
        Weight of a squared pixel error in the loss.
    """

    conv_channels: int = 256
    conv_kernel: int | Pair = 9
    conv_stride: int | Pair = 1
    primary_types: int = 32
    primary_dimension: int = 8
    primary_kernel: int | Pair = 9
    primary_stride: int | Pair = 2
    class_dimension: int = 16
    iterations: int = 3
    coupling: str = "softmax"
    stopped_gradient: bool = False
    bias: bool = False
    std: float = 0.05
    decoder: bool = True
    decoder_hidden: Pair = (512, 1024)
    reconstruction_scale: float = 0.0005

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("CapsNetConfig", conv_channels=self.conv_channels, primary_types=self.primary_types)
        check_positive("CapsNetConfig", primary_dimension=self.primary_dimension)
        check_positive("CapsNetConfig", class_dimension=self.class_dimension, iterations=self.iterations)
        check_flag("CapsNetConfig", stopped_gradient=self.stopped_gradient, bias=self.bias)
        check_flag("CapsNetConfig", decoder=self.decoder)
        check_number("CapsNetConfig", std=self.std, reconstruction_scale=self.reconstruction_scale)
        check_choice("CapsNetConfig", "coupling", self.coupling, tuple(COUPLINGS))

    @property
    def conv_grid(self) -> Pair:
        """(rows, columns) of the first convolution's output."""
        height, width, _ = self.image_shape
        where = "CapsNet: the first convolution"
        return window_grid(where, (height, width), self.conv_kernel, self.conv_stride)

    @property
    def grid(self) -> Pair:
        """(P, Q), where the primary capsules stand."""
        where = "CapsNet: the primary capsules"
        return window_grid(where, self.conv_grid, self.primary_kernel, self.primary_stride)

    @property
    def primary_capsules(self) -> int:
        """I."""
        return math.prod(self.grid) * self.primary_types

    def build_coupling(self) -> Coupling:
        coupling = COUPLINGS[self.coupling]()
        return Stopped(coupling) if self.stopped_gradient else coupling

    def count_params(self) -> int:
        channels, outputs = self.conv_channels, self.primary_types * self.primary_dimension
        conv_window = math.prod(as_pair("CapsNet", "conv_kernel", self.conv_kernel)) * self.image_shape[2]
        primary_window = math.prod(as_pair("CapsNet", "primary_kernel", self.primary_kernel)) * channels
        upper = self.classes * self.class_dimension
        count = (conv_window + 1) * channels + (primary_window + 1) * outputs
        count += self.primary_capsules * self.primary_dimension * upper + upper * self.bias
        if self.decoder:
            widths = (upper, *self.decoder_hidden, math.prod(self.image_shape))
            count += sum((n + 1) * m for n, m in pairwise(widths))
        return count


class CapsNetCache(NamedTuple):
    """The caches of the network's parts, and the class capsules."""

    conv: Any
    relu: Any
    primary: Any
    capsules: Any
    mask: Any
    decoder: Any
    v: Array  # (B, J, E)
    by_label: bool


class CapsNet(Network):
    r"""The capsule network (Sabour et al. 2017, §4 and figure 1).

    images -> Conv2d, ReLU -> PrimaryCaps -> CapsuleLayer -> v, one capsule for every class; its
    length is the class's probability. Beside it v -> Mask -> Decoder -> the image again.

    Gradient: v receives the sum of both its uses, dv + mask'ᵀ decoder'ᵀ dreconstruction; then that of
    the capsule layer, of the primary capsules, of ReLU and of the convolution.

    Parameters
    ----------
    config : CapsNetConfig, optional
        By default the network of the paper.
    coupling : Coupling, optional
        One of your own, in place of the one that the configuration names.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    Raises
    ------
    ValueError
        If the kernels do not fit the image.
    """

    Config = CapsNetConfig
    config: CapsNetConfig
    decoder: Decoder | None

    def __init__(
        self,
        config: CapsNetConfig = CapsNetConfig(),
        *,
        coupling: Coupling | None = None,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(config)
        self.grid, self.own_coupling = config.grid, coupling is not None
        options: dict[str, Any] = {"rng": generator(rng), "dtype": dtype}
        self.conv = Conv2d(
            config.image_shape[2],
            config.conv_channels,
            config.conv_kernel,
            stride=config.conv_stride,
            **options,
        )
        self.relu = ReLU()
        self.primary = PrimaryCaps(
            config.conv_channels, config.primary_types, config.primary_dimension, config.primary_kernel,
            stride=config.primary_stride, **options,
        )  # fmt: skip
        self.capsules = CapsuleLayer(
            config.primary_capsules, config.primary_dimension, config.classes, config.class_dimension,
            iterations=config.iterations, coupling=coupling or config.build_coupling(), bias=config.bias,
            std=config.std, **options,
        )  # fmt: skip
        self.mask = Mask()
        self.decoder = None
        if config.decoder:
            features = config.classes * config.class_dimension
            self.decoder = Decoder(features, config.image_shape, hidden=config.decoder_hidden, **options)

    def forward(self, images: Array, labels: Array | None = None) -> tuple[Any, CapsNetCache]:
        """images (B, H, W, C), pixels 0 to 1 -> v (B, J, E), or with a decoder (v, reconstruction).

        The decoder sees the capsule of the label (B,), or of the longest capsule without labels.
        """
        check_images("CapsNet.forward", images, self)
        x, conv = self.conv.forward(images)  # (B, H', W', conv_channels)
        x, relu = self.relu.forward(x)  # (B, H', W', conv_channels)
        u, primary = self.primary.forward(x)  # (B, I, D)
        v, capsules = self.capsules.forward(u)  # (B, J, E)
        by_label = labels is not None
        if self.decoder is None:
            return v, CapsNetCache(conv, relu, primary, capsules, None, None, v, by_label)
        image, mask, decoder = self.decode(v, labels)  # (B, H, W, C)
        return (v, image), CapsNetCache(conv, relu, primary, capsules, mask, decoder, v, by_label)

    def decode(self, v: Array, labels: Array | None = None) -> tuple[Array, Any, Any]:
        """v (B, J, E), labels (B,) -> reconstruction (B, H, W, C), and the caches of mask and decoder."""
        assert self.decoder is not None, "this network has no decoder"
        masked, mask = self.mask.forward(v, *([] if labels is None else [labels]))  # (B, J·E)
        image, decoder = self.decoder.forward(masked)  # (B, H, W, C)
        return image, mask, decoder

    def decode_backward(self, dimage: Array, cache: CapsNetCache) -> Array:
        """dimage (B, H, W, C) -> dv (B, J, E)."""
        assert self.decoder is not None, "this network has no decoder"
        dmasked = self.decoder.backward(dimage, cache.decoder)  # (B, J·E)
        dv = self.mask.backward(dmasked, cache.mask)  # (B, J, E)
        return dv[0] if cache.by_label else dv

    def backward(self, dy: Any, cache: CapsNetCache) -> Any:
        """dv, or with a decoder (dv, dreconstruction) -> dimages, or (dimages, None) with labels."""
        dimages = self.conv.backward(self._backward_to_conv(dy, cache), cache.conv)  # (B, H, W, C)
        return (dimages, None) if cache.by_label else dimages

    def backward_params(self, dy: Any, cache: CapsNetCache) -> None:
        self.conv.backward_params(self._backward_to_conv(dy, cache), cache.conv)

    def _backward_to_conv(self, dy: Any, cache: CapsNetCache) -> Array:
        if self.decoder is None:
            dv = dy  # (B, J, E)
        else:
            dv, dimage = dy
            dv = dv + self.decode_backward(dimage, cache)  # (B, J, E)
        du = self.capsules.backward(dv, cache.capsules)  # (B, I, D)
        dx = self.primary.backward(du, cache.primary)  # (B, H', W', conv_channels)
        return self.relu.backward(dx, cache.relu)  # (B, H', W', conv_channels)

    def __call__(self, images: Array, labels: Array | None = None) -> Any:
        """Return the outputs alone, without keeping the caches of the parts."""
        check_images("CapsNet", images, self)
        v = self.capsules(self.primary(self.relu(self.conv(images))))  # (B, J, E)
        if self.decoder is None:
            return v
        return v, self.decode(v, labels)[0]

    # -- what training asks --------------------------------------------------------------------

    def objective(self) -> Loss:
        """Return the margin loss, plus the reconstruction loss where there is a decoder."""
        if self.decoder is None:
            return MarginLoss()
        return WeightedSum([MarginLoss(), ReconstructionLoss(scale=self.config.reconstruction_scale)])

    def training_inputs(self, images: Array, labels: Array) -> tuple[Array, ...]:
        return (images,) if self.decoder is None else (images, labels)

    def targets(self, images: Array, labels: Array) -> Any:
        return labels if self.decoder is None else (labels, images)

    def class_capsules(self, outputs: Any) -> Array:
        """Return v (B, J, E) of the outputs."""
        return outputs if self.decoder is None else outputs[0]

    def scores(self, outputs: Any) -> Array:
        """Return the lengths of the class capsules (B, J), 0 to 1."""
        return length_and_direction(self.class_capsules(outputs))[0][..., 0]

    def stages(self) -> list[tuple[str, Layer]]:
        parts = {"conv": self.conv, "relu": self.relu, "primary": self.primary, "capsules": self.capsules}
        return [*parts.items(), *([] if self.decoder is None else [("decoder", self.decoder)])]

    def stage_input(self, name: str, x: Array) -> Array:
        return self.mask(x) if name == "decoder" else x
