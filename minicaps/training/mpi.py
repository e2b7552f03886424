"""Training by several ranks of MPI: each takes some slices of every batch, on any number of machines.

The slices are those of ``DataParallel``, and they are added up in their order, so that a run has the same
bits for any number of ranks, and of processes on one machine. (Allreduce adds in an order of its own.)

Of S slices, rank r computes r, r + P, r + 2P, … for P ranks. Each rank adds up one part of the gradient's N
numbers: the ranks send each other these parts of what they computed (Alltoall), and then the sums
(Allgather). So a rank receives (S/P + 1) N numbers, and not S N, as it would of whole gradients.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.fast import keep_freed_memory, own_the_cores
from minicaps.layers import Loss
from minicaps.networks import Network
from minicaps.training.processes import DataParallel
from minicaps.training.ranks import Ranks, current_ranks
from minicaps.training.shared import batch_slices, check_batch, result_of
from minicaps.training.step import Result, backpropagate

COMPARE_EVERY = 50  # steps; then the ranks compare their weights, which takes 1 ms for 2 MB


class MPIParallel:
    """Gradients of whole batches, by all ranks: each calls the same methods with the same arguments.

    Whatever a rank does beside, such as the update, all of them do; they begin with the first one's weights.

    Parameters
    ----------
    network : Network
        Its parameters move to one vector; update them in place, as the optimizers do.
    objective : Loss
    batch_size : int
        The largest batch to come.
    slices : int, optional
        As for ``DataParallel``.
    ranks : Ranks, optional
        Two or more; by default the current ones.

    Raises
    ------
    ValueError
        If the network is on a GPU.

    Warns
    -----
    RuntimeWarning
        If there are more ranks than slices.
    """

    def __init__(
        self,
        network: Network,
        objective: Loss,
        batch_size: int,
        slices: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if network.xp is not np:
            raise ValueError(
                "MPIParallel: the network is on a GPU, which ranks cannot share; use backend numpy"
            )
        own_the_cores()
        keep_freed_memory()
        self.network, self.objective, self.batch_size, self.slices = network, objective, batch_size, slices
        self.ranks, self.steps = current_ranks() if ranks is None else ranks, 0
        sums = sum(array.size for array in network.running.values())
        self._numbers = network.count_params() + sums  # N + M: what is added for running sums travels too
        self._width = -(-self._numbers // self.ranks.size)  # numbers that each rank adds up
        dtype, padded = network.first_param.dtype, self.ranks.size * self._width
        self._grads = np.zeros(padded, dtype)  # (P n,), of which N + M are used
        self._params = np.concatenate([p.reshape(-1) for p in network.params.values()])  # (N,)
        self._received = np.zeros((self.ranks.size, self._width), dtype)  # (P, n)
        self._sum = np.zeros(self._width, dtype)  # (n,)
        self.ranks.world.Bcast(self._params)
        network.use_memory(params=self._params, grads=self._grads[: self._numbers])
        self._warn_of_idle_ranks(len(batch_slices(network, batch_size, slices)))

    def _warn_of_idle_ranks(self, slices: int) -> None:
        idle = self.ranks.size - slices
        if idle > 0:
            warnings.warn(
                f"{idle} of {self.ranks.size} ranks have nothing to compute, since a batch of "
                f"{self.batch_size} images has {slices} batch slices; a larger batch has more, and train "
                "--slices makes more, whose sums have other last bits",
                RuntimeWarning,
                stacklevel=4,
            )

    def backpropagate(self, images: Array, labels: Array) -> Result:
        """Do what ``training.backpropagate`` does, for up to `batch_size` images.

        Raises
        ------
        ValueError, TypeError
            As ``DataParallel.backpropagate``.
        RuntimeError
            In all ranks: if one of them failed, or if they have other weights or labels than the first.
        """
        check_batch("MPIParallel.backpropagate", images, labels, self.network, self.batch_size)
        rank, size = self.ranks.rank, self.ranks.size
        slices = batch_slices(self.network, len(images), self.slices)
        results = np.zeros((-(-len(slices) // size), 2))  # (rows, 2), of our slices: loss and correct
        error: Exception | None = None
        for row, first in enumerate(range(0, len(slices), size)):
            there = slices[first : first + size]  # one slice of each rank, but at the end of fewer
            if rank < len(there) and error is None:
                x, y = images[there[rank]], labels[there[rank]]  # (b, H, W, C), (b,)
                try:
                    results[row] = backpropagate(self.network, self.objective, x, y, len(x) / len(images))
                except Exception as caught:  # told below, where all ranks are
                    error = caught
            self._add_up(len(there), first == 0)
        self.ranks.world.Allgather(self._sum, self._grads)
        self.steps += 1
        return result_of(slices, self._share(results, labels, error)[: len(slices)])

    def _add_up(self, count: int, begin: bool) -> None:
        """Add our part of the gradients of the first `count` ranks, in their order, to the sum."""
        rank, width = self.ranks.rank, self._width
        sent = [width if rank < count else 0] * self.ranks.size
        received = [width if k < count else 0 for k in range(self.ranks.size)]
        starts = [k * width for k in range(self.ranks.size)]
        self.ranks.world.Alltoallv((self._grads, (sent, starts)), (self._received, (received, starts)))
        if begin:
            self._sum[...] = self._received[0]  # (n,)
        for part in self._received[int(begin) : count]:
            self._sum += part  # in order: the same bits for any number of ranks

    def _share(self, results: Array, labels: Array, error: Exception | None) -> Array:
        """Return loss and correct of all slices (S, 2); check that no rank failed, and that all are alike."""
        compared = zlib.crc32(self._params.data) if self.steps % COMPARE_EVERY == 1 else 0
        own = np.array([error is not None, zlib.crc32(labels.tobytes()), compared, *results.flat])
        every = np.empty((self.ranks.size, own.size))  # (P, 3 + 2 rows)
        self.ranks.world.Allgather(own, every)
        if every[:, 0].any():
            self._raise_first(error)
        for column, what in ((1, "labels"), (2, "weights")):
            others = np.flatnonzero(every[:, column] != every[0, column])
            if others.size:
                raise RuntimeError(
                    f"rank {others[0]} of {self.ranks.size} has other {what} than rank 0 at step "
                    f"{self.steps}; all ranks must do the same"
                )
        by_rank = every[:, 3:].reshape(self.ranks.size, -1, 2)  # (P, rows, 2)
        return by_rank.transpose(1, 0, 2).reshape(-1, 2)  # (S, 2), and some zeros

    def _raise_first(self, error: Exception | None) -> None:
        """Raise in all ranks what the first one of those that failed says."""
        said = None if error is None else f"{self.ranks}: {type(error).__name__}: {error}"
        raise RuntimeError(next(filter(None, self.ranks.gather(said)))) from error

    def gradient(self) -> Collection[Array]:
        """Return the memory in which the network's ``grads`` lie, one after another."""
        return [self._grads[: self._numbers]]  # (N + M,)

    def close(self) -> None:
        """Do nothing: the network can be used on."""

    def __enter__(self) -> MPIParallel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def gradient_source(
    network: Network, objective: Loss, batch_size: int, slices: int | None = None
) -> DataParallel | MPIParallel:
    """Return what gives the gradients of whole batches: the ranks of MPI, or processes of this machine."""
    source: Any = MPIParallel if current_ranks().size > 1 else DataParallel
    return source(network, objective, batch_size, slices)
