"""Fixtures and settings that several test files use."""

import os
import signal

import helpers
import hypothesis
import pytest
import strict_backend

from minicaps import arrays as backend

# No deadline: what a single example takes on a busy machine says nothing about the code.
# Once a night: HYPOTHESIS_PROFILE=nightly python -m pytest (or --hypothesis-profile nightly)
hypothesis.settings.register_profile("minicaps", deadline=None)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "minicaps"))

# A job that a shell starts in the background has Ctrl-C ignored, and so have its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


def devices():
    """The array libraries to test beside NumPy: the stand-in, and CuPy where there is a GPU."""
    try:
        return [strict_backend.strict, backend.resolve("cupy")]
    except RuntimeError:
        return [strict_backend.strict]


@pytest.fixture(params=devices(), ids=lambda library: library.__name__)
def device(request, monkeypatch):
    """A library of arrays on a device. Each test begins with no transfer counted."""
    monkeypatch.setitem(backend._LIBRARIES, strict_backend.StrictArray, strict_backend.strict)
    monkeypatch.setattr(strict_backend.strict, "transfers", 0, raising=False)
    return request.param


@pytest.fixture
def small_pieces(monkeypatch):
    """Cut the work of every layer into many pieces, as large arrays are."""
    monkeypatch.setattr(backend, "PIECE_LEAST", 0)
    monkeypatch.setattr(backend, "PIECE", 8)
    monkeypatch.setattr(backend, "MATMUL_LEAST", 0)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """A folder in MNIST's form with its first 300 training and 100 test images."""
    return helpers.small_folder(tmp_path_factory.mktemp("small"))
