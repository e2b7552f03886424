"""Every network by name, and the sizes of the capsule networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from minicaps.layers import Seed
from minicaps.networks.baselines import CNN, MLP
from minicaps.networks.capsnet import CapsNet
from minicaps.networks.capsnet_config import CapsNetConfig
from minicaps.networks.efficient import EfficientCapsNet, EfficientCapsNetConfig
from minicaps.networks.matrix import MatrixCapsNet, MatrixCapsNetConfig
from minicaps.networks.network import Network, NetworkConfig

NETWORKS: dict[str, type[Network]] = {
    "capsnet": CapsNet,
    "cnn": CNN,
    "efficient": EfficientCapsNet,
    "matrix": MatrixCapsNet,
    "mlp": MLP,
}
PRESETS: dict[str, CapsNetConfig] = {
    "tiny": CapsNetConfig(
        conv_channels=8, conv_kernel=5, conv_stride=2, primary_types=4, primary_dimension=4, primary_kernel=5,
        class_dimension=8, decoder_hidden=(32, 64),
    ),
    "small": CapsNetConfig(
        conv_channels=64, conv_kernel=7, conv_stride=2, primary_types=8, primary_kernel=5,
        decoder_hidden=(128, 256),
    ),
    "paper": CapsNetConfig(),
}  # fmt: skip
SHORT: dict[str, Any] = {"iterations": 2, "inverse_temperature": 0.01}  # with the paper's, learning is slow
MATRIX_PRESETS: dict[str, MatrixCapsNetConfig] = {
    "tiny": MatrixCapsNetConfig(conv_channels=16, primary_types=4, types=(8, 8), **SHORT),
    "small": MatrixCapsNetConfig(conv_channels=32, primary_types=8, types=(16, 16), **SHORT),
    "paper": MatrixCapsNetConfig(),
}
EFFICIENT_PRESETS: dict[str, EfficientCapsNetConfig] = {
    "tiny": EfficientCapsNetConfig(
        conv_channels=(8, 8, 16, 16), conv_strides=(2, 1, 1, 1), primary_dimension=4, class_dimension=8,
        decoder_hidden=(32, 64),
    ),
    "small": EfficientCapsNetConfig(conv_strides=(2, 1, 1, 1), decoder_hidden=(128, 256)),
    "medium": EfficientCapsNetConfig(conv_strides=(1, 2, 1, 1), decoder_hidden=(128, 256)),
    "paper": EfficientCapsNetConfig(),
}  # fmt: skip
PRESETS_OF: dict[str, Mapping[str, NetworkConfig]] = {
    "capsnet": PRESETS,
    "efficient": EFFICIENT_PRESETS,
    "matrix": MATRIX_PRESETS,
}
PRESET_NAMES = tuple(dict.fromkeys(name for presets in PRESETS_OF.values() for name in presets))  # of any


def configure(name: str, preset: str = "small", **options: Any) -> NetworkConfig:
    """Return the configuration of a network by name; the arguments are those of ``build``."""
    if name not in NETWORKS:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(NETWORKS)}")
    presets = PRESETS_OF.get(name, PRESETS)
    if preset not in presets:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join(presets)} for the network {name}")
    base = presets[preset] if name in PRESETS_OF else NETWORKS[name].Config()
    try:
        return replace(base, **options)
    except TypeError as error:
        raise TypeError(f"build: {error}; {type(base).__name__} says what there is") from None


def build(
    name: str, preset: str = "small", *, rng: Seed = None, dtype: Any = np.float32, **options: Any
) -> Network:
    """Build a network by name.

    Parameters
    ----------
    name : {"capsnet", "cnn", "efficient", "matrix", "mlp"}
    preset : {"tiny", "small", "paper"}, or "medium" for "efficient"
        Sizes of the capsule networks; the others have one size.
    rng : numpy.random.Generator or int, optional
        Source of the first weights.
    dtype : float32 or float64
    **options
        Fields of the network's configuration, such as ``classes=5``; they win over the preset.

    Raises
    ------
    ValueError
        If there is no such network or preset of it, or an option has a value that cannot be.
    TypeError
        If there is no such option.
    """
    config = configure(name, preset, **options)
    return NETWORKS[name](config, rng=rng, dtype=dtype)
