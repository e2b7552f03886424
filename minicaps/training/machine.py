"""Data that the ranks on one machine have in common: one of them reads, and all look at the same memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from minicaps.datasets import Dataset
from minicaps.training.files import fingerprint
from minicaps.training.ranks import Ranks, current_ranks


class Stored(NamedTuple):
    """Where an array lies in a file."""

    start: int
    shape: tuple[int, ...]
    dtype: str


def load_together(load: Callable[[], Dataset]) -> Dataset:
    """Return what `load` returns, which one rank on every machine calls; its arrays are read-only then.

    Raises
    ------
    ValueError
        If the machines have different data.
    Exception
        What `load` raises.
    """
    ranks = current_ranks()
    if ranks.size == 1:
        return load()
    machine = ranks.on_this_machine()
    described, path = machine.decide(lambda: _write(load()))
    try:
        dataset = _read(described, path)
        machine.meet()
    finally:
        if machine.first:
            with suppress(OSError):
                os.unlink(path)
    _check_same(dataset, ranks, machine)
    return dataset


def _write(dataset: Dataset) -> tuple[dict[str, Any], str]:
    """Write the arrays of a data set to a temporary file; return the rest of it, and the file."""
    described = dict(vars(dataset))
    file, path = tempfile.mkstemp(prefix="minicaps-")
    with open(file, "wb") as stream:
        for name, value in vars(dataset).items():
            if isinstance(value, np.ndarray):
                stream.write(bytes(-stream.tell() % 64))  # every array begins on a cache line
                described[name] = Stored(stream.tell(), value.shape, value.dtype.str)
                stream.write(np.ascontiguousarray(value).data)
    return described, path


def _read(described: dict[str, Any], path: str) -> Dataset:
    """Return the data set, its arrays in the memory of the file."""
    with open(path, "rb") as stream:
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {
        name: np.ndarray(stored.shape, stored.dtype, memory, stored.start)
        for name, stored in described.items()
        if isinstance(stored, Stored)
    }
    return Dataset(**{**described, **arrays})


def _check_same(dataset: Dataset, ranks: Ranks, machine: Ranks) -> None:
    """Raise ValueError, in all ranks, unless the data of all machines are the same."""
    if sum(ranks.gather(machine.first)) == 1:
        return
    found = ranks.gather((fingerprint(dataset), dataset.source, str(ranks)) if machine.first else None)
    (digest, source, first), *others = filter(None, found)
    for other_digest, other_source, other in others:
        if other_digest != digest:
            raise ValueError(f"{other_source} ({other}) holds other data than {source} ({first})")
