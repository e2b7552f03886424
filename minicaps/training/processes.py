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

import mmap
import os
import sys
import warnings
from collections.abc import Collection
from multiprocessing.reduction import ForkingPickler

import numpy as np

from minicaps.arrays import Array
from minicaps.fast import beside_other_processes, keep_freed_memory, own_the_cores, thread_count
from minicaps.layers import Loss
from minicaps.networks import Network
from minicaps.training.shared import (
    Shared,
    backpropagate_slices,
    batch_slices,
    check_batch,
    result_of,
    shared_arrays,
    shared_file,
)
from minicaps.training.step import Result, backpropagate
from minicaps.training.workers import Worker


class DataParallel:
    """Gradients of whole batches, by as many processes as MINICAPS_THREADS and the slices allow.

    It calls ``own_the_cores``: from then on minicaps, not NumPy, shares its work out among threads; and
    ``keep_freed_memory``, without which a step of the default network takes a quarter longer.

    The other processes import the class of the network. Where they cannot, because it is defined in a
    function, in a notebook or in the script itself, one process does it all, and a RuntimeWarning says why.

    Parameters
    ----------
    network : Network
        Its parameters move to shared memory; update them in place, as the optimizers do.
    objective : Loss
    batch_size : int
        The largest batch to come.
    slices : int, optional
        Of every batch; other numbers of them give other last bits. By default 1, 2, 4, … of at least 40
        images, and one where the network has more than two million parameters. One on a GPU.

    Examples
    --------
    ::

        with DataParallel(network, network.objective(), batch_size=100) as source:
            loss, correct = train_step(source, optimizer, images, labels)
    """

    def __init__(self, network: Network, objective: Loss, batch_size: int, slices: int | None = None) -> None:
        own_the_cores()
        keep_freed_memory()
        self.network, self.objective, self.batch_size = network, objective, batch_size
        self._asked = slices
        self.workers: list[Worker] = []
        self.shared: Shared | None = None  # where one slice is all, nothing is shared
        self.slices = batch_slices(network, batch_size, slices)
        count = len(self.slices)
        if count > 1:
            self._share(min(count, thread_count()) if os.name == "posix" and sys.executable else 1)

    def _share(self, processes: int) -> None:
        """Move the network into memory that so many processes share, and start the others."""
        network, sizes = self.network, (self.batch_size, self._asked)
        message = self._message() if processes > 1 else b""
        processes = processes if message else 1
        _, size = shared_arrays(network, *sizes)
        file = shared_file(size) if processes > 1 else None
        memory = mmap.mmap(file, size) if file is not None else None
        self.shared, _ = shared_arrays(network, *sizes, memory)
        self.shared.params[...] = np.concatenate([p.reshape(-1) for p in network.params.values()])  # (N,)
        grads = np.concatenate([g.reshape(-1) for g in network.grads.values()])  # (N,)
        self.shared.grads[0, : len(grads)] = grads
        network.use_memory(params=self.shared.params, grads=self.shared.grads[0])
        if file is not None:
            self.workers = [Worker(file, message, thread_count() // processes) for _ in range(processes - 1)]
            os.close(file)

    def _message(self) -> bytes:
        """Return what another process is told, or nothing if that cannot be told."""
        try:
            return bytes(ForkingPickler.dumps((self.network, self.objective, self.batch_size, self._asked)))
        except Exception as error:  # whatever a class of one's own raises
            warn_of_one_process(f"{type(error).__name__}: {error}")
            return b""

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
        where, count, shared = "DataParallel.backpropagate", len(images), self.shared
        slices = self.slices if count == self.batch_size else batch_slices(self.network, count, self._asked)
        if shared is None or len(slices) == 1:
            return backpropagate(self.network, self.objective, images, labels)
        check_batch(
            where, images, labels, self.network, self.batch_size
        )  # copying would convert and cut in silence
        shared.images[:count], shared.labels[:count] = images, labels
        self._compute(slices, shared, count)
        for grad in shared.grads[1 : len(slices)]:
            shared.grads[0] += grad  # in order: the same bits each time
        return result_of(slices, shared.results[: len(slices)])

    def gradient(self) -> Collection[Array]:
        """Return the memory in which the network's ``grads`` lie, one after another."""
        return self.network.grads.values() if self.shared is None else [self.shared.grads[0]]  # (N + M,)

    def _compute(self, slices: list[slice], shared: Shared, count: int) -> None:
        """Deal the slices out, compute our own, and wait for the others."""
        self._end_workers_that_refuse()
        processes = len(self.workers) + 1
        own, *theirs = [list(enumerate(slices))[k::processes] for k in range(processes)]
        for worker, its_own in zip(self.workers, theirs, strict=True):
            worker.begin(its_own, count, self.objective)
        try:
            with beside_other_processes(processes):
                backpropagate_slices(self.network, self.objective, shared, own, count)
        except BaseException:
            self.network.use_memory(grads=shared.grads[0])
            raise
        finally:
            errors = [worker.end() for worker in self.workers]
        for error in filter(None, errors):
            raise error

    def _end_workers_that_refuse(self) -> None:
        """Go on alone if another process cannot take over the network; at first this waits for them."""
        refusals = [worker.refusal() for worker in self.workers]
        if any(refusals):
            warn_of_one_process(max(refusals))
            self._end_workers()

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.close()
        self.workers = []

    def close(self) -> None:
        """End the other processes. The network can be used on."""
        self._end_workers()
        self.shared = None

    def __enter__(self) -> DataParallel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def warn_of_one_process(reason: str) -> None:
    """Warn that other processes would help, and why they cannot."""
    warnings.warn(
        f"data-parallel training goes on in one process, as another cannot take over the network ({reason}); "
        "define its class in a module that can be imported",
        RuntimeWarning,
        stacklevel=5,
    )
