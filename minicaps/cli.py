"""The command line: ``python -m minicaps``, or ``minicaps`` once installed."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from minicaps import __version__
from minicaps.fast import keep_freed_memory

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class UsageError(Exception):
    """The arguments are wrong; the message says how."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: bad content or a failed run; 2: wrong arguments, or a path that is not there;
    130: interrupted.
    """
    keep_freed_memory()
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as error:  # argparse has said what is wrong, or has shown the help
        return int(error.code or 0)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if options.debug:
            raise
        if isinstance(error, (UsageError, FileNotFoundError, FileExistsError)):
            _complain(_one_line(error))
            return WRONG_USE
        if isinstance(error, (ValueError, OSError, RuntimeError, ImportError)):
            _complain(_one_line(error))
        elif isinstance(error, MemoryError):
            _complain(f"out of memory ({_one_line(error)}); try a smaller --batch-size, --preset or --size")
        else:
            _complain(f"{type(error).__name__}: {_one_line(error)} (--debug shows where)")
        return FAILED


def _complain(line: str) -> None:
    print(f"minicaps: {line}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; every command's function is its default for ``command``."""
    parser = argparse.ArgumentParser(
        prog="minicaps",
        description="A capsule network in plain NumPy. Train one, look at it, prove its gradients.",
    )
    parser.add_argument("--version", action="version", version=f"minicaps {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_explore(commands)
    _add_experiment(commands)
    _add_gradcheck(commands)
    _add_bench(commands)
    return parser


def _add_command(commands: Any, name: str, function: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=function)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


# -- train ------------------------------------------------------------------------------------


def _add_train(commands: Any) -> None:
    from minicaps.training.run import TrainConfig

    parser = _add_command(commands, "train", train, "train a network and test it once")
    add_options(parser, TrainConfig)
    parser.add_argument("--out", metavar="FOLDER", type=Path,
                        help="folder of the run (default: a new one under runs/)")  # fmt: skip
    parser.add_argument("--resume", metavar="RUN", type=Path,
                        help="continue the run in this folder, with its own options")  # fmt: skip


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Add a flag for every field of a dataclass; only those given appear in the result."""
    types_of = typing.get_type_hints(config)
    for option in fields(config):
        flag, text = "--" + option.name.replace("_", "-"), option.metadata["help"]
        kind, choices = types_of[option.name], option.metadata["choices"]
        if kind is bool:
            parser.add_argument("--no-" + option.name, dest=option.name, action="store_false",
                                default=argparse.SUPPRESS, help=f"do not {text}")  # fmt: skip
            continue
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        shown = "" if option.default is None else f" (default: {option.default})"
        metavar = None if choices else {int: "N", float: "X", str: "FOLDER"}[kind]
        parser.add_argument(flag, type=kind, choices=choices, metavar=metavar,
                            default=argparse.SUPPRESS, help=text + shown)  # fmt: skip


def train(options: argparse.Namespace) -> int:
    from minicaps.training.run import Run, TrainConfig

    given = {name: value for name, value in vars(options).items()
             if name in TrainConfig.__dataclass_fields__}  # fmt: skip
    progress = ProgressLine()
    reporting = {"say": progress.say, "progress": progress.show}
    if options.resume is not None:
        superfluous = sorted(given) + (["out"] if options.out else [])
        if superfluous:
            no = {"decoder": "no-decoder"}
            flags = ", ".join("--" + no.get(name, name).replace("_", "-") for name in superfluous)
            raise UsageError(f"--resume continues a run with its own options; leave out {flags}")
        run = Run.resume(options.resume, **reporting)
        if run.finished:
            print(f"{run.folder}: this run is complete; see summary.json")
            return OK
    else:
        try:
            config = TrainConfig(**given)
        except ValueError as error:
            raise UsageError(str(error)) from None
        run = Run(config, options.out or new_folder(config), **reporting)
    print("  ".join(f"{name}={value}" for name, value in asdict(run.config).items()))
    print(f"data: {run.dataset.source}: {len(run.images):,} images to train on, "
          f"{len(run.validation[0]):,} to validate, {len(run.dataset.test_images):,} to test, "
          f"{run.dataset.classes} classes, {' × '.join(map(str, run.dataset.image_shape))} pixels"
          )  # fmt: skip
    print(run.network.table())
    print(f"run: {run.folder}" + (f", {run.kept}" if run.seconds else ""), flush=True)
    try:
        summary = run.train()
    except KeyboardInterrupt:
        progress.clear()
        _complain(f"interrupted; the run is kept as it was {run.kept}. Continue with: "
                  f"python -m minicaps train --resume {run.folder}")  # fmt: skip
        return INTERRUPTED
    progress.say(f"test accuracy {100 * summary['test_accuracy']:.2f} % "
                 f"(error {summary['test_error_percent']:.2f} %) on {summary['test_images']:,} images, "
                 f"{summary['seconds']:.0f} s of training")  # fmt: skip
    print(f"written: {run.folder}/ (summary.json, model.npz, figures)")
    return OK


def new_folder(config: Any) -> Path:
    """Return the first of runs/MODEL-PRESET-001, -002, … that is not there."""
    name = config.model + (f"-{config.preset}" if config.model == "capsnet" else "")
    folders = (Path("runs") / f"{name}-{k:03d}" for k in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


class ProgressLine:
    """One line that is written over in a terminal; elsewhere a line every 30 seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else 30.0
        self.last = time.perf_counter()
        self.width = 0

    def show(self, line: str) -> None:
        now = time.perf_counter()
        if now - self.last < self.every:
            return
        self.last = now
        if self.terminal:
            print("\r" + line.ljust(self.width), end="", file=sys.stderr, flush=True)
            self.width = len(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.terminal and self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)
            self.width = 0

    def say(self, line: str) -> None:
        self.clear()
        print(line, flush=True)


# -- evaluate and predict ---------------------------------------------------------------------


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", evaluate, "test a trained network again")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run, or its model.npz")
    parser.add_argument("--data", metavar="FOLDER",
                        help="folder of IDX files or of pictures, as for train (default: the run's)"
                        )  # fmt: skip


def evaluate(options: argparse.Namespace) -> int:
    from minicaps.training import step as training

    network, class_names = load_run(options.run)
    dataset = load_data(options, network, class_names)
    labels = dataset.test_labels
    result = training.evaluate(network, dataset.test_images, labels)
    wrong = int((result.predictions != labels).sum())
    print(f"accuracy {100 * result.accuracy:.2f} % (error {100 * (1 - result.accuracy):.2f} %): "
          f"{wrong:,} of {len(labels):,} images wrong")  # fmt: skip
    width = max(12, *map(len, class_names))
    for k, name in enumerate(class_names):
        own = labels == k
        if own.any():
            right = float((result.predictions[own] == k).mean())
            print(f"  class {name:<{width}} {100 * right:6.2f} % of {own.sum():,}")
    return OK


def _add_predict(commands: Any) -> None:
    parser = _add_command(commands, "predict", predict, "say what images show")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run, or its model.npz")
    parser.add_argument("images", metavar="IMAGE", nargs="+",
                        help="PNG or JPEG, grey or colour, of any size")  # fmt: skip
    parser.add_argument("--invert", action="store_true",
                        help="for images that are dark on light; MNIST is light on dark")  # fmt: skip


def predict(options: argparse.Namespace) -> int:
    from minicaps.datasets import border_is_light, fit_picture, read_picture, to_float
    from minicaps.networks import CapsNet

    network, class_names = load_run(options.run)
    what = "length" if isinstance(network, CapsNet) else "probability"
    numbered = class_names == tuple(map(str, range(len(class_names))))  # as MNIST and other IDX files are
    failed = OK
    for path in options.images:
        try:
            picture = read_picture(path, network.image_shape[2], options.invert)
        except (FileNotFoundError, ValueError) as error:  # say it, and go on with the others
            _complain(str(error))
            failed = max(failed, WRONG_USE if isinstance(error, FileNotFoundError) else FAILED)
            continue
        if numbered and border_is_light(picture):
            _complain(f"warning: {path}: its border is light; MNIST is light on dark, "
                      + ("try without --invert" if options.invert else "try --invert"))  # fmt: skip
        image = to_float(fit_picture(picture, network.image_shape))  # (H, W, C)
        scores = network.scores(network(image[None]))[0]  # (J,)
        best, second = np.argsort(scores)[::-1][:2]
        print(f"{path}: {class_names[best]} ({what} {scores[best]:.3f}), "
              f"then {class_names[second]} ({scores[second]:.3f})")  # fmt: skip
    return failed


def load_run(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Load the network of a finished run, from its folder or its model.npz."""
    from minicaps.networks import weights as checkpoint

    if path.is_dir() and not (path / "model.npz").exists():
        if (path / "config.json").exists():
            raise FileNotFoundError(f"{path}: the run is not finished; continue it with: "
                                    f"python -m minicaps train --resume {path}")  # fmt: skip
        raise FileNotFoundError(f"{path}: holds no run (no model.npz)")
    return checkpoint.load_network(path / "model.npz" if path.is_dir() else path)


def load_data(options: argparse.Namespace, network: Any, class_names: tuple[str, ...]) -> Any:
    """Load the data set of --data or of the run, and check that it suits the network."""
    from minicaps.datasets import load
    from minicaps.training.run import read_config

    data = options.data
    if data is None and options.run.is_dir():
        data = read_config(options.run).data
    dataset = load(data, network.image_shape[:2])
    if dataset.image_shape != network.image_shape or dataset.classes > network.classes:
        raise ValueError(
            f"{dataset.source}: {dataset.classes} classes of {dataset.image_shape} pixels, but the "
            f"network was trained on {network.classes} classes of {network.image_shape}"
        )
    for found, trained in zip(dataset.class_names, class_names, strict=False):
        if found != trained:
            raise ValueError(f"{dataset.source}: has a class {found} where the network has {trained}")
    return dataset


# -- explore ----------------------------------------------------------------------------------


def _add_explore(commands: Any) -> None:
    text = "draw what a trained CapsNet does, and open a window to play with its capsules"
    parser = _add_command(commands, "explore", explore, text)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run, or its model.npz")
    parser.add_argument("--data", metavar="FOLDER",
                        help="folder of IDX files or of pictures, as for train (default: the run's)"
                        )  # fmt: skip
    parser.add_argument("--image", type=int, default=0, metavar="N",
                        help="number of the test image, from 0 (default: 0)")  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", type=Path,
                        help="folder of the figures (default: RUN/figures; figures for a file)")  # fmt: skip
    parser.add_argument("--interactive", action="store_true",
                        help="fail if there can be no window (default: do without)")  # fmt: skip


def explore(options: argparse.Namespace) -> int:
    from minicaps import figures

    network, class_names = load_run(options.run)
    figures.check_capsnet(network)
    dataset = load_data(options, network, class_names)
    if not 0 <= options.image < len(dataset.test_images):
        raise UsageError(f"--image is {options.image}, expected 0 to {len(dataset.test_images) - 1}")
    pyplot, why_not = figures.find_window(network)
    if options.interactive and pyplot is None:
        raise RuntimeError(f"--interactive: {why_not}")
    is_run = options.run.is_dir()
    folder = options.out or (options.run / "figures" if is_run else Path("figures"))
    metrics = options.run / "metrics.jsonl" if is_run else None
    for path in figures.write_figures(network, dataset, class_names, folder, options.image, metrics):
        print(path, flush=True)
    if pyplot is None:
        print(f"no window: {why_not}")
    else:
        figures.open_window(pyplot, network, dataset, class_names, options.image)
    return OK


# -- experiment -------------------------------------------------------------------------------


def _add_experiment(commands: Any) -> None:
    from minicaps.experiments.registry import EXPERIMENTS
    from minicaps.networks import PRESETS

    text = "run an experiment, and set its result beside what was published"
    parser = commands.add_parser("experiment", help=text, description=text[0].upper() + text[1:] + ".")
    names = parser.add_subparsers(title="experiments", required=True, metavar="NAME", dest="experiment")
    for name, each in EXPERIMENTS.items():
        parser = _add_command(names, name, experiment, each.text)
        parser.add_argument("--data", metavar="FOLDER", help="folder of four IDX files (default: MNIST)")
        parser.add_argument("--out", metavar="FOLDER", type=Path,
                            help=f"folder of the result (default: runs/experiments/{name})")  # fmt: skip
        if not each.defaults:
            parser.add_argument("--run", metavar="RUN", type=Path,
                                help="folder of a finished run, or its model.npz (default: the weights "
                                "that come along)")  # fmt: skip
            continue
        default = {"minutes": "15 epochs", "preset": "small", **each.defaults}
        parser.add_argument("--seeds", type=int, metavar="N",
                            help=f"networks of each kind (default: {default['seeds']})")  # fmt: skip
        parser.add_argument("--seed", type=int, metavar="N", help="the first of them (default: 0)")
        parser.add_argument("--minutes", type=float, metavar="X",
                            help="about how long the CapsNet trains for each seed; its speed is measured, "
                            f"then a number of steps is fixed (default: {default['minutes']})")  # fmt: skip
        parser.add_argument("--steps", type=int, metavar="N",
                            help="training steps of the CapsNet, in place of --minutes")  # fmt: skip
        parser.add_argument("--preset", choices=PRESETS,
                            help=f"size of the CapsNet (default: {default['preset']})")  # fmt: skip
        if "networks" in default:
            parser.add_argument("--networks", nargs="+", choices=default["networks"],
                                help="train these only")  # fmt: skip


def experiment(options: argparse.Namespace) -> int:
    from minicaps.experiments.registry import EXPERIMENTS, settings_of
    from minicaps.experiments.study import Settings, Study

    name, out = options.experiment, options.out or Path("runs") / "experiments" / options.experiment
    given = {key: value for key, value in vars(options).items() if key in Settings.__dataclass_fields__}
    if given.get("networks"):
        given["networks"] = tuple(dict.fromkeys(given["networks"]))
    try:
        settings = settings_of(name, **given)
    except ValueError as error:
        raise UsageError(str(error)) from None
    progress = ProgressLine()
    what = _run_and_data(options) if "run" in options else ()
    study = Study(name, settings, out, progress.say, progress.show)
    try:
        EXPERIMENTS[name].run(study, *what)
    except KeyboardInterrupt:
        progress.clear()
        _complain(f"interrupted; {len(study.result['rows'])} finished trainings are kept in {out}. "
                  "The same command goes on from there")  # fmt: skip
        return INTERRUPTED
    print(f"written: {out}/ (result.json, table.md, figures)")
    return OK


def _run_and_data(options: argparse.Namespace) -> tuple[Any, Any]:
    from minicaps.figures import check_capsnet
    from minicaps.networks import find_pretrained

    options.run = options.run or find_pretrained()
    network, class_names = load_run(options.run)
    check_capsnet(network)
    return network, load_data(options, network, class_names)


# -- gradcheck --------------------------------------------------------------------------------


def _add_gradcheck(commands: Any) -> None:
    text = "compare every backward pass with central differences"
    parser = _add_command(commands, "gradcheck", gradcheck, text)
    parser.add_argument("modules", metavar="FILE", nargs="*",
                        help="Python files with layers of your own: classes with forward, backward "
                        "and examples (default: all of minicaps)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")


def gradcheck(options: argparse.Namespace) -> int:
    from minicaps.proof.discovery import check_class, find_classes, module_from_path, package_modules

    if options.modules:
        modules = [module_from_path(path) for path in options.modules]
    else:
        modules = package_modules()
    classes = find_classes(modules)
    if not classes:
        raise ValueError(f"{', '.join(options.modules)}: no class with forward, backward and "
                         "examples; minicaps.Layer shows what they look like")  # fmt: skip
    print(f"{'layer (example)':<34} {'worst':>8} {'seconds':>8}  relative error of each gradient")
    failures, worst, count = [], 0.0, 0
    for cls in classes:
        for report in check_class(cls, options.seed):
            each = "  ".join(f"{row.array} {row.error:.0e}" for row in report.rows)
            print(f"{report.layer:<34} {report.worst:8.1e} {report.seconds:8.2f}  {each}", flush=True)
            failures += report.failures()
            worst, count = max(worst, report.worst), count + 1
    for failure in failures:
        print(failure)
    print(f"{count} examples of {len(classes)} classes, worst relative error {worst:.1e}, "
          f"allowed 1e-06: {'FAILED' if failures else 'all pass'}")  # fmt: skip
    return FAILED if failures else OK


# -- bench ------------------------------------------------------------------------------------


def _add_bench(commands: Any) -> None:
    from minicaps.networks import PRESETS

    parser = _add_command(commands, "bench", bench, "time training steps, stage by stage")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="(default: small)")
    parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def bench(options: argparse.Namespace) -> int:
    from minicaps.checks import check_positive
    from minicaps.training.bench import bench as measure

    try:
        check_positive("bench", batch_size=options.batch_size, steps=options.steps)
    except ValueError as error:
        raise UsageError(str(error)) from None
    result = measure(options.preset, options.batch_size, options.steps)
    print(json.dumps(result.as_dict(), indent=2) if options.json else result)
    return OK
