"""MatrixCapsNet, the network of matrix capsules of 2018."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules import check_min_variance
from minicaps.checks import check_flag, check_number, check_positive
from minicaps.fast import ClassMatrixCaps, Conv2d, ConvMatrixCaps, PrimaryMatrixCaps, ReLU
from minicaps.layers import Loss, Pair, Seed, SpreadLoss, as_pair, generator
from minicaps.networks.network import Network, NetworkConfig, check_images, window_grid


@dataclass(frozen=True)
class MatrixCapsNetConfig(NetworkConfig):
    """The options of a MatrixCapsNet; the sizes are by default those of the paper (Hinton et al. 2018, §4).

    Attributes
    ----------
    image_shape : (int, int, int)
        Height, width and channels.
    classes : int
        J.
    conv_channels, conv_kernel, conv_stride
        The first convolution; the paper's A.
    primary_types : int
        Types of primary capsules; the paper's B.
    types : (int, int)
        Of both layers of convolutional capsules; the paper's C and D.
    kernels, strides : (int, int)
        Of both layers.
    iterations : int
        R, of every routing.
    inverse_temperature, min_variance
        Of every routing, as for EMRouting.
    beta_u_start : float
        First cost of a child, as for EMRouting.
    coordinates : bool
        Whether the class capsules' votes know where they come from.
    std : float
        Standard deviation of the noise in the first matrices of the votes.
    """

    conv_channels: int = 32
    conv_kernel: int | Pair = 5
    conv_stride: int | Pair = 2
    primary_types: int = 32
    types: Pair = (32, 32)
    kernels: Pair = (3, 3)
    strides: Pair = (2, 1)
    iterations: int = 3
    inverse_temperature: float = 0.001
    min_variance: float = 5e-4
    beta_u_start: float = 2.5
    coordinates: bool = True
    std: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        where = "MatrixCapsNetConfig"
        check_positive(where, conv_channels=self.conv_channels, primary_types=self.primary_types)
        check_positive(where, iterations=self.iterations)
        for name in ("types", "kernels", "strides"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != 2:
                raise ValueError(f"{where}: {name} is {value!r}, expected one number for each of two layers")
            check_positive(where, **{f"{name} {k}": n for k, n in enumerate(value)})
        check_number(where, inverse_temperature=self.inverse_temperature)
        check_number(where, beta_u_start=self.beta_u_start, std=self.std)
        check_min_variance(where, self.min_variance)
        check_flag(where, coordinates=self.coordinates)
        _ = self.grid  # says why, where a kernel does not fit the image

    @property
    def grid(self) -> Pair:
        """(P, Q), where the last convolutional capsules stand."""
        grid = self.image_shape[:2]
        windows = {
            "the first convolution": (self.conv_kernel, self.conv_stride),
            "the first convolutional capsules": (self.kernels[0], self.strides[0]),
            "the second convolutional capsules": (self.kernels[1], self.strides[1]),
        }
        for name, (kernel, stride) in windows.items():
            grid = window_grid(f"MatrixCapsNet: {name}", grid, kernel, stride)
        return grid

    def count_params(self) -> int:
        window = math.prod(as_pair("MatrixCapsNet", "conv_kernel", self.conv_kernel)) * self.image_shape[2]
        count = (window + 1) * self.conv_channels + (self.conv_channels + 1) * 17 * self.primary_types
        below = self.primary_types
        for types, children in zip(
            (*self.types, self.classes), (*(k * k for k in self.kernels), 1), strict=True
        ):
            count += 16 * children * below * types + 2 * types
            below = types
        return count


class MatrixCapsNetCache(NamedTuple):
    """The caches of the network's parts, and the poses of the class capsules."""

    conv: Any
    relu: Any
    primary: Any
    first: Any
    second: Any
    capsules: Any
    mu: Array  # (B, J, 16)


class MatrixCapsNet(Network):
    r"""The network of matrix capsules (Hinton et al. 2018, §4 and figure 1).

    images -> Conv2d, ReLU -> PrimaryMatrixCaps -> ConvMatrixCaps, twice -> ClassMatrixCaps -> a, the
    activation of one capsule for every class. It is trained with the spread loss.

    Gradient: da through the parts in reverse. The poses of the class capsules, which nobody reads, have none.

    Parameters
    ----------
    config : MatrixCapsNetConfig, optional
        By default the large network of the paper.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    Raises
    ------
    ValueError
        If the kernels do not fit the image.

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: section 4 and figure 1.
    """

    Config = MatrixCapsNetConfig
    config: MatrixCapsNetConfig

    def __init__(
        self,
        config: MatrixCapsNetConfig = MatrixCapsNetConfig(),
        *,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(config)
        channels, (first, second) = config.conv_channels, config.types
        start: dict[str, Any] = {"rng": generator(rng), "dtype": dtype}
        options: dict[str, Any] = {
            "iterations": config.iterations,
            "inverse_temperature": config.inverse_temperature,
            "min_variance": config.min_variance,
            "beta_u_start": config.beta_u_start,
            "std": config.std,
            **start,
        }
        kernel, stride = config.conv_kernel, config.conv_stride
        self.conv = Conv2d(config.image_shape[2], channels, kernel, stride=stride, **start)
        self.relu = ReLU()
        self.primary = PrimaryMatrixCaps(channels, config.primary_types, **start)
        kernels, strides = config.kernels, config.strides
        self.first = ConvMatrixCaps(config.primary_types, first, kernels[0], stride=strides[0], **options)
        self.second = ConvMatrixCaps(first, second, kernels[1], stride=strides[1], **options)
        self.capsules = ClassMatrixCaps(second, config.classes, coordinates=config.coordinates, **options)

    def forward(self, images: Array) -> tuple[Array, MatrixCapsNetCache]:
        """images (B, H, W, C), pixels 0 to 1 -> a (B, J), from 0 to 1."""
        check_images("MatrixCapsNet.forward", images, self)
        x, conv = self.conv.forward(images)  # (B, H', W', conv_channels)
        x, relu = self.relu.forward(x)  # (B, H', W', conv_channels)
        y, primary = self.primary.forward(x)  # (B, H', W', types, 16), (B, H', W', types)
        y, first = self.first.forward(*y)  # the same of a smaller grid
        y, second = self.second.forward(*y)  # the same of a smaller grid
        (mu, a), capsules = self.capsules.forward(*y)  # (B, J, 16), (B, J)
        return a, MatrixCapsNetCache(conv, relu, primary, first, second, capsules, mu)

    def backward(self, dy: Array, cache: MatrixCapsNetCache) -> Array:
        """da (B, J) -> dimages (B, H, W, C)."""
        return self.conv.backward(self._backward_to_conv(dy, cache), cache.conv)  # (B, H, W, C)

    def backward_params(self, dy: Array, cache: MatrixCapsNetCache) -> None:
        self.conv.backward_params(self._backward_to_conv(dy, cache), cache.conv)

    def _backward_to_conv(self, dy: Array, cache: MatrixCapsNetCache) -> Array:
        dmu = get_xp(dy).zeros_like(cache.mu)  # (B, J, 16)
        d = self.capsules.backward((dmu, dy), cache.capsules)
        d = self.second.backward(d, cache.second)
        d = self.first.backward(d, cache.first)
        dx = self.primary.backward(d, cache.primary)  # (B, H', W', conv_channels)
        return self.relu.backward(dx, cache.relu)  # (B, H', W', conv_channels)

    def __call__(self, images: Array) -> Array:
        check_images("MatrixCapsNet", images, self)
        y = self.primary(self.relu(self.conv(images)))
        return self.capsules(*self.second(*self.first(*y)))[1]  # (B, J)

    # -- what training asks --------------------------------------------------------------------

    def objective(self) -> Loss:
        """Return the spread loss."""
        return SpreadLoss()

    @property
    def score_name(self) -> str:
        return "activation"

    def scores(self, outputs: Array) -> Array:
        """Return the activations of the class capsules (B, J), 0 to 1."""
        return outputs

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Run an empty image through the stages; return the shape of each output (of its poses)."""
        like = self.first_param
        y: Any = (get_xp(like).zeros((1, *self.image_shape), dtype=like.dtype),)  # (1, H, W, C)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in self.stages():
            y = layer(*y)
            y = y if isinstance(y, tuple) else (y,)
            shapes[name] = y[0].shape[1:]
        return shapes
