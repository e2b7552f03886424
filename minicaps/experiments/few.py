"""Experiment: MLP, CNN and CapsNet on few images."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import numpy as np
from matplotlib.figure import Figure

from minicaps.datasets import augment, first
from minicaps.experiments import figures
from minicaps.experiments.needs import Needs
from minicaps.experiments.study import Study
from minicaps.experiments.tables import NAMES, percent, seeds_in_words, table
from minicaps.experiments.training import Batches, Row, accuracy, endless, learn
from minicaps.networks import Network
from minicaps.training import Adam, Cosine

COUNTS = (100, 1_000, 10_000)  # of training images
BATCH = 50
SHIFT = 2  # pixels
LEARNING_RATES = {"mlp": 1e-3, "cnn": 1e-3, "capsnet": 2e-3}  # at first, then down a cosine

Accuracies: TypeAlias = dict[str, dict[int, list[float]]]  # by network and number of images, of all seeds


class FewImages:
    """The images of a study, and how its networks are trained on some of them.

    Attributes
    ----------
    counts : list of int
        Numbers of training images, as far as the data set has them.
    steps : int
        Of every training.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.dataset = study, study.load(Needs(images=COUNTS[0]))
        self.images, self.labels, *_ = self.dataset.split()
        self.counts = [count for count in COUNTS if count <= len(self.images)]
        self.steps = study.fix_steps(*self.start("capsnet", self.counts[-1], study.settings.seed))

    def start(self, name: str, count: int, seed: int) -> tuple[Network, Batches]:
        """Return a network with its first weights, and batches of `count` images."""
        order = np.random.default_rng([seed, 2]).permutation(len(self.images))
        chosen = order[first(self.labels[order], count)]  # (count,)
        rng = np.random.default_rng([seed, 1])
        change = partial(augment.shift, largest=SHIFT, rng=rng)
        batches = endless(self.images[chosen], self.labels[chosen], BATCH, rng, change)
        return self.study.build(name, self.dataset, seed), batches

    def train(self, network: str, images: int, seed: int) -> Row:
        """Train the network of this name on so many images, and test it once."""
        trained, batches = self.start(network, images, seed)
        adam = Adam(trained, Cosine(LEARNING_RATES[network], self.steps))
        test = partial(accuracy, images=self.dataset.test_images, labels=self.dataset.test_labels)
        progress = self.study.progress_of(f"{NAMES[network]}, {images:,} images")
        curve = learn(trained, adam, batches, self.steps, test, progress=progress)
        return {"parameters": trained.count_params(), **curve[-1]}


def few(study: Study) -> None:
    """Train the three networks on 100, 1,000 and 10,000 images, and test each once."""
    experiment, names = FewImages(study), study.settings.networks
    for seed in study.seeds:
        for count in experiment.counts:
            for name in names:
                row = study.row(experiment.train, network=name, images=count, seed=seed)
                what = f"{NAMES[name]}, {count:,} images, seed {seed}"
                study.say(f"{what}: {100 * row['accuracy']:.2f} % on test")
    found = {
        name: {count: study.values("accuracy", network=name, images=count) for count in experiment.counts}
        for name in names
    }
    study.draw("accuracy_against_images", lines_of_accuracy, found)
    study.finish(report(study, experiment, found), accuracy=found)


def lines_of_accuracy(found: Accuracies) -> Figure:
    """Draw the test accuracy of every network against the number of images."""
    return figures.spread_lines(
        {NAMES[name]: (list(by_count), list(by_count.values())) for name, by_count in found.items()},
        title="Test accuracy on few training images",
        xlabel="Training images",
        ylabel="Test images classified correctly (%)",
        logarithmic=True,
    )


def report(study: Study, experiment: FewImages, found: Accuracies) -> str:
    """Return the table with its note."""
    head = ["network", *(f"{count:,} images" for count in experiment.counts)]
    lines = [[NAMES[name], *map(percent, by_count.values())] for name, by_count in found.items()]
    if {"cnn", "capsnet"} <= found.keys():
        pairs = zip(found["capsnet"].values(), found["cnn"].values(), strict=True)
        gaps = [percent(np.subtract(capsnet, cnn), sign=True) for capsnet, cnn in pairs]
        lines.append(["CapsNet - CNN", *gaps])
    note = (
        f"Test accuracy in %, {len(experiment.dataset.test_images):,} images. {experiment.steps:,} steps of "
        f"{BATCH} images shifted by up to {SHIFT} pixels for every network, Adam down a cosine from "
        f"{LEARNING_RATES['capsnet']:g} (CapsNet) and {LEARNING_RATES['cnn']:g}; CapsNet "
        f"`{study.settings.preset}`; {seeds_in_words(study.seeds)}."
    )
    return table(head, lines, note)
