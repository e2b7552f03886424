"""What only a capsule network has, as the papers define it: plain, and proven."""

from minicaps.capsules.capsule_layer import CapsuleLayer
from minicaps.capsules.couplings import LOGITS, Coupling, Frozen, Hard, Leaky, Prior, Softmax, Stopped
from minicaps.capsules.decoder import Decoder, Mask
from minicaps.capsules.dynamic_routing import DynamicRouting
from minicaps.capsules.inverted_attention_routing import InvertedAttentionRouting
from minicaps.capsules.presence import Given, Length, Line
from minicaps.capsules.primary import PrimaryCaps
from minicaps.capsules.routing import Iteration, Routing, RoutingCache, agree, combine, outer
from minicaps.capsules.routing_losses import CouplingEntropy, Unrest
from minicaps.capsules.self_attention_routing import SelfAttentionRouting
from minicaps.capsules.sparse_couplings import Entmax, Sparsemax, TopK
from minicaps.capsules.squash import ExponentialSquash, Squash, Squashing
from minicaps.capsules.votes import Votes

__all__ = [
    "LOGITS",
    "CapsuleLayer",
    "Coupling",
    "CouplingEntropy",
    "Decoder",
    "DynamicRouting",
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
    "Mask",
    "PrimaryCaps",
    "Prior",
    "Routing",
    "RoutingCache",
    "SelfAttentionRouting",
    "Softmax",
    "Sparsemax",
    "Squash",
    "Squashing",
    "Stopped",
    "TopK",
    "Unrest",
    "Votes",
    "agree",
    "combine",
    "outer",
]
