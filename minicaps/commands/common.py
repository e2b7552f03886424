"""What several commands share: exit codes, what they say, and the networks and data they are given."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minicaps.datasets import Dataset, load
from minicaps.networks import CapsNet, Network, find_pretrained, load_network
from minicaps.training import read_config

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


# -- what is said -----------------------------------------------------------------------------


class UsageError(Exception):
    """The arguments are wrong; the message says how."""


@contextmanager
def checking_arguments() -> Iterator[None]:
    """Make a ValueError a UsageError, where values from the command line are first looked at."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None


def complain(line: str) -> None:
    """Say on stderr what is wrong."""
    print(f"minicaps: {line}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Return in one line what an error says."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


class ProgressLine:
    """One line that is written over in a terminal; elsewhere a line every 30 seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else 30.0  # seconds
        self.last = time.perf_counter()
        self.width = 0

    def show(self, line: str) -> None:
        """Show the line, unless the last one was shown a moment ago."""
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
        """Wipe what is shown."""
        if self.terminal and self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)
            self.width = 0

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(line, flush=True)


# -- what is given ----------------------------------------------------------------------------


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add --debug, which every command has."""
    # Without a default, since that of an inner parser would hide what an outer one was given.
    text = "show the traceback of an error"
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)


RUN_HELP = "folder of a finished run, its model.npz, or the word pretrained for the weights that come along"


def run_path(text: str) -> Path:
    """Return the path that RUN names (``./pretrained`` is a folder of that name)."""
    return find_pretrained() if text == "pretrained" else Path(text)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN, the trained network."""
    parser.add_argument("run", metavar="RUN", type=run_path, help=RUN_HELP)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data, for a command that has RUN."""
    text = "folder of IDX files or of pictures, as for train (default: the run's)"
    parser.add_argument("--data", metavar="FOLDER", help=text)


def load_run(path: Path) -> tuple[Network, tuple[str, ...]]:
    """Load the network of a finished run, from its folder or its model.npz, and its class names.

    Raises
    ------
    FileNotFoundError
        If there is none; the message says how to finish a run that is not finished.
    ValueError
        If the file is damaged or not of a network.
    """
    if not path.is_dir():
        return load_network(path)
    if (path / "model.npz").exists():
        return load_network(path / "model.npz")
    if (path / "config.json").exists():
        raise FileNotFoundError(
            f"{path}: the run is not finished; continue it with: python -m minicaps train --resume {path}"
        )
    raise FileNotFoundError(f"{path}: holds no run (no model.npz)")


def load_capsnet(path: Path) -> tuple[CapsNet, tuple[str, ...]]:
    """Load the CapsNet of a finished run, as ``load_run`` does.

    Raises
    ------
    ValueError
        If it is another network.
    """
    network, class_names = load_run(path)
    if not isinstance(network, CapsNet):
        raise ValueError(
            f"{path}: the network is of class {type(network).__name__}, expected CapsNet: "
            "only that has capsules to look at"
        )
    return network, class_names


def load_data(data: str | None, run: Path, network: Network, class_names: tuple[str, ...]) -> Dataset:
    """Load the data set of --data or of the run, and check that it suits the network.

    Raises
    ------
    ValueError
        If its images or classes are not those that the network was trained on.
    """
    if data is None and run.is_dir():
        data = read_config(run).data
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
