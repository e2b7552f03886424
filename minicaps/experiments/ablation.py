"""Experiment: what each choice in a CapsNet is worth, wrong choices included."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.capsules import LOGITS, Coupling
from minicaps.checks import check_array, check_gradient
from minicaps.datasets import Dataset, first
from minicaps.experiments import figures
from minicaps.experiments.needs import Needs
from minicaps.experiments.study import Study
from minicaps.experiments.tables import percent, seeds_in_words, table
from minicaps.experiments.training import Batches, Row, accuracy, endless, learn
from minicaps.layers import Example, softmax, softmax_backward
from minicaps.networks import PRESETS, CapsNet, Network
from minicaps.training import Adam, Constant, Diverged, in_first_rank

TRAIN_IMAGES = 10_000
WARMUP = 0.1  # of the steps
ITERATIONS = (1, 2, 3, 5, 7)


class OverChildren(Coupling):
    r"""The softmax with a mistake: it runs over the lower capsules i, c_ij = exp b_ij / Σ_k exp b_kj.

    Each parent then shares itself out among its children, where in the paper (eq. 3) each child shares
    itself out among the parents. Public codes have this mistake.

    Gradient: db = c (dc - Σ_i c dc).
    """

    def forward(self, b: Array) -> tuple[Array, Array]:
        """b (B, I, J) -> c (B, I, J), over the children i they sum to 1."""
        check_array("OverChildren.forward", "b", b, *LOGITS)
        c = softmax(b.swapaxes(1, 2)).swapaxes(1, 2)  # (B, I, J)
        return c, c

    def backward(self, dc: Array, c: Array) -> Array:
        """dc (B, I, J) -> db (B, I, J)."""
        check_gradient("OverChildren.backward", dc, c.shape, c)
        return softmax_backward(dc.swapaxes(1, 2), c.swapaxes(1, 2)).swapaxes(1, 2)  # (B, I, J)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        yield Example("normal", cls(), (rng.normal(size=(2, 5, 3)).astype(dtype),))


@dataclass(frozen=True)
class Variant:
    """A CapsNet and its training; the defaults are what the others are compared with.

    Attributes
    ----------
    iterations : int
    reconstruction : {"sum", "mean", "none"}
        Of the squared errors over the pixels; "none" is without decoder.
    gradient : {"full", "stopped"}
        Through the couplings.
    softmax_over : {"parents", "children"}
    std : float
        Standard deviation of W at the start.
    class_dimension : int
    learning_rate : float
    warmup : bool
    batch_size : int
    """

    iterations: int = 3
    reconstruction: str = "sum"
    gradient: str = "full"
    softmax_over: str = "parents"
    std: float = 0.05
    class_dimension: int = 16
    learning_rate: float = 1e-3
    warmup: bool = False
    batch_size: int = 128

    def build(self, preset: str, dataset: Dataset, seed: int) -> CapsNet:
        """Build the network, with first weights from the seed."""
        pixels = math.prod(dataset.image_shape)
        config = replace(
            PRESETS[preset],
            image_shape=dataset.image_shape,
            classes=dataset.classes,
            iterations=self.iterations,
            stopped_gradient=self.gradient == "stopped",
            class_dimension=self.class_dimension,
            std=self.std,
            decoder=self.reconstruction != "none",
            reconstruction_scale=0.0005 / (pixels if self.reconstruction == "mean" else 1),
        )
        coupling = OverChildren() if self.softmax_over == "children" else None
        return CapsNet(config, coupling=coupling, rng=np.random.default_rng([seed, 0]))


BASE = Variant()
GROUPS: dict[str, dict[str, Variant]] = {
    "routing iterations": {str(r): Variant(iterations=r) for r in ITERATIONS},
    "routing iterations, no reconstruction": {
        str(r): Variant(iterations=r, reconstruction="none") for r in ITERATIONS
    },
    "gradient through the couplings": {"full": BASE, "stopped": Variant(gradient="stopped")},
    "softmax over": {"parents": BASE, "children (wrong)": Variant(softmax_over="children")},
    "deviation of W at the start": {f"{std:g}": Variant(std=std) for std in (0.01, 0.05, 1.0)},
    "squared errors of the drawing": {"sum": BASE, "mean": Variant(reconstruction="mean")},
    "dimension of class capsules": {str(d): Variant(class_dimension=d) for d in (8, 16)},
    "learning rate": {
        "0.001": BASE,
        "0.001, warm-up": Variant(warmup=True),
        "0.0003": Variant(learning_rate=3e-4),
        "0.0003, warm-up": Variant(learning_rate=3e-4, warmup=True),
    },
    "batch": {str(b): Variant(batch_size=b) for b in (32, 128)},
}
NAMES = {  # of each variant once, though BASE is in most groups
    variant: f"{group}: {name}" for group, members in GROUPS.items() for name, variant in members.items()
}


class Ablation:
    """The images of a study, and how its variants are trained on them.

    Attributes
    ----------
    steps : int
        Of a training with the batches of BASE; all variants get as many images.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.dataset = study, study.load(Needs())
        self.images, self.labels, *self.validation = self.dataset.split(TRAIN_IMAGES)
        self.jobs = [(seed, variant) for seed in study.seeds for variant in NAMES]
        self.steps = study.fix_steps(*self.start(BASE, study.settings.seed))

    def number(self, variant: Variant, seed: int) -> str:
        """Return which of all trainings this is: "7/60"."""
        return f"{self.jobs.index((seed, variant)) + 1}/{len(self.jobs)}"

    def start(self, variant: Variant, seed: int) -> tuple[CapsNet, Batches]:
        """Return a network with its first weights, and its batches."""
        rng = np.random.default_rng([seed, 1])
        batches = endless(self.images, self.labels, variant.batch_size, rng)
        return variant.build(self.study.settings.preset, self.dataset, seed), batches

    def train(self, variant: dict[str, Any], seed: int) -> Row:
        """Train the variant with these options, and examine it at the end, or where it diverged."""
        chosen = Variant(**variant)
        network, batches = self.start(chosen, seed)
        steps = max(1, round(self.steps * BASE.batch_size / chosen.batch_size))
        warmup = round(WARMUP * steps) if chosen.warmup else 0
        adam = Adam(network, Constant(chosen.learning_rate, warmup))
        number, began = self.number(chosen, seed), time.perf_counter()
        progress = self.study.progress_of(number)
        try:
            found = learn(network, adam, batches, steps, self.examine, progress=progress)[-1]
        except Diverged as error:  # a result too, of one variant
            self.study.say(f"{number}  {error}")
            seconds = time.perf_counter() - began
            found = {
                "step": adam.steps,
                "seconds": seconds,
                **in_first_rank(self.examine)(network),
                "diverged": True,
            }
        return {"parameters": network.count_params(), **found}

    def examine(self, network: Network) -> Row:
        """Classify the validation images, and as many of those trained on."""
        images, labels = self.validation
        few = first(self.labels, len(images))
        seen = accuracy(network, self.images[few], self.labels[few])
        return {**accuracy(network, images, labels), "train_accuracy": seen["accuracy"]}


def ablation(study: Study) -> None:
    """Train every variant on the same images, and validate it."""
    experiment = Ablation(study)
    for seed, variant in experiment.jobs:
        row = study.row(experiment.train, variant=asdict(variant), seed=seed)
        study.say(
            f"{experiment.number(variant, seed)}  {NAMES[variant]}, seed {seed}: "
            f"{100 * row['accuracy']:.2f} % on validation, {row['seconds']:.0f} s"
        )
    accuracies = {
        group: {name: values(study, variant, "accuracy").tolist() for name, variant in members.items()}
        for group, members in GROUPS.items()
    }
    base = values(study, BASE, "accuracy").mean()
    study.draw("variants", figures.variants, accuracies, base)
    study.draw("iterations", lines_of_iterations, study)
    found = {
        f"{group}: {name}": [float(np.mean(each)), *each]
        for group, members in accuracies.items()
        for name, each in members.items()
    }
    study.finish(report(study, experiment), mean_and_each_accuracy=found)


def values(study: Study, variant: Variant, name: str) -> Array:
    """Return what the rows of a variant say under `name`, one of each seed: (seeds,)."""
    return np.array(study.values(name, variant=asdict(variant)))  # (seeds,)


def lines_of_iterations(study: Study) -> Figure:
    """Draw the accuracies against the routing iterations, with reconstruction and without."""
    lines = {}
    for images, key in (("validation", "accuracy"), ("training", "train_accuracy")):
        for reconstruction, words in (("sum", "with reconstruction"), ("none", "no reconstruction")):
            variants = [Variant(iterations=r, reconstruction=reconstruction) for r in ITERATIONS]
            lines[f"{images}, {words}"] = ITERATIONS, [values(study, v, key).tolist() for v in variants]
    return figures.spread_lines(
        lines,
        title="Accuracy against routing iterations",
        xlabel="Routing iterations",
        ylabel="Images classified correctly (%)",
    )


def report(study: Study, experiment: Ablation) -> str:
    """Return the table with its note."""
    head = ["varied", "value", "validation, %", "difference", "training - validation", "s"]
    lines = [
        [group, *table_line(study, name, variant)]
        for group, members in GROUPS.items()
        for name, variant in members.items()
    ]
    count, steps = len(experiment.images), experiment.steps
    note = (
        f"Reduced: CapsNet `{study.settings.preset}` with class capsules of {BASE.class_dimension} "
        f"dimensions, {count:,} training images, not shifted, {steps * BASE.batch_size / count:.3g} epochs "
        f"({steps:,} steps of {BASE.batch_size}), Adam at one rate, warm-up over {100 * WARMUP:.0f} % of the "
        f"steps; {len(experiment.validation[0]):,} validation images; {seeds_in_words(study.seeds)}. What is "
        "not named is as in the rows with difference 0. Advice under test: 3 to 5 iterations, more overfit; "
        "8 to 16 dimensions; rates of 0.001 to 0.0003 with warm-up; batches of 32 to 128."
    )
    return table(head, lines, note)


def table_line(study: Study, name: str, variant: Variant) -> list[str]:
    """Return what the table says of a variant."""
    validation = values(study, variant, "accuracy")  # (seeds,)
    difference = validation - values(study, BASE, "accuracy")  # (seeds,)
    overfit = values(study, variant, "train_accuracy") - validation  # (seeds,)
    diverged = sum("diverged" in row for row in study.rows(variant=asdict(variant)))
    return [
        f"{name} ({diverged} of {len(validation)} diverged)" if diverged else name,
        percent(validation),
        "0" if variant == BASE else percent(difference, sign=True),
        percent(overfit, sign=True),
        f"{values(study, variant, 'seconds').mean():.0f}",
    ]
