"""Ranks that are threads of this process: a stand-in for MPI, of any number of ranks and any network."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from minicaps.training import Ranks


class Link(NamedTuple):
    """What lies between two ranks; each sends and receives one message at a time."""

    latency: float  # seconds of a message
    bandwidth: float  # bytes in a second

    def seconds(self, messages: float, size: float) -> float:
        """Return how long a rank sends so many messages, one after another, of `size` bytes together."""
        return messages * self.latency + size / self.bandwidth


AT_ONCE = Link(0.0, math.inf)


class Group:
    """What all ranks see: a board with a place for each, and where they wait for each other."""

    def __init__(self, size: int, link: Link = AT_ONCE) -> None:
        self.link, self.board, self.barrier = link, [None] * size, threading.Barrier(size, timeout=60)


class World:
    """What a rank takes for its communicator: those of its methods that ``MPIParallel`` needs."""

    def __init__(self, group: Group, rank: int) -> None:
        self.group, self.rank, self.size = group, rank, len(group.board)
        self.sent = 0  # bytes
        self.messages = 0

    def Dup(self) -> World:
        return self

    def allgather(self, value: Any) -> list[Any]:
        board = self.group.board
        board[self.rank] = value
        self.group.barrier.wait()
        found = list(board)
        self.group.barrier.wait()  # before anybody writes there again
        return found

    def Bcast(self, array: np.ndarray) -> None:
        found = self.allgather(array.copy() if self.rank == 0 else None)
        array[...] = found[0]

    def Allgather(self, own: np.ndarray, every: np.ndarray) -> None:
        """Small ones go by doubling, log₂ P messages; large ones around a ring, P - 1."""
        messages = math.ceil(math.log2(self.size)) if own.nbytes < 4096 else self.size - 1
        self._send(messages, (self.size - 1) * own.nbytes)
        every.reshape(self.size, -1)[...] = self.allgather(own.copy())

    def Alltoallv(self, sent: tuple, received: tuple) -> None:
        """Each sends to each other one directly."""
        (array, (counts, starts)), (target, (its_counts, its_starts)) = sent, received
        others = [k for k in range(self.size) if k != self.rank and (counts[k] or its_counts[k])]
        own = sum(counts[k] for k in others) * array.itemsize
        self._send(len(others), max(own, sum(its_counts[k] for k in others) * array.itemsize))
        parts = [array[start : start + n].copy() for n, start in zip(counts, starts, strict=True)]
        every, flat = self.allgather(parts), target.reshape(-1)
        for part, n, start in zip((each[self.rank] for each in every), its_counts, its_starts, strict=True):
            flat[start : start + n] = part

    def _send(self, messages: int, size: int) -> None:
        self.messages, self.sent = self.messages + messages, self.sent + size
        if seconds := self.group.link.seconds(messages, size):
            time.sleep(seconds)


def in_ranks(size: int, work: Callable[[Ranks], Any], link: Link = AT_ONCE) -> list[Any]:
    """Return what ``work(ranks)`` returns in each of so many ranks, which run at the same time."""
    group = Group(size, link)

    def in_rank(rank: int) -> Any:
        try:
            return work(Ranks(None, World(group, rank)))
        except BaseException:
            group.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [each.result() for each in [pool.submit(in_rank, rank) for rank in range(size)]]
