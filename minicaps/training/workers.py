"""The other processes of data-parallel training: how one is started, and what it does until it ends."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import traceback
from multiprocessing import process
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np

import minicaps
from minicaps.fast import keep_freed_memory, own_the_cores
from minicaps.layers import Loss
from minicaps.training.shared import NumberedSlices, backpropagate_slices, shared_arrays

# It has the modules of the first process: the same minicaps, and what else its path leads to. The
# current folder, which Python puts first for -c, may hold others.
START = """\
import sys
sys.path[:] = {path!r}
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("minicaps", {file!r}, submodule_search_locations={folder!r})
sys.modules["minicaps"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["minicaps"])
from minicaps.training.workers import serve
serve{descriptors!r}
"""


def start_command(descriptors: tuple[int, int]) -> str:
    """Return the program of another process, which serves with these descriptors."""
    began_in = getattr(process, "ORIGINAL_DIR", None) or ""
    path = [os.path.join(began_in, entry) for entry in sys.path if isinstance(entry, str)]
    file = Path(minicaps.__file__).resolve()
    return START.format(path=path, file=str(file), folder=[str(file.parent)], descriptors=descriptors)


class Worker:
    """Another process, as the first one sees it.

    Parameters
    ----------
    file : int
        Descriptor of the shared memory.
    message : bytes
        The pickled network, objective, batch size and number of slices.
    its_threads : int
    """

    def __init__(self, file: int, message: bytes, its_threads: int) -> None:
        self.connection, theirs = Pipe()
        descriptors = (file, theirs.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-c", start_command(descriptors)],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"MINICAPS_THREADS": str(its_threads)},
            pass_fds=descriptors,
        )
        theirs.close()
        self.answered = False
        self.objective: Loss | None = None  # the last one that was sent with a batch
        with contextlib.suppress(OSError):  # it has died: ``end`` tells
            self.connection.send_bytes(message)

    def refusal(self) -> str:
        """Wait until it has taken over the network, and return why it cannot, or nothing if it can."""
        if self.answered:
            return ""
        self.answered = True
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # it has died: ``end`` tells
            return ""

    def begin(self, own: NumberedSlices, count: int, objective: Loss) -> None:
        """Let it compute some slices of a batch of `count` images, for an objective that may have changed."""
        changed = None if objective is self.objective else objective
        self.objective = objective
        with contextlib.suppress(OSError):  # it has died: ``end`` tells
            self.connection.send((own, count, changed, np.geterr()))

    def end(self) -> Exception | None:
        """Wait for what was begun, and return what went wrong."""
        try:
            error, trace = self.connection.recv()
        except (EOFError, OSError):
            status = self.process.wait()
            return RuntimeError(
                f"a process of data-parallel training ended with status {status}; "
                "MINICAPS_THREADS=1 does without it"
            )
        if error is not None:
            error.__cause__ = RuntimeError(f"in another process:\n{trace}")
        return error

    def close(self) -> None:
        """Let it end, and wait until it has."""
        self.connection.close()
        self.process.wait()


def serve(file: int, descriptor: int) -> None:
    """Compute slices of batches until the first process is gone; this is another process's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process decides
    own_the_cores()
    keep_freed_memory()
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            network, objective, batch_size, slices = connection.recv()
        except (EOFError, ConnectionError):
            raise
        except Exception as error:  # its class is where only the first process finds it
            connection.send(f"{type(error).__name__}: {error}")
            return
        connection.send("")
        shared, _ = shared_arrays(network, batch_size, slices, mmap.mmap(file, 0))
        network.use_memory(params=shared.params)
        while True:
            own, count, changed, error_state = connection.recv()
            objective = objective if changed is None else changed
            answer: tuple[Exception | None, str] = (None, "")
            try:
                with np.errstate(**error_state):
                    backpropagate_slices(network, objective, shared, own, count)
            except Exception as error:
                answer = (error, traceback.format_exc())
            connection.send(answer)
