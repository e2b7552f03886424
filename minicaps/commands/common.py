"""What several commands share: exit codes, what they say, and the networks and data they are given."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minicaps.datasets import Dataset, load
from minicaps.networks import Network, VectorCapsNet, find_pretrained, load_network
from minicaps.training import (
    PRETRAINED,
    as_path,
    data_may_have_moved,
    find_weights,
    fingerprint,
    read_config,
    run_of,
    trained_on,
)

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


RUN_HELP = (
    "folder of a finished run, its model.npz or best.npz, or the word pretrained for the weights that come "
    "along"
)


def path_of(flag: str) -> Callable[[str], Path]:
    """Return what reads the path of a flag, with ``~`` for one's home."""

    def read(text: str) -> Path:
        with checking_arguments():
            return as_path(flag, text)

    return read


def run_path(text: str) -> Path:
    """Return the path that RUN names (``./pretrained`` is a folder of that name)."""
    return find_pretrained() if text == PRETRAINED else path_of("RUN")(text)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN, the trained network."""
    parser.add_argument("run", metavar="RUN", type=run_path, help=RUN_HELP)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data, for a command that has RUN."""
    text = "folder of IDX files or of pictures, as for train (default: the run's)"
    parser.add_argument("--data", metavar="FOLDER", type=path_of("--data"), help=text)


def load_run(path: Path) -> tuple[Network, tuple[str, ...]]:
    """Load the network of a finished run, from its folder or a file of weights, and its class names.

    Raises
    ------
    FileNotFoundError
        If there is none; the message says how to finish a run that is not finished.
    ValueError
        If the file is damaged or not of a network.
    """
    return load_network(find_weights(path))


def about_copies(test_shift: int, unshifted: float) -> str:
    """Say that a test was made of shifted copies, and its accuracy without them, 0 to 1."""
    count, pixels = (2 * test_shift + 1) ** 2, "1 pixel" if test_shift == 1 else f"{test_shift} pixels"
    return (
        f"by the mean scores of {count:,} copies of every image, shifted by up to {pixels}; "
        f"without them {100 * unshifted:.2f} %"
    )


def load_capsnet(path: Path) -> tuple[VectorCapsNet, tuple[str, ...]]:
    """Load the CapsNet or EfficientCapsNet of a finished run, as ``load_run`` does.

    Raises
    ------
    ValueError
        If it is another network.
    """
    network, class_names = load_run(path)
    if not isinstance(network, VectorCapsNet):
        raise ValueError(
            f"{path}: the network is of class {type(network).__name__}, expected CapsNet or "
            "EfficientCapsNet: only its vectors and couplings are drawn"
        )
    return network, class_names


def load_data(data: str | Path | None, path: Path, network: Network, class_names: tuple[str, ...]) -> Dataset:
    """Load the data set of --data, or else that which a network was trained on.

    Whatever --data names is taken, if it suits the network. Without it, the data of the run must be those
    that it was trained on, wherever they lie now. A file of weights alone does not know them: then it is
    said which data are taken.

    Parameters
    ----------
    data : path or None
        What --data says.
    path : path
        Of the run, or of the file of weights.
    network : Network
    class_names : tuple of str
        Of the network.

    Raises
    ------
    FileNotFoundError
        If the data are not there.
    ValueError
        If they are others than those of the run, or their images or classes not those of the network.
    """
    run = run_of(path) if data is None else None
    if run is not None:
        dataset = _load_data_of(run)
    else:
        height, width, channels = network.image_shape
        dataset = load(data, (height, width), channels if channels in (1, 3) else None)
        if data is None:
            _say_unknown(path, dataset)
    if dataset.image_shape != network.image_shape or dataset.classes > network.classes:
        raise ValueError(
            f"{dataset.source}: {dataset.classes} classes of {dataset.image_shape} pixels, but the "
            f"network was trained on {network.classes} classes of {network.image_shape}"
        )
    for found, trained in zip(dataset.class_names, class_names, strict=False):
        if found != trained:
            raise ValueError(f"{dataset.source}: has a class {found} where the network has {trained}")
    return dataset


def _load_data_of(run: Path) -> Dataset:
    """Load what a run was trained on."""
    config, origin = read_config(run), trained_on(run)
    with data_may_have_moved():
        dataset = load(config.data, config.size, config.channels)
    if origin is None and config.data is None:
        _say_unknown(run, dataset)
    if origin is not None and origin.fingerprint != fingerprint(dataset):
        lay = f" (they lay in {origin.source})" if origin.source not in ("", dataset.source) else ""
        raise ValueError(
            f"{dataset.source}: not the data that {run} was trained on{lay}; name with --data where these "
            "lie now, or others that you want"
        )
    return dataset


def _say_unknown(path: Path, dataset: Dataset) -> None:
    complain(f"{path}: does not say what it was trained on; taken: the data in {dataset.source}")
