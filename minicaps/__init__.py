"""A capsule network in plain NumPy, every backward pass written by hand and proven."""

from minicaps.capsules.capsule_layer import CapsuleLayer, PredictionVectors, PrimaryCaps
from minicaps.capsules.decoder import Decoder, Mask
from minicaps.capsules.dynamic_routing import DynamicRouting
from minicaps.capsules.squash import Squash
from minicaps.layers.contract import Example, Layer, Loss, Sequential
from minicaps.layers.convolution import Conv2d, MaxPool2d
from minicaps.layers.dense import Dense, Flatten, ReLU, Reshape, Sigmoid
from minicaps.layers.losses import CrossEntropyLoss, MarginLoss, ReconstructionLoss, WeightedSum
from minicaps.proof.gradcheck import gradcheck

__all__ = [
    "CapsuleLayer",
    "Conv2d",
    "CrossEntropyLoss",
    "Decoder",
    "Dense",
    "DynamicRouting",
    "Example",
    "Flatten",
    "Layer",
    "Loss",
    "MarginLoss",
    "Mask",
    "MaxPool2d",
    "PredictionVectors",
    "PrimaryCaps",
    "ReLU",
    "ReconstructionLoss",
    "Reshape",
    "Sequential",
    "Sigmoid",
    "Squash",
    "WeightedSum",
    "gradcheck",
]

__version__ = "0.1.0"
