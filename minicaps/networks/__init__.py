"""Layers put together: the networks, by name, and their weights as files."""

from minicaps.networks.baselines import CNN, MLP, Chain, CNNConfig, MLPConfig
from minicaps.networks.capsnet import CapsNet, CapsNetCache
from minicaps.networks.capsnet_config import COUPLINGS, PRESENCES, ROUTINGS, CapsNetConfig
from minicaps.networks.efficient import EfficientCapsNet, EfficientCapsNetConfig
from minicaps.networks.export import to_onnx
from minicaps.networks.matrix import MatrixCapsNet, MatrixCapsNetConfig
from minicaps.networks.network import (
    Network,
    NetworkConfig,
    check_images,
    check_network_labels,
    warn_of_255,
    window_grid,
)
from minicaps.networks.pairs import OverlapCapsNet, OverlapCNN, highest_two
from minicaps.networks.registry import (
    EFFICIENT_PRESETS,
    MATRIX_PRESETS,
    NETWORKS,
    PRESET_NAMES,
    PRESETS,
    PRESETS_OF,
    build,
    configure,
)
from minicaps.networks.vector_capsnet import VectorCapsNet
from minicaps.networks.weights import find_pretrained, load, load_network, load_pretrained, save_network

__all__ = [
    "CNN",
    "COUPLINGS",
    "EFFICIENT_PRESETS",
    "MATRIX_PRESETS",
    "MLP",
    "NETWORKS",
    "PRESENCES",
    "PRESETS",
    "PRESETS_OF",
    "PRESET_NAMES",
    "ROUTINGS",
    "CNNConfig",
    "CapsNet",
    "CapsNetCache",
    "CapsNetConfig",
    "Chain",
    "EfficientCapsNet",
    "EfficientCapsNetConfig",
    "MLPConfig",
    "MatrixCapsNet",
    "MatrixCapsNetConfig",
    "Network",
    "NetworkConfig",
    "OverlapCNN",
    "OverlapCapsNet",
    "VectorCapsNet",
    "build",
    "check_images",
    "check_network_labels",
    "configure",
    "find_pretrained",
    "highest_two",
    "load",
    "load_network",
    "load_pretrained",
    "save_network",
    "to_onnx",
    "warn_of_255",
    "window_grid",
]
