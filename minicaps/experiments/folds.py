"""Experiment: K-fold cross-validation, in which every training image is held out once."""

from __future__ import annotations

from functools import partial

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets import augment
from minicaps.experiments import figures
from minicaps.experiments.needs import Needs
from minicaps.experiments.study import Study
from minicaps.experiments.tables import percent, table
from minicaps.experiments.training import Batches, Row, accuracy, endless, learn
from minicaps.networks import Network
from minicaps.training import Adam, Cosine

BATCH = 100
SHIFT = 2  # pixels
LEARNING_RATE = 2e-3  # at first, then down a cosine


def deal(labels: Array, folds: int, rng: np.random.Generator) -> Array:
    """Deal images out to K folds at random, so that every fold has its share of every class.

    Parameters
    ----------
    labels : integer array (N,)
    folds : int
        K.
    rng : numpy.random.Generator

    Returns
    -------
    integer array (N,), 0 to K - 1
        The sizes of the folds, and their shares of a class, differ by 1 at most.
    """
    order = rng.permutation(len(labels))  # (N,)
    by_class = order[np.argsort(labels[order], kind="stable")]  # (N,)
    fold = np.empty(len(labels), dtype=int)
    fold[by_class] = np.arange(len(labels)) % folds  # (N,)
    return fold


class Folds:
    """The training images of a study, dealt out anew for every seed. The test images are not looked at.

    Attributes
    ----------
    count : int
        K.
    steps : int
        Of every training.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.count = study, study.settings.folds or 0
        self.dataset = study.load(Needs(images=self.count, of_each=self.count))
        self.steps = study.fix_steps(*self.start(0, study.settings.seed))

    def held_out(self, fold: int, seed: int) -> Array:
        """Return which training images are held out: a boolean array (N,)."""
        labels = self.dataset.train_labels
        return deal(labels, self.count, np.random.default_rng([seed, 2])) == fold

    def start(self, fold: int, seed: int) -> tuple[Network, Batches]:
        """Return a network with its first weights, and batches of the images of the other folds."""
        others = ~self.held_out(fold, seed)  # (N,)
        rng = np.random.default_rng([seed, 1])
        change = partial(augment.shift, largest=SHIFT, rng=rng)
        images, labels = self.dataset.train_images[others], self.dataset.train_labels[others]
        return self.study.build("capsnet", self.dataset, seed), endless(images, labels, BATCH, rng, change)

    def train(self, fold: int, seed: int) -> Row:
        """Train on the other folds, and validate on this one."""
        network, batches = self.start(fold, seed)
        held_out = self.held_out(fold, seed)  # (N,)
        validate = partial(
            accuracy, images=self.dataset.train_images[held_out], labels=self.dataset.train_labels[held_out]
        )
        adam, progress = Adam(network, Cosine(LEARNING_RATE, self.steps)), f"fold {fold + 1}/{self.count}"
        curve = learn(network, adam, batches, self.steps, validate, progress=self.study.progress_of(progress))
        return {"parameters": network.count_params(), "images": int(held_out.sum()), **curve[-1]}


def folds(study: Study) -> None:
    """Train a CapsNet on all folds but one, for each of them, and validate it on that one."""
    experiment = Folds(study)
    for seed in study.seeds:
        for fold in range(experiment.count):
            row = study.row(experiment.train, fold=fold, seed=seed)
            study.say(
                f"fold {fold + 1}/{experiment.count}, seed {seed}: {100 * row['accuracy']:.2f} % of "
                f"{row['images']:,} images held out, {row['seconds']:.0f} s"
            )
    found = {seed: study.values("accuracy", seed=seed) for seed in study.seeds}
    study.draw("folds", figures.folds, found)
    study.finish(report(study, experiment, found), accuracy=found)


def report(study: Study, experiment: Folds, found: dict[int, list[float]]) -> str:
    """Return the table with its note."""
    count = experiment.count
    head = ["seed", *(f"fold {k + 1}" for k in range(count)), "mean ± standard deviation over the folds"]
    lines = [
        [seed, *(percent([each]) for each in of_seed), percent(of_seed)] for seed, of_seed in found.items()
    ]
    if len(lines) > 1:
        means = [float(np.mean(of_seed)) for of_seed in found.values()]
        lines.append(["mean of the seeds", *[""] * count, percent(means)])
    train_images = len(experiment.dataset.train_images)
    note = (
        f"Validation accuracy in %: {train_images:,} training images, dealt out to {count} folds that have "
        f"their share of every class; a network for each, trained on the others. {experiment.steps:,} steps "
        f"of {BATCH} images shifted by up to {SHIFT} pixels, Adam down a cosine from {LEARNING_RATE:g}; "
        f"CapsNet `{study.settings.preset}`. The test images were not looked at."
    )
    return table(head, lines, note)
