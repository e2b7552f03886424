"""Fixtures and settings that several test files use."""

import os
import signal

import helpers
import hypothesis
import pytest
import strict_backend

from minicaps import arrays
from minicaps.fast import own_the_cores, threads

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


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """A folder in MNIST's form with its first 300 training and 100 test images."""
    return helpers.small_folder(tmp_path_factory.mktemp("small"))
