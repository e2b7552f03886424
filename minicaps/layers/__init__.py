"""What every network has: the layer contract, and the plain definitions of the common layers."""

from minicaps.layers.activations import ReLU, ReLUCache, Sigmoid, softmax, softmax_backward
from minicaps.layers.batch_norm import BatchNorm
from minicaps.layers.contract import Example, Layer, Loss
from minicaps.layers.convolution import Conv2d, col2im, im2col
from minicaps.layers.dense import Dense, DenseCache
from minicaps.layers.initialization import Seed, generator, uniform
from minicaps.layers.losses import (
    CrossEntropyLoss,
    MarginLoss,
    ReconstructionLoss,
    WeightedSum,
    one_hot,
)
from minicaps.layers.normalization import LayerNorm
from minicaps.layers.pooling import MaxPool2d
from minicaps.layers.reshape import Reshape
from minicaps.layers.scaled_loss import ScaledLoss
from minicaps.layers.sequential import Sequential
from minicaps.layers.spread_loss import SpreadLoss
from minicaps.layers.storage import FULL, MIXED, PRECISIONS
from minicaps.layers.vectors import length_and_direction
from minicaps.layers.windows import Pair, as_pair, output_size, transposed_size

__all__ = [
    "FULL",
    "MIXED",
    "PRECISIONS",
    "BatchNorm",
    "Conv2d",
    "CrossEntropyLoss",
    "Dense",
    "DenseCache",
    "Example",
    "Layer",
    "LayerNorm",
    "Loss",
    "MarginLoss",
    "MaxPool2d",
    "Pair",
    "ReLU",
    "ReLUCache",
    "ReconstructionLoss",
    "Reshape",
    "ScaledLoss",
    "Seed",
    "Sequential",
    "Sigmoid",
    "SpreadLoss",
    "WeightedSum",
    "as_pair",
    "col2im",
    "generator",
    "im2col",
    "length_and_direction",
    "one_hot",
    "output_size",
    "softmax",
    "softmax_backward",
    "transposed_size",
    "uniform",
]
