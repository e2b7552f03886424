"""What the networks have in common that end in one vector for every class, and may draw the image from it."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from minicaps.arrays import Array
from minicaps.capsules import Given, Line, Mask
from minicaps.checks import check_flag, check_number, check_positive
from minicaps.fast import CapsuleLayer, Decoder, length_and_direction
from minicaps.layers import CrossEntropyLoss, Loss, MarginLoss, Pair, ReconstructionLoss, WeightedSum, softmax
from minicaps.networks.network import Network, NetworkConfig


@dataclass(frozen=True)
class VectorCapsNetConfig(NetworkConfig):
    """The options that these networks have in common.

    Attributes
    ----------
    image_shape : (int, int, int)
        Height, width and channels.
    classes : int
        J.
    class_dimension : int
        E.
    decoder : bool
        Whether there is one.
    decoder_hidden : (int, int)
        Widths of its hidden layers.
    reconstruction_scale : float
        Weight of a squared pixel error in the loss.
    """

    class_dimension: int = 16
    decoder: bool = True
    decoder_hidden: Pair = (512, 1024)
    reconstruction_scale: float = 0.0005

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        check_positive(where, class_dimension=self.class_dimension)
        check_flag(where, decoder=self.decoder)
        check_number(where, reconstruction_scale=self.reconstruction_scale)
        if not isinstance(self.decoder_hidden, tuple) or len(self.decoder_hidden) != 2:
            raise ValueError(
                f"{where}: decoder_hidden is {self.decoder_hidden!r}, expected the widths of two layers"
            )
        check_positive(where, **{f"decoder_hidden {k}": n for k, n in enumerate(self.decoder_hidden)})

    @property
    @abstractmethod
    def grid(self) -> Pair:
        """(P, Q), where the primary capsules stand."""

    def count_decoder_params(self) -> int:
        """Return how many weights the decoder has."""
        if not self.decoder:
            return 0
        widths = (self.classes * self.class_dimension, *self.decoder_hidden, math.prod(self.image_shape))
        return sum((n + 1) * m for n, m in pairwise(widths))


class VectorCapsNet(Network):
    """Base of the networks whose outputs are v (B, J, E), or with a decoder (v, reconstruction).

    Where a network has a `presence`, logits z (B, J) that a line reads off v stand in the place of v, or
    activations a (B, J) that are given beside v.
    """

    config: VectorCapsNetConfig
    capsules: CapsuleLayer
    mask: Mask
    decoder: Decoder | None
    presence: Line | Given | None

    @property
    def grid(self) -> Pair:
        """(P, Q), where the primary capsules stand."""
        return self.config.grid

    @property
    def has_line(self) -> bool:
        """Whether a learned line reads the classes off the poses."""
        return isinstance(self.presence, Line)

    @property
    def score_name(self) -> str:
        return "probability" if self.has_line else "length" if self.presence is None else "activation"

    # -- the decoder ---------------------------------------------------------------------------

    def highest(self, z: Array) -> Array:
        """Return the classes that the decoder shows of logits or activations (B, J), without labels: (B,)."""
        return z.argmax(axis=1)

    def decode(self, v: Array, labels: Array | None = None) -> tuple[Array, Any, Any]:
        """v (B, J, E), labels (B,) -> reconstruction (B, H, W, C), and the caches of mask and decoder."""
        if self.decoder is None:
            where = type(self).__name__
            raise ValueError(f"{where}.decode: this network has no decoder; build it with decoder=True")
        masked, mask = self.mask.forward(v, *([] if labels is None else [labels]))  # (B, J·E)
        reconstruction, decoder = self.decoder.forward(masked)  # (B, H, W, C)
        return reconstruction, mask, decoder

    def decode_backward(self, dreconstruction: Array, cache: Any) -> Array:
        """dreconstruction (B, H, W, C) -> dv (B, J, E)."""
        assert self.decoder is not None  # or there would be no such gradient
        dmasked = self.decoder.backward(dreconstruction, cache.decoder)  # (B, J·E)
        dv = self.mask.backward(dmasked, cache.mask)  # (B, J, E)
        return dv[0] if cache.mask.by_label else dv  # the labels have no gradient

    # -- what training asks --------------------------------------------------------------------

    def objective(self) -> Loss:
        """Return the margin loss, or cross-entropy of logits, plus the reconstruction loss of a decoder."""
        loss = CrossEntropyLoss() if self.has_line else MarginLoss()
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
            If the network gives logits or activations in its place.
        """
        if self.presence is not None:
            kind = "logits" if self.has_line else "activations"
            raise ValueError(
                f"{type(self).__name__}.class_capsules: the outputs are {kind}; take v of the cache, "
                "network.forward(images)[1].v"
            )
        return self._first(outputs)

    def _first(self, outputs: Any) -> Array:
        return outputs if self.decoder is None else outputs[0]

    def scores(self, outputs: Any) -> Array:
        """Return lengths or activations of the class capsules (B, J), 0 to 1, or the softmax of logits."""
        if self.has_line:
            return softmax(self._first(outputs))  # (B, J)
        if self.presence is not None:
            return self._first(outputs)  # (B, J), as given
        return length_and_direction(self._first(outputs))[0][..., 0]  # (B, J)
