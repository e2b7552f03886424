"""A training run: the loop over epochs, and the folder that it writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minicaps import figures
from minicaps.arrays import resolve, to_numpy
from minicaps.datasets import augment, load, to_float
from minicaps.networks import weights as checkpoint
from minicaps.training.config import TrainConfig, read_config
from minicaps.training.guards import CtrlC, all_finite, first_not_finite, locked, sum_of_squares
from minicaps.training.optimizers import Adam
from minicaps.training.processes import DataParallel
from minicaps.training.step import Evaluation, batches, evaluate, library_of, to_batch

SAVE_EVERY = 60.0  # seconds between two checkpoints within an epoch, at least
FILES = ("config.json", "metrics.jsonl", "checkpoint.npz", "model.npz", "summary.json")


@dataclass
class Place:
    """Where a run stands within an epoch, and what it has added up there."""

    rng: dict[str, Any]  # state of the generator when the epoch began; the order comes from it
    batches: int = 0
    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0


class Run:
    """A training run and its folder.

    The folder holds ``config.json``, ``metrics.jsonl`` (one object for every epoch),
    ``checkpoint.npz`` (what resuming needs; written after every epoch, and within one every
    minute), and at the end ``model.npz``, ``summary.json`` and figures.

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
    RuntimeError
        If another process is training there.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: str | Path,
        say: Callable[[str], None] = print,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config, self.folder, self.say, self.progress = config, Path(folder), say, progress
        self._check_unused()
        self._prepare()
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self._check_unused()  # by another process, meanwhile
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
            If one of its files is damaged, or the data set is another one than the run began with.
        RuntimeError
            If another process is training it.
        """
        folder = Path(folder)
        config = read_config(folder)
        run = cls.__new__(cls)
        run.config, run.folder = config, folder
        run.say = reporting.get("say", print)
        run.progress = reporting.get("progress", lambda line: None)
        run._prepare()
        with locked(folder):
            for name in FILES:
                checkpoint.remove_leftovers(folder / name)
            if (folder / "checkpoint.npz").exists():
                run._restore(folder / "checkpoint.npz")
        return run

    def _check_unused(self) -> None:
        if (self.folder / "config.json").exists():
            raise FileExistsError(f"{self.folder}: holds a run already; continue it with --resume "
                                  f"{self.folder}, or name another folder with --out")  # fmt: skip

    def _prepare(self) -> None:
        config = self.config
        self.dataset = load(config.data, config.size)
        self.fingerprint = checkpoint.fingerprint(self.dataset)
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
        self.place = Place(self.rng.bit_generator.state)
        self.kept = self._position()  # what the checkpoint holds, in words
        self._saved = time.monotonic()

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists()

    @property
    def seconds(self) -> float:
        """The seconds spent on training and validation, before and after resuming."""
        return sum(row["seconds"] for row in self.epochs) + self.place.seconds

    def _position(self) -> str:
        batches = f" and {self.place.batches} of {self.steps_per_epoch} batches" if self.place.batches else ""
        return f"after epoch {len(self.epochs)}{batches}"

    def train(self) -> dict[str, Any]:
        """Train the epochs that are left, evaluate on the test set once, and return the summary.

        After a first Ctrl-C the batch is finished and saved; a second one stops at once.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C.
        RuntimeError
            If the loss or a gradient is not finite, or another process is training the run.
        OSError
            If a file cannot be written; the last checkpoint stays.
        """
        with locked(self.folder):
            if not (self.folder / "checkpoint.npz").exists():
                self.save()  # says from the start what data the run began with
            self._write_metrics()  # a run that is resumed may have ended between its two files
            parallel = DataParallel(self.network, self.objective, self.config.batch_size)
            with parallel, CtrlC() as ctrl_c:
                while len(self.epochs) < self.config.epochs:
                    self._train_epoch(parallel, ctrl_c)
                    self._complete_epoch()
                if ctrl_c.pressed:
                    raise KeyboardInterrupt
            return self._finish()

    def _train_epoch(self, parallel: DataParallel, ctrl_c: CtrlC) -> None:
        """Train what is left of the epoch, saving now and then."""
        config, xp, place = self.config, library_of(self.network), self.place
        start = time.perf_counter() - place.seconds
        for chosen in self._batches_left():
            images = augment.shift(self.images[chosen], config.shift, self.rng)  # (B, H, W, C)
            loss, correct = self._step(parallel, *to_batch(images, self.labels[chosen], xp))
            place.batches += 1
            place.images += len(chosen)
            place.loss_sum += loss * len(chosen)
            place.correct += correct
            place.seconds = time.perf_counter() - start
            self._report_progress()
            if ctrl_c.pressed or time.monotonic() - self._saved >= SAVE_EVERY:
                self.save()
            if ctrl_c.pressed:
                raise KeyboardInterrupt

    def _batches_left(self) -> list[np.ndarray]:
        """Return the batches of the epoch that are left, each an array of image numbers."""
        now, self.rng.bit_generator.state = self.rng.bit_generator.state, self.place.rng
        groups = list(batches(len(self.images), self.config.batch_size, self.rng))
        if self.place.batches:  # a resumed epoch has drawn its order before, and more since
            self.rng.bit_generator.state = now
        return groups[self.place.batches :]

    def _step(self, parallel: DataParallel, x: Any, y: Any) -> tuple[float, int]:
        """Make one step, unless its loss or a gradient is not finite; return the loss and the hits."""
        xp, grads = library_of(self.network), self.network.grads
        with np.errstate(over="ignore", invalid="ignore"):  # told in words, some lines below
            loss, correct = parallel.gradients(x, y)
            numbers = xp.stack([loss, correct.astype(loss.dtype), sum_of_squares(grads.values())])
            loss, correct, squares = to_numpy(numbers).tolist()  # one copy from the device
            if not math.isfinite(loss):
                self._stop(f"loss is {loss}", x, y)
            if not (math.isfinite(squares) or all_finite(*grads.values())):
                self._stop("gradient is not finite", x, y)
            self.optimizer.step()
        return loss, round(correct)

    def _stop(self, what: str, x: Any, y: Any) -> NoReturn:
        first = first_not_finite(self.network, self.objective, x, y)
        raise self._error(f"the {what} at step {self.optimizer.steps + 1} (first is {first})")

    def _error(self, what: str) -> RuntimeError:
        rate = self.config.learning_rate
        return RuntimeError(f"{what}; a smaller learning rate may help (it is {rate:g}); "
                            f"the run is kept as it was {self.kept}")  # fmt: skip

    def _complete_epoch(self) -> None:
        """Validate, note the epoch's numbers, and save."""
        place, start = self.place, time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):
            validation = evaluate(self.network, *self.validation, self.config.batch_size)
        if not math.isfinite(validation.loss):
            raise self._error(f"the validation loss is {validation.loss} after step {self.optimizer.steps}")
        metrics = {
            "epoch": len(self.epochs) + 1,
            "train_loss": place.loss_sum / place.images,
            "train_accuracy": place.correct / place.images,
            "learning_rate": self.optimizer.schedule(self.optimizer.steps - 1),
            "images_per_second": place.images / place.seconds,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
            "seconds": place.seconds + time.perf_counter() - start,
        }
        self.epochs.append(metrics)
        self.place = Place(self.rng.bit_generator.state)
        self.save()
        self.say(
            f"epoch {metrics['epoch']}/{self.config.epochs}  "
            f"loss {metrics['train_loss']:.4f}  accuracy {100 * metrics['train_accuracy']:.2f} %  "
            f"validation {100 * validation.accuracy:.2f} %  "
            f"{metrics['images_per_second']:,.0f} images/s  {metrics['seconds']:.0f} s"
        )

    def _report_progress(self) -> None:
        epoch, place = len(self.epochs) + 1, self.place
        rate = place.images / place.seconds
        left = ((self.config.epochs - epoch + 1) * len(self.images) - place.images) / rate
        self.progress(
            f"epoch {epoch}/{self.config.epochs}  {place.images:,}/{len(self.images):,} images  "
            f"loss {place.loss_sum / place.images:.4f}  {rate:,.0f} images/s  "
            f"{left // 60:.0f}:{left % 60:02.0f} left"
        )

    # -- saving and resuming -------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint and the metrics of all epochs so far.

        Raises
        ------
        OSError
            If a file cannot be written; the old one stays.
        RuntimeError
            If a weight is not finite; the old checkpoint stays.
        """
        arrays = {f"network/{name}": array for name, array in self.network.state().items()}
        arrays |= {f"optimizer/{name}": a for name, a in self.optimizer.state().items()}
        for name, array in arrays.items():
            if not all_finite(array):
                raise self._error(f"{name} is not finite after step {self.optimizer.steps}")
        description = {
            "config": asdict(self.config),
            "data": self.fingerprint,
            "rng": self.rng.bit_generator.state,
            "place": asdict(self.place),
            "epochs": self.epochs,
        }
        checkpoint.write(self.folder / "checkpoint.npz", arrays, description)
        self.kept, self._saved = self._position(), time.monotonic()
        self._write_metrics()

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(metrics) + "\n" for metrics in self.epochs)
        checkpoint.write_text(self.folder / "metrics.jsonl", lines)

    def _restore(self, path: Path) -> None:
        arrays, description = checkpoint.read(path)
        parts: dict[str, dict[str, np.ndarray]] = {"network": {}, "optimizer": {}}
        try:
            if description["format"] > 1:  # 1 was written between two epochs, and without these
                self._check_origin(path, TrainConfig(**description["config"]), description["data"])
            for name, array in arrays.items():
                part, _, key = name.partition("/")
                parts[part][key] = array
            self.network.load_state(parts["network"])
            self.optimizer.load_state(parts["optimizer"])
            self.rng.bit_generator.state = description["rng"]
            self.place = Place(**description.get("place", {"rng": description["rng"]}))
            self.epochs = list(description["epochs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: does not belong to this run ({error})") from None
        self.kept = self._position()

    def _check_origin(self, path: Path, config: TrainConfig, data: str) -> None:
        for option in fields(config):
            there, here = getattr(config, option.name), getattr(self.config, option.name)
            if there != here:
                raise ValueError(f"{option.name} is {there!r} in it, {here!r} in config.json")
        if data != self.fingerprint:
            raise ValueError(f"it began with other data than {self.dataset.source} holds now")

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
        figures.save(figures.learning_curves(self.epochs), self.folder / "learning_curves.png")
        wrong = np.flatnonzero(test.predictions != labels)
        figure = figures.mistakes(
            to_float(images[wrong]), labels[wrong], test.predictions[wrong], names, len(images)
        )
        figures.save(figure, self.folder / "mistakes.png")
        figure = figures.confusion_matrix(labels, test.predictions, names)
        figures.save(figure, self.folder / "confusion_matrix.png")
        if getattr(self.network, "decoder", False):
            shown = slice(0, 12)
            x = to_float(images[shown])
            drawn = self.network(x)[1]
            figure = figures.reconstructions(x, drawn, labels[shown], test.predictions[shown], names)
            figures.save(figure, self.folder / "reconstructions.png")
