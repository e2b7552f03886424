"""A capsule network in plain NumPy, every backward pass written by hand and proven.

``from minicaps import CapsuleLayer`` gives the fast form of a layer where it has one (``minicaps.fast``);
its definition, a few lines long and equal to rounding, is in ``minicaps.layers`` or ``minicaps.capsules``.
"""

from minicaps.capsules import (
    Coupling,
    Frozen,
    Hard,
    Leaky,
    Mask,
    MatrixVotes,
    Softmax,
    Stopped,
    Votes,
    WindowSoftmax,
)
from minicaps.fast import (
    CapsuleLayer,
    ClassMatrixCaps,
    Conv2d,
    ConvMatrixCaps,
    Decoder,
    Dense,
    DynamicRouting,
    EMRouting,
    PrimaryCaps,
    PrimaryMatrixCaps,
    ReLU,
    Squash,
)
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
    SpreadLoss,
    WeightedSum,
)
from minicaps.networks import (
    CapsNet,
    CapsNetConfig,
    MatrixCapsNet,
    MatrixCapsNetConfig,
    build,
    load,
    load_pretrained,
)
from minicaps.networks import save_network as save
from minicaps.proof import gradcheck
from minicaps.training import evaluate

__all__ = [
    "CapsNet",
    "CapsNetConfig",
    "CapsuleLayer",
    "ClassMatrixCaps",
    "Conv2d",
    "ConvMatrixCaps",
    "Coupling",
    "CrossEntropyLoss",
    "Decoder",
    "Dense",
    "DynamicRouting",
    "EMRouting",
    "Example",
    "Frozen",
    "Hard",
    "Layer",
    "Leaky",
    "Loss",
    "MarginLoss",
    "Mask",
    "MatrixCapsNet",
    "MatrixCapsNetConfig",
    "MatrixVotes",
    "MaxPool2d",
    "PrimaryCaps",
    "PrimaryMatrixCaps",
    "ReLU",
    "ReconstructionLoss",
    "Reshape",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "SpreadLoss",
    "Squash",
    "Stopped",
    "Votes",
    "WeightedSum",
    "WindowSoftmax",
    "build",
    "evaluate",
    "gradcheck",
    "load",
    "load_pretrained",
    "save",
]

__version__ = "0.2.0"
