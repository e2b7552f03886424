"""Experiment: what each choice in a CapsNet is worth, wrong choices included."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules import LOGITS, Coupling
from minicaps.checks import check_array, check_gradient
from minicaps.datasets import Dataset, load
from minicaps.experiments import figures as experiment_figures
from minicaps.experiments.study import Diverged, Row, Study, endless, learn, percent, seeds_in_words, table
from minicaps.layers import softmax, softmax_backward
from minicaps.networks import PRESETS, CapsNet
from minicaps.training import Adam, Constant, evaluate

TRAIN_IMAGES = 10_000
WARMUP = 0.1  # of the steps


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


@dataclass(frozen=True)
class Variant:
    """A CapsNet and its training; the defaults are what the others are compared with."""

    iterations: int = 3
    reconstruction: str = "sum"  # "sum", "mean" or "none"
    gradient: str = "full"
    softmax_over: str = "parents"  # or "children"
    std: float = 0.05  # of W at the start
    class_dimension: int = 16
    rate: float = 1e-3
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
    "routing iterations": {str(r): Variant(iterations=r) for r in (1, 2, 3, 5, 7)},
    "routing iterations, no reconstruction": {
        str(r): Variant(iterations=r, reconstruction="none") for r in (1, 2, 3, 5, 7)
    },
    "gradient through the couplings": {"full": BASE, "stopped": Variant(gradient="stopped")},
    "softmax over": {"parents": BASE, "children (wrong)": Variant(softmax_over="children")},
    "deviation of W at the start": {f"{d:g}": Variant(std=d) for d in (0.01, 0.05, 1.0)},
    "squared errors of the drawing": {"sum": BASE, "mean": Variant(reconstruction="mean")},
    "dimension of class capsules": {str(d): Variant(class_dimension=d) for d in (8, 16)},
    "learning rate": {
        "0.001": BASE,
        "0.001, warm-up": Variant(warmup=True),
        "0.0003": Variant(rate=3e-4),
        "0.0003, warm-up": Variant(rate=3e-4, warmup=True),
    },
    "batch": {str(b): Variant(batch_size=b) for b in (32, 128)},
}


def ablation(study: Study) -> None:
    """Train every variant on the same images, and validate it."""
    dataset = load(study.settings.data)
    images, labels, *validation = dataset.split()
    images, labels = images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES]
    seen = slice(len(validation[0]))  # as many training images as there are to validate

    def start(variant: Variant, seed: int, steps: int) -> tuple[CapsNet, Adam, Any]:
        network = variant.build(study.settings.preset, dataset, seed)
        warmup = round(WARMUP * steps) if variant.warmup else 0
        rng = np.random.default_rng([seed, 1])
        adam = Adam(network, Constant(variant.rate, warmup))
        return network, adam, endless(images, labels, variant.batch_size, rng)

    def examine(network: CapsNet) -> Row:
        return {"accuracy": evaluate(network, *validation).accuracy,
                "train_accuracy": evaluate(network, images[seen], labels[seen]).accuracy}  # fmt: skip

    def train(variant: Variant, seed: int) -> Row:
        count = max(1, round(steps * BASE.batch_size / variant.batch_size))  # as many images for all
        network, adam, drawn = start(variant, seed, count)
        began = time.perf_counter()
        try:
            found = learn(network, adam, drawn, count, examine,
                          progress=study.progress_of(f"{number}/{total}"))[-1]  # fmt: skip
        except Diverged as error:  # a result too, of one variant
            study.say(f"{number}/{total}  {error}")
            found = {"step": adam.steps, "seconds": time.perf_counter() - began, **examine(network),
                     "diverged": True}  # fmt: skip
        return {"parameters": network.count_params(), **found}

    trial = start(BASE, study.settings.seed, 1)
    steps = study.fix_steps(*trial)
    variants = {variant: (group, name) for group, members in GROUPS.items()
                for name, variant in members.items()}  # each once, though BASE is in most groups  # fmt: skip
    total = len(variants) * len(study.seeds)
    jobs = [(seed, variant) for seed in study.seeds for variant in variants]
    for number, (seed, variant) in enumerate(jobs, 1):
        row = study.row(
            lambda variant=variant, seed=seed: train(variant, seed), variant=repr(variant), seed=seed
        )
        study.say(f"{number}/{total}  {': '.join(variants[variant])}, seed {seed}: "
                  f"{100 * row['accuracy']:.2f} % on validation, {row['seconds']:.0f} s")  # fmt: skip
    _report(study, steps, len(images), len(validation[0]))


def _report(study: Study, steps: int, train_images: int, validation_images: int) -> None:
    def values(variant: Variant, name: str) -> np.ndarray:
        return np.array([row[name] for row in study.rows(variant=repr(variant))])  # (seeds,)

    lines, base = [], values(BASE, "accuracy")
    for group, members in GROUPS.items():
        for name, variant in members.items():
            right = values(variant, "accuracy")
            gap = values(variant, "train_accuracy") - right
            against = "0" if variant == BASE else percent(right - base, sign=True)
            seconds = values(variant, "seconds").mean()
            diverged = sum("diverged" in row for row in study.rows(variant=repr(variant)))
            name += f" ({diverged} of {len(right)} diverged)" if diverged else ""
            lines.append([group, name, percent(right), against, percent(gap, sign=True), f"{seconds:.0f}"])
    epochs = steps * BASE.batch_size / train_images
    note = (f"Reduced: CapsNet `{study.settings.preset}` with class capsules of {BASE.class_dimension} "
            f"dimensions, {train_images:,} training images, not shifted, {epochs:.3g} epochs ({steps:,} "
            f"steps of {BASE.batch_size}), Adam at one rate, warm-up over {100 * WARMUP:.0f} % of the steps; "
            f"{validation_images:,} validation images; {seeds_in_words(study.seeds)}. What is not named is "
            "as in the rows with difference 0. Advice under test: 3 to 5 iterations, more overfit; 8 to 16 "
            "dimensions; rates of 0.001 to 0.0003 with warm-up; batches of 32 to 128.")  # fmt: skip
    head = ["varied", "value", "validation, %", "difference", "training - validation", "s"]
    study.draw("variants", experiment_figures.variants(
        {group: {name: values(variant, "accuracy") for name, variant in members.items()}
         for group, members in GROUPS.items()}, base.mean()))  # fmt: skip
    study.draw("iterations", experiment_figures.spread_lines(
        {f"{part}, {'with' if reconstruction == 'sum' else 'no'} reconstruction": (
            [1, 2, 3, 5, 7],
            [values(Variant(iterations=r, reconstruction=reconstruction), key) for r in (1, 2, 3, 5, 7)])
         for part, key in (("validation", "accuracy"), ("training", "train_accuracy"))
         for reconstruction in ("sum", "none")},
        title="Accuracy against routing iterations", xlabel="Routing iterations",
        ylabel="Images classified right (%)",
    ))  # fmt: skip
    found = {f"{group}: {name}": [values(variant, "accuracy").mean(), *values(variant, "accuracy")]
             for group, members in GROUPS.items() for name, variant in members.items()}  # fmt: skip
    study.finish(table(head, lines) + "\n\n" + note, mean_and_each_accuracy=found)
