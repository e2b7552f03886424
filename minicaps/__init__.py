"""A capsule network in plain NumPy, every backward pass written by hand and proven.

``from minicaps import CapsuleLayer`` gives the fast form of a layer where it has one (``minicaps.fast``);
its definition, a few lines long and equal to rounding, is in ``minicaps.layers`` or ``minicaps.capsules``.
"""

from minicaps.capsules import Coupling, Frozen, Hard, Leaky, Mask, Softmax, Stopped, Votes
from minicaps.estimator import CapsNetClassifier
from minicaps.fast import CapsuleLayer, Conv2d, Decoder, Dense, DynamicRouting, PrimaryCaps, ReLU, Squash
from minicaps.layers import (
    CrossEntropyLoss,
    Example,
    Layer,
    Loss,
    MarginLoss,
    MaxPool2d,
    ReconstructionLoss,
    Reshape,
    Sequential,
    Sigmoid,
    WeightedSum,
)
from minicaps.networks import CapsNet, CapsNetConfig, build, load, load_pretrained
from minicaps.networks import save_network as save
from minicaps.proof import gradcheck
from minicaps.training import evaluate

__all__ = [
    "CapsNet",
    "CapsNetClassifier",
    "CapsNetConfig",
    "CapsuleLayer",
    "Conv2d",
    "Coupling",
    "CrossEntropyLoss",
    "Decoder",
    "Dense",
    "DynamicRouting",
    "Example",
    "Frozen",
    "Hard",
    "Layer",
    "Leaky",
    "Loss",
    "MarginLoss",
    "Mask",
    "MaxPool2d",
    "PrimaryCaps",
    "ReLU",
    "ReconstructionLoss",
    "Reshape",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Squash",
    "Stopped",
    "Votes",
    "WeightedSum",
    "build",
    "evaluate",
    "gradcheck",
    "load",
    "load_pretrained",
    "save",
]

__version__ = "0.2.0"
