"""``train``: train a network and test it once."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from minicaps import figures
from minicaps.commands.common import (
    INTERRUPTED,
    OK,
    ProgressLine,
    UsageError,
    about_copies,
    checking_arguments,
    complain,
    path_of,
)
from minicaps.training import MAY_CHANGE, Evaluation, Run, TrainConfig, current_ranks, flag, in_first_rank


def add_options(parser: argparse.ArgumentParser) -> None:
    add_fields(parser, TrainConfig)
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=path_of("--out"),
        help="folder of the run (default: a new one under runs/)",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        type=path_of("--resume"),
        help="continue the run in this folder, with its own options, but for: --data, where the same data "
        "lie now; --backend; and --epochs, to train it until it has so many, also if it is complete: from "
        "there on the learning rate is that of a run of so many epochs, and the test is made again",
    )


def add_fields(parser: argparse.ArgumentParser, config: type) -> None:
    """Add a flag for every field of a dataclass; only those given appear in the result."""
    types_of = typing.get_type_hints(config)
    for option in fields(config):
        kind, told = types_of[option.name], option.metadata
        text, choices = told["help"], told["choices"]
        if kind is bool:
            parser.add_argument(
                flag(option.name),
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=f"{text} (default: {'yes' if option.default else 'no'})",
            )
            continue
        if isinstance(kind, types.UnionType):  # X | None
            kind = typing.get_args(kind)[0]
        parser.add_argument(
            flag(option.name),
            type=reading(told["read"]) if told["read"] else kind,
            choices=choices,
            metavar=told["metavar"] or (None if choices else {int: "N", float: "X"}[kind]),
            default=argparse.SUPPRESS,
            help=text + ("" if option.default is None else f" (default: {option.default})"),
        )


def reading(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return `read`, with its complaints in one line."""

    def read_text(text: str) -> Any:
        with checking_arguments():
            return read(text)

    return read_text


def command(options: argparse.Namespace) -> int:
    """Train a new run, or what is left of one; after Ctrl-C say how to go on."""
    progress = ProgressLine()
    run = prepare(options, progress)
    if options.resume is not None and in_first_rank(lambda: run.finished)():
        print(f"{run.folder}: this run is complete; see summary.json")
        return OK
    describe(run, resumed=options.resume is not None)
    try:
        summary = run.train(draw)
    except KeyboardInterrupt:
        progress.clear()
        if run.finished:  # only its figures were left
            complain(f"interrupted; the run is complete, but for its figures; see {run.folder}/summary.json")
        else:
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
    if run.config.test_shift:
        print(about_copies(run.config.test_shift, summary["unshifted_test_accuracy"]))
    best = f"best.npz of epoch {summary['best_epoch']}, " if summary["best_epoch"] else ""
    print(f"written: {run.folder}/ (summary.json, model.npz, {best}figures, report.html)")
    return OK


def prepare(options: argparse.Namespace, progress: ProgressLine) -> Run:
    """Return the run of --resume, or a new one with the options given."""
    names = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    if options.resume is not None:
        refused = [name for name in sorted(given) if name not in MAY_CHANGE]
        flags = [flag(name, given[name]) for name in refused] + ["--out"] * (options.out is not None)
        if flags:
            raise UsageError(f"--resume continues a run with its own options; leave out {', '.join(flags)}")
        return Run.resume(options.resume, say=progress.say, progress=progress.show, **given)
    with checking_arguments():
        config = TrainConfig.from_recipe(given.pop("recipe", "default"), **given)
    return Run(config, options.out, say=progress.say, progress=progress.show)


def describe(run: Run, resumed: bool) -> None:
    """Print what will be trained, on what, and where it is kept."""
    print(run.config)
    dataset = run.dataset
    print(
        f"data: {dataset.source}: {len(run.images):,} images to train on, "
        f"{len(run.validation[0]):,} to validate, {len(dataset.test_images):,} to test, "
        f"{dataset.classes} classes, {' × '.join(map(str, dataset.image_shape))} pixels"
    )
    for line in dataset.remarks(run.config.limit, run.config.validate):
        print(f"warning: {line}")
    if run.start is not None:
        print(f"start: {run.start}")
    if (ranks := current_ranks().size) > 1:
        print(f"ranks: {ranks}")
    print(run.network.table())
    print(f"run: {run.folder}" + (f", {run.kept}" if resumed else ""), flush=True)


def draw(run: Run, test: Evaluation) -> None:
    """Draw the figures of a run, once it is trained, and write its report."""
    figures.draw_run(
        run.folder, epochs=run.epochs, network=run.network, dataset=run.dataset, test=test, say=run.say
    )
    figures.write_report(run.folder, network=run.network, dataset=run.dataset, test=test, say=run.say)
