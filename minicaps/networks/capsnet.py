"""CapsNet, the capsule network of 2017."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules import Coupling, Mask
from minicaps.fast import CapsuleLayer, Conv2d, Decoder, PrimaryCaps, ReLU, length_and_direction
from minicaps.layers import (
    CrossEntropyLoss,
    Layer,
    Loss,
    MarginLoss,
    ReconstructionLoss,
    Seed,
    WeightedSum,
    generator,
    softmax,
)
from minicaps.networks.capsnet_config import CapsNetConfig
from minicaps.networks.network import Network, check_images


class CapsNetCache(NamedTuple):
    """The caches of the network's parts, and the class capsules."""

    conv: Any
    relu: Any
    primary: Any
    capsules: Any
    presence: Any
    mask: Any
    decoder: Any
    v: Array  # (B, J, E)
    by_label: bool


class CapsNet(Network):
    r"""The capsule network (Sabour et al. 2017, §4 and figure 1).

    images -> Conv2d, ReLU -> PrimaryCaps -> CapsuleLayer -> v, one capsule for every class; its
    length is the class's probability. Beside it v -> Mask -> Decoder -> the image again.

    Where the routing is inverted attention, lengths say nothing: a ``Line`` reads logits z off v, and the
    network gives z in the place of v.

    Gradient: v receives the sum of both its uses, dv (or line'ᵀ dz) + mask'ᵀ decoder'ᵀ dreconstruction;
    then that of the capsule layer, of the primary capsules, of ReLU and of the convolution.

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

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 4 and figure 1.
    """

    Config = CapsNetConfig
    config: CapsNetConfig
    decoder: Decoder | None

    def __init__(
        self,
        config: CapsNetConfig = CapsNetConfig(),  # noqa: B008, it is frozen
        *,
        coupling: Coupling | None = None,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(config)
        self.grid = config.grid
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
            routing=config.build_routing(coupling, dtype), std=config.std, **options,
        )  # fmt: skip
        self.mask = Mask()
        self.decoder = None
        if config.decoder:
            features = config.classes * config.class_dimension
            self.decoder = Decoder(features, config.image_shape, hidden=config.decoder_hidden, **options)
        self.presence = config.build_presence(
            **options
        )  # last, so that all else starts as with other routings

    def forward(self, images: Array, labels: Array | None = None) -> tuple[Any, CapsNetCache]:
        """images (B, H, W, C), pixels 0 to 1 -> v (B, J, E), or with a decoder (v, reconstruction).

        With inverted attention logits z (B, J) stand in the place of v. The decoder sees the capsule of
        the label (B,), or without labels the longest one, or the one with the largest logit.
        """
        check_images("CapsNet.forward", images, self)
        x, conv = self.conv.forward(images)  # (B, H', W', conv_channels)
        x, relu = self.relu.forward(x)  # (B, H', W', conv_channels)
        u, primary = self.primary.forward(x)  # (B, I, D)
        v, capsules = self.capsules.forward(u)  # (B, J, E)
        y, presence = (v, None) if self.presence is None else self.presence.forward(v)  # v, or z (B, J)
        caches, by_label = (conv, relu, primary, capsules, presence), labels is not None
        if self.decoder is None:
            return y, CapsNetCache(*caches, None, None, v, by_label)
        shown = self.highest(y) if labels is None and self.presence is not None else labels  # (B,)
        reconstruction, mask, decoder = self.decode(v, shown)  # (B, H, W, C)
        return (y, reconstruction), CapsNetCache(*caches, mask, decoder, v, by_label)

    def highest(self, z: Array) -> Array:
        """Return the classes that the decoder shows of logits z (B, J), without labels: (B,)."""
        return z.argmax(axis=1)

    def decode(self, v: Array, labels: Array | None = None) -> tuple[Array, Any, Any]:
        """v (B, J, E), labels (B,) -> reconstruction (B, H, W, C), and the caches of mask and decoder."""
        if self.decoder is None:
            raise ValueError("CapsNet.decode: this network has no decoder; build it with decoder=True")
        masked, mask = self.mask.forward(v, *([] if labels is None else [labels]))  # (B, J·E)
        reconstruction, decoder = self.decoder.forward(masked)  # (B, H, W, C)
        return reconstruction, mask, decoder

    def decode_backward(self, dreconstruction: Array, cache: CapsNetCache) -> Array:
        """dreconstruction (B, H, W, C) -> dv (B, J, E)."""
        assert self.decoder is not None  # or there would be no such gradient
        dmasked = self.decoder.backward(dreconstruction, cache.decoder)  # (B, J·E)
        dv = self.mask.backward(dmasked, cache.mask)  # (B, J, E)
        return dv[0] if cache.mask.by_label else dv  # the labels have no gradient

    def backward(self, dy: Any, cache: CapsNetCache) -> Any:
        """dv (or dz), or with a decoder (dv, dreconstruction) -> dimages, or (dimages, None) with labels."""
        dimages = self.conv.backward(self._backward_to_conv(dy, cache), cache.conv)  # (B, H, W, C)
        return (dimages, None) if cache.by_label else dimages

    def backward_params(self, dy: Any, cache: CapsNetCache) -> None:
        self.conv.backward_params(self._backward_to_conv(dy, cache), cache.conv)

    def _backward_to_conv(self, dy: Any, cache: CapsNetCache) -> Array:
        dv, dreconstruction = (dy, None) if self.decoder is None else dy
        if self.presence is not None:
            dv = self.presence.backward(dv, cache.presence)  # of z = line(v): (B, J, E)
        if dreconstruction is not None:
            dv = dv + self.decode_backward(dreconstruction, cache)  # (B, J, E)
        du = self.capsules.backward(dv, cache.capsules)  # (B, I, D)
        dx = self.primary.backward(du, cache.primary)  # (B, H', W', conv_channels)
        return self.relu.backward(dx, cache.relu)  # (B, H', W', conv_channels)

    def __call__(self, images: Array, labels: Array | None = None) -> Any:
        """Return the outputs alone, without keeping the caches of the parts."""
        check_images("CapsNet", images, self)
        v = self.capsules(self.primary(self.relu(self.conv(images))))  # (B, J, E)
        y = v if self.presence is None else self.presence(v)  # (B, J, E), or z (B, J)
        if self.decoder is None:
            return y
        shown = self.highest(y) if labels is None and self.presence is not None else labels  # (B,)
        return y, self.decode(v, shown)[0]

    # -- what training asks --------------------------------------------------------------------

    def objective(self) -> Loss:
        """Return the margin loss, or cross-entropy of logits, plus the reconstruction loss of a decoder."""
        loss = MarginLoss() if self.presence is None else CrossEntropyLoss()
        if self.decoder is None:
            return loss
        return WeightedSum([loss, ReconstructionLoss(scale=self.config.reconstruction_scale)])

    def training_inputs(self, images: Array, labels: Array) -> tuple[Array, ...]:
        return (images,) if self.decoder is None else (images, labels)

    def targets(self, images: Array, labels: Array) -> Any:
        return labels if self.decoder is None else (labels, images)

    def class_capsules(self, outputs: Any) -> Array:
        """Return v (B, J, E) of the outputs; the cache of ``forward`` has it with every routing.

        Raises
        ------
        ValueError
            If the network gives logits in its place.
        """
        if self.presence is not None:
            raise ValueError(
                f"CapsNet.class_capsules: with {self.config.routing} routing the outputs are logits; take "
                "v of the cache, network.forward(images)[1].v"
            )
        return self._first(outputs)

    def _first(self, outputs: Any) -> Array:
        return outputs if self.decoder is None else outputs[0]

    @property
    def score_name(self) -> str:
        return "length" if self.presence is None else "probability"

    def scores(self, outputs: Any) -> Array:
        """Return the lengths of the class capsules (B, J), 0 to 1, or the softmax of logits."""
        if self.presence is not None:
            return softmax(self._first(outputs))  # (B, J)
        return length_and_direction(self._first(outputs))[0][..., 0]  # (B, J)

    def stages(self) -> list[tuple[str, Layer]]:
        parts = {"conv": self.conv, "relu": self.relu, "primary": self.primary, "capsules": self.capsules}
        branches = {"decoder": self.decoder, "presence": self.presence}
        return [*parts.items(), *((name, layer) for name, layer in branches.items() if layer is not None)]

    def stage_input(self, name: str, x: Array) -> Array:
        if name == "presence":  # it looks at v as the decoder does, and this is about shapes
            return get_xp(x).zeros((len(x), self.classes, self.config.class_dimension), dtype=x.dtype)
        return self.mask(x) if name == "decoder" else x
