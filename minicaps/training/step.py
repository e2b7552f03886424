"""One training step, batches, and evaluation. The loop over epochs and its folder: ``runs.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.arrays import Array, get_xp, to_backend, to_numpy
from minicaps.checks import check_positive
from minicaps.datasets import to_float
from minicaps.layers import Loss
from minicaps.networks import Network
from minicaps.training.optimizers import Optimizer


def gradients(
    network: Network, objective: Loss, images: Array, labels: Array, share: float = 1
) -> tuple[Array, Array]:
    """Set the network's ``grads`` to the gradient of the loss of a batch.

    Parameters
    ----------
    images : float array (B, H, W, C), 0 to 1
    labels : integer array (B,)
    share : float
        Factor of the gradient: the part of a larger batch that these images are.

    Returns
    -------
    loss : scalar array
        Of these images alone, whatever their share.
    correct : scalar array
        How many of them were classified right.
    """
    network.zero_grad()
    outputs, cache = network.forward(*network.training_inputs(images, labels))
    loss, loss_cache = objective.forward(outputs, network.targets(images, labels))
    doutputs = objective.backward(loss_cache)
    if share != 1:
        doutputs = tuple(share * d for d in doutputs) if isinstance(doutputs, tuple) else share * doutputs
    network.backward_params(doutputs, cache)
    return loss, network.correct(outputs, labels).sum()


def train_step(
    network: Network, objective: Loss, optimizer: Optimizer, images: Array, labels: Array
) -> tuple[Array, Array]:
    """Make one step of training: forward, loss, backward, update; return what ``gradients`` does."""
    loss, correct = gradients(network, objective, images, labels)
    optimizer.step()
    return loss, correct


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a set of images."""

    loss: float  # per image
    accuracy: float  # 0 to 1
    predictions: np.ndarray  # (N,)
    scores: np.ndarray  # (N, classes), 0 to 1


def evaluate(network: Network, images: np.ndarray, labels: np.ndarray, batch_size: int = 100) -> Evaluation:
    """Classify `images` (N, H, W, C), 8-bit, and compare with `labels` (N,).

    Raises
    ------
    ValueError
        If there are no images, or not one label for each.
    TypeError
        If the images are not 8-bit.
    """
    if len(images) == 0:
        raise ValueError("evaluate: there are no images")
    if len(labels) != len(images):
        raise ValueError(f"evaluate: {len(labels)} labels for {len(images)} images")
    if images.dtype != np.uint8:
        raise TypeError(f"evaluate: images have dtype {images.dtype}, expected uint8, 0 to 255")
    check_positive("evaluate", batch_size=batch_size)
    objective, xp = network.objective(), network.xp
    network = network.for_inference()
    losses, scores = [], []
    for start in range(0, len(images), batch_size):
        x, y = to_batch(images[start : start + batch_size], labels[start : start + batch_size], xp)
        outputs = network(*network.training_inputs(x, y))
        losses.append(float(to_numpy(objective(outputs, network.targets(x, y)))) * len(x))
        scores.append(to_numpy(network.scores(outputs)))
    all_scores = np.concatenate(scores)  # (N, J)
    predictions = all_scores.argmax(axis=1)  # (N,)
    accuracy = float((predictions == labels).mean())
    return Evaluation(sum(losses) / len(images), accuracy, predictions, all_scores)


def to_batch(images: np.ndarray, labels: np.ndarray, xp: Any) -> tuple[Array, Array]:
    """Turn 8-bit images and labels into a batch for a network on the library `xp`."""
    return to_backend(to_float(images), xp), to_backend(labels, xp)


def library_of(network: Network) -> Any:
    """Return the array library that holds the network's parameters."""
    return get_xp(next(iter(network.params.values())))


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the numbers 0 to count - 1 in random order, in groups of `size` (the last smaller)."""
    check_positive("batches", size=size)
    order = rng.permutation(count)
    for start in range(0, count, size):
        yield order[start : start + size]
