"""The array switch: the arrays decide whether NumPy or CuPy does the work.

This is the only file that imports CuPy. Layers write ``xp = get_xp(x)`` and then use ``xp`` where
they would have used ``np``. Random numbers are always drawn on the host, so one seed gives the
same weights on every backend.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # a NumPy or CuPy array

_LIBRARIES: dict[type, Any] = {np.ndarray: np}  # array type -> the library that made it


def register(array_type: type, library: Any) -> None:
    """Make ``get_xp`` answer `library` for arrays of type `array_type`."""
    _LIBRARIES[array_type] = library


def _library_of(x: Any) -> Any:
    library = _LIBRARIES.get(type(x))
    if library is not None:
        return library
    if isinstance(x, (np.ndarray, np.generic)):  # subclasses such as memmap, and scalars
        return np
    if type(x).__module__.split(".")[0] == "cupy":
        register(type(x), sys.modules["cupy"])
        return sys.modules["cupy"]
    raise TypeError(
        f"expected a NumPy or CuPy array, got {type(x).__name__}; "
        "make it one first, for example numpy.asarray(x, dtype=numpy.float32)"
    )


def get_xp(*arrays: Array) -> Any:
    """Return the library, ``numpy`` or ``cupy``, that all `arrays` belong to.

    Parameters
    ----------
    *arrays : arrays, or None, which is passed over

    Raises
    ------
    TypeError
        If an argument is no array, or if the arrays belong to different libraries.
    """
    library = None
    for x in arrays:
        if x is None:
            continue
        found = _library_of(x)
        if library is not None and found is not library:
            raise TypeError(
                f"arrays of {library.__name__} and {found.__name__} are mixed; move the model with "
                "model.to(...) and the data with minicaps.backend.to_backend(x, xp)"
            )
        library = found
    if library is None:
        raise TypeError("expected at least one NumPy or CuPy array, got none")
    return library


def resolve(name: str) -> Any:
    """Turn a backend's name into its library.

    Parameters
    ----------
    name : {"numpy", "cupy", "auto"}
        "auto" is CuPy where it is installed and sees a device, else NumPy.

    Raises
    ------
    ValueError
        If the name is none of the three.
    RuntimeError
        If "cupy" is asked for and CuPy is missing or sees no device.
    """
    if name == "numpy":
        return np
    if name not in ("cupy", "auto"):
        raise ValueError(f"backend is {name!r}, expected 'numpy', 'cupy' or 'auto'")
    try:
        return _cupy_with_a_device()
    except RuntimeError:
        if name == "auto":
            return np
        raise


def _cupy_with_a_device() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            f"backend 'cupy' needs CuPy ({error}); install it with: pip install 'minicaps[gpu]'"
        ) from None
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"backend 'cupy': CuPy finds no usable GPU ({error})") from None
    if devices == 0:
        raise RuntimeError("backend 'cupy': CuPy finds no GPU")
    return cupy


def to_numpy(x: Array) -> np.ndarray:
    """Copy `x` to the host (a NumPy array is returned as it is)."""
    library = _library_of(x)
    return np.asarray(x) if library is np else library.asnumpy(x)


def to_backend(x: Array, xp: Any) -> Array:
    """Copy the array `x` to the library `xp` (returned as it is where it is there already)."""
    return x if _library_of(x) is xp else xp.asarray(to_numpy(x))


# -- worker threads ---------------------------------------------------------------------------

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt, from glibc's malloc.h
PIECES = 4  # of a matrix product, for the threads
MATMUL_LEAST = 1 << 20  # multiplications; smaller products are done before a thread has woken up
PIECE_LEAST = 1 << 19  # numbers; the same for other work
PIECE = 3 << 18  # numbers: 3 MB in float32. Less would stay closer to a core's cache, but whenever a
# thread comes back from NumPy for the next step it may have to wait for the interpreter
LANES = 8  # what one batch is divided into; fixed, so that sums do not depend on the threads


@functools.cache
def threads() -> int:
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
    return ThreadPoolExecutor(threads() - 1, thread_name_prefix="minicaps")


def parallel(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return [work(item) for item in items], computed by several threads (NumPy lets them run).

    The calling thread works too, so that it need not wait for a helper to wake up before it starts,
    nor at the end for one that never did.

    The first call holds NumPy's OpenBLAS to one thread, for the rest of the process: its threads
    and ours would wait for each other (a step of ``small`` took 1.4 times as long). It also makes
    results independent of the number of BLAS threads.
    """
    _hold_blas_to_one_thread()
    count = min(threads() // _busy_processes, len(items))
    if count < 2:
        return [work(item) for item in items]
    results, left = [None] * len(items), deque(range(len(items)))

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
    return results


def _under(error_state: dict[str, str], work: Callable[[], None]) -> None:
    """Call work() under NumPy's error state of the thread that asked for it."""
    with np.errstate(**error_state):
        work()


@functools.cache
def _hold_blas_to_one_thread() -> None:
    """Do it where NumPy has brought its own OpenBLAS, as its wheels do; else do nothing."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))  # the copy that NumPy has loaded already
            for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
                set_threads = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                if set_threads is not None:
                    set_threads(1)
                    return


def matmul(a: Array, b: Array) -> Array:
    """Return a @ b for matrices (M, K) and (K, N), on our threads where it is worth it.

    The longer side of the product is always cut at the same places, so the bits do not depend on
    the number of threads.
    """
    xp, (rows, columns) = get_xp(a, b), (len(a), b.shape[1])
    if xp is not np or a.size * columns < MATMUL_LEAST:
        return a @ b
    y = np.empty((rows, columns), dtype=a.dtype)  # (M, N)
    if rows >= columns:
        parallel(lambda k: np.matmul(a[k], b, out=y[k]), chunks(rows, -(-rows // PIECES)))
    else:
        parallel(lambda k: np.matmul(a, b[:, k], out=y[:, k]), chunks(columns, -(-columns // PIECES)))
    return y


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next step instead of handing them back to the system.

    A training step frees and takes tens of MB again and again, and fresh pages from the system cost
    more than the arithmetic on them. The command line calls this once; elsewhere it is up to you.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_ARENA_MAX, 1)  # what one thread has freed serves the others too


def chunks(count: int, size: int) -> list[slice]:
    """Cut 0..count into slices of at most `size`."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def pieces(count: int, numbers: int, xp: Any) -> list[slice]:
    """Cut 0..count, each with so many numbers, into slices for the threads.

    The cuts depend on the sizes alone, and a multiple of four slices gives up to four threads equal
    shares. What is too small to share stays whole, and so does everything on a GPU.
    """
    if xp is not np or count * numbers < PIECE_LEAST:
        return [slice(0, count)]
    shares = 4 * -(-count * numbers // (4 * PIECE))
    return chunks(count, -(-count // shares))


def lanes(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Deal items to LANES lanes; whoever adds up within each lane, and then the lanes, adds in a
    fixed order whatever the number of threads."""
    return [items[k::LANES] for k in range(min(LANES, len(items)))]


def generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """Turn a seed, a ``numpy.random.Generator`` or None into a generator (on the host)."""
    return np.random.default_rng(rng)


def uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, dtype: Any) -> Array:
    """Draw U(-1/√fan_in, 1/√fan_in), the default start of every weight and bias but W."""
    bound = fan_in**-0.5
    return rng.uniform(-bound, bound, size=shape).astype(dtype)
