"""The experiments by name, each with its defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from minicaps.experiments.ablation import ablation
from minicaps.experiments.affine import affine
from minicaps.experiments.compare import compare
from minicaps.experiments.few import few
from minicaps.experiments.folds import folds
from minicaps.experiments.overlap import overlap
from minicaps.experiments.rotate import rotate
from minicaps.experiments.routing import routing
from minicaps.experiments.routing_arms import ARMS
from minicaps.experiments.routing_training import STEPS
from minicaps.experiments.study import Settings

ALL = ("mlp", "cnn", "capsnet")


class Experiment(NamedTuple):
    """What can be run by name.

    Attributes
    ----------
    run : callable
        Takes a ``Study``; one that trains nothing also takes a network and its data set.
    text : str
        For the help.
    defaults : dict
        Of Settings; none where nothing is trained.
    length : str
        How long it trains where neither minutes nor steps are given, in words.
    """

    run: Callable[..., None]
    text: str
    defaults: dict[str, Any]
    length: str = "15 epochs"


EXPERIMENTS: dict[str, Experiment] = {
    "compare": Experiment(
        compare,
        "MLP, CNN and CapsNet on the terms of Shaikh 2018, 15 epochs",
        {"seeds": 1, "networks": ALL},
    ),
    "few": Experiment(
        few,
        "the three networks on 100, 1,000 and 10,000 images",
        {"seeds": 3, "minutes": 1.0, "networks": ALL},
    ),
    "folds": Experiment(
        folds,
        "cross-validation: every training image is held out once",
        {"seeds": 1, "minutes": 1.0, "folds": 5},
    ),
    "ablation": Experiment(
        ablation,
        "what each choice in a CapsNet is worth, wrong choices included",
        {"seeds": 3, "minutes": 0.25, "preset": "tiny"},
    ),
    "affine": Experiment(
        affine,
        "trained on upright digits, tested on warped ones",
        {"seeds": 3, "minutes": 5.0},
    ),
    "overlap": Experiment(
        overlap,
        "two digits over each other, both to be read",
        {"seeds": 1, "minutes": 6.5, "networks": ("cnn", "capsnet")},
    ),
    "routing": Experiment(
        routing,
        "every routing in one network, with the same images, first weights and steps",
        {"seeds": 5, "arms": tuple(ARMS)},
        f"{STEPS:,} steps",
    ),
    "rotate": Experiment(
        rotate,
        "what a class capsule does while its digit turns (trains nothing)",
        {},
    ),
}


def settings_of(name: str, **given: Any) -> Settings:
    """Return the settings of an experiment: its defaults, but for what is given (and not None).

    Raises
    ------
    ValueError
        If a setting has a value that cannot be.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    return Settings(**{**EXPERIMENTS[name].defaults, **chosen})
