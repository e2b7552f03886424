"""What only a capsule network has, as the papers define it: plain, and proven."""

from minicaps.capsules.capsule_layer import CapsuleLayer
from minicaps.capsules.conv_capsule_layer import ConvCaps, DeconvCaps
from minicaps.capsules.conv_capsules import ConvMatrixCaps
from minicaps.capsules.conv_votes import ConvVotes, DeconvVotes
from minicaps.capsules.couplings import LOGITS, Coupling, Frozen, Hard, Leaky, Prior, Softmax, Stopped
from minicaps.capsules.decoder import Decoder, Mask
from minicaps.capsules.depthwise import DepthwisePrimaryCaps
from minicaps.capsules.dynamic_routing import DynamicRouting
from minicaps.capsules.dynamic_routing_3d import DynamicRouting3D, MapSquash
from minicaps.capsules.em_routing import TINY_MASS, EMCache, EMIteration, EMRouting, check_min_variance
from minicaps.capsules.inverted_attention_routing import InvertedAttentionRouting
from minicaps.capsules.matrix_capsules import ClassMatrixCaps, PrimaryMatrixCaps, coordinates
from minicaps.capsules.matrix_votes import MatrixVotes
from minicaps.capsules.presence import Given, Length, Line
from minicaps.capsules.primary import PrimaryCaps
from minicaps.capsules.routing import Iteration, Routing, RoutingCache, agree, combine, outer
from minicaps.capsules.routing_losses import CouplingEntropy, Unrest
from minicaps.capsules.self_attention_routing import SelfAttentionRouting
from minicaps.capsules.sparse_couplings import Entmax, Sparsemax, TopK, TopKCache
from minicaps.capsules.squash import ExponentialSquash, Squash, SquashCache, Squashing
from minicaps.capsules.votes import Votes, VotesCache
from minicaps.capsules.window_softmax import WindowSoftmax

__all__ = [
    "LOGITS",
    "TINY_MASS",
    "CapsuleLayer",
    "ClassMatrixCaps",
    "ConvCaps",
    "ConvMatrixCaps",
    "ConvVotes",
    "Coupling",
    "CouplingEntropy",
    "Decoder",
    "DeconvCaps",
    "DeconvVotes",
    "DepthwisePrimaryCaps",
    "DynamicRouting",
    "DynamicRouting3D",
    "EMCache",
    "EMIteration",
    "EMRouting",
    "Entmax",
    "ExponentialSquash",
    "Frozen",
    "Given",
    "Hard",
    "InvertedAttentionRouting",
    "Iteration",
    "Leaky",
    "Length",
    "Line",
    "MapSquash",
    "Mask",
    "MatrixVotes",
    "PrimaryCaps",
    "PrimaryMatrixCaps",
    "Prior",
    "Routing",
    "RoutingCache",
    "SelfAttentionRouting",
    "Softmax",
    "Sparsemax",
    "Squash",
    "SquashCache",
    "Squashing",
    "Stopped",
    "TopK",
    "TopKCache",
    "Unrest",
    "Votes",
    "VotesCache",
    "WindowSoftmax",
    "agree",
    "check_min_variance",
    "combine",
    "coordinates",
    "outer",
]
