"""CapsNet, the capsule network of 2017."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules import Coupling, Given, Mask
from minicaps.fast import CapsuleLayer, Conv2d, Decoder, PrimaryCaps, ReLU
from minicaps.layers import Layer, Seed, generator
from minicaps.networks.capsnet_config import CapsNetConfig, LayerSizes
from minicaps.networks.network import check_images
from minicaps.networks.vector_capsnet import VectorCapsNet


class CapsNetCache(NamedTuple):
    """The caches of the network's parts, and the class capsules."""

    conv: Any
    relu: Any
    primary: Any
    hidden: list[Any]  # of every hidden capsule layer
    capsules: Any
    presence: Any
    mask: Any
    decoder: Any
    v: Array  # (B, J, E)
    by_label: bool

    def capsule_layers(self) -> dict[str, Any]:
        """Return the caches of the capsule layers by name, in order."""
        return {**{f"hidden.{k}": cache for k, cache in enumerate(self.hidden)}, "capsules": self.capsules}


class CapsNet(VectorCapsNet):
    r"""The capsule network (Sabour et al. 2017, §4 and figure 1).

    images -> Conv2d, ReLU -> PrimaryCaps -> CapsuleLayer -> v, one capsule for every class; its
    length is the class's probability. Beside it v -> Mask -> Decoder -> the image again. Between the primary
    and the class capsules there may be hidden capsule layers, each one's v the u of the next.

    Where the routing is inverted attention, lengths say nothing: a ``Line`` reads logits z off v, and the
    network gives z in the place of v; with presence="line" it does so whatever the routing. EM routing takes
    the lengths of the primary capsules for their activations, and the network gives those of the class
    capsules, a (B, J), in the place of v.

    Gradient: v receives the sum of both its uses, dv (or line'ᵀ dz) + mask'ᵀ decoder'ᵀ dreconstruction;
    then that of the capsule layers, of the primary capsules, of ReLU and of the convolution.

    Parameters
    ----------
    config : CapsNetConfig, optional
        By default the network of the paper.
    coupling : Coupling, optional
        One of your own, in place of the one that the configuration names; hidden layers get copies of it.
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

    def __init__(
        self,
        config: CapsNetConfig = CapsNetConfig(),  # noqa: B008, it is frozen
        *,
        coupling: Coupling | None = None,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(config)
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
        *hidden, last = config.capsule_layers
        self.hidden = [capsule_layer(config, sizes, copy.deepcopy(coupling), options) for sizes in hidden]
        self.capsules = capsule_layer(config, last, coupling, options)
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

        Logits z (B, J), or of EM activations a (B, J), may stand in the place of v. The decoder sees the
        capsule of the label (B,), or without labels the longest one, or that of the largest z or a.
        """
        check_images("CapsNet.forward", images, self)
        x, conv = self.conv.forward(images)  # (B, H', W', conv_channels)
        x, relu = self.relu.forward(x)  # (B, H', W', conv_channels)
        u, primary = self.primary.forward(x)  # (B, I, D)
        above, hidden, capsules = self._route(u)  # v (B, J, E), with EM (v, a)
        v = above[0] if isinstance(above, tuple) else above  # (B, J, E)
        y: Array = v  # (B, J, E)
        presence: Any = None
        if self.presence is not None:
            y, presence = self.presence.forward(*self._to_presence(above))  # z or a (B, J)
        caches, by_label = (conv, relu, primary, hidden, capsules, presence), labels is not None
        if self.decoder is None:
            return y, CapsNetCache(*caches, None, None, v, by_label)
        shown = self.highest(y) if labels is None and self.presence is not None else labels  # (B,)
        reconstruction, mask, decoder = self.decode(v, shown)  # (B, H, W, C)
        return (y, reconstruction), CapsNetCache(*caches, mask, decoder, v, by_label)

    def _route(self, u: Array) -> tuple[Any, list[Any], Any]:
        """u (B, I, D) -> what the class capsules give, and the caches of the hidden layers and theirs.

        With EM a layer gives activations beside its poses, and the next one takes both.
        """
        caches, above = [], u
        for layer in (*self.hidden, self.capsules):
            above, cache = layer.forward(*(above if isinstance(above, tuple) else (above,)))  # (B, J, E)
            caches.append(cache)
        return above, caches[:-1], caches[-1]

    def _to_presence(self, above: Any) -> tuple[Array, ...]:
        """Return what the presence looks at: v (B, J, E), and a (B, J) where it is given."""
        if not isinstance(above, tuple):
            return (above,)
        return above if isinstance(self.presence, Given) else above[:1]

    def backward(self, dy: Any, cache: CapsNetCache) -> Any:
        """dv (dz, da), or with a decoder (dv, dreconstruction) -> dimages, or (dimages, None) with labels."""
        dimages = self.conv.backward(self._backward_to_conv(dy, cache), cache.conv)  # (B, H, W, C)
        return (dimages, None) if cache.by_label else dimages

    def backward_params(self, dy: Any, cache: CapsNetCache) -> None:
        self.conv.backward_params(self._backward_to_conv(dy, cache), cache.conv)

    def _backward_to_conv(self, dy: Any, cache: CapsNetCache) -> Array:
        dv, dreconstruction = (dy, None) if self.decoder is None else dy
        da: Any = None
        if self.presence is not None:
            dv = self.presence.backward(dv, cache.presence)  # of z = line(v): (B, J, E); given: (dv, da)
            dv, da = dv if isinstance(dv, tuple) else (dv, get_xp(dv).zeros(dv.shape[:2], dtype=dv.dtype))
        if dreconstruction is not None:
            dv = dv + self.decode_backward(dreconstruction, cache)  # (B, J, E)
        of_above = (dv, da) if self.capsules.routing.reads_activations else dv
        du = self.capsules.backward(of_above, cache.capsules)  # (B, I, D), or with activations (du, da)
        for layer, kept in zip(reversed(self.hidden), reversed(cache.hidden), strict=True):
            du = layer.backward(du, kept)  # the same of the layer below
        dx = self.primary.backward(du, cache.primary)  # (B, H', W', conv_channels)
        return self.relu.backward(dx, cache.relu)  # (B, H', W', conv_channels)

    def __call__(self, images: Array, labels: Array | None = None) -> Any:
        """Return the outputs alone, without keeping the caches of the parts."""
        check_images("CapsNet", images, self)
        above = self.primary(self.relu(self.conv(images)))  # (B, I, D)
        for layer in (*self.hidden, self.capsules):
            above = layer(*(above if isinstance(above, tuple) else (above,)))  # v (B, J, E), with EM (v, a)
        v = above[0] if isinstance(above, tuple) else above  # (B, J, E)
        y = v if self.presence is None else self.presence(*self._to_presence(above))  # v, or z or a (B, J)
        if self.decoder is None:
            return y
        shown = self.highest(y) if labels is None and self.presence is not None else labels  # (B,)
        return y, self.decode(v, shown)[0]

    def capsule_layers(self) -> dict[str, CapsuleLayer]:
        """Return the capsule layers by name, in order; the last is that of the class capsules."""
        return {**{f"hidden.{k}": layer for k, layer in enumerate(self.hidden)}, "capsules": self.capsules}

    def stages(self) -> list[tuple[str, Layer]]:
        parts = {"conv": self.conv, "relu": self.relu, "primary": self.primary, **self.capsule_layers()}
        branches = {"decoder": self.decoder, "presence": self.presence if self.has_line else None}
        return [*parts.items(), *((name, layer) for name, layer in branches.items() if layer is not None)]

    def stage_input(self, name: str, x: Array) -> Array:
        if name == "presence":  # it looks at v as the decoder does, and this is about shapes
            return get_xp(x).zeros((len(x), self.classes, self.config.class_dimension), dtype=x.dtype)
        return self.mask(x) if name == "decoder" else x


def capsule_layer(
    config: CapsNetConfig, sizes: LayerSizes, coupling: Coupling | None, options: dict[str, Any]
) -> CapsuleLayer:
    """Return a capsule layer of these sizes; options are rng and dtype."""
    routing = config.build_routing(sizes, coupling, options["dtype"])
    return CapsuleLayer(*sizes, routing=routing, std=config.std_of(sizes), **options)
