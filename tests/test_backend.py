"""The array switch, and the worker threads."""

import sys
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict_backend import StrictArray, strict

from minicaps import Dense, backend
from minicaps.backend import chunks, get_xp, parallel, pieces, resolve, to_backend, to_numpy
from minicaps.models import build
from minicaps.optim import SGD, Adam
from minicaps.training import train_step


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setitem(backend._LIBRARIES, StrictArray, strict)
    monkeypatch.setattr(strict, "transfers", 0, raising=False)


@pytest.fixture
def threads(monkeypatch):
    def use(text):
        monkeypatch.setenv("MINICAPS_THREADS", text)
        backend.threads.cache_clear()
        backend._helpers.cache_clear()

    yield use
    monkeypatch.undo()
    backend.threads.cache_clear()
    backend._helpers.cache_clear()


def test_the_arrays_decide(device):
    assert get_xp(np.zeros(2), None, np.float32(1)) is np
    assert get_xp(strict.asarray(np.zeros(2))) is strict


def test_a_mixture_is_refused_with_the_cure(device):
    with pytest.raises(TypeError, match=r"numpy and strict are mixed; move the model with model.to"):
        get_xp(np.zeros(2), strict.asarray(np.zeros(2)))
    with pytest.raises(TypeError, match=r"Dense.forward: x: arrays of strict and numpy are mixed"):
        Dense(2, 2, rng=0)(strict.asarray(np.zeros((1, 2), np.float32)))


@pytest.mark.parametrize("value", [[1.0], 1.0, "text"])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array, got"):
        get_xp(value)


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("name", ["capsnet", "cnn", "mlp"])
def test_training_steps_on_a_strict_device_give_the_same_numbers(device, name, optimizer):
    rng = np.random.default_rng(0)
    images, labels = rng.random((5, 28, 28, 1)), rng.integers(0, 10, 5)
    results = []
    for xp in (np, strict):
        net = build(name, "tiny", rng=0, dtype=np.float64).to(xp)
        opt, objective = optimizer(net, 1e-2), net.objective()
        strict.transfers = 0
        for _ in range(3):
            x, y = to_backend(images, xp), to_backend(labels, xp)
            loss, correct = train_step(net, objective, opt, x, y)
        assert strict.transfers == 0
        results.append([to_numpy(loss), to_numpy(correct), *net.state().values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_moving_a_network_there_and_back_keeps_every_bit(device):
    net = build("capsnet", "tiny", rng=0)
    before = net.state()
    assert isinstance(next(iter(net.to(strict).params.values())), StrictArray)
    after = net.to("numpy").state()
    assert all((after[name] == value).all() for name, value in before.items())


def test_names_of_backends(monkeypatch):
    assert resolve("numpy") is np
    with pytest.raises(ValueError, match="expected 'numpy', 'cupy' or 'auto'"):
        resolve("torch")


def fake_cupy(monkeypatch, devices):
    class CUDARuntimeError(RuntimeError):
        pass

    def count():
        if isinstance(devices, str):
            raise CUDARuntimeError(devices)
        return devices

    runtime = types.SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


def test_cupy_is_taken_where_it_sees_a_device(monkeypatch):
    cupy = fake_cupy(monkeypatch, 1)
    assert resolve("cupy") is cupy and resolve("auto") is cupy


@pytest.mark.parametrize("devices", [0, "no driver"])
def test_cupy_without_a_device_is_told_and_auto_falls_back(monkeypatch, devices):
    fake_cupy(monkeypatch, devices)
    with pytest.raises(RuntimeError, match="finds no"):
        resolve("cupy")
    assert resolve("auto") is np


def test_missing_cupy_is_told_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes the import fail
    with pytest.raises(RuntimeError, match=r"pip install 'minicaps\[gpu\]'"):
        resolve("cupy")
    assert resolve("auto") is np


@pytest.mark.parametrize("text", ["1", "3"])
def test_parallel_keeps_the_order(threads, text):
    threads(text)
    assert parallel(lambda k: k * k, list(range(20))) == [k * k for k in range(20)]


def test_parallel_passes_errors_and_the_error_state_on(threads):
    threads("2")
    with pytest.raises(ZeroDivisionError):
        parallel(lambda k: 1 // k, [0, 1, 2])
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        parallel(lambda k: np.ones(1) / np.zeros(1), [0, 1, 2])


def test_helpers_work_under_the_error_state_of_the_caller(threads):
    threads("2")
    caller, both_at_work = threading.current_thread(), threading.Barrier(2, timeout=60)

    def work(k):
        both_at_work.wait()  # so one of the two is done by a helper
        return k if threading.current_thread() is caller else np.ones(1) / np.zeros(1)

    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        parallel(work, [0, 1])
    with np.errstate(divide="ignore"):
        both = parallel(work, [0, 1])
    assert np.inf in both


@given(st.integers(0, 10**4), st.integers(1, 10**6))
def test_pieces_cover_everything_once_in_equal_shares(count, numbers):
    cuts = pieces(count, numbers, np)
    assert [k for cut in cuts for k in range(count)[cut]] == list(range(count))
    sizes = [cut.stop - cut.start for cut in cuts]
    assert max(sizes) * numbers <= backend.PIECE + numbers
    assert len(set(sizes[:-1])) <= 1
    assert pieces(count, numbers, object()) == [slice(0, count)]  # a GPU


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_threads_is_refused(threads, text):
    threads(text)
    with pytest.raises(ValueError, match="expected a whole number above 0"):
        backend.threads()


def test_chunks_cover_everything_once():
    assert chunks(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert chunks(3, 5) == [slice(0, 3)]
