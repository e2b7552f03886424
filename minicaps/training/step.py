"""The one step of training: gradient, finite or not, update."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

import numpy as np

from minicaps.arrays import Array, to_numpy
from minicaps.layers import Loss
from minicaps.networks import Network, check_network_labels, warn_of_255
from minicaps.training.finite import all_finite, first_not_finite, sum_of_squares
from minicaps.training.loss_scale import LossScale
from minicaps.training.optimizers import Optimizer


class Result(NamedTuple):
    """What a batch gave: scalar arrays from ``backpropagate``, Python numbers from ``train_step``."""

    loss: Any  # the mean of the images
    correct: Any  # how many were classified correctly


class Diverged(RuntimeError):
    """A loss, a gradient or a weight is not finite; the message says where, when, and what may help."""


def backpropagate(
    network: Network, objective: Loss, images: Array, labels: Array, share: float = 1.0
) -> Result:
    """Set the network's ``grads`` to the gradient of the loss of a batch.

    Parameters
    ----------
    network : Network
    objective : Loss
    images : float array (B, H, W, C), 0 to 1
    labels : integer array (B,)
    share : float
        Factor of the gradient: the part of a larger batch that these images are.

    Returns
    -------
    Result
        Two scalar arrays, of these images alone, whatever their share.

    Raises
    ------
    ValueError, TypeError
        If the labels are not class numbers, one for each image; one-hot rows are not.
    """
    check_network_labels("backpropagate", labels, network, len(images))
    network.zero_grad()
    outputs, cache = network.forward(*network.training_inputs(images, labels))
    loss, loss_cache = objective.forward(outputs, network.targets(images, labels))
    doutputs = objective.backward(loss_cache)
    if share != 1:
        doutputs = tuple(share * d for d in doutputs) if isinstance(doutputs, tuple) else share * doutputs
    network.backward_params(doutputs, cache)
    return Result(loss, network.correct(outputs, labels).sum())


class GradientSource(Protocol):
    """What ``train_step`` takes gradients from: ``OneProcess``, ``DataParallel`` or ``MPIParallel``."""

    network: Network
    objective: Loss

    def backpropagate(self, images: Array, labels: Array) -> Result:
        """Set the network's ``grads``, as the function of this name does."""
        ...

    def gradient(self) -> Collection[Array]:
        """Return the arrays in which the network's ``grads`` lie: one each, or one for all."""
        ...


def scaled_backpropagate(
    source: GradientSource, images: Array, labels: Array, loss_scale: LossScale
) -> Result:
    """Set the ``grads`` of the source's network to the gradient of the loss times the scale."""
    objective = source.objective
    source.objective = loss_scale.scaled(objective)
    try:
        loss, correct = source.backpropagate(images, labels)
    finally:
        source.objective = objective
    return Result(loss / loss_scale.scale, correct)


class OneProcess:
    """Gradients of whole batches, computed in this process.

    Parameters
    ----------
    network : Network
    objective : Loss, optional
        By default the network's own.
    """

    def __init__(self, network: Network, objective: Loss | None = None) -> None:
        self.network = network
        self.objective = network.objective() if objective is None else objective

    def backpropagate(self, images: Array, labels: Array) -> Result:
        """Set the network's ``grads``, as the function of this name does."""
        return backpropagate(self.network, self.objective, images, labels)

    def gradient(self) -> Collection[Array]:
        """Return the network's ``grads``."""
        return self.network.grads.values()


def train_step(
    source: GradientSource,
    optimizer: Optimizer,
    images: Array,
    labels: Array,
    loss_scale: LossScale | None = None,
) -> Result:
    """Make one step of training: gradient, a look whether all is finite, update.

    Parameters
    ----------
    source : OneProcess, DataParallel or MPIParallel
        Holds the network and what it is trained for.
    optimizer : Optimizer
        Of that network.
    images : float array (B, H, W, C), 0 to 1
    labels : integer array (B,)
    loss_scale : LossScale, optional
        Of mixed precision: where the loss or a gradient is not finite, this step has no update, and the
        scale changes.

    Returns
    -------
    Result
        The loss, a float, and how many images were classified correctly, an int; before the update.

    Raises
    ------
    Diverged
        If the loss or a gradient is not finite; with a loss scale, if this has fallen below 1. The weights
        are those before the step.
    ValueError, TypeError
        If the labels are not class numbers, one for each image; one-hot rows are not.

    Warns
    -----
    UserWarning
        If the images of the first step run up to 255, as those that were not divided do.

    Examples
    --------
    >>> import numpy as np
    >>> from minicaps.networks import build
    >>> from minicaps.training import Adam, OneProcess, train_step
    >>> network = build("mlp", rng=0)
    >>> images, labels = np.ones((2, 28, 28, 1), np.float32), np.array([3, 3])
    >>> source, adam = OneProcess(network), Adam(network, 0.01)
    >>> losses = [train_step(source, adam, images, labels).loss for _ in range(3)]
    >>> losses[2] < losses[1] < losses[0]
    True
    """
    xp = source.network.xp
    if optimizer.steps == 0:
        warn_of_255("train_step", images)
    with np.errstate(over="ignore", invalid="ignore"):  # told in words, some lines below
        if loss_scale is None:
            loss, correct = source.backpropagate(images, labels)
        else:
            loss, correct = scaled_backpropagate(source, images, labels, loss_scale)
        grads = source.gradient()
        numbers = xp.stack([loss, correct.astype(loss.dtype), sum_of_squares(grads)])  # (3,)
        loss, correct, squares = to_numpy(numbers).tolist()  # one copy from the device
        finite = math.isfinite(loss) and (math.isfinite(squares) or all_finite(*grads))
        if loss_scale is not None:
            loss_scale.unscale(source.network.grads)
            loss_scale.note(finite)
        if finite:
            optimizer.step()
        elif loss_scale is None or loss_scale.scale < 1:
            what = "gradient is not finite" if math.isfinite(loss) else f"loss is {loss}"
            below = "" if loss_scale is None else ", and the loss scale has fallen below 1"
            raise _diverged(what + below, source, optimizer, images, labels)
    return Result(loss, round(correct))


def _diverged(
    what: str, source: GradientSource, optimizer: Optimizer, images: Array, labels: Array
) -> Diverged:
    """Return the error, with the first layer that is not finite when all is computed again."""
    network, objective = source.network, source.objective
    first = first_not_finite(network, objective, lambda: backpropagate(network, objective, images, labels))
    step = optimizer.steps + 1
    return Diverged(f"the {what} at step {step} (first is {first}); {smaller_may_help(optimizer)}")


def smaller_may_help(optimizer: Optimizer) -> str:
    """Return the cure for a training that diverges, with the learning rate that was chosen."""
    schedule = optimizer.schedule
    learning_rate = getattr(schedule, "learning_rate", schedule(optimizer.steps))
    return f"a smaller learning rate may help (it is {learning_rate:g})"
