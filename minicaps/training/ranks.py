"""The ranks of MPI that train together: how the first decides for all, and how they end.

All ranks do the same: they read the same arguments, build the same network and make the same steps.
What happens in one place only (writing, printing, drawing, testing) and what may differ from rank to rank
(a clock, Ctrl-C, a file) is left to the first one, whose result, or error, all of them get: ``decide``.

MPI is looked for only where ``python -m mpi4py`` has brought it along.
"""

from __future__ import annotations

import functools
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from minicaps.fast import beside_other_processes

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])

PATIENCE = 5.0  # seconds in which the others end too, if they end for the same reason
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # what launchers tell each process: how many there are


class Ranks:
    """The ranks that train together; without `mpi`, this process alone.

    Parameters
    ----------
    mpi : module, optional
        ``mpi4py.MPI``.
    world : communicator, optional

    Attributes
    ----------
    rank, size : int
    first : bool
        Whether this is the rank that writes, prints, draws and decides.
    """

    def __init__(self, mpi: Any = None, world: Any = None) -> None:
        self.mpi, self.world = mpi, world
        self.rank: int = 0 if world is None else world.rank
        self.size: int = 1 if world is None else world.size
        self.first = self.rank == 0
        self._ends: Any = None if world is None else world.Dup()  # for those who no longer follow the others

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}, on {platform.node()}"

    def decide(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns in the first rank, which alone calls it, or raise what it raises.

        The others wait without taking a core from it. What `work` calls goes on in this process alone.
        """
        if self.size == 1:
            return work()
        outcome: tuple[Any, BaseException | None] = (None, None)
        if self.first:
            try:
                with _together(Ranks()), beside_other_processes(1):
                    outcome = work(), None
            except BaseException as caught:
                outcome = None, caught
        result, error = self._from_first(outcome)
        if error is not None:
            raise error
        return result

    def _from_first(self, outcome: tuple[Any, BaseException | None]) -> tuple[Any, BaseException | None]:
        """Return the outcome of the first rank."""
        packed = np.frombuffer(_packed(outcome), np.uint8) if self.first else np.zeros(0, np.uint8)  # (n,)
        length = np.array([packed.size])  # (1,)
        self._wait(self.world.Ibcast(length))
        if not self.first:
            packed = np.empty(int(length[0]), np.uint8)  # (n,)
        self._wait(self.world.Ibcast(packed))
        return outcome if self.first else pickle.loads(packed.tobytes())

    def meet(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            self._wait(self.world.Ibarrier())

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        return [value] if self.size == 1 else self.world.allgather(value)

    def on_this_machine(self) -> Ranks:
        """Return those of the ranks that are on one machine with this one."""
        if self.size == 1:
            return self
        return Ranks(self.mpi, self.world.Split_type(self.mpi.COMM_TYPE_SHARED))

    def _wait(self, request: Any, seconds: float = float("inf")) -> bool:
        """Wait for a request, at most so long, and return whether it is done; after a moment, sleep."""
        start = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - start
            if waited > seconds:
                return False
            time.sleep(0 if waited < 0.002 else 0.001)
        return True

    # -- the end -------------------------------------------------------------------------------

    def end(self, code: int) -> bool:
        """Return whether all ranks have come to their end, too: at once after a failure, else some time.

        If so, MPI is shut down after a failure, so that the exit code is all that its launcher sees.
        """
        together = self._wait(self._ends.Ibarrier(), PATIENCE if code else float("inf"))
        if together and code:
            self.mpi.Finalize()
        return together

    def abort(self, code: int) -> None:
        """End all ranks, wherever they are."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.world.Abort(code)


def _packed(outcome: tuple[Any, BaseException | None]) -> bytes:
    """Return an outcome as bytes; of an error that cannot be packed, what it says."""
    try:
        packed = pickle.dumps(outcome)
        pickle.loads(packed)
    except Exception:
        result, said = outcome
        if said is None:
            raise
        return pickle.dumps((result, RuntimeError(f"{type(said).__name__}: {said}")))
    return packed


# -- which ranks there are ---------------------------------------------------------------------

_current = Ranks()


def current_ranks() -> Ranks:
    """Return the ranks that train together here: this process alone, but within ``all_ranks``."""
    return _current


def in_first_rank(function: Function) -> Function:
    """Let the first rank do it, and all of them have its result or its error."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        return current_ranks().decide(lambda: function(*arguments, **options))

    return call  # type: ignore[return-value]


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Within it, runs and experiments are trained by all ranks of MPI, where ``-m mpi4py`` started Python.

    Elsewhere nothing changes. Everybody has to do the same within it.
    """
    ranks = _find_ranks()
    if not ranks.first and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first decides
    with _together(ranks), beside_other_processes(_share_cores(ranks)):
        yield ranks


@contextmanager
def _together(ranks: Ranks) -> Iterator[None]:
    global _current
    before, _current = _current, ranks
    try:
        yield
    finally:
        _current = before


def _find_ranks() -> Ranks:
    if "mpi4py" in sys.modules:
        from mpi4py import MPI

        return Ranks(MPI, MPI.COMM_WORLD) if MPI.COMM_WORLD.size > 1 else Ranks()
    return Ranks()


def check_launch() -> None:
    """Raise RuntimeError if MPI has started several processes that do not know of each other."""
    if _current.size > 1:
        return
    for name in SIZES:
        if os.environ.get(name, "1") not in ("", "0", "1"):
            cure = (
                "mpi4py has another MPI than that of mpiexec; take the mpiexec that lies beside this Python"
                if "mpi4py" in sys.modules
                else "start them as in: mpiexec -n 4 python -m mpi4py -m minicaps train"
            )
            raise RuntimeError(
                f"{os.environ[name]} processes were started ({name}), and each would train alone; {cure}"
            )


def _share_cores(ranks: Ranks) -> int:
    """Return by how many the cores of this rank are used, unless it was told its threads."""
    if ranks.size == 1 or os.environ.get("MINICAPS_THREADS"):
        return 1
    own = _cores()
    return sum(bool(own & theirs) for theirs in ranks.on_this_machine().gather(own))


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))
