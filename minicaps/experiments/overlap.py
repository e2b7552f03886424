"""Experiment: two digits over each other (MultiMNIST), and the networks that read both."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from minicaps.arrays import to_numpy
from minicaps.datasets import augment, load, to_float
from minicaps.experiments import figures as experiment_figures
from minicaps.experiments import pictures
from minicaps.experiments.study import Batches, Row, Study, learn, percent, seeds_in_words, table
from minicaps.networks import PRESETS, CNNConfig, Network, OverlapCapsNet, OverlapCNN, highest_two
from minicaps.training import Adam, Cosine, to_batch

FRAME = 36  # pixels: 28 and up to 4 to each side
# In this frame longer strides make a step faster, and the time saved is better spent on more channels.
FRAME_PRESETS = PRESETS | {
    "small": replace(
        PRESETS["small"], conv_channels=128, conv_kernel=9, conv_stride=3, primary_types=12, primary_kernel=6
    ),
}
BATCH = 100
NAMES = {"capsnet": "CapsNet", "cnn": "CNN"}
PUBLISHED = {"capsnet": 94.8, "cnn": 91.9}  # %, Sabour et al. 2017, table 1
VALIDATION_PAIRS, TEST_PAIRS = 2_000, 5_000


def build_for_pairs(name: str, preset: str, classes: int, seed: int) -> Network:
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


def some_pairs(images: np.ndarray, labels: np.ndarray, count: int) -> Batches:
    """Yield the same `count` pairs each time, in batches."""
    drawn = augment.pairs(images, labels, BATCH, FRAME, np.random.default_rng(0))
    return itertools.islice(drawn, count // BATCH)


def examine(network: Network, drawn: Batches) -> Row:
    """Return the share of pairs with both digits right, and of digits found."""
    network, found, labels = network.for_inference(), [], []
    for parts, both in drawn:
        x, y = to_batch(parts, both, network.xp)
        outputs = network(*network.training_inputs(x, y))
        found.append(np.sort(to_numpy(highest_two(network.scores(outputs))), axis=1))
        labels.append(np.sort(both, axis=1))
    predicted, true = np.concatenate(found), np.concatenate(labels)  # (N, 2)
    hit = (true[:, :, None] == predicted[:, None]).any(axis=2)  # (N, 2)
    return {"exact_match": float(hit.all(axis=1).mean()), "per_digit": float(hit.mean())}


def overlap(study: Study) -> None:
    """Train CapsNet and CNN on pairs, validate them on the way, and test them once."""
    dataset = load(study.settings.data)
    images, labels, *validation = dataset.split()
    test = dataset.test_images, dataset.test_labels

    def start(name: str, seed: int) -> tuple[Network, Batches]:
        network = build_for_pairs(name, study.settings.preset, dataset.classes, seed)
        return network, augment.pairs(images, labels, BATCH, FRAME, np.random.default_rng([seed, 1]))

    def train(name: str, seed: int) -> Row:
        network, drawn = start(name, seed)
        curve = learn(network, optimizer(name, network, steps), drawn, steps,
                      lambda network: examine(network, some_pairs(*validation, VALIDATION_PAIRS)), 10,
                      study.progress_of(NAMES[name]))  # fmt: skip
        if name == "capsnet" and network.decoder and seed == study.settings.seed:
            _draw_pairs(study, network, next(some_pairs(*test, BATCH)))
        result = examine(network, some_pairs(*test, TEST_PAIRS))
        return {
            "parameters": network.count_params(),
            "seconds": curve[-1]["seconds"],
            **result,
            "curve": curve,
        }

    trial, drawn = start("capsnet", study.settings.seed)
    adam = Adam(trial, 1e-3)
    steps = study.fix_steps(trial, adam, drawn)
    names = study.settings.networks
    for seed in study.seeds:
        for name in names:
            row = study.row(lambda name=name, seed=seed: train(name, seed), network=name, seed=seed)
            study.say(f"{NAMES[name]}, seed {seed}: both digits right {100 * row['exact_match']:.2f} %, "
                      f"digits right {100 * row['per_digit']:.2f} %, {row['seconds']:.0f} s")  # fmt: skip
    _report(study, steps)


def _draw_pairs(study: Study, network: OverlapCapsNet, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    parts, labels = to_float(pairs[0]), pairs[1]  # (B, 2, H, W, C), (B, 2)
    x = augment.overlay(parts)
    v, drawn = network(x)  # (B, J, E), (B, 2, H, W, C)
    predictions = highest_two(network.scores((v, drawn)))  # (B, 2)
    right = network.correct((v, drawn), labels)
    study.draw("reconstructions", pictures.pairs(x, parts, drawn, labels, predictions, right))


def _report(study: Study, steps: int) -> None:
    names = study.settings.networks

    def values(name: str, key: str) -> list[float]:
        return [row[key] for row in study.rows(network=name)]

    lines = [[NAMES[name], f"{values(name, 'parameters')[0]:,}", percent(values(name, "exact_match")),
              percent(values(name, "per_digit")), f"{np.mean(values(name, 'seconds')):.0f}",
              f"{PUBLISHED[name]:.1f}"] for name in names]  # fmt: skip
    head = ["network", "parameters", "both digits right, %", "digits right, %", "training, s", "paper, %"]
    note = (f"{TEST_PAIRS:,} pairs of test images, {FRAME}×{FRAME}; {steps:,} steps of {BATCH} new pairs, "
            f"CapsNet `{study.settings.preset}`; {seeds_in_words(study.seeds)}. Paper: Sabour et al. 2017, "
            "table 1, 100 minus its error. hinton-problems (NumPy): 48.6 % after 395 s.")  # fmt: skip
    study.draw("validation_curves", experiment_figures.curves(
        {NAMES[name]: [row["curve"] for row in study.rows(network=name)] for name in names},
        x="step", y="exact_match", xlabel="Training step", ylabel="Pairs with both digits right (%)",
    ))  # fmt: skip
    found = {name: {key: float(np.mean(values(name, key))) for key in ("exact_match", "per_digit")}
             for name in names}  # fmt: skip
    study.finish(table(head, lines) + "\n\n" + note, **found.get("capsnet", {}), networks=found)
