"""How well a network does on labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from minicaps.arrays import Array, to_numpy
from minicaps.checks import check_library, check_positive, check_shift
from minicaps.datasets import augment
from minicaps.networks import Network, check_network_labels
from minicaps.training.batch import to_batch


@dataclass(frozen=True)
class Evaluation:
    """How a network does on N images.

    Attributes
    ----------
    loss : float
        The mean of all images.
    accuracy : float
        Share of correct predictions, 0 to 1.
    unshifted_accuracy : float
        The same by the images as they are alone; another only where these were shifted.
    predictions : integer array (N,)
    scores : array (N, classes), 0 to 1
    """

    loss: float
    accuracy: float
    unshifted_accuracy: float
    predictions: Array
    scores: Array


def evaluate(
    network: Network, images: Array, labels: Array, batch_size: int = 100, test_shift: int = 0
) -> Evaluation:
    """Classify images, and compare with their labels.

    Parameters
    ----------
    network : Network
        Not changed.
    images : uint8 array (N, H, W, C)
    labels : integer array (N,)
        Class numbers, or what else ``network.correct`` takes.
    batch_size : int
        Images that are classified at a time.
    test_shift : int
        Above 0, loss and scores of an image are the means of its (2·test_shift + 1)² copies, each with a
        shift of its own up to so many pixels (test-time augmentation); its class is that of the highest mean.

    Raises
    ------
    ValueError
        If there are no images, or not one label for each, or a shift moves them out of sight.
    TypeError
        If the images are not 8-bit, or the labels no integers.
    """
    check_library("evaluate", "images", images)
    if len(images) == 0:
        raise ValueError("evaluate: there are no images")
    if len(labels) != len(images):
        raise ValueError(f"evaluate: {len(labels)} labels for {len(images)} images, expected one for each")
    check_network_labels("evaluate", labels, network, len(images))
    if images.dtype != np.uint8:
        raise TypeError(f"evaluate: images have dtype {images.dtype}, expected uint8, 0 to 255")
    check_positive("evaluate", batch_size=batch_size)
    check_shift("evaluate", images.shape[1:], test_shift=test_shift)
    alone = _evaluate_as_they_are(network, images, labels, batch_size)
    if test_shift == 0:
        return alone
    if labels.ndim != 1:
        raise ValueError(
            f"evaluate: labels have shape {labels.shape}, expected (N,): shifted copies have one class each"
        )
    copies = [alone]
    for shift in product(range(-test_shift, test_shift + 1), repeat=2):
        if any(shift):
            down, right = np.repeat([shift], len(images), axis=0).T  # (N,) each
            copies.append(
                _evaluate_as_they_are(network, augment.shift_by(images, down, right), labels, batch_size)
            )
    loss = float(np.mean([copy.loss for copy in copies]))
    scores = np.mean([copy.scores for copy in copies], axis=0)  # (N, J)
    predictions = scores.argmax(axis=1)  # (N,)
    accuracy = int((predictions == labels).sum()) / len(labels)
    return Evaluation(loss, accuracy, alone.accuracy, predictions, scores)


def _evaluate_as_they_are(network: Network, images: Array, labels: Array, batch_size: int) -> Evaluation:
    objective, xp = network.objective(), network.xp
    network = network.for_inference()
    loss_sum, found = 0.0, []
    correct: Any = 0
    for start in range(0, len(images), batch_size):
        x, y = to_batch(images[start : start + batch_size], labels[start : start + batch_size], xp)
        outputs = network(*network.training_inputs(x, y))
        loss_sum += float(to_numpy(objective(outputs, network.targets(x, y)))) * len(x)
        correct = correct + network.correct(outputs, y).sum()  # on a device it stays there until the end
        found.append(to_numpy(network.scores(outputs)))  # (B, J)
    scores = np.concatenate(found)  # (N, J)
    predictions = scores.argmax(axis=1)  # (N,)
    accuracy = int(to_numpy(correct)) / len(images)
    return Evaluation(loss_sum / len(images), accuracy, accuracy, predictions, scores)
