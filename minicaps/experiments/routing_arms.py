"""The arms of the experiment ``routing``: networks that differ in their routing alone, and a CNN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules import SelfAttentionRouting
from minicaps.datasets import Dataset, to_float
from minicaps.experiments.training import Row
from minicaps.experiments.trunk_cnn import TrunkCNN, TrunkCNNConfig
from minicaps.networks import PRESETS, CapsNet, Network

LOSSES = MARGIN, CROSS_ENTROPY = "margin", "cross-entropy"
TRUNK = {"conv_channels": 32}  # with the other sizes of `small` 217,000 weights, for 162 trainings in an hour
BATCH = 100  # of images whose couplings are looked at at a time


@dataclass(frozen=True)
class Arm:
    """One way to route.

    Attributes
    ----------
    text : str
        Its name in tables and figures.
    options : mapping of str to value
        Of the CapsNetConfig.
    losses : tuple of str
        That it is trained with, one network for each: MARGIN on the lengths of its capsules or on their
        activations, CROSS_ENTROPY on what a line reads off them.
    has_capsules : bool
        Or else it is the CNN.
    """

    text: str
    options: Mapping[str, Any] = field(default_factory=dict)
    losses: tuple[str, ...] = LOSSES
    has_capsules: bool = True

    def build(self, preset: str, dataset: Dataset, loss: str, seed: int) -> Network:
        """Build the network, with first weights from the seed: whatever two arms share begins alike."""
        base = replace(PRESETS[preset], image_shape=dataset.image_shape, classes=dataset.classes)
        presence = "line" if loss == CROSS_ENTROPY else "own"
        chosen = {**(TRUNK if preset == "small" else {}), **self.options}
        config = replace(base, decoder=False, presence=presence, **chosen)
        rng = np.random.default_rng([seed, 0])
        return CapsNet(config, rng=rng) if self.has_capsules else TrunkCNN(TrunkCNNConfig.of(config), rng=rng)


ARMS: dict[str, Arm] = {
    "uniform": Arm("uniform couplings", {"iterations": 1}),
    "prior": Arm("learned couplings", {"iterations": 1, "prior": True}),
    "dynamic": Arm("dynamic"),
    "stopped": Arm("dynamic, gradient stopped", {"stopped_gradient": True}),
    "top-2": Arm("dynamic, top 2", {"coupling": "top-2"}),
    "entmax": Arm("dynamic, entmax", {"coupling": "entmax"}),
    "self-attention": Arm("self-attention", {"routing": "self-attention"}),
    "inverted-attention": Arm(
        "inverted attention", {"routing": "inverted-attention", "iterations": 2}, (CROSS_ENTROPY,)
    ),
    "em": Arm("EM", {"routing": "em", "iterations": 2}),
    "cnn": Arm("CNN", losses=(CROSS_ENTROPY,), has_capsules=False),
}


def couplings(network: CapsNet, images: Array) -> list[Array]:
    """Return the couplings of every iteration, (N, I, J) each, of 8-bit images (N, H, W, C)."""
    routing, each = network.capsules.routing, []
    for start in range(0, len(images), BATCH):
        cache = network.forward(to_float(images[start : start + BATCH]))[1]
        each.append(cache.capsules.c)
    c = [np.concatenate(parts) for parts in zip(*each, strict=True)]
    if isinstance(routing, SelfAttentionRouting) and routing.bias_shape is not None:
        c = [of_iteration - routing.params["bias"] for of_iteration in c]  # which is no share of anything
    return c


def describe_couplings(network: Network, images: Array) -> Row:
    """Return how even the last couplings are, and how many change after the first choice.

    Returns
    -------
    dict
        ``entropy``: of the last couplings of a child, 0 to 1, where 1 is an even share; and ``changed``: the
        share of children whose best parent at the end is not that of the first uneven couplings. Each is
        None where there is no such thing.
    """
    if not isinstance(network, CapsNet):
        return {"entropy": None, "changed": None}
    c = couplings(network, images)
    logarithms = np.log(np.where(c[-1] > 0, c[-1], 1))  # (N, I, J)
    entropy = -(c[-1] * logarithms).sum(axis=2).mean() / math.log(network.classes)
    changed = (c[1].argmax(axis=2) != c[-1].argmax(axis=2)).mean() if len(c) > 2 else None
    return {"entropy": float(entropy), "changed": None if changed is None else float(changed)}
