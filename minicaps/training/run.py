"""A training run: epochs one after another, and the folder that keeps them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.arrays import resolve
from minicaps.datasets import augment, load
from minicaps.fast import own_the_cores
from minicaps.networks import PRESETS_OF, files, save_network
from minicaps.training.batch import to_batch
from minicaps.training.config import TrainConfig, read_config
from minicaps.training.evaluation import Evaluation, evaluate
from minicaps.training.files import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    MODEL,
    SUMMARY,
    Checkpoint,
    fingerprint,
    not_of_this_run,
    remove_leftovers,
)
from minicaps.training.finite import all_finite
from minicaps.training.guards import CtrlC, locked
from minicaps.training.optimizers import Adam
from minicaps.training.processes import DataParallel
from minicaps.training.progress import EpochProgress, epoch_batches, epoch_line
from minicaps.training.step import Diverged, smaller_may_help, train_step

SAVE_EVERY = 60.0  # seconds between two checkpoints within an epoch, at least
Say = Callable[[str], None]
Draw = Callable[["Run", Evaluation], None]


class Run:
    """A training run and its folder.

    The folder holds ``config.json``, ``metrics.jsonl`` (one object for every epoch),
    ``checkpoint.npz`` (what resuming needs; written after every epoch, and within one every
    minute), and at the end ``model.npz`` and ``summary.json``.

    Parameters
    ----------
    config : TrainConfig
    folder : path
        Must not hold a run already, unless it is to be resumed.
    resume : bool
        Continue the run that the folder holds, which must be of this configuration: ``Run.resume``
        reads it for you.
    say, progress : callable
        Receive every line of the report, and the progress line, several times a second.

    Attributes
    ----------
    dataset : Dataset
    images, labels, validation : arrays
        Those that are trained on, and the pair of images and labels that is kept apart.
    network, optimizer
    epochs : list of dict
        The metrics of every complete epoch, as in ``metrics.jsonl``.
    current : EpochProgress
        Where the run stands in the epoch that is not complete.
    kept : str
        In words what the checkpoint holds: "after epoch 2 and 30 of 550 batches".

    Raises
    ------
    FileExistsError
        If the folder holds a run already.
    ValueError
        If a file of the run is damaged, or the data set is another one than the run began with.
    RuntimeError
        If another process is training there.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: str | Path,
        *,
        resume: bool = False,
        say: Say = print,
        progress: Say = lambda line: None,
    ) -> None:
        self.config, self.folder, self.say, self.progress = config, Path(folder), say, progress
        if not resume:
            self._check_unused()
        own_the_cores()
        self.dataset = load(config.data, config.size)
        images, labels, validation_images, validation_labels = self.dataset.split()
        self.images, self.labels = images[: config.limit], labels[: config.limit]
        self.validation = validation_images, validation_labels
        self.network = config.network(self.dataset).to(resolve(config.backend))
        self.objective = self.network.objective()
        self.steps_per_epoch = math.ceil(len(self.images) / config.batch_size)
        self.optimizer = Adam(self.network, config.learning_rates(config.epochs * self.steps_per_epoch))
        self.epochs: list[dict[str, Any]] = []
        self.current = EpochProgress()
        self._data = fingerprint(self.dataset)
        if resume:
            self._restore()
        else:
            self._begin()
        self.kept, self._saved = self._position(), time.monotonic()

    @classmethod
    def resume(cls, folder: str | Path, *, say: Say = print, progress: Say = lambda line: None) -> Run:
        """Return the run in `folder`, set to where its last checkpoint was.

        It raises what ``Run`` does, and FileNotFoundError if the folder holds no run.
        """
        return cls(read_config(folder), folder, resume=True, say=say, progress=progress)

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / SUMMARY).exists()

    @property
    def seconds(self) -> float:
        """The seconds spent on training and validation, before and after resuming."""
        return sum(row["seconds"] for row in self.epochs) + self.current.seconds

    def _position(self) -> str:
        done = self.current.batches
        batches = f" and {done} of {self.steps_per_epoch} batches" if done else ""
        return f"after epoch {len(self.epochs)}{batches}"

    # -- training ------------------------------------------------------------------------------

    def train(self, draw: Draw | None = None) -> dict[str, Any]:
        """Train the epochs that are left, evaluate on the test set once, and return the summary.

        After a first Ctrl-C the batch is finished and saved; a second one stops at once.

        Parameters
        ----------
        draw : callable, optional
            ``draw(run, test)`` draws what it likes, once everything is written. If it fails, the run
            is complete all the same, and says so.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C.
        Diverged
            If a loss, a gradient or a weight is not finite.
        RuntimeError
            If another process is training the run.
        OSError
            If a file cannot be written; the last checkpoint stays.
        """
        with locked(self.folder):
            if not (self.folder / CHECKPOINT).exists():
                self.save()  # says from the start what data the run began with
            self._write_metrics()  # a run that is resumed may have ended between its two files
            with (
                DataParallel(self.network, self.objective, self.config.batch_size) as source,
                CtrlC() as ctrl_c,
            ):
                while len(self.epochs) < self.config.epochs:
                    self._train_epoch(source, ctrl_c)
                    self._complete_epoch()
                if ctrl_c.pressed:
                    raise KeyboardInterrupt
            return self._finish(draw)

    def _train_epoch(self, source: DataParallel, ctrl_c: CtrlC) -> None:
        """Train what is left of the epoch, saving now and then."""
        config, current, epoch = self.config, self.current, len(self.epochs) + 1
        start = time.perf_counter() - current.seconds
        whole = epoch_batches(config.seed, epoch, len(self.images), config.batch_size)
        for chosen, rng in islice(whole, current.batches, None):
            images = augment.shift(self.images[chosen], config.shift, rng)  # (B, H, W, C)
            x, y = to_batch(images, self.labels[chosen], self.network.xp)
            source.objective = self.objective.at(self.optimizer.steps / config.epochs / self.steps_per_epoch)
            try:
                result = train_step(source, self.optimizer, x, y)
            except Diverged as error:
                raise Diverged(f"{error}; the run is kept as it was {self.kept}") from None
            current.add(result, len(chosen))
            current.seconds = time.perf_counter() - start
            self.progress(current.line(epoch, config.epochs, len(self.images)))
            if ctrl_c.pressed or time.monotonic() - self._saved >= SAVE_EVERY:
                self.save()
            if ctrl_c.pressed:
                raise KeyboardInterrupt

    def _complete_epoch(self) -> None:
        """Validate, note the epoch's numbers, and save."""
        current, optimizer, start = self.current, self.optimizer, time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):  # told in words, below
            validation = evaluate(self.network, *self.validation, self.config.batch_size)
        if not math.isfinite(validation.loss):
            raise self._diverged(f"the validation loss is {validation.loss} after step {optimizer.steps}")
        learning_rate = optimizer.schedule(optimizer.steps - 1)  # of the last step
        metrics = current.metrics(len(self.epochs) + 1, learning_rate, validation)
        metrics["seconds"] += time.perf_counter() - start
        self.epochs.append(metrics)
        self.current = EpochProgress()
        self.save()
        self.say(epoch_line(metrics, self.config.epochs))

    def _diverged(self, what: str) -> Diverged:
        cure = smaller_may_help(self.optimizer)
        return Diverged(f"{what}; {cure}; the run is kept as it was {self.kept}")

    # -- the folder ----------------------------------------------------------------------------

    def _check_unused(self) -> None:
        if (self.folder / CONFIG).exists():
            raise FileExistsError(
                f"{self.folder}: holds a run already; continue it with --resume {self.folder}, or name "
                "another folder with --out"
            )

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self._check_unused()  # by another process, meanwhile
            files.write_text(self.folder / CONFIG, json.dumps(asdict(self.config), indent=2) + "\n")

    def _restore(self) -> None:
        """Go to where the checkpoint is, if there is one yet."""
        path = self.folder / CHECKPOINT
        with locked(self.folder):
            remove_leftovers(self.folder)
            if not path.exists():
                return
            checkpoint = Checkpoint.read(path)
        try:
            checkpoint.check_origin(self.config, self.dataset, self._data)
            self.network.load_state(checkpoint.network)
            self.optimizer.load_state(checkpoint.optimizer)
        except (TypeError, ValueError) as error:
            raise not_of_this_run(path, error) from None
        self.epochs, self.current = checkpoint.epochs, checkpoint.progress

    def save(self) -> None:
        """Write the checkpoint and the metrics of all epochs so far.

        Raises
        ------
        OSError
            If a file cannot be written; the old one stays.
        Diverged
            If a weight is not finite; the old checkpoint stays.
        """
        states = self.network.state(), self.optimizer.state()
        checkpoint = Checkpoint(*states, self.config, self._data, self.epochs, self.current)
        for name, array in checkpoint.arrays().items():
            if not all_finite(array):
                raise self._diverged(f"{name} is not finite after step {self.optimizer.steps}")
        checkpoint.write(self.folder / CHECKPOINT)
        self.kept, self._saved = self._position(), time.monotonic()
        self._write_metrics()

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(metrics) + "\n" for metrics in self.epochs)
        files.write_text(self.folder / METRICS, lines)

    # -- the end -------------------------------------------------------------------------------

    def _finish(self, draw: Draw | None) -> dict[str, Any]:
        """Look at the test set, once; write the weights and the summary; then draw."""
        config, dataset, count = self.config, self.dataset, len(self.images)
        test = evaluate(self.network, dataset.test_images, dataset.test_labels, config.batch_size)
        summary = {
            "test_accuracy": test.accuracy,
            "test_error_percent": round(100 * (1 - test.accuracy), 6),
            "test_images": len(dataset.test_images),
            "train_images": count,
            "validation_accuracy": self.epochs[-1]["validation_accuracy"],
            "parameters": self.network.count_params(),
            "epochs": config.epochs,
            "seconds": self.seconds,
            "images_per_second": config.epochs / sum(1 / row["images_per_second"] for row in self.epochs),
            "seed": config.seed,
            "model": config.model,
            "preset": config.preset if config.model in PRESETS_OF else None,
        }
        save_network(self.folder / MODEL, self.network.to("numpy"), dataset.class_names)
        files.write_text(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        try:
            if draw is not None:
                draw(self, test)
        except Exception as error:
            self.say(f"warning: the figures could not all be drawn ({type(error).__name__}: {error})")
        return summary
