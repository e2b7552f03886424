"""Training on arrays that are in memory, without a folder: epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets import augment
from minicaps.networks import Network
from minicaps.training.batch import batches
from minicaps.training.fast_adam import Adam
from minicaps.training.processes import DataParallel
from minicaps.training.schedules import Cosine
from minicaps.training.step import train_step

WARM_UP = 20  # steps, or an epoch if that is shorter


def fit_epochs(
    network: Network,
    images: Array,
    labels: Array,
    rng: np.random.Generator,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    shift: int = 0,
) -> Generator[dict[str, float], None, None]:
    """Train a network by Adam, its learning rate down a cosine, and yield the numbers of every epoch.

    Parameters
    ----------
    network : Network
        Its parameters move to shared memory while it is trained.
    images : float32 array (N, H, W, C), 0 to 1
    labels : integer array (N,)
    rng : numpy.random.Generator
        Of the order and the shifts.
    epochs, batch_size : int
    learning_rate : float
        The largest.
    shift : int
        Every image is moved by up to so many pixels.

    Yields
    ------
    dict
        The mean ``loss`` and the ``accuracy`` of the epoch. Whoever stops asking stops the training.

    Raises
    ------
    Diverged
        If a loss or a gradient is not finite.
    """
    size = min(batch_size, len(images))
    each = math.ceil(len(images) / size)
    adam = Adam(network, Cosine(learning_rate, epochs * each, warmup=min(WARM_UP, each)))
    with DataParallel(network, network.objective(), size) as source:
        for _ in range(epochs):
            loss_sum, correct = 0.0, 0
            for chosen in batches(len(images), size, rng):
                x = augment.shift(images[chosen], shift, rng)  # (B, H, W, C)
                result = train_step(source, adam, x, labels[chosen])
                loss_sum += result.loss * len(chosen)
                correct += result.correct
            yield {"loss": loss_sum / len(images), "accuracy": correct / len(images)}
