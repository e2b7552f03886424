"""Worker threads, and how work is sliced for them: NumPy lets several threads compute at once.

They work once ``own_the_cores`` was called; until then one thread does everything, and NumPy's own
threads help with products of matrices. Slices depend on sizes alone, and what is added up is added in a
fixed order, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.fast.platform import owns_the_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

MATMUL_SLICES = 4  # of a product of matrices
MIN_MULTIPLICATIONS = 1 << 20  # smaller products are done before a thread has woken up
MIN_NUMBERS = 1 << 19  # the same for other work
SLICE_NUMBERS = 3 << 18  # 3 MB in float32. Less would stay closer to a core's cache, but whenever a
# thread comes back from NumPy for the next step it may have to wait for the interpreter
GROUPS = 8  # in which slices are added up; fixed, so that sums do not depend on the threads


@functools.cache
def thread_count() -> int:
    """Return how many threads work on one batch: MINICAPS_THREADS, or the cores available.

    Raises
    ------
    ValueError
        If MINICAPS_THREADS is not a whole number above 0.
    """
    text = os.environ.get("MINICAPS_THREADS", "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"MINICAPS_THREADS is {text!r}, expected a whole number above 0")
    return int(text)


_busy_processes = 1  # that compute at the same time as this one, and leave it a share of the threads


@contextlib.contextmanager
def beside_other_processes(processes: int) -> Iterator[None]:
    """Within it, ``parallel`` uses this process's share of the threads."""
    global _busy_processes
    before, _busy_processes = _busy_processes, processes
    try:
        yield
    finally:
        _busy_processes = before


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count() - 1, thread_name_prefix="minicaps")


def parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return [work(item) for item in items], computed by several threads.

    The calling thread works too, so that it need not wait for a helper to wake up before it starts,
    nor at the end for one that never did.
    """
    if len(items) == 1:
        return [work(items[0])]
    count = min(thread_count() // _busy_processes, len(items)) if owns_the_cores() else 1
    if count < 2:
        return [work(item) for item in items]
    results: dict[int, Result] = {}
    left = deque(range(len(items)))

    def take_turns() -> None:
        while left:
            try:
                k = left.popleft()
            except IndexError:  # another thread took the last one
                return
            results[k] = work(items[k])

    helpers = [_helpers().submit(_under, np.geterr(), take_turns) for _ in range(count - 1)]
    try:
        take_turns()
    finally:
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in filter(None, errors):
        raise error
    return [results[k] for k in range(len(items))]


def _under(error_state: Any, work: Callable[[], None]) -> None:
    """Call work() under NumPy's error state of the thread that asked for it."""
    with np.errstate(**error_state):
        work()


def matmul(a: Array, b: Array) -> Array:
    """Return a @ b for matrices (M, K) and (K, N), on our threads where it is worth it.

    The longer side of the product is always sliced at the same places.
    """
    xp, (rows, columns) = get_xp(a, b), (len(a), b.shape[1])
    if xp is not np or a.size * columns < MIN_MULTIPLICATIONS:
        return product(a, b)
    y = np.empty((rows, columns), dtype=a.dtype)  # (M, N)
    if rows >= columns:
        slices = slices_of(rows, -(-rows // MATMUL_SLICES))
        parallel(lambda k: np.matmul(a[k], b, out=y[k]), slices)
    else:
        slices = slices_of(columns, -(-columns // MATMUL_SLICES))
        parallel(lambda k: np.matmul(a, b[:, k], out=y[:, k]), slices)
    return y


def product(a: Array, b: Array) -> Array:
    """Return a @ b for matrices (..., M, K) and (..., K, N).

    Gradients of one sample are outer products, K = 1: a multiplication takes a fifth of the time there.
    """
    return a * b if a.shape[-1] == 1 else a @ b


def slices_of(count: int, size: int) -> list[slice]:
    """Slice 0..count into slices of at most `size`."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def work_slices(count: int, numbers: int, xp: Any, *, halved: bool = False) -> list[slice]:
    """Slice 0..count, each with so many numbers, for the threads.

    A multiple of four slices gives up to four threads equal shares. `halved`, for work of many small steps,
    makes two of what fits into two: the capsules of 100 images then take 3.2 instead of 3.9 ms on two cores.
    What is too small to share stays whole, and so does everything on a GPU.
    """
    if xp is not np or count * numbers < MIN_NUMBERS:
        return [slice(0, count)]
    few = halved and count * numbers <= 2 * SLICE_NUMBERS
    shares = 2 if few else 4 * -(-count * numbers // (4 * SLICE_NUMBERS))
    return slices_of(count, -(-count // shares))


def sample_slices(layer: Any, batch: int, numbers: int, xp: Any, *, halved: bool = False) -> list[slice]:
    """``work_slices`` of a batch, but one where something in a layer looks at the samples together.

    That is a layer whose samples act on each other, or whose running sums follow the batches: BatchNorm, in
    the place of a squash, does both.
    """
    slices = work_slices(batch, numbers, xp, halved=halved)
    if len(slices) > 1 and (layer.running or any(part.mixes_samples for _, part in layer.walk())):
        return [slice(0, batch)]
    return slices


def slices_along(*arrays: Array) -> list[slice]:
    """Slice the first axis, which all these arrays have in common, by the numbers that lie along it."""
    count = len(arrays[0])
    return work_slices(count, sum(array.size for array in arrays) // max(count, 1), get_xp(*arrays))


def in_groups(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Deal items to GROUPS groups; whoever adds up within each, and then the groups, adds in a fixed
    order whatever the number of threads."""
    return [items[k::GROUPS] for k in range(min(GROUPS, len(items)))]
