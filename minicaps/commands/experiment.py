"""``experiment``: run an experiment, and set its result beside what was published."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from minicaps.commands.common import (
    INTERRUPTED,
    OK,
    RUN_HELP,
    ProgressLine,
    add_debug,
    checking_arguments,
    complain,
    load_capsnet,
    load_data,
    path_of,
    run_path,
)
from minicaps.datasets import Dataset
from minicaps.experiments import EXPERIMENTS, Settings, Study, settings_of
from minicaps.networks import PRESETS, VectorCapsNet


def add_options(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(title="experiments", required=True, metavar="NAME", dest="experiment")
    for name, each in EXPERIMENTS.items():
        parser = names.add_parser(
            name, help=each.text, description=each.text[0].upper() + each.text[1:] + "."
        )
        add_debug(parser)
        of_run = "" if each.defaults else ", or the data of RUN"
        parser.add_argument(
            "--data",
            metavar="FOLDER",
            type=path_of("--data"),
            help=f"folder of four IDX files (default: MNIST{of_run})",
        )
        parser.add_argument(
            "--out",
            metavar="FOLDER",
            type=path_of("--out"),
            default=Path("runs") / "experiments" / name,
            help=f"folder of the result (default: runs/experiments/{name})",
        )
        if each.defaults:
            add_settings(parser, {"minutes": each.length, "preset": "small", **each.defaults})
        else:  # it trains nothing
            parser.add_argument(
                "--run", metavar="RUN", type=run_path, default="pretrained", help=f"{RUN_HELP} (default)"
            )


def add_settings(parser: argparse.ArgumentParser, default: dict[str, Any]) -> None:
    """Add the options of an experiment that trains; `default` holds what the help says of each."""
    parser.add_argument(
        "--seeds", type=int, metavar="N", help=f"networks of each kind (default: {default['seeds']})"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the first of them (default: 0)")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="X",
        help="about how long the CapsNet trains for each seed; its speed is measured, "
        f"then a number of steps is fixed (default: {default['minutes']})",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="training steps of the CapsNet, in place of --minutes"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help=f"size of the CapsNet (default: {default['preset']})"
    )
    if "folds" in default:
        parser.add_argument(
            "--folds",
            type=int,
            metavar="K",
            help=f"parts that are held out in turn (default: {default['folds']})",
        )
    if "networks" in default:
        parser.add_argument("--networks", nargs="+", choices=default["networks"], help="train these only")
    if "arms" in default:
        parser.add_argument("--arms", nargs="+", choices=default["arms"], help="train these only")


def command(options: argparse.Namespace) -> int:
    """Run it, in a folder of its own; an experiment that was interrupted goes on from there."""
    name, out = options.experiment, options.out
    names = {field.name for field in fields(Settings)}
    given = {key: value for key, value in vars(options).items() if key in names}
    if given.get("data"):
        given["data"] = str(given["data"])
    for several in ("networks", "arms"):
        if given.get(several):
            given[several] = tuple(dict.fromkeys(given[several]))
    with checking_arguments():
        settings = settings_of(name, **given)
    progress = ProgressLine()
    trained = load_trained(options) if "run" in options else ()
    study = Study(name, settings, out, progress.say, progress.show)
    try:
        EXPERIMENTS[name].run(study, *trained)
    except KeyboardInterrupt:
        progress.clear()
        complain(
            f"interrupted; {len(study.result['rows'])} finished trainings are kept in {out}. "
            "The same command goes on from there"
        )
        return INTERRUPTED
    print(f"written: {out}/ (result.json, table.md, figures)")
    return OK


def load_trained(options: argparse.Namespace) -> tuple[VectorCapsNet, Dataset]:
    """Load the capsule network of --run, and the data set of --data or of the run."""
    network, class_names = load_capsnet(options.run)
    dataset = load_data(options.data, options.run, network, class_names)
    print(f"data: {dataset.source}")
    return network, dataset
