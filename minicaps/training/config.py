"""What decides a training run: its options, and the network and schedule that they stand for."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from minicaps.checks import check_above_zero, check_choice, check_flag, check_number, check_shift, check_whole
from minicaps.datasets import Dataset
from minicaps.networks import (
    COUPLINGS,
    NETWORKS,
    PRESENCES,
    PRESET_NAMES,
    ROUTINGS,
    Network,
    build,
    configure,
)
from minicaps.training.loss_scale import RUN_PRECISIONS
from minicaps.training.notation import as_layers, as_size, read_layers, read_size, write_layers
from minicaps.training.options import OF_CAPSNETS, BadOption, check_effect, option, options_without_effect
from minicaps.training.recipes import RECIPES, flags_of
from minicaps.training.schedules import Constant, Cosine, Exponential, Schedule

PRETRAINED = "pretrained"  # the word for the weights that come along
MAY_CHANGE = ("data", "backend", "epochs")  # in a run: where things lie or compute, and how far it goes


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes; each option is a flag of ``train``.

    ``str(config)`` says those that the network has in one line, with the learning rate that is used.

    Raises
    ------
    ValueError
        If an option has a value that cannot be.
    BadOption
        If an option cannot act, since the network has nothing of the kind (a ValueError, too).

    See Also
    --------
    TrainConfig.from_recipe : the options of a recipe; the field `recipe` only says which they began with.
    """

    recipe: str = option(
        "default",
        "a named set of options to begin with; others that are given win. accurate is "
        f"{flags_of('accurate')}",
        *RECIPES,
    )
    model: str = option("capsnet", "network to train", *NETWORKS)
    preset: str = option(
        "small", "size of a capsule network; medium is one of efficient alone", *PRESET_NAMES
    )
    data: str | None = option(
        None,
        "data set: a folder of four IDX files (MNIST's, EMNIST's or QMNIST's names), an .npz or .csv file, "
        "or a folder with a subfolder of PNG or JPEG files for every class; these may be in train/ and "
        "test/; without a test part every fifth image of a class is for the test (default: MNIST)",
        metavar="FOLDER",
    )
    size: int | tuple[int, int] | None = option(
        None,
        "scale images to NxN pixels, or to HEIGHTxWIDTH (default: their size, if they all have the same)",
        metavar="N",
        read=read_size,
    )
    channels: int | None = option(
        None, "make images grey (1) or colour ones (3) (default: as they are; all in colour if one is)", 1, 3
    )
    limit: int | None = option(
        None, "train on the first LIMIT images only; of sorted ones on as many of each class in proportion"
    )
    epochs: int = option(6, "passes over the training images")
    batch_size: int = option(100, "images in one step")
    slices: int | None = option(
        None,
        "batch slices of a step, which processes or the ranks of MPI share; another number changes the last "
        "bits (default: 1, 2, 4, … of 40 images or more; 1 for more than two million parameters)",
    )
    learning_rate: float | None = option(
        None,
        "largest learning rate of Adam (default: 0.004; 0.001 for the CapsNet of the preset paper or with "
        "hidden layers)",
    )
    schedule: str = option("cosine", "course of the learning rate", "constant", "exponential", "cosine")
    warmup: int = option(0, "steps over which the learning rate first grows from 0")
    shift: int = option(1, "move training images at random by up to this many pixels")
    warp: float = option(
        0.0,
        "turn, shear and scale training images at random, by up to X times what affNIST does: 20 degrees, "
        "0.2 pixels a row, 0.8 to 1.2",
    )
    test_shift: int = option(
        0, "test every image by the mean scores of its copies, shifted by up to this many pixels"
    )
    validate: bool = option(True, "hold a part of the training images back, and validate every epoch with it")
    layers: tuple[tuple[int, int], ...] | None = option(
        None,
        "hidden capsule layers between the primary and the class capsules of the CapsNet, each routed to as "
        "those are: capsules and dimension of each, such as 32x8,16x8 (default: none)",
        metavar="NxD,...",
        read=read_layers,
    )
    routing: str = option("dynamic", "routing of the CapsNet", *ROUTINGS)
    presence: str = option(
        "own",
        "what tells the classes: lengths or activations of the routing's own, or a learned line behind it",
        *PRESENCES,
    )
    coupling: str = option("softmax", "how a capsule of the CapsNet shares itself out", *COUPLINGS)
    routing_iterations: int | None = option(
        None, "routing iterations (default: 3; of the network matrix in tiny and small 2)"
    )
    decoder: bool = option(True, "reconstruct the image beside classifying it")
    precision: str = option(
        "float32",
        "of products with weights in training; mixed: of float16 numbers, with loss scaling (simulated "
        "without a GPU); unscaled: without it, to see what float16 loses",
        *RUN_PRECISIONS,
    )
    init: str | None = option(
        None,
        "start from the weights of this run, of a file, or from those that come along (pretrained): layers "
        "that fit are taken, the others begin afresh, as does the one of the classes if they differ",
        metavar="RUN",
    )
    seed: int = option(0, "of the first weights, the order of the images and the shifts")
    backend: str = option("numpy", "array library; auto is cupy where it works", "numpy", "cupy", "auto")

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size("train", self.size))
        object.__setattr__(self, "layers", as_layers("train", self.layers))
        for name in ("limit", "routing_iterations", "slices"):
            if getattr(self, name) is not None:
                check_whole("train", 1, **{name: getattr(self, name)})
        check_whole("train", 1, epochs=self.epochs, batch_size=self.batch_size)
        check_whole("train", 0, warmup=self.warmup, shift=self.shift, seed=self.seed)
        check_whole("train", 0, test_shift=self.test_shift)
        check_flag("train", decoder=self.decoder, validate=self.validate)
        check_number("train", warp=self.warp)
        if self.warp >= 5:
            raise ValueError(
                f"train: warp is {self.warp!r}, expected less than 5, where images shrink to nothing"
            )
        object.__setattr__(self, "warp", float(self.warp))
        for name, what in (("data", "the path of a folder"), ("init", "the path of a run or of its weights")):
            path = getattr(self, name)
            if path is not None and not (isinstance(path, str) and path):
                raise ValueError(f"train: {name} is {path!r}, expected {what}")
        if self.learning_rate is not None:
            check_above_zero("train", learning_rate=self.learning_rate)
            object.__setattr__(self, "learning_rate", float(self.learning_rate))
        for name, each in type(self).__dataclass_fields__.items():
            value, choices = getattr(self, name), each.metadata["choices"]
            if choices and not (value is None and each.default is None):
                check_choice("train", name, value, choices)
        self._check_options_act()

    def _check_options_act(self) -> None:
        self._check_recipe()
        fields = type(self).__dataclass_fields__
        chosen = {name for name, each in fields.items() if getattr(self, name) != each.default}
        check_effect(self.model, {name: getattr(self, name) for name in chosen})
        own: dict[str, Any] = {"layers": self.layers, "coupling": self.coupling} if self.layers else {}
        if self.routing_iterations is not None:
            own["iterations"] = self.routing_iterations
        configure(self.model, self.preset, **own)  # says what cannot be
        if self.slices is not None and (self.slices > self.batch_size or self.backend == "cupy"):
            on_gpu = self.backend == "cupy"
            reason = "a batch is not sliced on a GPU" if on_gpu else f"a batch has {self.batch_size} images"
            raise BadOption(f"train: slices is {self.slices}, but {reason}; leave it out")
        if self.routing == "self-attention" and self.routing_iterations is not None:
            count = self.routing_iterations
            raise BadOption(
                f"train: routing_iterations is {count}, but self-attention has none; leave it out"
            )

    def _check_recipe(self) -> None:
        """Refuse a recipe's name on a run that has nothing of it."""
        fields, recipe = type(self).__dataclass_fields__, RECIPES[self.recipe]
        own = {name: value for name, value in recipe.items() if value != fields[name].default}
        if own and not any(getattr(self, name) == value for name, value in own.items()):
            raise ValueError(
                f"train: recipe is {self.recipe!r}, but no option is as in it; "
                f"TrainConfig.from_recipe({self.recipe!r}, ...) sets them"
            )

    @classmethod
    def from_recipe(cls, recipe: str, **options: Any) -> TrainConfig:
        """Return the options of a recipe, but for those that are given, which win.

        One that the network does not have is refused here, even if it is given what it is by default.

        Raises
        ------
        ValueError
            If there is no such recipe, or as by ``TrainConfig``.
        """
        check_choice("train", "recipe", recipe, tuple(RECIPES))
        config = cls(recipe=recipe, **{**RECIPES[recipe], **options})
        check_effect(config.model, options)
        return config

    def __str__(self) -> str:
        return "  ".join(f"{name}={value}" for name, value in self.options().items())

    def options(self) -> dict[str, Any]:
        """Return the options that the network has, as they are written, with the learning rate in use."""
        options = asdict(self) | {"learning_rate": self.largest_learning_rate}
        if isinstance(self.size, tuple):
            options["size"] = "{}x{}".format(*self.size)
        if self.layers:
            options["layers"] = write_layers(self.layers)
        idle = options_without_effect(self.model)
        return {name: value for name, value in options.items() if name not in idle}

    @property
    def largest_learning_rate(self) -> float:
        """The learning rate that was chosen, or the one that suits the network."""
        if self.learning_rate is not None:
            return self.learning_rate
        slower = self.model == "capsnet" and (self.preset == "paper" or self.layers)
        return 1e-3 if slower else 4e-3

    def network(self, dataset: Dataset) -> Network:
        """Build the network for images and classes like those of `dataset`, with first weights from the seed.

        Raises
        ------
        ValueError
            If the images are too small for it.
        """
        options: dict[str, Any] = {"image_shape": dataset.image_shape, "classes": dataset.classes}
        idle = options_without_effect(self.model)
        options |= {name: getattr(self, name) for name in (*OF_CAPSNETS, "decoder") if name not in idle}
        if "layers" in options:
            options["layers"] = self.layers or ()
        if self.routing_iterations is not None:
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
        try:
            check_shift("train", image_shape, shift=self.shift, test_shift=self.test_shift)
        except ValueError as error:
            raise BadOption(str(error)) from None

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
