"""Data-parallel training: each of several processes takes a part of every batch.

The gradient of a batch is the mean of the gradients of its images, so parts of the batch can be
computed apart and added up. Threads are enough where one NumPy call is long (the paper's network);
in a small network the calls are so short that threads spend their time handing Python's lock to
each other. Processes have a lock each. They share memory: the parameters, so that an update reaches
all of them at once, and one vector of gradients for every part, which the first process adds up.

The parts depend on the batch alone and are added in order, so the bits do not depend on the number
of processes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minicaps
from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array
from minicaps.fast import beside_other_processes, keep_freed_memory, slices_of, thread_count
from minicaps.layers import Loss
from minicaps.networks import Network
from minicaps.training.step import gradients

PART_LEAST = 40  # images; what does not depend on their number would be repeated for too few
PARAMETERS_MOST = 2_000_000  # beyond it a step works on weights and gradients as much as on images


def parts(network: Network, batch_size: int) -> list[slice]:
    """Cut a batch into 1, 2, 4, … parts of at least PART_LEAST images.

    It stays whole on a GPU and where the network has more than PARAMETERS_MOST parameters.
    """
    count, params = 1, network.params
    if get_xp(*params.values()) is np and network.count_params() <= PARAMETERS_MOST:
        while 2 * count * PART_LEAST <= batch_size:
            count *= 2
    return slices_of(batch_size, -(-batch_size // count))


class Shared(NamedTuple):
    """What lies in the memory that all processes see."""

    params: np.ndarray  # (N,), all parameters one after another
    grads: np.ndarray  # (parts, N)
    images: np.ndarray  # (B, H, W, C), or what else the network's ``sample_shapes`` says
    labels: np.ndarray  # (B,)
    results: np.ndarray  # (parts, 2), the loss of a part and how many images are right


def shared_arrays(network: Network, batch_size: int, memory: Any = None) -> tuple[Shared, int]:
    """Return the arrays in `memory` (without one: in memory of this process) and their bytes."""
    count, numbers = len(parts(network, batch_size)), network.count_params()
    dtype, (image, label) = next(iter(network.params.values())).dtype, network.sample_shapes()
    layout = [((numbers,), dtype), ((count, numbers), dtype), ((batch_size, *image), dtype),
              ((batch_size, *label), np.int64), ((count, 2), np.float64)]  # fmt: skip
    arrays, end = [], 0
    for shape, kind in layout:
        arrays.append(np.ndarray(shape, kind, memory, end) if memory else np.zeros(shape, kind))
        end += -(-arrays[-1].nbytes // 64) * 64  # every array begins on a cache line
    return Shared(*arrays), end


class Parts:
    """A network whose parameters lie in shared memory, and the gradients of parts of a batch."""

    def __init__(self, network: Network, objective: Loss, batch_size: int, memory: Any = None) -> None:
        self.network, self.objective = network, objective
        self.shared, _ = shared_arrays(network, batch_size, memory)

    def compute(self, own: list[tuple[int, slice]], count: int) -> None:
        """Compute some parts, each a number and a cut, of a batch of `count` images."""
        for k, cut in own:
            place_arrays(self.network, "_grads", self.shared.grads[k])
            images, labels = self.shared.images[cut], self.shared.labels[cut]
            share = len(images) / count
            self.shared.results[k] = gradients(self.network, self.objective, images, labels, share)


def place_arrays(network: Network, attribute: str, flat: np.ndarray) -> None:
    """Make the parameters ("_params") or gradients ("_grads") views of `flat` (N,), in their order."""
    start = 0
    for _, layer in network.leaves():
        arrays = getattr(layer, attribute)
        for name, array in arrays.items():
            arrays[name] = flat[start : start + array.size].reshape(array.shape)
            start += array.size


class DataParallel:
    """Gradients of whole batches, by as many processes as MINICAPS_THREADS and the parts allow.

    Parameters
    ----------
    network : Network
        Its parameters move to shared memory; update them in place, as the optimisers do.
    objective : Loss
    batch_size : int
        The largest batch to come.

    Examples
    --------
    ::

        with DataParallel(network, network.objective(), batch_size=100) as parallel:
            loss, correct = parallel.gradients(images, labels)
            optimizer.step()
    """

    def __init__(self, network: Network, objective: Loss, batch_size: int) -> None:
        self.network, self.objective, self.batch_size = network, objective, batch_size
        self.workers: list[Worker] = []
        self.parts: Parts | None = None
        count = len(parts(network, batch_size))
        if count == 1:
            return
        processes = min(count, thread_count()) if os.name == "posix" and sys.executable else 1
        _, size = shared_arrays(network, batch_size)
        file = shared_file(size) if processes > 1 else None
        memory = mmap.mmap(file, size) if file is not None else None
        self.parts = Parts(network, objective, batch_size, memory)
        for name, flat in (("params", self.parts.shared.params), ("grads", self.parts.shared.grads[0])):
            flat[...] = np.concatenate([a.reshape(-1) for a in getattr(network, name).values()])
            place_arrays(network, "_" + name, flat)
        if file is not None:
            message = (network, objective, batch_size)
            self.workers = [Worker(file, message, thread_count() // processes) for _ in range(processes - 1)]
            os.close(file)

    def gradients(self, images: Array, labels: Array) -> tuple[Array, Array]:
        """Do what ``training.gradients`` does, for up to `batch_size` images.

        Raises
        ------
        ValueError, TypeError
            If there are more images than `batch_size`, or they or the labels are of another dtype than
            in ``training.gradients``.
        RuntimeError
            If another process was ended. An error in it is raised here, with its traceback as cause.
        """
        count = len(images)
        cuts = parts(self.network, count)
        if self.parts is None or len(cuts) == 1:
            return gradients(self.network, self.objective, images, labels)
        shared, processes = self.parts.shared, len(self.workers) + 1
        self._check(images, labels)  # copying would convert and cut in silence
        shared.images[:count], shared.labels[:count] = images, labels
        mine, *theirs = [list(enumerate(cuts))[k::processes] for k in range(processes)]
        for worker, own in zip(self.workers, theirs, strict=True):
            worker.begin(own, count)
        try:
            with beside_other_processes(processes):
                self.parts.compute(mine, count)
        finally:
            errors = [worker.end() for worker in self.workers]
            place_arrays(self.network, "_grads", shared.grads[0])
        for error in filter(None, errors):
            raise error
        for part in shared.grads[1 : len(cuts)]:
            shared.grads[0] += part  # in order: the same bits each time
        shares = [(cut.stop - cut.start) / count for cut in cuts]
        loss = np.dot(shares, shared.results[: len(cuts), 0])
        return loss, shared.results[: len(cuts), 1].sum()

    def _check(self, images: Array, labels: Array) -> None:
        place, shared = "DataParallel.gradients", self.parts.shared
        if len(images) > self.batch_size:
            raise ValueError(
                f"{place}: {len(images)} images, expected at most {self.batch_size}, the batch_size"
            )
        axes = [(f"axis {k}", n) for k, n in enumerate(shared.images.shape[1:], 1)]
        check_array(place, "images", images, ("batch B", None), *axes, like=shared.params)
        if labels.dtype.kind not in "iu":
            raise TypeError(f"{place}: labels have dtype {labels.dtype}, expected integers")

    def close(self) -> None:
        """End the other processes. The network can be used on."""
        for worker in self.workers:
            worker.close()
        self.workers, self.parts = [], None

    def __enter__(self) -> DataParallel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def shared_file(size: int) -> int:
    """Return the descriptor of a nameless file that vanishes with the last process that has it."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("minicaps")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file


class Worker:
    """Another process, as the first one sees it."""

    def __init__(self, file: int, message: Any, its_threads: int) -> None:
        self.connection, theirs = Pipe()
        package = str(Path(minicaps.__file__).resolve().parent.parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"MINICAPS_THREADS": str(its_threads), "PYTHONPATH": os.pathsep.join(paths)}
        descriptors = (file, theirs.fileno())
        command = f"from {__name__} import serve; serve({file}, {theirs.fileno()})"
        self.process = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.DEVNULL,
                                        env=os.environ | environment, pass_fds=descriptors)  # fmt: skip
        theirs.close()
        self._send(message)

    def begin(self, own: list[tuple[int, slice]], count: int) -> None:
        self._send((own, count, np.geterr()))

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has died: ``end`` tells
            self.connection.send(message)

    def end(self) -> Exception | None:
        """Wait for what was begun, and return what went wrong."""
        try:
            error, trace = self.connection.recv()
        except (EOFError, OSError):
            status = self.process.wait()
            return RuntimeError(f"a process of data-parallel training ended with status {status}; "
                                "MINICAPS_THREADS=1 does without it")  # fmt: skip
        if error is not None:
            error.__cause__ = RuntimeError(f"in another process:\n{trace}")
        return error

    def close(self) -> None:
        self.connection.close()
        self.process.wait()


def serve(file: int, descriptor: int) -> None:
    """Compute parts of batches until the first process is gone; this is another process's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process decides
    keep_freed_memory()
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):
        network, objective, batch_size = connection.recv()
        all_parts = Parts(network, objective, batch_size, mmap.mmap(file, 0))
        place_arrays(network, "_params", all_parts.shared.params)
        while True:
            own, count, error_state = connection.recv()
            try:
                with np.errstate(**error_state):
                    all_parts.compute(own, count)
                answer = None, ""
            except Exception as error:
                answer = error, traceback.format_exc()
            connection.send(answer)
