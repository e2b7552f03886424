"""EfficientCapsNet, the network with self-attention routing of 2021."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules import DepthwisePrimaryCaps, Mask
from minicaps.checks import check_number, check_positive
from minicaps.fast import CapsuleLayer, Conv2d, Decoder, ExponentialSquash, ReLU, SelfAttentionRouting
from minicaps.layers import BatchNorm, Layer, Pair, Seed, Sequential, generator
from minicaps.networks.network import check_images, window_grid
from minicaps.networks.vector_capsnet import VectorCapsNet, VectorCapsNetConfig

DEPTH = 4  # convolutions
ORDINALS = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class EfficientCapsNetConfig(VectorCapsNetConfig):
    """The options of an EfficientCapsNet; the defaults are the network of the paper (Mazzia et al. 2021).

    Attributes
    ----------
    image_shape : (int, int, int)
        Height, width and channels.
    classes : int
        J.
    conv_channels, conv_kernels, conv_strides : (int, int, int, int)
        Of the four convolutions; kernels are square.
    primary_dimension : int
        D; the last convolution's channels are so many numbers for each of I primary capsules.
    class_dimension : int
        E.
    std : float
        Standard deviation of the votes' first weights.
    decoder, decoder_hidden, reconstruction_scale
        As for CapsNetConfig. The authors' loss has 0.392 times the mean of the squared errors of 784
        pixels; 0.392/784 = 0.0005 times their sum is the same.
    """

    conv_channels: tuple[int, ...] = (32, 64, 64, 128)
    conv_kernels: tuple[int, ...] = (5, 3, 3, 3)
    conv_strides: tuple[int, ...] = (1, 1, 1, 2)
    primary_dimension: int = 8
    std: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        where = "EfficientCapsNetConfig"
        for name in ("conv_channels", "conv_kernels", "conv_strides"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != DEPTH:
                raise ValueError(
                    f"{where}: {name} is {value!r}, expected one number for each of {DEPTH} convolutions"
                )
            check_positive(where, **{f"{name} {k}": n for k, n in enumerate(value)})
        check_positive(where, primary_dimension=self.primary_dimension)
        check_number(where, std=self.std)
        if self.conv_channels[-1] % self.primary_dimension:
            raise ValueError(
                f"{where}: the last convolution has {self.conv_channels[-1]} channels, expected a multiple "
                f"of {self.primary_dimension}, the primary_dimension"
            )
        _ = self.map_size  # says why, where a kernel does not fit the image

    @property
    def map_size(self) -> Pair:
        """(rows, columns) of the last convolution's output, all of which every primary capsule sees."""
        size = self.image_shape[:2]
        for name, kernel, stride in zip(ORDINALS, self.conv_kernels, self.conv_strides, strict=True):
            size = window_grid(f"EfficientCapsNet: the {name} convolution", size, kernel, stride)
        return size

    @property
    def grid(self) -> Pair:
        """(1, 1): the primary capsules all stand at one position."""
        return 1, 1

    @property
    def primary_capsules(self) -> int:
        """I."""
        return self.conv_channels[-1] // self.primary_dimension

    def count_params(self) -> int:
        count, below = 0, self.image_shape[2]
        for channels, kernel in zip(self.conv_channels, self.conv_kernels, strict=True):
            count += (kernel * kernel * below + 1) * channels + 2 * channels  # with BatchNorm's
            below = channels
        count += (math.prod(self.map_size) + 1) * below  # primary capsules
        pairs = self.primary_capsules * self.classes
        count += pairs * self.primary_dimension * self.class_dimension + pairs  # votes, bias of couplings
        return count + self.count_decoder_params()


class EfficientCapsNetCache(NamedTuple):
    """The caches of the network's parts, and the class capsules."""

    trunk: list[Any]  # of convolutions, rectifiers and normalisations, in order
    primary: Any
    capsules: Any
    mask: Any
    decoder: Any
    v: Array  # (B, J, E)
    by_label: bool

    def capsule_layers(self) -> dict[str, Any]:
        """Return the cache of the one capsule layer by its name, as ``CapsNetCache`` does."""
        return {"capsules": self.capsules}


class EfficientCapsNet(VectorCapsNet):
    r"""Efficient-CapsNet (Mazzia, Salvetti and Chiaberge 2021, figure 1).

    images -> (Conv2d, ReLU, BatchNorm) four times -> DepthwisePrimaryCaps -> CapsuleLayer with
    self-attention routing -> v, one capsule for every class, of length 1 - e⁻ⁿ. Beside it
    v -> Mask -> Decoder -> the image again.

    In training the images of a batch are normalised together. The call, ``predict``, ``evaluate`` and
    snapshots for inference take the running averages of ``BatchNorm``.

    Gradient: v receives the sum of both its uses, dv + mask'ᵀ decoder'ᵀ dreconstruction; then that of
    each part, in reverse.

    Parameters
    ----------
    config : EfficientCapsNetConfig, optional
        By default the network of the paper: 161,824 parameters for images of 28×28, without the decoder.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    Raises
    ------
    ValueError
        If the kernels do not fit the image.

    References
    ----------
    Mazzia, Salvetti and Chiaberge, `Efficient-CapsNet: capsule network with self-attention routing
    <https://arxiv.org/abs/2101.12491>`_, 2021. The authors' code:
    `EscVM/Efficient-CapsNet <https://github.com/EscVM/Efficient-CapsNet>`_.
    """

    Config = EfficientCapsNetConfig
    config: EfficientCapsNetConfig
    presence = None

    def __init__(
        self,
        config: EfficientCapsNetConfig = EfficientCapsNetConfig(),
        *,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(config)
        c0, (c1, c2, c3, c4) = config.image_shape[2], config.conv_channels
        (k1, k2, k3, k4), (s1, s2, s3, s4) = config.conv_kernels, config.conv_strides
        lower, dimension = config.primary_capsules, config.primary_dimension
        options: dict[str, Any] = {"rng": generator(rng), "dtype": dtype}
        self.trunk = Sequential(
            conv1=Conv2d(c0, c1, k1, stride=s1, **options),
            relu1=ReLU(),
            norm1=BatchNorm(c1, dtype=dtype),
            conv2=Conv2d(c1, c2, k2, stride=s2, **options),
            relu2=ReLU(),
            norm2=BatchNorm(c2, dtype=dtype),
            conv3=Conv2d(c2, c3, k3, stride=s3, **options),
            relu3=ReLU(),
            norm3=BatchNorm(c3, dtype=dtype),
            conv4=Conv2d(c3, c4, k4, stride=s4, **options),
            relu4=ReLU(),
            norm4=BatchNorm(c4, dtype=dtype),
        )
        self.primary = DepthwisePrimaryCaps(config.map_size, lower, dimension, **options)
        routing = SelfAttentionRouting(
            squash=ExponentialSquash(), bias_shape=(lower, config.classes), dtype=dtype
        )
        self.capsules = CapsuleLayer(
            lower, dimension, config.classes, config.class_dimension,
            routing=routing, std=config.std, **options,
        )  # fmt: skip
        self.mask = Mask()
        self.decoder = None
        if config.decoder:
            features = config.classes * config.class_dimension
            self.decoder = Decoder(features, config.image_shape, hidden=config.decoder_hidden, **options)

    def forward(self, images: Array, labels: Array | None = None) -> tuple[Any, EfficientCapsNetCache]:
        """images (B, H, W, C), pixels 0 to 1 -> v (B, J, E), or with a decoder (v, reconstruction).

        The decoder sees the capsule of the label (B,), or without labels the longest one.
        """
        check_images("EfficientCapsNet.forward", images, self)
        x, trunk = self.trunk.forward(images)  # (B, P, Q, I·D)
        u, primary = self.primary.forward(x)  # (B, I, D)
        v, capsules = self.capsules.forward(u)  # (B, J, E)
        caches, by_label = (trunk, primary, capsules), labels is not None
        if self.decoder is None:
            return v, EfficientCapsNetCache(*caches, None, None, v, by_label)
        reconstruction, mask, decoder = self.decode(v, labels)  # (B, H, W, C)
        return (v, reconstruction), EfficientCapsNetCache(*caches, mask, decoder, v, by_label)

    def backward(self, dy: Any, cache: EfficientCapsNetCache) -> Any:
        """dv, or with a decoder (dv, dreconstruction) -> dimages, or (dimages, None) with labels."""
        dimages = self.trunk.backward(self._backward_to_trunk(dy, cache), cache.trunk)  # (B, H, W, C)
        return (dimages, None) if cache.by_label else dimages

    def backward_params(self, dy: Any, cache: EfficientCapsNetCache) -> None:
        self.trunk.backward_params(self._backward_to_trunk(dy, cache), cache.trunk)

    def _backward_to_trunk(self, dy: Any, cache: EfficientCapsNetCache) -> Array:
        dv, dreconstruction = (dy, None) if self.decoder is None else dy
        if dreconstruction is not None:
            dv = dv + self.decode_backward(dreconstruction, cache)  # (B, J, E)
        du = self.capsules.backward(dv, cache.capsules)  # (B, I, D)
        return self.primary.backward(du, cache.primary)  # (B, P, Q, I·D)

    def __call__(self, images: Array, labels: Array | None = None) -> Any:
        """Return the outputs alone, by the running averages, whatever else is in the batch."""
        check_images("EfficientCapsNet", images, self)
        v = self.capsules(self.primary(self.trunk(images)))  # (B, J, E)
        return v if self.decoder is None else (v, self.decode(v, labels)[0])

    def stages(self) -> list[tuple[str, Layer]]:
        parts = {"primary": self.primary, "capsules": self.capsules}
        decoder = [] if self.decoder is None else [("decoder", self.decoder)]
        return [*self.trunk.items(), *parts.items(), *decoder]

    def stage_input(self, name: str, x: Array) -> Array:
        return self.mask(x) if name == "decoder" else x
