"""Layers put together: the networks, by name, and their weights as files."""

from minicaps.networks.baselines import CNN, MLP, CNNConfig, MLPConfig
from minicaps.networks.capsnet import CapsNet, CapsNetCache
from minicaps.networks.capsnet_config import CapsNetConfig
from minicaps.networks.matrix import MatrixCapsNet, MatrixCapsNetConfig
from minicaps.networks.network import Network, NetworkConfig, check_images, window_grid
from minicaps.networks.pairs import OverlapCapsNet, OverlapCNN, highest_two
from minicaps.networks.registry import MATRIX_PRESETS, NETWORKS, PRESETS, PRESETS_OF, build, configure
from minicaps.networks.weights import find_pretrained, load, load_network, load_pretrained, save_network

__all__ = [
    "CNN",
    "MATRIX_PRESETS",
    "MLP",
    "NETWORKS",
    "PRESETS",
    "PRESETS_OF",
    "CNNConfig",
    "CapsNet",
    "CapsNetCache",
    "CapsNetConfig",
    "MLPConfig",
    "MatrixCapsNet",
    "MatrixCapsNetConfig",
    "Network",
    "NetworkConfig",
    "OverlapCNN",
    "OverlapCapsNet",
    "build",
    "check_images",
    "configure",
    "find_pretrained",
    "highest_two",
    "load",
    "load_network",
    "load_pretrained",
    "save_network",
    "window_grid",
]
