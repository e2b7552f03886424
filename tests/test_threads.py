"""The worker threads, and how work is cut for them."""

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import BatchNorm, Dense, Sequential, Squash
from minicaps.fast import platform
from minicaps.fast import threads as workers
from minicaps.fast.threads import matmul, parallel, product, slices_of, work_slices


@pytest.fixture
def threads(monkeypatch):
    def use(text):
        monkeypatch.setenv("MINICAPS_THREADS", text)
        workers.thread_count.cache_clear()
        workers._helpers.cache_clear()

    yield use
    monkeypatch.undo()
    workers.thread_count.cache_clear()
    workers._helpers.cache_clear()


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
def test_work_slices_cover_everything_once_in_equal_shares(count, numbers):
    slices = work_slices(count, numbers, np)
    assert [k for part in slices for k in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) * numbers <= workers.SLICE_NUMBERS + numbers
    assert len(set(sizes[:-1])) <= 1
    assert work_slices(count, numbers, object()) == [slice(0, count)]  # a GPU
    halves = work_slices(count, numbers, np, halved=True)
    two = workers.MIN_NUMBERS <= count * numbers <= 2 * workers.SLICE_NUMBERS
    assert halves == (slices_of(count, -(-count // 2)) if two else slices)


def test_work_that_fits_into_two_slices_is_halved_where_that_is_asked_for():
    numbers = workers.SLICE_NUMBERS // 50
    assert [len(work_slices(100, numbers, np, halved=halved)) for halved in (False, True)] == [4, 2]
    assert len(work_slices(100, numbers, np)) == len(workers.sample_slices(Squash(), 100, numbers, np)) == 4
    assert [len(work_slices(101, numbers, np, halved=halved)) for halved in (False, True)] == [4, 4]


def test_a_batch_is_whole_for_a_layer_that_looks_at_all_of_it():
    whole, numbers = [slice(0, 100)], workers.SLICE_NUMBERS // 50
    for halved in (False, True):
        for layer in (BatchNorm(3), Sequential(fc=Dense(3, 3, rng=0), norm=BatchNorm(3))):
            assert workers.sample_slices(layer, 100, numbers, np, halved=halved) == whole
        assert (
            len(workers.sample_slices(Dense(3, 3, rng=0), 100, numbers, np, halved=halved)) == 4 - 2 * halved
        )


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_threads_is_refused(threads, text):
    threads(text)
    with pytest.raises(ValueError, match="expected a whole number above 0"):
        workers.thread_count()


@pytest.mark.parametrize(
    "wished, processes, expected", [("3", 1, 3), ("4", 2, 2), ("5", 2, 2), ("2", 4, 1), ("1", 1, 1)]
)
def test_as_many_threads_work_as_are_this_process_s_share(threads, wished, processes, expected):
    threads(wished)
    at_work, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(expected, timeout=60)

    def work(k):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        together.wait()  # so many at once, or it fails
        time.sleep(0.01)  # one more would be seen
        with lock:
            at_work -= 1
        return threading.current_thread()

    with workers.beside_other_processes(processes):
        used = set(parallel(work, list(range(3 * expected))))
    assert most == len(used) == expected
    assert workers._busy_processes == 1


@pytest.mark.parametrize("shape, sliced", [((9, 2, 5), 0), ((5, 2, 9), 1), ((8, 3, 8), 0), ((2, 4, 2), 0)])
def test_of_a_product_the_longer_side_is_sliced_for_four_threads_at_most(shape, sliced, monkeypatch):
    monkeypatch.setattr(workers, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(workers, "MATMUL_SLICES", 4)
    asked = []
    in_turn = lambda work, items: asked.append(items) or list(map(work, items))  # noqa: E731
    monkeypatch.setattr(workers, "parallel", in_turn)
    M, K, N = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(M, K)), rng.normal(size=(K, N))
    np.testing.assert_allclose(matmul(a, b), a @ b, rtol=1e-12)
    assert asked == [slices_of(shape[2 * sliced], -(-shape[2 * sliced] // 4))]
    monkeypatch.setattr(workers, "MIN_MULTIPLICATIONS", M * K * N + 1)
    np.testing.assert_array_equal(matmul(a, b), a @ b)
    assert len(asked) == 1  # too small to share
    monkeypatch.setattr(workers, "MIN_MULTIPLICATIONS", M * K * N)
    matmul(a, b)
    assert len(asked) == 2  # just large enough


def test_arrays_are_sliced_by_the_numbers_that_all_of_them_have_along_the_first_axis(monkeypatch):
    monkeypatch.setattr(workers, "MIN_NUMBERS", 0)
    monkeypatch.setattr(workers, "SLICE_NUMBERS", 12)
    a, b = np.zeros((16, 2)), np.zeros((16, 4, 1))
    assert workers.slices_along(a, b) == work_slices(16, 6, np) == slices_of(16, 2)
    assert workers.slices_along(a) == work_slices(16, 2, np) == slices_of(16, 4)
    assert workers.slices_along(a[:, 0], b) == work_slices(16, 5, np) == slices_of(16, 2)
    assert workers.slices_along(a[:1]) == [slice(0, 1)]


def test_without_a_wish_there_is_a_thread_for_each_core_that_this_process_may_use(threads, monkeypatch):
    cores = {0: {1, 4, 5}}  # of this process, which is asked for as number 0
    monkeypatch.setattr(os, "sched_getaffinity", cores.__getitem__, raising=False)
    threads("")
    assert workers.thread_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    for found, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda found=found: found)
        threads("")
        assert workers.thread_count() == expected


def test_slices_cover_everything_once():
    assert slices_of(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert slices_of(3, 5) == [slice(0, 3)]


def test_threads_work_only_where_the_cores_were_asked_for(threads, monkeypatch):
    threads("3")
    monkeypatch.setattr(platform, "_owned", False)
    names = parallel(lambda k: threading.current_thread(), list(range(20)))
    assert set(names) == {threading.current_thread()}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_an_outer_product_is_a_multiplication_with_the_bits_of_a_product(rows, columns, inner, seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(2, inner, rows)).astype(np.float32).swapaxes(1, 2)  # (2, M, K)
    b = rng.normal(size=(2, inner, columns)).astype(np.float32)  # (2, K, N)
    np.testing.assert_array_equal(product(a, b), a @ b)
    np.testing.assert_array_equal(matmul(a[0], b[0]), a[0] @ b[0])
