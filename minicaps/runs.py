"""A training run: its configuration, the loop over epochs, and the folder that it writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minicaps import augment, checkpoint, plots
from minicaps.backend import resolve, to_numpy
from minicaps.data_parallel import DataParallel
from minicaps.datasets import Dataset, load, to_float
from minicaps.layer import check_choice, check_positive
from minicaps.models import NETWORKS, PRESETS, Network, build
from minicaps.optim import Adam, Constant, Cosine, Exponential, Schedule
from minicaps.training import Evaluation, batches, evaluate, library_of, to_batch


def _option(default: Any, text: str, *choices: str) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices or None})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes."""

    model: str = _option("capsnet", "network to train", *NETWORKS)
    preset: str = _option("small", "size of the CapsNet", *PRESETS)
    data: str | None = _option(
        None,
        "folder of four IDX files, or with a subfolder of PNG or JPEG files for every class; these may "
        "be in train/ and test/, otherwise every fifth file is for the test (default: MNIST)",
    )
    size: int | None = _option(
        None, "scale PNG and JPEG files to NxN pixels (default: their size, if they all have the same)"
    )
    limit: int | None = _option(None, "train on the first LIMIT images only")
    epochs: int = _option(8, "passes over the training images")
    batch_size: int = _option(100, "images in one step")
    learning_rate: float | None = _option(
        None, "largest learning rate of Adam (default: 0.004, for the preset paper 0.001)"
    )
    schedule: str = _option("cosine", "course of the rate", "constant", "exponential", "cosine")
    warmup: int = _option(0, "steps over which the rate first grows from 0")
    shift: int = _option(1, "move training images at random by up to this many pixels")
    routing_iterations: int | None = _option(None, "routing iterations (default: the preset's, 3)")
    decoder: bool = _option(True, "reconstruct the image beside classifying it")
    seed: int = _option(0, "of the first weights, the order of the images and the shifts")
    backend: str = _option("numpy", "array library; auto is cupy where it works", "numpy", "cupy", "auto")

    def __post_init__(self) -> None:
        for name in ("size", "limit", "epochs", "batch_size", "routing_iterations"):
            if getattr(self, name) is not None:
                check_positive("train", **{name: getattr(self, name)})
        for name in ("warmup", "shift", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"train: {name} is {value!r}, expected a whole number, 0 or more")
        if self.learning_rate is None:
            paper = self.model == "capsnet" and self.preset == "paper"
            object.__setattr__(self, "learning_rate", 1e-3 if paper else 4e-3)
        rate = self.learning_rate
        if not (isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0):
            raise ValueError(f"train: learning_rate is {rate!r}, expected a number above 0")
        for name, option in type(self).__dataclass_fields__.items():
            if option.metadata["choices"]:
                check_choice("train", name, getattr(self, name), option.metadata["choices"])

    def network(self, dataset: Dataset) -> Network:
        """Build the network, with first weights from the seed."""
        options: dict[str, Any] = {}
        if self.model == "capsnet":
            options["decoder"] = self.decoder
            if self.routing_iterations is not None:
                options["iterations"] = self.routing_iterations
        rng = np.random.default_rng([self.seed, 0])
        return build(self.model, self.preset, image_shape=dataset.image_shape,
                     classes=dataset.classes, rng=rng, **options)  # fmt: skip

    def learning_rates(self, steps: int) -> Schedule:
        """Return the schedule for a run of so many steps."""
        if self.schedule == "constant":
            return Constant(self.learning_rate, self.warmup)
        if self.schedule == "exponential":
            return Exponential(self.learning_rate, self.warmup)
        return Cosine(self.learning_rate, steps, self.warmup)


# -- a run ------------------------------------------------------------------------------------


class Run:
    """A training run and its folder.

    The folder holds ``config.json``, ``metrics.jsonl`` (one object for every epoch),
    ``checkpoint.npz`` (what resuming needs), and at the end ``model.npz``, ``summary.json`` and
    figures.

    Parameters
    ----------
    config : TrainConfig
    folder : path
        Must not hold a run already.
    say : callable
        Receives every line of the report.
    progress : callable
        Receives the progress line, several times a second.

    Raises
    ------
    FileExistsError
        If the folder holds a run already.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: str | Path,
        say: Callable[[str], None] = print,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config, self.folder, self.say, self.progress = config, Path(folder), say, progress
        if (self.folder / "config.json").exists():
            raise FileExistsError(f"{self.folder}: holds a run already; continue it with --resume "
                                  f"{self.folder}, or name another folder with --out")  # fmt: skip
        self._prepare()
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(config), indent=2) + "\n"
        checkpoint.write_text(self.folder / "config.json", text)

    @classmethod
    def resume(cls, folder: str | Path, **reporting: Callable) -> Run:
        """Return the run in `folder`, set to where its last checkpoint was.

        Raises
        ------
        FileNotFoundError
            If the folder holds no run.
        ValueError
            If one of its files is damaged.
        """
        folder = Path(folder)
        config = read_config(folder)
        run = cls.__new__(cls)
        run.config, run.folder = config, folder
        run.say = reporting.get("say", print)
        run.progress = reporting.get("progress", lambda line: None)
        run._prepare()
        if (folder / "checkpoint.npz").exists():
            run._restore(folder / "checkpoint.npz")
        return run

    def _prepare(self) -> None:
        config = self.config
        self.dataset = load(config.data, config.size)
        images, labels, *self.validation = self.dataset.split()
        self.images, self.labels = images[: config.limit], labels[: config.limit]
        self.network = config.network(self.dataset)
        self.network.to(resolve(config.backend))
        self.objective = self.network.objective()
        self.steps_per_epoch = math.ceil(len(self.images) / config.batch_size)
        schedule = config.learning_rates(config.epochs * self.steps_per_epoch)
        self.optimizer = Adam(self.network, schedule)
        self.rng = np.random.default_rng([config.seed, 1])  # order of the images, and shifts
        self.epochs: list[dict[str, Any]] = []  # what metrics.jsonl holds
        self.seconds = 0.0  # spent on training and validation, before and after resuming

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists()

    def train(self) -> dict[str, Any]:
        """Train the epochs that are left, evaluate on the test set once, and return the summary."""
        self._write_metrics()  # a run that is resumed may have ended between its two files
        with DataParallel(self.network, self.objective, self.config.batch_size) as parallel:
            self._train_epochs(parallel)
        return self._finish()

    def _train_epochs(self, parallel: DataParallel) -> None:
        while len(self.epochs) < self.config.epochs:
            start = time.perf_counter()
            metrics = self._train_epoch(parallel)
            with np.errstate(over="ignore", invalid="ignore"):
                validation = evaluate(self.network, *self.validation, self.config.batch_size)
            self._check_loss("validation loss", validation.loss)
            metrics |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
            self.seconds += time.perf_counter() - start
            metrics["seconds"] = time.perf_counter() - start
            self.epochs.append(metrics)
            self.save()
            self.say(
                f"epoch {metrics['epoch']}/{self.config.epochs}  "
                f"loss {metrics['train_loss']:.4f}  accuracy {100 * metrics['train_accuracy']:.2f} %  "
                f"validation {100 * validation.accuracy:.2f} %  "
                f"{metrics['images_per_second']:,.0f} images/s  {metrics['seconds']:.0f} s"
            )

    def _train_epoch(self, parallel: DataParallel) -> dict[str, Any]:
        config, xp = self.config, library_of(self.network)
        start, loss_sum, correct, seen = time.perf_counter(), 0.0, 0, 0
        for chosen in batches(len(self.images), config.batch_size, self.rng):
            images = augment.shift(self.images[chosen], config.shift, self.rng)  # (B, H, W, C)
            x, y = to_batch(images, self.labels[chosen], xp)
            with np.errstate(over="ignore", invalid="ignore"):  # told in words, one line below
                loss, right = parallel.gradients(x, y)
                self.optimizer.step()
            both = to_numpy(xp.stack([loss, right.astype(loss.dtype)]))  # one copy from the device
            self._check_loss("loss", both[0])
            loss_sum += float(both[0]) * len(chosen)
            correct += round(float(both[1]))
            seen += len(chosen)
            self._report_progress(seen, loss_sum / seen, seen / (time.perf_counter() - start))
        return {
            "epoch": len(self.epochs) + 1,
            "train_loss": loss_sum / seen,
            "train_accuracy": correct / seen,
            "learning_rate": self.optimizer.schedule(self.optimizer.steps - 1),
            "images_per_second": seen / (time.perf_counter() - start),
        }

    def _check_loss(self, name: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise RuntimeError(
                f"the {name} is {loss} at step {self.optimizer.steps}; a smaller learning rate may help "
                f"(it is {self.config.learning_rate:g}); the last complete epoch is kept"
            )

    def _report_progress(self, seen: int, loss: float, rate: float) -> None:
        epoch = len(self.epochs) + 1
        left = ((self.config.epochs - epoch + 1) * len(self.images) - seen) / rate
        self.progress(
            f"epoch {epoch}/{self.config.epochs}  {seen:,}/{len(self.images):,} images  "
            f"loss {loss:.4f}  {rate:,.0f} images/s  {left // 60:.0f}:{left % 60:02.0f} left"
        )

    # -- saving and resuming -------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint and the metrics of all epochs so far."""
        arrays = {f"network/{name}": array for name, array in self.network.state().items()}
        arrays |= {f"optimizer/{name}": a for name, a in self.optimizer.state().items()}
        description = {
            "rng": self.rng.bit_generator.state,
            "epochs": self.epochs,
            "seconds": self.seconds,
        }
        checkpoint.write(self.folder / "checkpoint.npz", arrays, description)
        self._write_metrics()

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(metrics) + "\n" for metrics in self.epochs)
        checkpoint.write_text(self.folder / "metrics.jsonl", lines)

    def _restore(self, path: Path) -> None:
        arrays, description = checkpoint.read(path)
        parts: dict[str, dict[str, np.ndarray]] = {"network": {}, "optimizer": {}}
        try:
            for name, array in arrays.items():
                part, _, key = name.partition("/")
                parts[part][key] = array
            self.network.load_state(parts["network"])
            self.optimizer.load_state(parts["optimizer"])
            self.rng.bit_generator.state = description["rng"]
            self.epochs, self.seconds = list(description["epochs"]), float(description["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: does not belong to this run ({error})") from None

    # -- the end -------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        config, dataset = self.config, self.dataset
        test = evaluate(self.network, dataset.test_images, dataset.test_labels, config.batch_size)
        trained = len(self.images) * config.epochs
        training_seconds = sum(len(self.images) / row["images_per_second"] for row in self.epochs)
        summary = {
            "test_accuracy": test.accuracy,
            "test_error_percent": round(100 * (1 - test.accuracy), 6),
            "test_images": len(dataset.test_images),
            "train_images": len(self.images),
            "validation_accuracy": self.epochs[-1]["validation_accuracy"],
            "parameters": self.network.count_params(),
            "epochs": config.epochs,
            "seconds": self.seconds,
            "images_per_second": trained / training_seconds,
            "seed": config.seed,
            "model": config.model,
            "preset": config.preset if config.model == "capsnet" else None,
        }
        self.network.to("numpy")
        checkpoint.save_network(self.folder / "model.npz", self.network, config.model, dataset.class_names)
        self._draw(test)
        text = json.dumps(summary, indent=2) + "\n"
        checkpoint.write_text(self.folder / "summary.json", text)
        return summary

    def _draw(self, test: Evaluation) -> None:
        images, labels = self.dataset.test_images, self.dataset.test_labels
        names = self.dataset.class_names
        plots.save(plots.learning_curves(self.epochs), self.folder / "learning_curves.png")
        wrong = np.flatnonzero(test.predictions != labels)
        figure = plots.mistakes(
            to_float(images[wrong]), labels[wrong], test.predictions[wrong], names, len(images)
        )
        plots.save(figure, self.folder / "mistakes.png")
        figure = plots.confusion_matrix(labels, test.predictions, names)
        plots.save(figure, self.folder / "confusion_matrix.png")
        if getattr(self.network, "decoder", False):
            shown = slice(0, 12)
            x = to_float(images[shown])
            drawn = self.network(x)[1]
            figure = plots.reconstructions(x, drawn, labels[shown], test.predictions[shown], names)
            plots.save(figure, self.folder / "reconstructions.png")


def read_config(folder: Path) -> TrainConfig:
    """Read the configuration of the run in `folder`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    ValueError
        If the file is damaged, or its values are not allowed.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: holds no run (no config.json)")
    try:
        return TrainConfig(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged, or of another version ({error})") from None
