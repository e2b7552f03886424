"""CapsNet, and every network by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, generator, get_xp
from minicaps.capsules.capsule_layer import CapsuleLayer, PrimaryCaps
from minicaps.capsules.decoder import Decoder, Mask
from minicaps.capsules.squash import length_and_direction
from minicaps.checks import check_flag, check_number
from minicaps.layers.contract import Example, Loss
from minicaps.layers.convolution import Conv2d, Pair
from minicaps.layers.dense import ReLU
from minicaps.layers.losses import MarginLoss, ReconstructionLoss, WeightedSum
from minicaps.networks.baselines import CNN, MLP
from minicaps.networks.network import ImageShape, Network, check_image_shape, check_images, window_grid

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"conv_channels": 8, "conv_kernel": 5, "conv_stride": 2, "primary_types": 4,
             "primary_dimension": 4, "primary_kernel": 5, "class_dimension": 8,
             "decoder_hidden": (32, 64)},
    "small": {"conv_channels": 64, "conv_kernel": 7, "conv_stride": 2, "primary_types": 8,
              "primary_kernel": 5, "decoder_hidden": (128, 256)},
    "paper": {},
}  # fmt: skip


class CapsNetCache(NamedTuple):
    """The caches of the network's parts, and the class capsules v (B, J, E)."""

    conv: Any
    relu: Any
    primary: Any
    capsules: Any
    mask: Any
    decoder: Any
    v: Array
    by_label: bool


class CapsNet(Network):
    r"""The capsule network (Sabour et al. 2017, §4 and figure 1).

    images -> Conv2d, ReLU -> PrimaryCaps -> CapsuleLayer -> v, one capsule for every class; its
    length is the class's probability. Beside it v -> Mask -> Decoder -> the image again.

    Gradient: that of its parts, in reverse; v receives the sum of both its uses.

    Parameters
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
    iterations, bias, leaky, gradient, coupling
        As for CapsuleLayer.
    decoder : bool
        Whether there is one.
    decoder_hidden : (int, int)
        Widths of its hidden layers.
    reconstruction_scale : float
        Weight of a squared pixel error in the loss.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    Raises
    ------
    ValueError
        If the kernels do not fit the image.
    """

    def __init__(
        self,
        image_shape: ImageShape = (28, 28, 1),
        classes: int = 10,
        *,
        conv_channels: int = 256,
        conv_kernel: int | Pair = 9,
        conv_stride: int | Pair = 1,
        primary_types: int = 32,
        primary_dimension: int = 8,
        primary_kernel: int | Pair = 9,
        primary_stride: int | Pair = 2,
        class_dimension: int = 16,
        iterations: int = 3,
        bias: bool = False,
        leaky: bool = False,
        gradient: str = "full",
        coupling: str = "softmax",
        decoder: bool = True,
        decoder_hidden: Pair = (512, 1024),
        reconstruction_scale: float = 0.0005,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        self.image_shape = check_image_shape("CapsNet", image_shape)
        check_flag("CapsNet", decoder=decoder)
        check_number("CapsNet", reconstruction_scale=reconstruction_scale)
        self.classes, self.conv_channels = classes, conv_channels
        self.conv_kernel, self.conv_stride = conv_kernel, conv_stride
        self.primary_types, self.primary_dimension = primary_types, primary_dimension
        self.primary_kernel, self.primary_stride = primary_kernel, primary_stride
        self.class_dimension, self.iterations, self.bias = class_dimension, iterations, bias
        self.leaky, self.gradient, self.coupling = leaky, gradient, coupling
        self.decoder, self.decoder_hidden = decoder, decoder_hidden
        self.reconstruction_scale = reconstruction_scale
        rng = generator(rng)
        options = {"rng": rng, "dtype": dtype}

        conv = Conv2d(image_shape[2], conv_channels, conv_kernel, stride=conv_stride, **options)
        grid = window_grid("CapsNet: the first convolution", image_shape[:2], conv_kernel, conv_stride)
        primary = PrimaryCaps(conv_channels, primary_types, primary_dimension, primary_kernel,
                              stride=primary_stride, **options)  # fmt: skip
        grid = window_grid("CapsNet: the primary capsules", grid, primary_kernel, primary_stride)
        capsules = CapsuleLayer(
            math.prod(grid) * primary_types, primary_dimension, classes, class_dimension,
            iterations=iterations, bias=bias, leaky=leaky, gradient=gradient, coupling=coupling,
            **options,
        )  # fmt: skip
        self.grid = grid  # (P, Q), where the primary capsules stand
        self.add_sublayers(conv=conv, relu=ReLU(), primary=primary, capsules=capsules)
        self.mask = Mask()
        if decoder:
            self.add_sublayers(
                reconstruct=Decoder(classes * class_dimension, self.image_shape,
                                    hidden=decoder_hidden, **options)
            )  # fmt: skip

    def forward(self, images: Array, labels: Array | None = None) -> tuple[Any, CapsNetCache]:
        """images (B, H, W, C), pixels 0 to 1 -> v (B, J, E), or with a decoder (v, reconstruction).

        The decoder sees the capsule of the label (B,), or of the longest capsule without labels.
        """
        check_images("CapsNet.forward", images, self)
        x, conv = self.conv.forward(images)  # (B, H', W', conv_channels)
        x, relu = self.relu.forward(x)
        u, primary = self.primary.forward(x)  # (B, I, D)
        v, capsules = self.capsules.forward(u)  # (B, J, E)
        by_label = labels is not None
        if not self.decoder:
            return v, CapsNetCache(conv, relu, primary, capsules, None, None, v, by_label)
        image, mask, decoder = self.decode(v, labels)  # (B, H, W, C)
        return (v, image), CapsNetCache(conv, relu, primary, capsules, mask, decoder, v, by_label)

    def decode(self, v: Array, labels: Array | None = None) -> tuple[Array, Any, Any]:
        """v (B, J, E), labels (B,) -> image (B, H, W, C), and the caches of mask and decoder."""
        masked, mask = self.mask.forward(v, *([] if labels is None else [labels]))  # (B, J·E)
        image, decoder = self.reconstruct.forward(masked)  # (B, H, W, C)
        return image, mask, decoder

    def decode_backward(self, dimage: Array, cache: CapsNetCache) -> Array:
        """dimage (B, H, W, C) -> dv (B, J, E)."""
        dmasked = self.reconstruct.backward(dimage, cache.decoder)  # (B, J·E)
        dv = self.mask.backward(dmasked, cache.mask)  # (B, J, E)
        return dv[0] if cache.by_label else dv

    def backward(self, dy: Any, cache: CapsNetCache) -> Any:
        """dv, or with a decoder (dv, dreconstruction) -> dimages, or (dimages, None) with labels."""
        dimages = self.conv.backward(self._backward_to_conv(dy, cache), cache.conv)  # (B, H, W, C)
        return (dimages, None) if cache.by_label else dimages

    def backward_params(self, dy: Any, cache: CapsNetCache) -> None:
        self.conv.backward_params(self._backward_to_conv(dy, cache), cache.conv)

    def _backward_to_conv(self, dy: Any, cache: CapsNetCache) -> Array:
        if self.decoder:
            dv, dimage = dy
            dv = dv + self.decode_backward(dimage, cache)  # (B, J, E)
        else:
            dv = dy
        du = self.capsules.backward(dv, cache.capsules)  # (B, I, D)
        dx = self.primary.backward(du, cache.primary)
        return self.relu.backward(dx, cache.relu)

    def __call__(self, images: Array, labels: Array | None = None) -> Any:
        """Return the outputs alone, without keeping the caches of the parts."""
        check_images("CapsNet", images, self)
        v = self.capsules(self.primary(self.relu(self.conv(images))))  # (B, J, E)
        if not self.decoder:
            return v
        return v, self.decode(v, labels)[0]

    def for_inference(self) -> CapsNet:
        """Return a snapshot that brings the weights of both capsule layers into the form that they
        are used in once, not for every batch."""
        snapshot = copy.deepcopy(self)
        grid = self.conv.output_size(self.image_shape[:2])  # what the primary capsules see
        snapshot.primary.add_sublayers(conv=self.primary.conv.for_inference(grid))
        snapshot.add_sublayers(capsules=self.capsules.for_inference())
        return snapshot.freeze()

    def objective(self) -> Loss:
        """Return the margin loss, plus the reconstruction loss where there is a decoder."""
        if not self.decoder:
            return MarginLoss()
        return WeightedSum([MarginLoss(), ReconstructionLoss(scale=self.reconstruction_scale)])

    def training_inputs(self, images: Array, labels: Array) -> tuple[Array, ...]:
        return (images, labels) if self.decoder else (images,)

    def targets(self, images: Array, labels: Array) -> Any:
        return (labels, images) if self.decoder else labels

    def scores(self, outputs: Any) -> Array:
        """Return the lengths of the class capsules (B, J), 0 to 1."""
        v = outputs[0] if self.decoder else outputs
        return length_and_direction(v, get_xp(v))[0][..., 0]

    def trace(self, image: Array, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, layer in self.stages():
            image = layer(self.mask(image) if name == "reconstruct" else image)
            shapes[name] = image.shape[1:]

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        images = rng.uniform(size=(2, 9, 8, 3)).astype(dtype)
        yield from cls.examples_with(images, np.array([3, 1]), rng, dtype)

    @classmethod
    def examples_with(
        cls, images: Array, labels: Array, rng: np.random.Generator, dtype: Any
    ) -> Iterator[Example]:
        """Yield small networks for images (B, 9, 8, 3) of 5 classes."""
        small = {
            "image_shape": (9, 8, 3), "classes": 5, "conv_channels": 4, "conv_kernel": 3,
            "primary_types": 2, "primary_dimension": 3, "primary_kernel": (3, 2),
            "class_dimension": 6, "decoder_hidden": (7, 11), "rng": rng, "dtype": dtype,
        }  # fmt: skip
        cases = {
            "by label": ({}, (images, labels)),
            "longest": ({}, (images,)),
            "no decoder": ({"decoder": False, "conv_stride": 2, "primary_stride": 1}, (images,)),
            "routing options": ({"iterations": 2, "bias": True, "leaky": True,
                                 "reconstruction_scale": 0.01}, (images, labels)),
            "hard": ({"coupling": "hard", "decoder": False}, (images,)),
            "stopped": ({"gradient": "stopped"}, (images, labels)),
            "other sizes": ({"conv_channels": 3, "conv_kernel": (2, 3), "primary_types": 3,
                             "primary_dimension": 2, "primary_kernel": 4, "class_dimension": 4,
                             "decoder_hidden": (6, 5)}, (images, labels)),
        }  # fmt: skip
        for name, (options, inputs) in cases.items():
            network = cls(**{**small, **options})
            network.params["capsules.prediction.W"][...] *= 20  # couplings that are not near uniform
            frozen = network.frozen(*inputs) if network.gradient == "stopped" else None
            yield Example(name, network, inputs, frozen)

    def frozen(self, *inputs: Array) -> Any:
        """Return a forward whose couplings stay those of `inputs`: what "stopped" differentiates."""
        c = self.forward(*inputs)[1].capsules.c[-1]  # (B, I, J)

        def forward(images: Array, labels: Array | None = None) -> tuple[Any, Any]:
            x, _ = self.conv.forward(images)
            x, relu = self.relu.forward(x)
            u, _ = self.primary.forward(x)  # (B, I, D)
            v, _ = self.capsules.with_couplings(u, c)  # (B, J, E)
            if not self.decoder:
                return v, relu
            image, mask, decoder = self.decode(v, labels)
            return (v, image), (relu, mask, decoder)

        return forward


NETWORKS: dict[str, type[Network]] = {"capsnet": CapsNet, "cnn": CNN, "mlp": MLP}


def build(name: str, preset: str = "small", **options: Any) -> Network:
    """Build a network by name.

    Parameters
    ----------
    name : {"capsnet", "cnn", "mlp"}
    preset : {"tiny", "small", "paper"}
        Sizes of the CapsNet; the others have one size.
    **options
        Arguments of the class, which win over the preset.
    """
    if name not in NETWORKS:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(NETWORKS)}")
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
    return NETWORKS[name](**{**(PRESETS[preset] if name == "capsnet" else {}), **options})
