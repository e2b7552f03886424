"""Fixtures and settings that several test files use."""

import os
import signal
import subprocess
import sys

import helpers
import hypothesis
import pytest
import strict_backend

from minicaps import arrays
from minicaps.cli import main
from minicaps.fast import own_the_cores, thread_count, threads
from minicaps.training import Run

# No deadline: what a single example takes on a busy machine says nothing about the code.
# Once a night: HYPOTHESIS_PROFILE=nightly python -m pytest (or --hypothesis-profile nightly)
hypothesis.settings.register_profile("minicaps", deadline=None)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "minicaps"))

# A job that a shell starts in the background has Ctrl-C ignored, and so have its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

own_the_cores()  # so that threads work, as in a run


def devices():
    """The array libraries to test beside NumPy: the stand-in, and CuPy where there is a GPU."""
    try:
        return [strict_backend.strict, arrays.resolve("cupy")]
    except RuntimeError:
        return [strict_backend.strict]


@pytest.fixture(params=devices(), ids=lambda library: library.__name__)
def device(request, monkeypatch):
    """A library of arrays on a device. Each test begins with no transfer counted."""
    monkeypatch.setitem(arrays._LIBRARIES, strict_backend.StrictArray, strict_backend.strict)
    monkeypatch.setattr(strict_backend.strict, "transfers", 0, raising=False)
    return request.param


@pytest.fixture
def small_slices(monkeypatch):
    """Slice the work of every layer for the threads, as that of large arrays is."""
    monkeypatch.setattr(threads, "MIN_NUMBERS", 0)
    monkeypatch.setattr(threads, "SLICE_NUMBERS", 8)
    monkeypatch.setattr(threads, "MIN_MULTIPLICATIONS", 0)


@pytest.fixture
def with_threads(monkeypatch):
    """Return a function that sets MINICAPS_THREADS."""

    def choose(count):
        monkeypatch.setenv("MINICAPS_THREADS", str(count))
        thread_count.cache_clear()

    yield choose
    monkeypatch.undo()
    thread_count.cache_clear()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """A folder in MNIST's form with its first 300 training and 100 test images."""
    return helpers.small_folder(tmp_path_factory.mktemp("small"))


# -- the command line --------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Run commands in an empty folder, with the data and weights that come along."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINICAPS_DATA", raising=False)


@pytest.fixture
def call(capsys):
    """Return a function that runs a command and returns (exit code, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def complaint(call):
    """Return a function that runs a command that must fail, and returns its one line on stderr."""

    def complaint(*arguments, code):
        found, _, errors = call(*arguments)
        assert found == code, errors
        assert errors.startswith("minicaps: ") and errors.count("\n") == 1
        return errors

    return complaint


@pytest.fixture
def process():
    """Return a function that runs a command in a process of its own."""

    def process(*arguments):
        command = [sys.executable, "-m", "minicaps", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return process


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, small_folder):
    """The folder of a complete run that knows its digits somewhat."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    config = helpers.tiny_config(epochs=4, batch_size=30, learning_rate=0.005, data=str(small_folder))
    Run(config, folder, say=helpers.quiet).train()
    return folder


@pytest.fixture(scope="session")
def unfinished_run(tmp_path_factory, small_folder):
    """The folder of a run that was stopped after the first of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "unfinished"
    run = Run(helpers.tiny_config(epochs=2, data=str(small_folder)), folder, say=helpers.interrupt_at(1))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    return folder
