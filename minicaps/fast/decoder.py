"""The decoder of fast dense layers."""

from __future__ import annotations

from minicaps import capsules
from minicaps.fast.activations import ReLU
from minicaps.fast.dense import Dense


class Decoder(capsules.Decoder):
    """capsules.Decoder, of fast parts."""

    Dense, ReLU = Dense, ReLU
