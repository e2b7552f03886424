"""``train``: train a network and test it once."""

from __future__ import annotations

import argparse
import itertools
import types
import typing
from dataclasses import fields
from pathlib import Path

from minicaps import figures
from minicaps.commands.common import INTERRUPTED, OK, ProgressLine, UsageError, checking_arguments, complain
from minicaps.networks import PRESETS_OF
from minicaps.training import Evaluation, Run, TrainConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, TrainConfig)
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="folder of the run (default: a new one under runs/)"
    )
    parser.add_argument(
        "--resume", metavar="RUN", type=Path, help="continue the run in this folder, with its own options"
    )


def add_fields(parser: argparse.ArgumentParser, config: type) -> None:
    """Add a flag for every field of a dataclass; only those given appear in the result."""
    types_of = typing.get_type_hints(config)
    for option in fields(config):
        text, kind, choices = option.metadata["help"], types_of[option.name], option.metadata["choices"]
        if kind is bool:
            parser.add_argument(
                flag(option.name, False),
                dest=option.name,
                action="store_false",
                default=argparse.SUPPRESS,
                help=f"do not {text}",
            )
            continue
        if isinstance(kind, types.UnionType):  # X | None
            kind = typing.get_args(kind)[0]
        parser.add_argument(
            flag(option.name),
            type=kind,
            choices=choices,
            metavar=None if choices else {int: "N", float: "X", str: "FOLDER"}[kind],
            default=argparse.SUPPRESS,
            help=text + ("" if option.default is None else f" (default: {option.default})"),
        )


def flag(name: str, value: object = None) -> str:
    """Return the flag that sets an option (to this value)."""
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def command(options: argparse.Namespace) -> int:
    """Train a new run, or what is left of one; after Ctrl-C say how to go on."""
    progress = ProgressLine()
    run = prepare(options, progress)
    if options.resume is not None and run.finished:
        print(f"{run.folder}: this run is complete; see summary.json")
        return OK
    describe(run, resumed=options.resume is not None)
    try:
        summary = run.train(draw)
    except KeyboardInterrupt:
        progress.clear()
        complain(
            f"interrupted; the run is kept as it was {run.kept}. Continue with: "
            f"python -m minicaps train --resume {run.folder}"
        )
        return INTERRUPTED
    progress.say(
        f"test accuracy {100 * summary['test_accuracy']:.2f} % "
        f"(error {summary['test_error_percent']:.2f} %) on {summary['test_images']:,} images, "
        f"{summary['seconds']:.0f} s of training"
    )
    print(f"written: {run.folder}/ (summary.json, model.npz, figures)")
    return OK


def prepare(options: argparse.Namespace, progress: ProgressLine) -> Run:
    """Return the run of --resume, or a new one with the options given."""
    names = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    if options.resume is not None:
        if options.out is not None:
            given["out"] = options.out
        if given:
            flags = ", ".join(flag(name, given[name]) for name in sorted(given))
            raise UsageError(f"--resume continues a run with its own options; leave out {flags}")
        return Run.resume(options.resume, say=progress.say, progress=progress.show)
    with checking_arguments():
        config = TrainConfig(**given)
    return Run(config, options.out or new_folder(config), say=progress.say, progress=progress.show)


def new_folder(config: TrainConfig) -> Path:
    """Return the first of runs/MODEL-PRESET-001, -002, … that is not there."""
    name = config.model + (f"-{config.preset}" if config.model in PRESETS_OF else "")
    folders = (Path("runs") / f"{name}-{number:03d}" for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def describe(run: Run, resumed: bool) -> None:
    """Print what will be trained, on what, and where it is kept."""
    print(run.config)
    dataset = run.dataset
    print(
        f"data: {dataset.source}: {len(run.images):,} images to train on, "
        f"{len(run.validation[0]):,} to validate, {len(dataset.test_images):,} to test, "
        f"{dataset.classes} classes, {' × '.join(map(str, dataset.image_shape))} pixels"
    )
    print(run.network.table())
    print(f"run: {run.folder}" + (f", {run.kept}" if resumed else ""), flush=True)


def draw(run: Run, test: Evaluation) -> None:
    """Draw the figures of a run, once it is trained."""
    figures.draw_run(run.folder, epochs=run.epochs, network=run.network, dataset=run.dataset, test=test)
