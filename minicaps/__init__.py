"""A capsule network in plain NumPy, every backward pass written by hand and proven.

``from minicaps import CapsuleLayer`` gives the fast form of a layer where it has one (``minicaps.fast``);
its definition, a few lines long and equal to rounding, is in ``minicaps.layers`` or ``minicaps.capsules``.
"""

from minicaps.capsules import (
    Coupling,
    CouplingEntropy,
    Entmax,
    Frozen,
    Hard,
    InvertedAttentionRouting,
    Leaky,
    Length,
    Line,
    Mask,
    Prior,
    Routing,
    SelfAttentionRouting,
    Softmax,
    Sparsemax,
    Stopped,
    TopK,
    Unrest,
    Votes,
)
from minicaps.estimator import CapsNetClassifier
from minicaps.fast import (
    CapsuleLayer,
    Conv2d,
    Decoder,
    Dense,
    DynamicRouting,
    ExponentialSquash,
    PrimaryCaps,
    ReLU,
    Squash,
)
from minicaps.layers import (
    CrossEntropyLoss,
    Example,
    Layer,
    LayerNorm,
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
    "CouplingEntropy",
    "CrossEntropyLoss",
    "Decoder",
    "Dense",
    "DynamicRouting",
    "Entmax",
    "Example",
    "ExponentialSquash",
    "Frozen",
    "Hard",
    "InvertedAttentionRouting",
    "Layer",
    "LayerNorm",
    "Leaky",
    "Length",
    "Line",
    "Loss",
    "MarginLoss",
    "Mask",
    "MaxPool2d",
    "PrimaryCaps",
    "Prior",
    "ReLU",
    "ReconstructionLoss",
    "Reshape",
    "Routing",
    "SelfAttentionRouting",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Sparsemax",
    "Squash",
    "Stopped",
    "TopK",
    "Unrest",
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
