"""What the machine below is asked for: its cores, and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path

import numpy as np

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt, from glibc's malloc.h

_owned = False


def own_the_cores() -> None:
    """Let minicaps share its work out among threads, in place of NumPy, for the rest of the process.

    It holds NumPy's OpenBLAS to one thread, where NumPy has brought its own, as its wheels do: the
    two sets of threads would wait for each other (a step of ``small`` took 1.4 times as long). It also
    makes results independent of the number of threads. The command line, runs, experiments and
    ``DataParallel`` call it; elsewhere it is up to you, since your own products of matrices are then
    computed on one core.
    """
    global _owned
    _hold_blas_to_one_thread()
    _owned = True


def owns_the_cores() -> bool:
    """Whether ``own_the_cores`` was called in this process."""
    return _owned


@functools.cache
def _hold_blas_to_one_thread() -> None:
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))  # the copy that NumPy has loaded already
            for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
                set_threads = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                if set_threads is not None:
                    set_threads(1)
                    return


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next step instead of handing them back to the system.

    A training step frees and takes tens of MB again and again, and fresh pages from the system cost
    more than the arithmetic on them. The command line and DataParallel call it; elsewhere it is up to you.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_ARENA_MAX, 1)  # what one thread has freed serves the others too
