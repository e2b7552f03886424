"""Every experiment trains here: so many steps, examined on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np

from minicaps.arrays import Array
from minicaps.networks import Network
from minicaps.training import (
    GradientSource,
    Optimizer,
    evaluate,
    gradient_source,
    in_first_rank,
    to_batch,
    train_step,
)
from minicaps.training import batches as numbers_in_batches

Batches: TypeAlias = Iterator[tuple[Array, Array]]  # 8-bit images (B, H, W, C), and labels (B,)
Row: TypeAlias = dict[str, Any]  # of JSON's types


@contextmanager
def prepared(network: Network, batches: Batches) -> Iterator[tuple[GradientSource, Batches]]:
    """Yield what trains `network` on batches no larger than the first, and the batches."""
    first = next(batches)
    with gradient_source(network, network.objective(), len(first[1])) as source:
        yield source, chain([first], batches)


def fit(
    source: GradientSource,
    optimizer: Optimizer,
    batches: Batches,
    steps: int,
    report: Callable[[float], None] = lambda loss: None,
) -> float:
    """Make `steps` training steps and return their mean loss.

    Parameters
    ----------
    source : GradientSource
        As ``prepared`` yields it.
    optimizer : Optimizer
        Of its network.
    batches : iterator of (images, labels)
        8-bit images; it is left after the last batch used.
    steps : int
        1 or more.
    report : callable
        Receives the loss of every step.

    Raises
    ------
    minicaps.training.Diverged
        If the loss or a gradient is not finite. The weights are those before the step.
    """
    total = 0.0
    for images, labels in islice(batches, steps):
        loss = train_step(source, optimizer, *to_batch(images, labels, source.network.xp)).loss
        total += loss
        report(loss)
    return total / steps


class Watch:
    """The seconds that a training takes, without those in which it is examined, and its progress line.

    Parameters
    ----------
    optimizer : Optimizer
        It knows how many steps are done.
    steps : int
        Of the whole training.
    progress : callable
        Receives the progress line.
    """

    def __init__(self, optimizer: Optimizer, steps: int, progress: Callable[[str], None]) -> None:
        self.optimizer, self.steps, self.progress = optimizer, steps, progress
        self.seconds = self.start = 0.0

    def go_on(self) -> None:
        self.start = time.perf_counter() - self.seconds

    def note(self, loss: float) -> None:
        """Count the time of a step that is done, and show its loss."""
        self.seconds = time.perf_counter() - self.start
        done = self.optimizer.steps
        left = self.seconds / done * (self.steps - done)
        line = f"step {done:,}/{self.steps:,}  loss {loss:.4f}  {left // 60:.0f}:{left % 60:02.0f} left"
        self.progress(line)


def learn(
    network: Network,
    optimizer: Optimizer,
    batches: Batches,
    steps: int,
    examine: Callable[[Network], Row],
    rounds: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Train, and examine the network after each of `rounds` equal parts of the training.

    Parameters
    ----------
    network : Network
    optimizer, batches, steps
        As for ``fit``; the optimizer has made no step yet.
    examine : callable
        Returns what to note of a network.
    rounds : int
        No more than the steps, or there are as many as steps.
    progress : callable
        Receives the progress line.

    Returns
    -------
    list of dict
        For every round: ``step``, ``seconds`` of training so far, the mean ``loss`` of the round, and
        what `examine` returned.

    Raises
    ------
    minicaps.training.Diverged
        As for ``fit``.
    """
    curve: list[Row] = []
    watch, rounds = Watch(optimizer, steps, progress), min(rounds, steps)
    with prepared(network, batches) as (source, batches):
        for k in range(1, rounds + 1):
            watch.go_on()
            loss = fit(source, optimizer, batches, steps * k // rounds - optimizer.steps, watch.note)
            point = {"step": optimizer.steps, "seconds": watch.seconds, "loss": loss}
            curve.append({**point, **in_first_rank(examine)(network)})
    return curve


def accuracy(network: Network, images: Array, labels: Array) -> Row:
    """Examine a network by its accuracy, 0 to 1, on 8-bit images (N, H, W, C)."""
    return {"accuracy": evaluate(network, images, labels).accuracy}


def endless(
    images: Array,
    labels: Array,
    batch_size: int,
    rng: np.random.Generator,
    change: Callable[[Array], Array] = lambda images: images,
) -> Batches:
    """Yield batches in random order, epoch after epoch, of images changed by `change`."""
    while True:
        for chosen in numbers_in_batches(len(images), batch_size, rng):
            yield change(images[chosen]), labels[chosen]


def seconds_per_step(train: Callable[[int], Any], minimum: float = 2.0) -> float:
    """Time `train`, which makes as many steps as it is told, for `minimum` seconds or more."""
    train(3)  # the first steps allocate
    steps, start = 0, time.perf_counter()
    clock = in_first_rank(lambda: time.perf_counter() - start)
    while (spent := clock()) < minimum:
        train(5)
        steps += 5
    return spent / steps
