"""A training run: epochs one after another, and the folder that keeps them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.arrays import resolve
from minicaps.datasets import augment, load
from minicaps.fast import own_the_cores
from minicaps.networks import save_network
from minicaps.training.batch import to_batch
from minicaps.training.config import TrainConfig
from minicaps.training.evaluation import Evaluation, evaluate
from minicaps.training.fast_adam import Adam
from minicaps.training.files import CHECKPOINT, MODEL, Checkpoint, fingerprint, not_of_this_run
from minicaps.training.finite import all_finite
from minicaps.training.folder import RunFolder, as_path, check_unused, data_may_have_moved, take_new_folder
from minicaps.training.guards import CtrlC
from minicaps.training.loss_scale import use_precision
from minicaps.training.machine import load_together
from minicaps.training.mpi import gradient_source
from minicaps.training.progress import EpochProgress, epoch_batches, epoch_line, position
from minicaps.training.ranks import in_first_rank
from minicaps.training.start import Start, start_from
from minicaps.training.step import Diverged, GradientSource, smaller_may_help, train_step
from minicaps.training.stored_config import read_config
from minicaps.training.summary import changes_of, summarize

SAVE_EVERY = 60.0  # seconds between two checkpoints within an epoch, at least
Say = Callable[[str], None]
Draw = Callable[["Run", Evaluation], None]


class Run:
    """A training run and its folder. Within ``all_ranks`` the ranks of MPI share it.

    The folder holds ``config.json``, ``metrics.jsonl`` (one object for every epoch),
    ``checkpoint.npz`` (what resuming needs; written after every epoch, and within one every
    minute), ``best.npz`` (the weights of the epoch that validated best), and at the end ``model.npz``
    (those of the last one) and ``summary.json``.

    Parameters
    ----------
    config : TrainConfig
    folder : path, optional
        Must not hold a run already, unless it is to be resumed. Without it, a new one under ``runs/``.
    resume : bool
        Continue the run that the folder holds, which must be of this configuration: ``Run.resume``
        reads it for you.
    say, progress : callable
        Receive every line of the report, and the progress line, several times a second.

    Attributes
    ----------
    dataset : Dataset
    images, labels, validation : arrays
        Those that are trained on, and the pair of images and labels that is kept apart, if any.
    network, optimizer, loss_scale
    epochs : list of dict
        The metrics of every complete epoch, as in ``metrics.jsonl``.
    current : EpochProgress
        Where the run stands in the epoch that is not complete.
    kept : str
        In words what the checkpoint holds: "after epoch 2 and 30 of 550 batches".
    start : Start or None
        Which layers began with given weights.

    Raises
    ------
    FileExistsError
        If the folder holds a run already.
    ValueError
        If a file of the run is damaged, or the data set is another one than the run began with, or an
        option does not fit the data or the run (``BadOption``).
    RuntimeError
        If another process is training there.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: str | Path | None = None,
        *,
        resume: bool = False,
        say: Say = print,
        progress: Say = lambda line: None,
    ) -> None:
        self.config = config = config.with_whole_paths()
        self.say, self.progress = say, progress
        given = None if folder is None else as_path("Run: folder", folder)
        if given is not None and not resume:
            check_unused(given)
        own_the_cores()
        with data_may_have_moved() if resume else nullcontext():
            self.dataset = load_together(lambda: load(config.data, config.size, config.channels))
        self.images, self.labels, *validation = self.dataset.split(config.limit, config.validate)
        self.validation = validation[0], validation[1]
        self.steps_per_epoch = math.ceil(len(self.images) / config.batch_size)
        steps = config.epochs * self.steps_per_epoch
        if not resume:
            config.check_fits(steps, self.dataset.image_shape)
        self.network = config.network(self.dataset)
        self.start: Start | None = None
        if config.init is not None and not (given and in_first_rank((given / CHECKPOINT).exists)()):
            self.start = in_first_rank(start_from)(self.network, config.init, self.dataset.class_names)
        self.network.to(resolve(config.backend))
        self.loss_scale = use_precision(self.network, config.precision)
        self.objective = self.network.objective()
        self.optimizer = Adam(self.network, config.learning_rates(steps))
        self.epochs: list[dict[str, Any]] = []
        self.current = EpochProgress()
        self._data, self._changes = fingerprint(self.dataset), list[str]()
        self._files = RunFolder(given or take_new_folder(config), say)
        self.folder = self._files.path
        if resume:
            self._restore()
        else:
            self._files.begin(self.config)
        self._note_position()

    @classmethod
    def resume(
        cls, folder: str | Path, *, say: Say = print, progress: Say = lambda line: None, **changes: Any
    ) -> Run:
        """Return the run in `folder`, set to where its last checkpoint was.

        Three options may be others than in its configuration: `data`, where the same data lie now;
        `backend`; and `epochs`, to train it, complete or not, until it has so many. Its learning rate then
        is that of a run of so many epochs: with the schedules constant and exponential, it ends with the
        bits of one. It raises what ``Run`` does, and FileNotFoundError if the folder holds no run.
        """
        config = in_first_rank(read_config)(folder).but_for(**changes)
        return cls(config, folder, resume=True, say=say, progress=progress)

    @property
    def finished(self) -> bool:
        """Whether the run is complete: its summary is of all its epochs."""
        return len(self.epochs) == self.config.epochs == self._files.read_summary().get("epochs")

    def _note_position(self) -> None:
        self.kept, self._saved = position(self.epochs, self.current, self.steps_per_epoch), time.monotonic()

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
            If another process is training the run, or has been since this object was made.
        OSError
            If a file cannot be written; the last checkpoint stays.
        """
        with self._files.locked():
            self._files.check_alone()
            for line in self._changes:
                self.say(line)
            self._changes.clear()
            self._files.update(self.config, self.epochs)
            if not self._files.holds_checkpoint():
                self.save()  # says from the start what data the run began with
            sizes = self.config.batch_size, self.config.slices
            with gradient_source(self.network, self.objective, *sizes) as source, CtrlC() as ctrl_c:
                while len(self.epochs) < self.config.epochs:
                    self._train_epoch(source, ctrl_c)
                    self._complete_epoch()
                if in_first_rank(lambda: ctrl_c.pressed)():
                    raise KeyboardInterrupt
            return self._finish(draw)

    def _train_epoch(self, source: GradientSource, ctrl_c: CtrlC) -> None:
        """Train what is left of the epoch, saving now and then."""
        config, current, epoch = self.config, self.current, len(self.epochs) + 1
        start = time.perf_counter() - current.seconds
        whole = epoch_batches(config.seed, epoch, len(self.images), config.batch_size)
        for chosen, rng in islice(whole, current.batches, None):
            images = augment.vary(self.images[chosen], config.shift, config.warp, rng)  # (B, H, W, C)
            x, y = to_batch(images, self.labels[chosen], self.network.xp)
            source.objective = self.objective.at(self.optimizer.steps / config.epochs / self.steps_per_epoch)
            try:
                result = train_step(source, self.optimizer, x, y, self.loss_scale)
            except Diverged as error:
                raise Diverged(f"{error}; the run is kept as it was {self.kept}") from None
            current.add(result, len(chosen))
            current.seconds = time.perf_counter() - start
            self.progress(current.line(epoch, config.epochs, len(self.images)))
            stop, save = self._wishes(ctrl_c)
            if save:
                self.save()
            if stop:
                raise KeyboardInterrupt

    @in_first_rank
    def _wishes(self, ctrl_c: CtrlC) -> tuple[bool, bool]:
        """Return whether to stop now, and whether to save."""
        stop = ctrl_c.pressed
        return stop, stop or time.monotonic() - self._saved >= SAVE_EVERY

    def _complete_epoch(self) -> None:
        """Validate, note the epoch's numbers, and save."""
        config, current, start = self.config, self.current, time.perf_counter()
        validation = None
        if config.validate:
            with np.errstate(over="ignore", invalid="ignore"):  # told in words, below
                validation = in_first_rank(evaluate)(self.network, *self.validation, config.batch_size)
        losses = {"mean": current.loss} | ({} if validation is None else {"validation": validation.loss})
        for what, loss in losses.items():
            if not math.isfinite(loss):
                raise self._diverged(f"the {what} loss is {loss} after step {self.optimizer.steps}")
        rate = self.optimizer.schedule(max(self.optimizer.steps, 1) - 1)  # of the last step
        metrics = current.metrics(len(self.epochs) + 1, config.epochs, rate, validation, self.loss_scale)
        metrics["seconds"] += time.perf_counter() - start
        self.epochs.append(metrics)
        self.current = EpochProgress()
        self.save()
        self.say(epoch_line(metrics, config.epochs))

    def _diverged(self, what: str) -> Diverged:
        cure = smaller_may_help(self.optimizer)
        return Diverged(f"{what}; {cure}; the run is kept as it was {self.kept}")

    # -- the folder ----------------------------------------------------------------------------

    def _restore(self) -> None:
        """Go to where the checkpoint is, if there is one yet."""
        checkpoint = self._files.resume()
        if checkpoint is None:
            return
        try:
            checkpoint.check_origin(self.config, self.dataset, self._data)
            checkpoint.load_into(self.network, self.optimizer, self.loss_scale)
        except (TypeError, ValueError) as error:
            raise not_of_this_run(self.folder / CHECKPOINT, error) from None
        self.epochs, self.current = checkpoint.epochs, checkpoint.progress
        before, complete = checkpoint.config, len(self.epochs)
        self._changes = changes_of(self.config, before, self.optimizer, complete, self.current)

    def save(self) -> None:
        """Write the checkpoint and the metrics of all epochs so far, and the weights if they are the best.

        Raises
        ------
        OSError
            If a file cannot be written; the old one stays.
        Diverged
            If a weight is not finite; the old checkpoint stays.
        """
        scale = None if self.loss_scale is None else self.loss_scale.state()
        states = self.network.state(), self.optimizer.state(), scale
        origin = self._data, self.dataset.source
        checkpoint = Checkpoint(*states, self.config, *origin, self.epochs, self.current)
        for name, array in checkpoint.arrays().items():
            if not all_finite(array):
                raise self._diverged(f"{name} is not finite after step {self.optimizer.steps}")
        self._files.save(checkpoint, self.network, self.dataset.class_names)
        self._note_position()

    # -- the end -------------------------------------------------------------------------------

    @in_first_rank
    def _finish(self, draw: Draw | None) -> dict[str, Any]:
        """Look at the test set, once; write the weights and the summary; then draw."""
        config, dataset = self.config, self.dataset
        images = dataset.test_images, dataset.test_labels
        test = evaluate(self.network, *images, config.batch_size, config.test_shift)
        summary = summarize(config, dataset, test, self.epochs, self._files.best_epoch(self.epochs)) | {
            "train_images": len(self.images),
            "parameters": self.network.count_params(),
            "data_sha256": self._data,
        }
        self.network.to("numpy")
        save_network(self.folder / MODEL, self.network, dataset.class_names)
        self._files.write_summary(summary)
        try:
            if draw is not None:
                draw(self, test)
        except Exception as error:
            self.say(f"warning: the figures could not all be drawn ({type(error).__name__}: {error})")
        return summary
