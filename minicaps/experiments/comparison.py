"""Experiments: MLP, CNN and CapsNet on a published walk-through's terms, and on few images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minicaps.datasets import Dataset, augment, load
from minicaps.experiments import figures as experiment_figures
from minicaps.experiments.study import (
    Row,
    Study,
    endless,
    learn,
    mean_and_spread,
    percent,
    seeds_in_words,
    table,
)
from minicaps.networks import Network, build
from minicaps.training import Adam, Cosine, evaluate

NAMES = {"mlp": "MLP", "cnn": "CNN", "capsnet": "CapsNet"}
IMAGES, EPOCHS = 49_000, 15
SHIFT = 2  # pixels; a tenth of the side is 2.8
FEW = (100, 1_000, 10_000)
FEW_RATES = {"mlp": 1e-3, "cnn": 1e-3, "capsnet": 2e-3}
FEW_BATCH = 50


class Plan(NamedTuple):
    """How one network of the comparison is trained.

    Attributes
    ----------
    network : {"mlp", "cnn", "capsnet"}
    batch_size : int
    shift : int
        Pixels.
    rate : float
        Of Adam.
    falling : bool
        Whether the rate falls down a cosine.
    published : float, optional
        Validation accuracy of the walk-through on these terms, in percent.
    """

    network: str
    batch_size: int
    shift: int
    rate: float = 1e-3
    falling: bool = False
    published: float | None = None

    @property
    def label(self) -> str:
        return f"{NAMES[self.network]}, batch {self.batch_size}" + ", cosine" * self.falling

    def adam(self, network: Network, steps: int) -> Adam:
        return Adam(network, Cosine(self.rate, steps) if self.falling else self.rate)


PLANS = (
    Plan("mlp", 128, 0, published=96.37),
    Plan("cnn", 1000, SHIFT, published=97.46),
    Plan("capsnet", 1000, SHIFT, published=98.80),
    Plan("cnn", 100, SHIFT),
    Plan("capsnet", 100, SHIFT),
    # 0.006 is the best for both of the rates that the README names, by five epochs of another seed
    Plan("cnn", 100, SHIFT, rate=6e-3, falling=True),
    Plan("capsnet", 100, SHIFT, rate=6e-3, falling=True),
)


def build_for(study: Study, name: str, dataset: Dataset, seed: int) -> Network:
    """Build a network for a data set, with first weights from the seed."""
    return build(name, study.settings.preset, image_shape=dataset.image_shape,
                 classes=dataset.classes, rng=np.random.default_rng([seed, 0]))  # fmt: skip


def accuracy(network: Network, images: np.ndarray, labels: np.ndarray) -> Row:
    return {"accuracy": evaluate(network, images, labels).accuracy}


# -- compare ----------------------------------------------------------------------------------


def compare(study: Study) -> None:
    """Train the three networks on 70 % of 49,000 images, shifted or not, and validate on the rest."""
    dataset = load(study.settings.data)
    order = np.random.default_rng([study.settings.seed, 2]).permutation(len(dataset.train_images))[:IMAGES]
    kept = 7 * len(order) // 10
    images, labels = dataset.train_images[order[:kept]], dataset.train_labels[order[:kept]]
    validation = dataset.train_images[order[kept:]], dataset.train_labels[order[kept:]]

    def start(plan: Plan, seed: int, steps: int) -> tuple[Network, Adam, Any]:
        network, rng = build_for(study, plan.network, dataset, seed), np.random.default_rng([seed, 1])
        moved = endless(images, labels, plan.batch_size, rng, lambda x: augment.shift(x, plan.shift, rng))
        return network, plan.adam(network, steps), moved

    def train(plan: Plan, seed: int) -> Row:
        in_epoch = math.ceil(kept / plan.batch_size)
        steps = max(1, round(epochs * in_epoch))
        network, adam, moved = start(plan, seed, steps)
        curve = learn(network, adam, moved, steps, lambda network: accuracy(network, *validation),
                      max(1, round(epochs)), study.progress_of(plan.label))  # fmt: skip
        return {
            "network": plan.network,
            "parameters": network.count_params(),
            "epochs": steps / in_epoch,
            "seconds_per_epoch": curve[-1]["seconds"] * in_epoch / steps,
            "accuracy": curve[-1]["accuracy"],
            "curve": [{**each, "epoch": each["step"] / in_epoch} for each in curve],
        }

    reference = Plan("capsnet", 100, SHIFT)  # its steps are those that are counted
    in_epoch = math.ceil(kept / reference.batch_size)
    trial = start(reference, study.settings.seed, EPOCHS * in_epoch)
    epochs = study.fix_steps(*trial, EPOCHS * in_epoch) / in_epoch
    plans = [plan for plan in PLANS if plan.network in study.settings.networks]
    for seed in study.seeds:
        for plan in plans:
            row = study.row(lambda plan=plan, seed=seed: train(plan, seed), label=plan.label, seed=seed)
            study.say(f"{plan.label}, seed {seed}: {100 * row['accuracy']:.2f} % on validation, "
                      f"{row['seconds_per_epoch']:.1f} s per epoch")  # fmt: skip
    lines = [_compare_line(study, plan) for plan in plans]
    head = ["network", "parameters", "shift", "rate", "validation, %", "s per epoch", "published, %"]
    note = (f"{kept:,} training and {len(order) - kept:,} validation images, {epochs:.3g} epochs, Adam at "
            "the rate, or from it down a cosine where that is said; CapsNet "
            f"`{study.settings.preset}`; {seeds_in_words(study.seeds)}. Published: a Keras walk-through, "
            "one run each.")  # fmt: skip
    finals = {plan.label: mean_and_spread(_accuracies(study, label=plan.label)) for plan in plans}
    _draw_curves(study, "validation_curves", [plan for plan in plans if plan.published])
    _draw_curves(study, "validation_curves_batch_100", [plan for plan in plans if plan.batch_size < 1000])
    study.finish(table(head, lines) + "\n\n" + note, accuracy=finals)


def _accuracies(study: Study, **key: Any) -> list[float]:
    return [row["accuracy"] for row in study.rows(**key)]


def _compare_line(study: Study, plan: Plan) -> list[str]:
    rows = study.rows(label=plan.label)
    seconds = np.mean([row["seconds_per_epoch"] for row in rows])
    shift = f"{plan.shift} pixels" if plan.shift else "none"
    return [plan.label, f"{rows[0]['parameters']:,}", shift, f"{plan.rate:g}",
            percent([row["accuracy"] for row in rows]), f"{seconds:.1f}",
            f"{plan.published:.2f}" if plan.published else ""]  # fmt: skip


def _draw_curves(study: Study, name: str, plans: Sequence[Plan]) -> None:
    study.draw(name, experiment_figures.curves(
        {plan.label: [row["curve"] for row in study.rows(label=plan.label)] for plan in plans},
        x="epoch", y="accuracy", xlabel="Epoch", ylabel="Validation images classified right (%)",
        published={plan.label: plan.published for plan in plans if plan.published},
    ))  # fmt: skip


# -- few --------------------------------------------------------------------------------------


def few(study: Study) -> None:
    """Train the three networks on 100, 1,000 and 10,000 images, and test each once."""
    dataset = load(study.settings.data)
    images, labels, *_ = dataset.split()
    counts = [count for count in FEW if count <= len(images)]

    def start(name: str, count: int, seed: int) -> tuple[Network, Any]:
        chosen = np.random.default_rng([seed, 2]).permutation(len(images))[:count]
        rng = np.random.default_rng([seed, 1])
        moved = endless(images[chosen], labels[chosen], FEW_BATCH, rng,
                        lambda x: augment.shift(x, SHIFT, rng))  # fmt: skip
        return build_for(study, name, dataset, seed), moved

    def train(name: str, count: int, seed: int) -> Row:
        network, moved = start(name, count, seed)
        curve = learn(network, Adam(network, Cosine(FEW_RATES[name], steps)), moved, steps,
                      lambda network: accuracy(network, dataset.test_images, dataset.test_labels),
                      progress=study.progress_of(f"{NAMES[name]}, {count:,} images"))  # fmt: skip
        return {"parameters": network.count_params(), **curve[-1]}

    trial, moved = start("capsnet", counts[-1], study.settings.seed)
    adam = Adam(trial, 1e-3)
    steps = study.fix_steps(trial, adam, moved)
    names = study.settings.networks
    for seed in study.seeds:
        for count in counts:
            for name in names:
                row = study.row(lambda name=name, count=count, seed=seed: train(name, count, seed),
                                network=name, images=count, seed=seed)  # fmt: skip
                study.say(
                    f"{NAMES[name]}, {count:,} images, seed {seed}: {100 * row['accuracy']:.2f} % on test"
                )
    found = {name: {count: _accuracies(study, network=name, images=count) for count in counts}
             for name in names}  # fmt: skip
    lines = [[NAMES[name], *(percent(found[name][count]) for count in counts)] for name in names]
    if {"cnn", "capsnet"} <= set(names):
        gaps = [np.subtract(found["capsnet"][count], found["cnn"][count]) for count in counts]
        lines.append(["CapsNet - CNN", *(percent(gap, sign=True) for gap in gaps)])
    note = (f"Test accuracy in %, {len(dataset.test_images):,} images. {steps:,} steps of {FEW_BATCH} images "
            f"shifted by up to {SHIFT} pixels for every network, Adam down a cosine from "
            f"{FEW_RATES['capsnet']:g} (CapsNet) and {FEW_RATES['cnn']:g}; CapsNet "
            f"`{study.settings.preset}`; {seeds_in_words(study.seeds)}.")  # fmt: skip
    study.draw("accuracy_against_images", experiment_figures.spread_lines(
        {NAMES[name]: (counts, list(found[name].values())) for name in names},
        title="Test accuracy on few training images", xlabel="Training images",
        ylabel="Test images classified right (%)", logarithmic=True,
    ))  # fmt: skip
    head = ["network", *(f"{count:,} images" for count in counts)]
    study.finish(table(head, lines) + "\n\n" + note, accuracy=found)
