"""Data-parallel training: each of several processes takes a part of every batch, a batch slice.

The gradient of a batch is the mean of the gradients of its images, so those of its slices can be
computed apart and added up. Threads are enough where one NumPy call is long (the paper's network);
in a small network the calls are so short that threads spend their time handing Python's lock to
each other. Processes have a lock each. They share memory: the parameters, so that an update reaches
all of them at once, and one vector of gradients for every slice, which the first process adds up.

The slices depend on the batch alone and are added in order, so the bits do not depend on the number
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
from minicaps.arrays import Array
from minicaps.checks import check_array
from minicaps.fast import (
    beside_other_processes,
    keep_freed_memory,
    own_the_cores,
    slices_of,
    thread_count,
)
from minicaps.layers import Loss
from minicaps.networks import Network
from minicaps.training.step import Result, backpropagate

MIN_IMAGES = 40  # of a batch slice; what does not depend on their number would be repeated for too few
MAX_PARAMETERS = 2_000_000  # beyond it a step works on weights and gradients as much as on images

NumberedSlices = list[tuple[int, slice]]  # some of a batch's slices, each with its number


def batch_slices(network: Network, batch_size: int) -> list[slice]:
    """Slice a batch into 1, 2, 4, … slices of at least MIN_IMAGES images.

    It stays whole on a GPU and where the network has more than MAX_PARAMETERS parameters.
    """
    count = 1
    if network.xp is np and network.count_params() <= MAX_PARAMETERS:
        while 2 * count * MIN_IMAGES <= batch_size:
            count *= 2
    return slices_of(batch_size, -(-batch_size // count))


class Shared(NamedTuple):
    """What lies in the memory that all processes see, for S slices of a batch and N parameters."""

    params: Array  # (N,), all parameters one after another
    grads: Array  # (S, N)
    images: Array  # (B, H, W, C), or what else the network's ``sample_shapes`` says
    labels: Array  # (B,)
    results: Array  # (S, 2), the loss of a slice and how many of its images are classified correctly


def shared_arrays(network: Network, batch_size: int, memory: Any = None) -> tuple[Shared, int]:
    """Return the arrays in `memory` (without one: in memory of this process) and their bytes."""
    count, numbers = len(batch_slices(network, batch_size)), network.count_params()
    dtype, (image, label) = network.first_param.dtype, network.sample_shapes()
    layout: list[tuple[tuple[int, ...], Any]] = [
        ((numbers,), dtype),
        ((count, numbers), dtype),
        ((batch_size, *image), dtype),
        ((batch_size, *label), np.int64),
        ((count, 2), np.float64),
    ]
    arrays: list[Array] = []
    end = 0
    for shape, kind in layout:
        arrays.append(np.ndarray(shape, kind, memory, end) if memory else np.zeros(shape, kind))
        end += -(-arrays[-1].nbytes // 64) * 64  # every array begins on a cache line
    return Shared(*arrays), end


def backpropagate_slices(
    network: Network, objective: Loss, shared: Shared, own: NumberedSlices, count: int
) -> None:
    """Compute the gradients and results of some slices of a batch of `count` images, into `shared`."""
    for k, batch_slice in own:
        network.use_memory(grads=shared.grads[k])
        images, labels = shared.images[batch_slice], shared.labels[batch_slice]  # (b, H, W, C), (b,)
        shared.results[k] = backpropagate(network, objective, images, labels, len(images) / count)


class DataParallel:
    """Gradients of whole batches, by as many processes as MINICAPS_THREADS and the slices allow.

    It calls ``own_the_cores``: from then on minicaps, not NumPy, shares its work out among threads.

    Parameters
    ----------
    network : Network
        Its parameters move to shared memory; update them in place, as the optimizers do.
    objective : Loss
    batch_size : int
        The largest batch to come.

    Examples
    --------
    ::

        with DataParallel(network, network.objective(), batch_size=100) as source:
            loss, correct = train_step(source, optimizer, images, labels)
    """

    def __init__(self, network: Network, objective: Loss, batch_size: int) -> None:
        own_the_cores()
        self.network, self.objective, self.batch_size = network, objective, batch_size
        self.workers: list[Worker] = []
        self.shared: Shared | None = None  # where one slice is all, nothing is shared
        count = len(batch_slices(network, batch_size))
        if count > 1:
            self._share(min(count, thread_count()) if os.name == "posix" and sys.executable else 1)

    def _share(self, processes: int) -> None:
        """Move the network into memory that so many processes share, and start the others."""
        network, objective, batch_size = self.network, self.objective, self.batch_size
        _, size = shared_arrays(network, batch_size)
        file = shared_file(size) if processes > 1 else None
        memory = mmap.mmap(file, size) if file is not None else None
        self.shared, _ = shared_arrays(network, batch_size, memory)
        self.shared.params[...] = np.concatenate([p.reshape(-1) for p in network.params.values()])  # (N,)
        self.shared.grads[0] = np.concatenate([g.reshape(-1) for g in network.grads.values()])  # (N,)
        network.use_memory(params=self.shared.params, grads=self.shared.grads[0])
        if file is not None:
            message = (network, objective, batch_size)
            self.workers = [Worker(file, message, thread_count() // processes) for _ in range(processes - 1)]
            os.close(file)

    def backpropagate(self, images: Array, labels: Array) -> Result:
        """Do what ``training.backpropagate`` does, for up to `batch_size` images.

        Raises
        ------
        ValueError, TypeError
            If there are more images than `batch_size`, or they or the labels are of another dtype than
            in ``training.backpropagate``.
        RuntimeError
            If another process was ended. An error in it is raised here, with its traceback as cause.
        """
        count, shared = len(images), self.shared
        slices = batch_slices(self.network, count)
        if shared is None or len(slices) == 1:
            return backpropagate(self.network, self.objective, images, labels)
        self._check(images, labels, shared)  # copying would convert and cut in silence
        shared.images[:count], shared.labels[:count] = images, labels
        self._compute(slices, shared, count)
        for grad in shared.grads[1 : len(slices)]:
            shared.grads[0] += grad  # in order: the same bits each time
        shares = [(k.stop - k.start) / count for k in slices]  # (S,)
        results = shared.results[: len(slices)]  # (S, 2)
        return Result(np.dot(shares, results[:, 0]), results[:, 1].sum())

    def _compute(self, slices: list[slice], shared: Shared, count: int) -> None:
        """Deal the slices out, compute our own, and wait for the others."""
        processes = len(self.workers) + 1
        own, *theirs = [list(enumerate(slices))[k::processes] for k in range(processes)]
        for worker, its_own in zip(self.workers, theirs, strict=True):
            worker.begin(its_own, count, self.objective)
        try:
            with beside_other_processes(processes):
                backpropagate_slices(self.network, self.objective, shared, own, count)
        finally:
            errors = [worker.end() for worker in self.workers]
            self.network.use_memory(grads=shared.grads[0])
        for error in filter(None, errors):
            raise error

    def _check(self, images: Array, labels: Array, shared: Shared) -> None:
        where = "DataParallel.backpropagate"
        if len(images) > self.batch_size:
            raise ValueError(
                f"{where}: {len(images)} images, expected at most {self.batch_size}, the batch_size"
            )
        axes = [(f"axis {k}", n) for k, n in enumerate(shared.images.shape[1:], 1)]
        check_array(where, "images", images, ("batch B", None), *axes, like=shared.params)
        if labels.dtype.kind not in "iu":
            raise TypeError(f"{where}: labels have dtype {labels.dtype}, expected integers")

    def close(self) -> None:
        """End the other processes. The network can be used on."""
        for worker in self.workers:
            worker.close()
        self.workers, self.shared = [], None

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

    def __init__(self, file: int, message: tuple[Network, Loss, int], its_threads: int) -> None:
        self.connection, theirs = Pipe()
        package = str(Path(minicaps.__file__).resolve().parent.parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"MINICAPS_THREADS": str(its_threads), "PYTHONPATH": os.pathsep.join(paths)}
        descriptors = (file, theirs.fileno())
        command = f"from {__name__} import serve; serve({file}, {theirs.fileno()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
            pass_fds=descriptors,
        )
        theirs.close()
        self._send(message)

    def begin(self, own: NumberedSlices, count: int, objective: Loss) -> None:
        """Let it compute some slices of a batch of `count` images, for an objective that may have changed."""
        self._send((own, count, objective, np.geterr()))

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has died: ``end`` tells
            self.connection.send(message)

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
        network, objective, batch_size = connection.recv()
        shared, _ = shared_arrays(network, batch_size, mmap.mmap(file, 0))
        network.use_memory(params=shared.params)
        while True:
            own, count, objective, error_state = connection.recv()
            answer: tuple[Exception | None, str] = (None, "")
            try:
                with np.errstate(**error_state):
                    backpropagate_slices(network, objective, shared, own, count)
            except Exception as error:
                answer = (error, traceback.format_exc())
            connection.send(answer)
