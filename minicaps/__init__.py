"""A capsule network in plain NumPy, every backward pass written by hand and proven."""

from minicaps.capsules import (
    Coupling,
    DynamicRouting,
    Frozen,
    Hard,
    Leaky,
    Mask,
    Softmax,
    Stopped,
    Votes,
)
from minicaps.fast import CapsuleLayer, Conv2d, Decoder, Dense, PrimaryCaps, ReLU, Squash
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

__version__ = "0.1.0"
