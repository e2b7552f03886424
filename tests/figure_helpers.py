"""What the tests of figures share: inputs to draw, and what stands on a figure."""

import numpy as np

from minicaps.networks import build

DIGITS = tuple("0123456789")
NAMES = ("boat", "car", "aeroplane")
EPOCHS = [
    {
        "epoch": k,
        "train_loss": 1 / k,
        "validation_loss": 2 / k,
        "train_accuracy": 0.9 + 0.01 * k,
        "validation_accuracy": 0.8 + 0.01 * k,
    }
    for k in (1, 2, 3)
]


def couplings(*shape, scale=2.0, seed=0):
    """Return random couplings, which sum to 1 over the last axis."""
    c = np.exp(scale * np.random.default_rng(seed).normal(size=shape))
    return c / c.sum(axis=-1, keepdims=True)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape)


def heat_maps(figure):
    """Return the data of the images in a figure's axes, panel by panel."""
    return [np.ma.getdata(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def title(figure):
    """Return the sentence above a figure, in one line."""
    text = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
    return " ".join(text.split())


def capsnet_with_couplings():
    """Return a CapsNet that was not trained, with weights large enough for couplings that differ."""
    network = build("capsnet", "tiny", rng=3)
    network.params["capsules.votes.W"][...] *= 20
    return network
