"""What decides a training run: its options, and the network and schedule that they stand for."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.checks import check_choice, check_flag, check_whole
from minicaps.datasets import Dataset
from minicaps.networks import COUPLINGS, NETWORKS, PRESETS, PRESETS_OF, ROUTINGS, Network, build
from minicaps.training.schedules import Constant, Cosine, Exponential, Schedule

CONFIG = "config.json"  # in the folder of a run
MAX_CONFIG = 1 << 16  # its bytes
PRETRAINED = "pretrained"  # the word for the weights that come along
MAY_CHANGE = ("data", "backend", "epochs")  # in a run: where things lie or compute, and how far it goes
OF_ROUTED = ("preset", "routing_iterations")  # options of networks that route
OF_CAPSNETS = ("routing", "coupling", "decoder")  # options that no other network has


class BadOption(ValueError):
    """An option that another one, the data, or the run that is continued, leaves no room for."""


def options_without_effect(model: str) -> tuple[str, ...]:
    """Return the options that a network of this name does not have."""
    return (() if model in PRESETS_OF else OF_ROUTED) + (() if model == "capsnet" else OF_CAPSNETS)


def read_size(text: str) -> int | tuple[int, int]:
    """Return the size that is written as ``28`` or, height first, as ``60x80``."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*[xX×]\s*(\d+))?\s*", text)
    if match is None:
        raise ValueError(f"size is {text!r}, expected N or HEIGHTxWIDTH, such as 28 or 60x80")
    height, width = match.groups()
    return (int(height), int(width)) if width else int(height)


def _option(
    default: Any,
    text: str,
    *choices: Any,
    metavar: str | None = None,
    read: Callable[[str], Any] | None = None,
) -> Any:
    metadata = {"help": text, "choices": choices or None, "metavar": metavar, "read": read}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes; each option is a flag of ``train``.

    ``str(config)`` says all of them in one line, with the learning rate that is used.

    Raises
    ------
    ValueError
        If an option has a value that cannot be.
    BadOption
        If an option cannot act, since the network has nothing of the kind (a ValueError, too).
    """

    model: str = _option("capsnet", "network to train", *NETWORKS)
    preset: str = _option("small", "size of the CapsNet or of the matrix network", *PRESETS)
    data: str | None = _option(
        None,
        "data set: a folder of four IDX files (MNIST's, EMNIST's or QMNIST's names), an .npz or .csv file, "
        "or a folder with a subfolder of PNG or JPEG files for every class; these may be in train/ and "
        "test/; without a test part every fifth image of a class is for the test (default: MNIST)",
        metavar="FOLDER",
    )
    size: int | tuple[int, int] | None = _option(
        None,
        "scale images to NxN pixels, or to HEIGHTxWIDTH (default: their size, if they all have the same)",
        metavar="N",
        read=read_size,
    )
    channels: int | None = _option(
        None, "make images grey (1) or colour ones (3) (default: as they are; all in colour if one is)", 1, 3
    )
    limit: int | None = _option(
        None, "train on the first LIMIT images only; of sorted ones on as many of each class in proportion"
    )
    epochs: int = _option(6, "passes over the training images")
    batch_size: int = _option(100, "images in one step")
    learning_rate: float | None = _option(
        None, "largest learning rate of Adam (default: 0.004, for the preset paper 0.001)"
    )
    schedule: str = _option("cosine", "course of the learning rate", "constant", "exponential", "cosine")
    warmup: int = _option(0, "steps over which the learning rate first grows from 0")
    shift: int = _option(1, "move training images at random by up to this many pixels")
    routing: str = _option("dynamic", "routing of the CapsNet", *ROUTINGS)
    coupling: str = _option("softmax", "how a capsule of the CapsNet shares itself out", *COUPLINGS)
    routing_iterations: int | None = _option(None, "routing iterations (default: the preset's)")
    decoder: bool = _option(True, "reconstruct the image beside classifying it")
    init: str | None = _option(
        None,
        "start from the weights of this run, of a file, or from those that come along (pretrained): layers "
        "that fit are taken, the others begin afresh, as does the one of the classes if they differ",
        metavar="RUN",
    )
    seed: int = _option(0, "of the first weights, the order of the images and the shifts")
    backend: str = _option("numpy", "array library; auto is cupy where it works", "numpy", "cupy", "auto")

    def __post_init__(self) -> None:
        self._check_size()
        for name in ("limit", "routing_iterations"):
            if getattr(self, name) is not None:
                check_whole("train", 1, **{name: getattr(self, name)})
        check_whole("train", 1, epochs=self.epochs, batch_size=self.batch_size)
        check_whole("train", 0, warmup=self.warmup, shift=self.shift, seed=self.seed)
        check_flag("train", decoder=self.decoder)
        for name, what in (("data", "the path of a folder"), ("init", "the path of a run or of its weights")):
            path = getattr(self, name)
            if path is not None and not (isinstance(path, str) and path):
                raise ValueError(f"train: {name} is {path!r}, expected {what}")
        chosen, is_number = self.learning_rate, isinstance(self.learning_rate, (int, float))
        if chosen is not None and not (
            is_number and not isinstance(chosen, bool) and 0 < chosen <= sys.float_info.max
        ):
            raise ValueError(f"train: learning_rate is {chosen!r}, expected a number above 0")
        for name, option in type(self).__dataclass_fields__.items():
            value, choices = getattr(self, name), option.metadata["choices"]
            if choices and not (value is None and option.default is None):
                check_choice("train", name, value, choices)
        self._check_options_act()

    def _check_size(self) -> None:
        """Check the size, and make it a number where it is square."""
        if isinstance(self.size, (list, tuple)) and len(self.size) == 2:
            check_whole("train", 1, **{"size (height)": self.size[0], "size (width)": self.size[1]})
            height, width = self.size
            object.__setattr__(self, "size", height if height == width else (height, width))
        elif self.size is not None:
            check_whole("train", 1, size=self.size)

    def _check_options_act(self) -> None:
        for name in options_without_effect(self.model):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                has = " and ".join(model for model in NETWORKS if name not in options_without_effect(model))
                raise BadOption(
                    f"train: {name} is {getattr(self, name)!r}, but {self.model} has none: only {has} "
                    f"{'do' if ' and ' in has else 'does'}; leave it out"
                )
        if self.routing == "self-attention" and self.routing_iterations is not None:
            count = self.routing_iterations
            raise BadOption(
                f"train: routing_iterations is {count}, but self-attention has none; leave it out"
            )

    def __str__(self) -> str:
        return "  ".join(f"{name}={value}" for name, value in self.options().items())

    def options(self) -> dict[str, Any]:
        """Return all options as they are written, with the learning rate that is used."""
        options = asdict(self) | {"learning_rate": self.largest_learning_rate}
        if isinstance(self.size, tuple):
            options["size"] = "{}x{}".format(*self.size)
        return options

    @property
    def largest_learning_rate(self) -> float:
        """The learning rate that was chosen, or the one that suits the network."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.model == "capsnet" and self.preset == "paper" else 4e-3

    def network(self, dataset: Dataset) -> Network:
        """Build the network for images and classes like those of `dataset`, with first weights from the seed.

        Raises
        ------
        ValueError
            If the images are too small for it.
        """
        options: dict[str, Any] = {"image_shape": dataset.image_shape, "classes": dataset.classes}
        if self.model == "capsnet":
            options |= {"decoder": self.decoder, "routing": self.routing, "coupling": self.coupling}
        if self.model in PRESETS_OF and self.routing_iterations is not None:
            options["iterations"] = self.routing_iterations
        rng = np.random.default_rng([self.seed, 0])
        return build(self.model, self.preset, rng=rng, **options)

    def learning_rates(self, steps: int) -> Schedule:
        """Return the schedule for a run of so many steps."""
        if self.schedule == "constant":
            return Constant(self.largest_learning_rate, self.warmup)
        if self.schedule == "exponential":
            return Exponential(self.largest_learning_rate, self.warmup)
        return Cosine(self.largest_learning_rate, steps, self.warmup)

    def check_fits(self, steps: int, image_shape: tuple[int, int, int]) -> None:
        """Check the options that would undo a training of so many steps on images of this shape.

        Raises
        ------
        BadOption
            If the warm-up is longer than the training, or a shift may move all of an image away.
        """
        if self.warmup > steps:
            raise BadOption(
                f"train: warmup is {self.warmup:,}, but the training has {steps:,} steps only; expected as "
                "many at most"
            )
        height, width, _ = image_shape
        if self.shift >= min(height, width):
            raise BadOption(
                f"train: shift is {self.shift:,}, which moves images of {height}×{width} out of sight; "
                f"expected less than {min(height, width)}"
            )

    def but_for(self, **changes: Any) -> TrainConfig:
        """Return the same but for what a run may change when it is resumed: `data`, `backend`, `epochs`.

        Raises
        ------
        BadOption
            If it is anything else, or its value cannot be.
        """
        for name in changes:
            if name not in MAY_CHANGE:
                raise BadOption(f"train: a run is resumed with its own {name}, expected one of {MAY_CHANGE}")
        try:
            return replace(self, **changes)
        except ValueError as error:
            raise BadOption(str(error)) from None

    def with_whole_paths(self) -> TrainConfig:
        """Return the same with absolute paths, which mean the same wherever one stands."""
        paths = {
            name: os.path.abspath(os.path.expanduser(path))
            for name in ("data", "init")
            if (path := getattr(self, name)) is not None and path != PRETRAINED
        }
        return replace(self, **paths)


def config_of(options: dict[str, Any]) -> TrainConfig:
    """Return the configuration of what ``asdict`` made of one, also in an older version.

    Older ones took options that did nothing, such as the preset of an MLP: they still do nothing.
    """
    if not isinstance(options, dict):
        raise TypeError(f"expected a mapping of options, got {type(options).__name__}")
    idle = options_without_effect(options.get("model", "capsnet"))
    options = {name: value for name, value in options.items() if name not in idle}
    return TrainConfig(**options)


def read_config(folder: str | Path) -> TrainConfig:
    """Read the configuration of the run in `folder`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    ValueError
        If the file is damaged, or its values are not allowed.
    """
    path = Path(os.path.expanduser(folder)) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: holds no run (no {CONFIG})")
    if path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"{path}: not a configuration ({path.stat().st_size:,} bytes long)")
    try:
        return config_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or of another version ({error})") from None
