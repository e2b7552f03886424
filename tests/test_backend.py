"""The worker threads, and how work is cut for them."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import arrays as backend
from minicaps.arrays import chunks, parallel, pieces


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
