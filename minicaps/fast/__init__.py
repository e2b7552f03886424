"""The same layers, faster: each class is a subclass of its plain twin, with its name, options and numbers.

What a class computes stands in ``layers`` and ``capsules``; here stands how it is computed faster, with a
sentence on what that saves. `python -m pytest tests/test_twins.py` holds each to its definition.
"""

from minicaps.fast.activations import ReLU
from minicaps.fast.capsule_layer import CapsuleLayer
from minicaps.fast.convolution import Conv2d
from minicaps.fast.couplings import Entmax, Prior, Sparsemax, TopK
from minicaps.fast.decoder import Decoder
from minicaps.fast.dense import Dense
from minicaps.fast.dynamic_routing import DynamicRouting
from minicaps.fast.em_routing import EMRouting
from minicaps.fast.inverted_attention_routing import InvertedAttentionRouting
from minicaps.fast.matrix_capsules import ClassMatrixCaps, ConvMatrixCaps, PrimaryMatrixCaps
from minicaps.fast.normalization import LayerNorm
from minicaps.fast.platform import keep_freed_memory, own_the_cores
from minicaps.fast.precision import half
from minicaps.fast.primary import PrimaryCaps
from minicaps.fast.self_attention_routing import SelfAttentionRouting
from minicaps.fast.squash import ExponentialSquash, Squash, length_and_direction
from minicaps.fast.threads import beside_other_processes, matmul, parallel, slices_of, thread_count
from minicaps.fast.votes import Votes

TWINS = (
    CapsuleLayer,
    ClassMatrixCaps,
    Conv2d,
    ConvMatrixCaps,
    Decoder,
    Dense,
    DynamicRouting,
    EMRouting,
    Entmax,
    ExponentialSquash,
    InvertedAttentionRouting,
    LayerNorm,
    PrimaryCaps,
    PrimaryMatrixCaps,
    Prior,
    ReLU,
    SelfAttentionRouting,
    Sparsemax,
    Squash,
    TopK,
    Votes,
)

__all__ = [
    "TWINS",
    "CapsuleLayer",
    "ClassMatrixCaps",
    "Conv2d",
    "ConvMatrixCaps",
    "Decoder",
    "Dense",
    "DynamicRouting",
    "EMRouting",
    "Entmax",
    "ExponentialSquash",
    "InvertedAttentionRouting",
    "LayerNorm",
    "PrimaryCaps",
    "PrimaryMatrixCaps",
    "Prior",
    "ReLU",
    "SelfAttentionRouting",
    "Sparsemax",
    "Squash",
    "TopK",
    "Votes",
    "beside_other_processes",
    "half",
    "keep_freed_memory",
    "length_and_direction",
    "matmul",
    "own_the_cores",
    "parallel",
    "slices_of",
    "thread_count",
]
