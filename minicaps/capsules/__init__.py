"""What only a capsule network has, as the papers define it: plain, and proven."""

from minicaps.capsules.capsule_layer import CapsuleLayer
from minicaps.capsules.conv_capsules import ConvMatrixCaps
from minicaps.capsules.couplings import COUPLINGS, LOGITS, Coupling, Frozen, Hard, Leaky, Softmax, Stopped
from minicaps.capsules.decoder import Decoder, Mask
from minicaps.capsules.dynamic_routing import DynamicRouting, Iteration, RoutingCache
from minicaps.capsules.em_routing import TINY_MASS, EMCache, EMIteration, EMRouting, check_min_variance
from minicaps.capsules.matrix_capsules import ClassMatrixCaps, PrimaryMatrixCaps, coordinates
from minicaps.capsules.matrix_votes import MatrixVotes
from minicaps.capsules.primary import PrimaryCaps
from minicaps.capsules.squash import Squash
from minicaps.capsules.votes import Votes
from minicaps.capsules.window_softmax import WindowSoftmax

__all__ = [
    "COUPLINGS",
    "LOGITS",
    "TINY_MASS",
    "CapsuleLayer",
    "ClassMatrixCaps",
    "ConvMatrixCaps",
    "Coupling",
    "Decoder",
    "DynamicRouting",
    "EMCache",
    "EMIteration",
    "EMRouting",
    "Frozen",
    "Hard",
    "Iteration",
    "Leaky",
    "Mask",
    "MatrixVotes",
    "PrimaryCaps",
    "PrimaryMatrixCaps",
    "RoutingCache",
    "Softmax",
    "Squash",
    "Stopped",
    "Votes",
    "WindowSoftmax",
    "check_min_variance",
    "coordinates",
]
