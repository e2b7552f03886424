"""What decides a training run: its options, and the network and schedule that they stand for."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.checks import check_choice, check_flag, check_whole
from minicaps.datasets import Dataset
from minicaps.networks import NETWORKS, PRESETS, Network, build
from minicaps.training.schedules import Constant, Cosine, Exponential, Schedule

MAX_CONFIG = 1 << 16  # bytes of config.json


def _option(default: Any, text: str, *choices: str) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices or None})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes; each option is a flag of ``train``.

    ``str(config)`` says all of them in one line, with the learning rate that is used.

    Raises
    ------
    ValueError
        If an option has a value that cannot be.
    """

    model: str = _option("capsnet", "network to train", *NETWORKS)
    preset: str = _option("small", "size of the CapsNet or of the matrix network", *PRESETS)
    data: str | None = _option(
        None,
        "folder of four IDX files, or with a subfolder of PNG or JPEG files for every class; these may "
        "be in train/ and test/, otherwise every fifth file is for the test (default: MNIST)",
    )
    size: int | None = _option(
        None, "scale PNG and JPEG files to NxN pixels (default: their size, if they all have the same)"
    )
    limit: int | None = _option(None, "train on the first LIMIT images only")
    epochs: int = _option(6, "passes over the training images")
    batch_size: int = _option(100, "images in one step")
    learning_rate: float | None = _option(
        None, "largest learning rate of Adam (default: 0.004, for the preset paper 0.001)"
    )
    schedule: str = _option("cosine", "course of the learning rate", "constant", "exponential", "cosine")
    warmup: int = _option(0, "steps over which the learning rate first grows from 0")
    shift: int = _option(1, "move training images at random by up to this many pixels")
    routing_iterations: int | None = _option(None, "routing iterations (default: the preset's)")
    decoder: bool = _option(True, "reconstruct the image beside classifying it")
    seed: int = _option(0, "of the first weights, the order of the images and the shifts")
    backend: str = _option("numpy", "array library; auto is cupy where it works", "numpy", "cupy", "auto")

    def __post_init__(self) -> None:
        for name in ("size", "limit", "routing_iterations"):
            if getattr(self, name) is not None:
                check_whole("train", 1, **{name: getattr(self, name)})
        check_whole("train", 1, epochs=self.epochs, batch_size=self.batch_size)
        check_whole("train", 0, warmup=self.warmup, shift=self.shift, seed=self.seed)
        check_flag("train", decoder=self.decoder)
        if self.data is not None and not isinstance(self.data, str):
            raise ValueError(f"train: data is {self.data!r}, expected the path of a folder")
        chosen, is_number = self.learning_rate, isinstance(self.learning_rate, (int, float))
        if chosen is not None and not (
            is_number and not isinstance(chosen, bool) and 0 < chosen <= sys.float_info.max
        ):
            raise ValueError(f"train: learning_rate is {chosen!r}, expected a number above 0")
        for name, option in type(self).__dataclass_fields__.items():
            if option.metadata["choices"]:
                check_choice("train", name, getattr(self, name), option.metadata["choices"])

    def __str__(self) -> str:
        options = asdict(self) | {"learning_rate": self.largest_learning_rate}
        return "  ".join(f"{name}={value}" for name, value in options.items())

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
            options["decoder"] = self.decoder
        if self.model in ("capsnet", "matrix") and self.routing_iterations is not None:
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


def read_config(folder: str | Path) -> TrainConfig:
    """Read the configuration of the run in `folder`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    ValueError
        If the file is damaged, or its values are not allowed.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: holds no run (no config.json)")
    if path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"{path}: not a configuration ({path.stat().st_size:,} bytes long)")
    try:
        return TrainConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or of another version ({error})") from None
