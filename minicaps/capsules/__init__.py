"""What only a capsule network has, as the papers define it: plain, and proven."""

from minicaps.capsules.capsule_layer import CapsuleLayer
from minicaps.capsules.couplings import COUPLINGS, LOGITS, Coupling, Frozen, Hard, Leaky, Softmax, Stopped
from minicaps.capsules.decoder import Decoder, Mask
from minicaps.capsules.dynamic_routing import DynamicRouting, Iteration, RoutingCache
from minicaps.capsules.primary import PrimaryCaps
from minicaps.capsules.squash import Squash
from minicaps.capsules.votes import Votes

__all__ = [
    "COUPLINGS",
    "LOGITS",
    "CapsuleLayer",
    "Coupling",
    "Decoder",
    "DynamicRouting",
    "Frozen",
    "Hard",
    "Iteration",
    "Leaky",
    "Mask",
    "PrimaryCaps",
    "RoutingCache",
    "Softmax",
    "Squash",
    "Stopped",
    "Votes",
]
