"""What all arms of the experiment ``routing`` share: images, batches, training, tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from itertools import islice

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets import Warps, augment, first
from minicaps.experiments.affine import distance, search
from minicaps.experiments.needs import Needs
from minicaps.experiments.routing_arms import ARMS, describe_couplings
from minicaps.experiments.study import Study
from minicaps.experiments.training import Batches, Row, accuracy, endless, learn
from minicaps.fast import slices_of
from minicaps.networks import Network
from minicaps.training import Adam, Cosine, Diverged

STEPS = 1_000
BATCH = 64
TURN = 20  # degrees: images are turned by up to so many in training
LEARNING_RATES = (1e-3, 2.5e-3, 6e-3, 1.5e-2)  # those tried for every network
TRIAL_SEED = 1_000  # more than the first seed: that of the trials
VALIDATION_IMAGES = 2_000
MOMENTS = 20  # at which a network is validated
BETWEEN = 5  # times as many at which its weights are kept
GOAL = 0.95  # of the validation images: where networks are compared on angles that none has seen
CLOSE = 0.002
MAX_TRIES = 8  # of kept weights that are validated to find that accuracy
ANGLES = (20, 30, 40, 50, 60)  # degrees, to both sides
TURNED_IMAGES = 2_000
COUPLED_IMAGES = 1_000  # whose couplings are looked at
SHIFT = 4  # pixels
TESTS = {"plain": "upright", "shifted": f"shifted by 1 to {SHIFT} pixels", "warped": "warped"}


class Comparison:
    """The images that all networks of a study get, and how each is trained, examined and tested.

    Attributes
    ----------
    jobs : list of (str, str)
        Every arm with each of its losses.
    steps : int
        Of every training.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.dataset = study, study.load(Needs(classes=2))
        self.jobs = [(arm, loss) for arm in study.settings.arms for loss in ARMS[arm].losses]
        self.images, self.labels, held_out, labels = self.dataset.split()
        few = first(labels, VALIDATION_IMAGES)
        self.validation = turned(held_out[few], np.random.default_rng(0)), labels[few]
        self.stored_batches = lru_cache(maxsize=1)(self._make_batches)
        seed = study.settings.seed
        self.steps = study.fix_steps(self.build(*self.jobs[0], seed), self._endless(seed), STEPS)

    def build(self, arm: str, loss: str, seed: int) -> Network:
        return ARMS[arm].build(self.study.settings.preset, self.dataset, loss, seed)

    # -- images --------------------------------------------------------------------------------

    def _endless(self, seed: int) -> Batches:
        rng = np.random.default_rng([seed, 1])
        return endless(self.images, self.labels, BATCH, rng, partial(turned, rng=rng))

    def _make_batches(self, seed: int) -> list[tuple[Array, Array]]:
        """Return the batches of a seed. They are made once, since turning takes half as long as a step."""
        return list(islice(self._endless(seed), self.steps))

    def batches(self, seed: int) -> Batches:
        """Yield the batches of a seed: the same ones for every network."""
        return iter(self.stored_batches(seed))

    @cached_property
    def tests(self) -> dict[str, tuple[Array, Array]]:
        """Return the sets of test images with their labels: always the same."""
        images, labels = self.dataset.test_images, self.dataset.test_labels
        few, rng = first(labels, TURNED_IMAGES), np.random.default_rng(0)
        moves = rng.integers(1, SHIFT, size=(2, len(images)), endpoint=True)  # (2, N)
        moves *= rng.choice([-1, 1], size=moves.shape)  # (2, N)
        sets = {
            "plain": (images, labels),
            "shifted": (augment.shift_by(images, *moves), labels),
            "warped": (warped(images, Warps.random(len(images), rng)), labels),
        }
        for angle in ANGLES:
            by = np.full(len(labels[few]), float(angle))  # (N,)
            both = np.concatenate([turned_by(images[few], sign * by) for sign in (-1, 1)])  # (2N, H, W, C)
            sets[str(angle)] = both, np.concatenate([labels[few]] * 2)
        return sets

    # -- one training --------------------------------------------------------------------------

    def try_out(self, arm: str, loss: str, learning_rate: float) -> Row:
        """Train with this learning rate, on a seed of its own, and validate at the end."""
        seed = self.study.settings.seed + TRIAL_SEED
        network = self.build(arm, loss, seed)
        curve = self._learn(network, f"{arm}, {loss}, trial", seed, learning_rate, self._validate)
        return {"accuracy": curve[-1]["accuracy"]} if curve else {"accuracy": 0.0, "diverged": True}

    def learning_rate(self, arm: str, loss: str) -> float:
        """Return the best of the learning rates tried, on validation images."""
        trials = self.study.rows(kind="trial", arm=arm, loss=loss)
        return max(trials, key=lambda row: row["accuracy"])["learning_rate"]

    def train(self, arm: str, loss: str, seed: int) -> Row:
        """Train with the best learning rate; test at the end, and where the validation accuracy is GOAL."""
        weights: list[dict[str, Array]] = []

        def keep(network: Network) -> Row:
            weights.append(network.state())
            return self._validate(network) if len(weights) % BETWEEN == 0 else {}

        network, rate = self.build(arm, loss, seed), self.learning_rate(arm, loss)
        curve = self._learn(network, f"{arm}, {loss}, seed {seed}", seed, rate, keep, MOMENTS * BETWEEN)
        found = {
            "parameters": network.count_params(),
            "learning_rate": rate,
            "validation": self._validate(network)["accuracy"],
            **{name: self._test(network, name) for name in TESTS},
            **describe_couplings(network, self.tests["plain"][0][:COUPLED_IMAGES]),
        }
        if not curve:
            return {**found, "milliseconds": None, "turned": None, "diverged": True}
        kept = dict(zip((point["step"] for point in curve), weights, strict=True))
        validated = [
            {key: point[key] for key in ("step", "accuracy")} for point in curve if "accuracy" in point
        ]
        milliseconds = 1_000 * curve[-1]["seconds"] / self.steps
        return {
            **found,
            "milliseconds": milliseconds,
            **self._at_goal(network, validated, kept),
            "curve": validated,
        }

    def _learn(
        self,
        network: Network,
        label: str,
        seed: int,
        learning_rate: float,
        examine: Callable[[Network], Row],
        rounds: int = 1,
    ) -> list[Row]:
        """Train, and return what ``learn`` does; nothing if it diverged."""
        adam, progress = Adam(network, Cosine(learning_rate, self.steps)), self.study.progress_of(label)
        try:
            return learn(network, adam, self.batches(seed), self.steps, examine, rounds, progress)
        except Diverged as error:  # a result too
            self.study.say(f"{label}: {error}")
            return []

    def _validate(self, network: Network) -> Row:
        return accuracy(network, *self.validation)

    def _test(self, network: Network, name: str) -> float:
        return accuracy(network, *self.tests[name])["accuracy"]

    def _at_goal(self, network: Network, validated: list[Row], kept: dict[int, dict[str, Array]]) -> Row:
        """Test on turned images with the weights whose validation accuracy is GOAL, if there are any."""

        def validate(step: int) -> Row:
            network.load_state(kept[step])
            return self._validate(network)

        if not validated:
            return {"turned": None}
        moment = search({"curve": validated, "kept": list(kept)}, GOAL, validate, CLOSE, MAX_TRIES)
        if distance(moment, GOAL) > CLOSE:
            return {"turned": None}
        network.load_state(kept[moment["step"]])
        return {"at_goal": moment, "turned": [self._test(network, str(angle)) for angle in ANGLES]}


def turned_by(images: Array, angles: Array) -> Array:
    """Turn each image of (N, H, W, C) by its own angle (N,) in degrees, counter-clockwise."""
    return warped(images, Warps.none(len(images))._replace(angle=angles))


def turned(images: Array, rng: np.random.Generator) -> Array:
    """Turn each image by up to TURN degrees to either side."""
    return turned_by(images, rng.uniform(-TURN, TURN, size=len(images)))


def warped(images: Array, warps: Warps) -> Array:
    """Warp images, some at a time: (N, H, W, C)."""
    some = slices_of(len(images), 500)
    return np.concatenate([augment.warp(images[k], Warps(*(each[k] for each in warps))) for k in some])
