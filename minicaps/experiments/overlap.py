"""Experiment: two digits over each other (MultiMNIST), and the networks that read both."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array, to_numpy
from minicaps.datasets import augment, to_float
from minicaps.experiments import figures, pictures
from minicaps.experiments.needs import Needs
from minicaps.experiments.study import Study
from minicaps.experiments.tables import NAMES, percent, seeds_in_words, table
from minicaps.experiments.training import Batches, Row, learn
from minicaps.networks import PRESETS, CNNConfig, Network, OverlapCapsNet, OverlapCNN, highest_two
from minicaps.training import Adam, Cosine, in_first_rank, to_batch

FRAME = 36  # pixels: 28 and up to 4 to each side
# In this frame longer strides make a step faster, and the time saved is better spent on more channels.
FRAME_PRESETS = PRESETS | {
    "small": replace(
        PRESETS["small"], conv_channels=128, conv_kernel=9, conv_stride=3, primary_types=12, primary_kernel=6
    ),
}
BATCH = 100
PUBLISHED = {"capsnet": 94.8, "cnn": 91.9}  # %, Sabour et al. 2017, table 1
VALIDATION_PAIRS, TEST_PAIRS = 2_000, 5_000


def build_for_pairs(name: str, preset: str, classes: int, seed: int) -> OverlapCapsNet | OverlapCNN:
    """Build a network for pairs, with first weights from the seed."""
    shape, rng = (FRAME, FRAME, 1), np.random.default_rng([seed, 0])
    if name == "cnn":
        return OverlapCNN(CNNConfig(shape, classes, filters=32, hidden=512), rng=rng)
    return OverlapCapsNet(replace(FRAME_PRESETS[preset], image_shape=shape, classes=classes), rng=rng)


def optimizer(name: str, network: Network, steps: int) -> Adam:
    """Return what trains a network for pairs. All its numbers were chosen on validation pairs."""
    if name == "cnn":
        return Adam(network, Cosine(2e-3, steps))
    return Adam(network, Cosine(4e-3, steps, warmup=min(400, steps // 4)), beta2=0.98)


def some_pairs(images: Array, labels: Array, count: int) -> Batches:
    """Yield the same `count` pairs each time, in batches."""
    batches = augment.pairs(images, labels, BATCH, FRAME, np.random.default_rng(0))
    return itertools.islice(batches, count // BATCH)


def examine(network: Network, batches: Batches) -> Row:
    """Return the share of pairs with both digits correct, and of digits found."""
    network, predictions, labels = network.for_inference(), [], []
    for parts, both in batches:
        x, y = to_batch(parts, both, network.xp)  # (B, 2, H, W, C), (B, 2)
        outputs = network(*network.training_inputs(x, y))
        predictions.append(to_numpy(highest_two(network.scores(outputs))))  # (B, 2)
        labels.append(both)
    predicted, true = np.concatenate(predictions), np.concatenate(labels)  # (N, 2)
    found = (true[:, :, None] == predicted[:, None]).any(axis=2)  # (N, 2)
    return {"exact_match": float(found.all(axis=1).mean()), "per_digit": float(found.mean())}


class Overlap:
    """The images of a study, and how its networks are trained on pairs of them.

    Attributes
    ----------
    steps : int
        Of every training.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.dataset = study, study.load(Needs(frame=FRAME, grey=True, classes=2))
        self.images, self.labels, *self.validation = self.dataset.split()
        seed = study.settings.seed
        self.steps = study.fix_steps(self.build("capsnet", seed), self.batches(seed))

    def build(self, name: str, seed: int) -> OverlapCapsNet | OverlapCNN:
        return build_for_pairs(name, self.study.settings.preset, self.dataset.classes, seed)

    def batches(self, seed: int) -> Batches:
        """Yield batches of new pairs of training images."""
        return augment.pairs(self.images, self.labels, BATCH, FRAME, np.random.default_rng([seed, 1]))

    def train(self, network: str, seed: int) -> Row:
        """Train the network of this name, validate it ten times, and test it once."""
        trained, progress = self.build(network, seed), self.study.progress_of(NAMES[network])
        adam = optimizer(network, trained, self.steps)
        curve = learn(trained, adam, self.batches(seed), self.steps, self.validate, 10, progress)
        if isinstance(trained, OverlapCapsNet) and trained.decoder and seed == self.study.settings.seed:
            self.study.draw("reconstructions", reconstructions, trained, *next(self.test_pairs(BATCH)))
        return {
            "parameters": trained.count_params(),
            "seconds": curve[-1]["seconds"],
            **in_first_rank(examine)(trained, self.test_pairs(TEST_PAIRS)),
            "curve": curve,
        }

    def validate(self, network: Network) -> Row:
        images, labels = self.validation
        return examine(network, some_pairs(images, labels, VALIDATION_PAIRS))

    def test_pairs(self, count: int) -> Batches:
        return some_pairs(self.dataset.test_images, self.dataset.test_labels, count)


def overlap(study: Study) -> None:
    """Train CapsNet and CNN on pairs, validate them on the way, and test them once."""
    experiment, names = Overlap(study), study.settings.networks
    for seed in study.seeds:
        for name in names:
            row = study.row(experiment.train, network=name, seed=seed)
            study.say(
                f"{NAMES[name]}, seed {seed}: both digits correct {100 * row['exact_match']:.2f} %, "
                f"digits correct {100 * row['per_digit']:.2f} %, {row['seconds']:.0f} s"
            )
    study.draw("validation_curves", curves, study)
    found = {
        name: {key: float(np.mean(study.values(key, network=name))) for key in ("exact_match", "per_digit")}
        for name in names
    }
    study.finish(report(study, experiment.steps), **found.get("capsnet", {}), networks=found)


def reconstructions(network: OverlapCapsNet, parts: Array, labels: Array) -> Figure:
    """Draw 8-bit pairs (B, 2, H, W, C) with labels (B, 2), and what the network makes of them."""
    true = to_float(parts)  # (B, 2, H, W, C)
    x = augment.overlay(true)  # (B, H, W, C)
    outputs = network(x)
    predictions = highest_two(network.scores(outputs))  # (B, 2)
    return pictures.pairs(x, true, outputs[1], labels, predictions, network.correct(outputs, labels))


def curves(study: Study) -> Figure:
    """Draw the share of validation pairs with both digits correct, on the way."""
    return figures.curves(
        {NAMES[name]: study.values("curve", network=name) for name in study.settings.networks},
        x="step",
        y="exact_match",
        xlabel="Training step",
        ylabel="Pairs with both digits correct (%)",
    )


def report(study: Study, steps: int) -> str:
    """Return the table with its note."""
    head = ["network", "parameters", "both digits right, %", "digits right, %", "training, s", "paper, %"]
    note = (
        f"{TEST_PAIRS:,} pairs of test images, {FRAME}×{FRAME}; {steps:,} steps of {BATCH} new pairs, "
        f"CapsNet `{study.settings.preset}`; {seeds_in_words(study.seeds)}. Paper: Sabour et al. 2017, "
        "table 1, 100 minus its error. hinton-problems (NumPy): 48.6 % after 395 s."
    )
    return table(head, [table_line(study, name) for name in study.settings.networks], note)


def table_line(study: Study, name: str) -> list[str]:
    """Return what the table says of a network."""
    return [
        NAMES[name],
        f"{study.values('parameters', network=name)[0]:,}",
        percent(study.values("exact_match", network=name)),
        percent(study.values("per_digit", network=name)),
        f"{np.mean(study.values('seconds', network=name)):.0f}",
        f"{PUBLISHED[name]:.1f}",
    ]
