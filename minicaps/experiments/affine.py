"""Experiment: trained on upright digits in a large frame, tested on digits that are warped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.datasets import Dataset, Warps, augment, first
from minicaps.experiments import figures, pictures
from minicaps.experiments.needs import Needs
from minicaps.experiments.study import Study
from minicaps.experiments.tables import percent, seeds_in_words, table
from minicaps.experiments.training import Batches, Row, accuracy, endless, learn
from minicaps.fast import slices_of
from minicaps.networks import Network, files
from minicaps.training import Adam, Cosine, Optimizer, evaluate, in_first_rank

FRAME = 40  # pixels
KERNEL = 9  # of the CapsNet's first convolution; in a larger frame a step is faster than with the 7 of small
BATCH = 100
MOMENTS = 16  # at which a network is validated
BETWEEN = 8  # times as many at which its weights are kept
MAX_TRIES = 40  # of those are validated too, at most, to find an accuracy
GOAL = 0.992  # of the validation images, for every network
CLOSE = 0.0005
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "CapsNet": ("capsnet", {"conv_kernel": KERNEL}),
    "CapsNet without routing (R = 1)": ("capsnet", {"conv_kernel": KERNEL, "iterations": 1}),
    "CNN": ("cnn", {"filters": 32, "hidden": 512}),
}
LEARNING_RATES = {"capsnet": 4e-3, "cnn": 2e-3}
PUBLISHED = {"CapsNet": "79 (paper), 85.5 (hinton-problems)", "CNN": "66 (paper), 87.5 (hinton-problems)"}
PUBLISHED_GAPS = {"CNN": "+13 (paper), -2.0 (hinton-problems)"}
SWEEPS: dict[str, list[float]] = {
    "angle": np.linspace(-40, 40, 9).tolist(),
    "shear": np.linspace(-0.4, 0.4, 9).tolist(),
    "scale": np.linspace(0.6, 1.4, 9).tolist(),
}
SWEEP_IMAGES = 1_000


class Affine:
    """The images of a study, its networks, and the weights that are kept of them on the way.

    Attributes
    ----------
    steps : int
        Of every training.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.dataset = study, study.load(Needs(frame=FRAME))
        self.images, self.labels, held_out, labels = self.dataset.split()
        self.validation = augment.place(held_out, FRAME, np.random.default_rng(0)), labels
        seed = study.settings.seed
        self.steps = study.fix_steps(build_framed(study, "CapsNet", self.dataset, seed), self.batches(seed))

    def batches(self, seed: int) -> Batches:
        """Yield batches of images, each at a random position in the frame."""
        rng = np.random.default_rng([seed, 1])
        change = partial(augment.place, size=FRAME, rng=rng)
        return endless(self.images, self.labels, BATCH, rng, change)

    def train(self, network: str, seed: int) -> Row:
        """Train a network, validate it at some moments, and keep its weights at more of them."""
        trained = build_framed(self.study, network, self.dataset, seed)
        adam = Adam(trained, Cosine(LEARNING_RATES[NETWORKS[network][0]], self.steps))
        examine = partial(self.examine, name=network, seed=seed, adam=adam)
        rounds, progress = MOMENTS * BETWEEN, self.study.progress_of(network)
        curve = learn(trained, adam, self.batches(seed), self.steps, examine, rounds, progress)
        return {
            "parameters": trained.count_params(),
            "curve": [point for point in curve if "accuracy" in point],
            "kept": [point["step"] for point in curve],
        }

    def examine(self, network: Network, name: str, seed: int, adam: Optimizer) -> Row:
        """Keep the weights, and validate them where one of MOMENTS is."""
        files.write(weights_path(self.study, name, seed, adam.steps), network.state(), {})
        validated = {self.steps * k // MOMENTS for k in range(1, MOMENTS + 1)}
        return accuracy(network, *self.validation) if adam.steps in validated else {}

    def kept(self, name: str, seed: int, step: int) -> Network:
        """Return a network as it was after a step."""
        network = build_framed(self.study, name, self.dataset, seed)
        network.load_state(files.read(weights_path(self.study, name, seed, step))[0])
        return network

    def find(self, network: str, seed: int) -> Row:
        """Return the moment at which a network is as accurate as all of its seed can be."""
        goal = min(GOAL, *map(best, self.study.rows(kind="training", seed=seed)))
        (training,) = self.study.rows(kind="training", network=network, seed=seed)
        return search(training, goal, lambda step: accuracy(self.kept(network, seed, step), *self.validation))

    def test(self, network: str, seed: int) -> Row:
        """Test a network as it was at the moment that was found."""
        (moment,) = self.study.rows(kind="moment", network=network, seed=seed)
        chosen = {"step": moment["step"], "validation": moment["accuracy"]}
        images, labels = self.dataset.test_images, self.dataset.test_labels
        return {**chosen, **test(self.kept(network, seed, moment["step"]), images, labels)}


def affine(study: Study) -> None:
    """Train three networks to one accuracy on placed digits, and test them on warped ones."""
    experiment = Affine(study)
    in_first_rank((study.folder / "weights").mkdir)(exist_ok=True)
    study.draw("images", pictures.samples, *warped_test(experiment.dataset.test_images[:24]))
    for seed in study.seeds:
        for name in NETWORKS:
            study.row(experiment.train, "training", network=name, seed=seed)
        for name in NETWORKS:
            study.row(in_first_rank(experiment.find), "moment", network=name, seed=seed)
            row = study.row(in_first_rank(experiment.test), "test", network=name, seed=seed)
            study.say(in_words(study, row))
        in_first_rank(tidy)(study, seed)
    study.draw("sweeps", figures.sweeps, by_network(study, "test", "sweeps"), SWEEPS)
    study.draw("validation_curves", curves, study)
    gaps, apart = gaps_of(study), validation_apart(study)
    gap_and_each = {other: [gap.mean(), *gap] for other, gap in gaps.items()}
    study.finish(report(study, experiment, gaps, apart), gap=gap_and_each, validation_apart=apart)


def build_framed(study: Study, name: str, dataset: Dataset, seed: int) -> Network:
    """Build a network for placed images, with first weights from the seed."""
    kind, options = NETWORKS[name]
    return study.build(kind, dataset, seed, image_shape=(FRAME, FRAME, dataset.image_shape[2]), **options)


def weights_path(study: Study, name: str, seed: int, step: int) -> Path:
    return study.folder / "weights" / f"{list(NETWORKS).index(name)}-{seed}-{step}.npz"


def best(training: Row) -> float:
    return max(moment["accuracy"] for moment in training["curve"])


def search(
    training: Row, goal: float, validate: Callable[[int], Row], close: float = CLOSE, tries: int | None = None
) -> Row:
    """Return the moment of a training whose accuracy is nearest to `goal`.

    Of the validated moments, unless none is as near as close / 2. Then weights kept between them are
    validated, those first that ought to be nearest by interpolation, until one is, `tries` at most.
    """
    moments = [{key: point[key] for key in ("step", "accuracy")} for point in training["curve"]]
    steps, accuracies = zip(*((each["step"], each["accuracy"]) for each in moments), strict=True)
    others = [step for step in training["kept"] if step not in steps]
    others.sort(key=lambda step: abs(np.interp(step, steps, accuracies) - goal))
    for step in others[: MAX_TRIES if tries is None else tries]:
        if any(distance(moment, goal) <= close / 2 for moment in moments):
            break
        moments.append({"step": step, **validate(step)})
    return min(moments, key=lambda moment: distance(moment, goal))


def distance(moment: Row, goal: float) -> float:
    """Return how far its accuracy is from `goal`, without the rounding errors of a difference."""
    return round(abs(moment["accuracy"] - goal), 9)


def tidy(study: Study, seed: int) -> None:
    """Delete the weights of the moments that were not chosen."""
    for name in NETWORKS:
        (chosen,) = study.values("step", kind="test", network=name, seed=seed)
        (kept,) = study.values("kept", kind="training", network=name, seed=seed)
        for step in kept:
            if step != chosen:
                weights_path(study, name, seed, step).unlink(missing_ok=True)


# -- the test ---------------------------------------------------------------------------------


def test(network: Network, images: Array, labels: Array) -> Row:
    """Test a network on placed and on warped images, and along each kind of warp alone."""
    placed, warped = warped_test(images)
    few = first(labels, SWEEP_IMAGES)
    return {
        "placed": evaluate(network, placed, labels).accuracy,
        "warped": evaluate(network, warped, labels).accuracy,
        "sweeps": {kind: sweep(network, images[few], labels[few], kind) for kind in SWEEPS},
    }


def sweep(network: Network, images: Array, labels: Array, kind: str) -> list[float]:
    """Return the accuracies along one kind of warp."""
    still, found = at_positions(images, Warps.none(len(images))), []
    for x in SWEEPS[kind]:
        warps = still._replace(**{kind: np.full_like(getattr(still, kind), x)})
        found.append(evaluate(network, warp_framed(images, warps), labels).accuracy)
    return found


def warped_test(images: Array) -> tuple[Array, Array]:
    """Return images at random positions in the frame, and warped at the same ones; always the same."""
    warps = Warps.random(len(images), np.random.default_rng(0))
    still = Warps.none(len(images))
    return warp_framed(images, at_positions(images, still)), warp_framed(images, at_positions(images, warps))


def at_positions(images: Array, warps: Warps) -> Warps:
    """Let the warps move each image to a position in the frame, the same for the same images."""
    margin = (FRAME - np.array(images.shape[1:3])) // 2  # (2,)
    move = np.random.default_rng(1).integers(-margin, margin, size=(len(images), 2), endpoint=True)  # (N, 2)
    return warps._replace(move=move)


def warp_framed(images: Array, warps: Warps) -> Array:
    """Put images into the middle of the frame and warp them, some at a time: (N, FRAME, FRAME, C)."""
    count, height, width, channels = images.shape
    top, left = (FRAME - height) // 2, (FRAME - width) // 2
    framed = np.zeros((count, FRAME, FRAME, channels), dtype=images.dtype)  # (N, FRAME, FRAME, C)
    framed[:, top : top + height, left : left + width] = images
    some = slices_of(count, 500)
    return np.concatenate([augment.warp(framed[k], Warps(*(each[k] for each in warps))) for k in some])


# -- the report -------------------------------------------------------------------------------


def by_network(study: Study, kind: str, key: str) -> dict[str, list[Any]]:
    """Return for every network what its rows of a kind say, one of each seed."""
    return {name: study.values(key, kind=kind, network=name) for name in NETWORKS}


def in_words(study: Study, row: Row) -> str:
    """Say what the test of a network found."""
    name, seed = row["network"], row["seed"]
    (training,) = study.rows(kind="training", network=name, seed=seed)
    return (
        f"{name}, seed {seed}: up to {100 * best(training):.2f} % of the placed validation images; "
        f"at {100 * row['validation']:.2f} %, {100 * row['warped']:.2f} % of the warped test images"
    )


def gaps_of(study: Study) -> dict[str, Array]:
    """Return by how much the CapsNet does better on warped images than each other network: (seeds,)."""
    capsnet, *others = by_network(study, "test", "warped").items()
    return {other: np.subtract(capsnet[1], warped) for other, warped in others}


def validation_apart(study: Study) -> float:
    """Return how far apart the networks of a seed are on the placed validation images, at most."""
    validation = list(by_network(study, "test", "validation").values())
    return round(float(np.ptp(validation, axis=0).max()), 9)


def curves(study: Study) -> Figure:
    return figures.curves(
        by_network(study, "training", "curve"),
        x="step",
        y="accuracy",
        xlabel="Training step",
        ylabel="Validation images classified correctly (%)",
    )


def report(study: Study, experiment: Affine, gaps: dict[str, Array], apart: float) -> str:
    """Return the table with its note."""
    head = [
        "network",
        "parameters",
        "placed, validation, %",
        "placed, test, %",
        "warped, test, %",
        "published, %",
    ]
    lines = [table_line(study, name) for name in NETWORKS]
    for other, gap in gaps.items():
        published = PUBLISHED_GAPS.get(other, "")
        lines.append([f"CapsNet - {other}", "", "", "", percent(gap, sign=True), published])
    equal = "as meant" if apart <= CLOSE else f"more than the {100 * CLOSE:.2f} that were meant"
    note = (
        "Of every network the weights of a moment at which all were about equally right on the placed "
        f"validation images, at most {100 * GOAL:.1f} %: they are at most {100 * apart:.2f} points "
        f"apart, {equal}. {len(experiment.dataset.test_images):,} test images, warped by up to ±20° of "
        f"rotation, ±0.2 of shear, and 0.8 to 1.2 of scale on each axis; {experiment.steps:,} steps of "
        f"{BATCH} placed images, CapsNet `{study.settings.preset}`; {seeds_in_words(study.seeds)}. "
        "Paper: Sabour et al. 2017, §5.2."
    )
    return table(head, lines, note)


def table_line(study: Study, name: str) -> list[str]:
    """Return what the table says of a network."""
    (parameters, *_) = study.values("parameters", kind="training", network=name)
    keys = ("validation", "placed", "warped")
    found = [percent(study.values(key, kind="test", network=name)) for key in keys]
    return [name, f"{parameters:,}", *found, PUBLISHED.get(name, "")]
