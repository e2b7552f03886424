"""The arms of the experiment ``routing``: networks that differ in their routing alone, and a CNN."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules import SelfAttentionRouting
from minicaps.datasets import Dataset, to_float
from minicaps.experiments.training import Row
from minicaps.fast import Conv2d, Dense, ReLU
from minicaps.layers import Example, Reshape, Seed, Sequential, generator
from minicaps.networks import PRESETS, CapsNet, CapsNetConfig, Chain, Network

LOSSES = MARGIN, CROSS_ENTROPY = "margin", "cross-entropy"
TRUNK = {
    "conv_channels": 32
}  # with the other sizes of `small` 217,000 weights, so that 144 trainings take hours
BATCH = 100  # of images whose couplings are looked at at a time


class TrunkCNN(Chain):
    r"""A CNN with the trunk of a CapsNet, and about as many weights: only the capsules are missing.

    The two convolutions of the CapsNet, each with a ReLU; then, in the place of votes and routing, as many
    hidden units as the class capsules have numbers, ReLU, and one line for each class -> logits.

    Gradient: dlogits through the chain in reverse.

    Parameters
    ----------
    config : CapsNetConfig
        Of the CapsNet; what is said of routing and decoder has no part in this.
    rng : numpy.random.Generator or int, optional
        The convolutions draw from it first, as in a CapsNet, so that one seed gives both one trunk.
    dtype : float32 or float64
    """

    Config = CapsNetConfig
    config: CapsNetConfig

    def __init__(self, config: CapsNetConfig, *, rng: Seed = None, dtype: Any = np.float32) -> None:
        super().__init__(config)
        channels, outputs = config.conv_channels, config.primary_types * config.primary_dimension
        features, hidden = math.prod(config.grid) * outputs, config.classes * config.class_dimension
        start: dict[str, Any] = {"rng": generator(rng), "dtype": dtype}
        kernel, stride = config.primary_kernel, config.primary_stride
        self.chain = Sequential(
            conv=Conv2d(
                config.image_shape[2], channels, config.conv_kernel, stride=config.conv_stride, **start
            ),
            relu=ReLU(),
            primary=Conv2d(channels, outputs, kernel, stride=stride, **start),
            relu2=ReLU(),
            flatten=Reshape(features),
            fc1=Dense(features, hidden, **start),
            relu3=ReLU(),
            fc2=Dense(hidden, config.classes, **start),
        )

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        images = rng.uniform(size=(2, 9, 8, 3)).astype(dtype)  # (B, H, W, C)
        config = CapsNetConfig(
            (9, 8, 3), 5, conv_channels=4, conv_kernel=3, primary_types=2, primary_dimension=3,
            primary_kernel=(3, 2), class_dimension=6,
        )  # fmt: skip
        yield Example("normal", cls(config, rng=rng, dtype=dtype), (images,))


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
    network : type
    """

    text: str
    options: Mapping[str, Any] = field(default_factory=dict)
    losses: tuple[str, ...] = LOSSES
    network: type[CapsNet | TrunkCNN] = CapsNet

    def build(self, preset: str, dataset: Dataset, loss: str, seed: int) -> Network:
        """Build the network, with first weights from the seed: whatever two arms share begins alike."""
        base = replace(PRESETS[preset], image_shape=dataset.image_shape, classes=dataset.classes)
        presence = "line" if loss == CROSS_ENTROPY else "own"
        chosen = {**(TRUNK if preset == "small" else {}), **self.options}
        config = replace(base, decoder=False, presence=presence, **chosen)
        return self.network(config, rng=np.random.default_rng([seed, 0]))


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
    "cnn": Arm("CNN", losses=(CROSS_ENTROPY,), network=TrunkCNN),
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
