"""The order of images, and cuts through it: what is learnt must not depend on how a file is sorted."""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np

from minicaps.arrays import Array

ORDER_SEED = 0  # of every order that is made: always the same, whatever the seed of a run
TEST_EVERY = 5  # one image of so many is for the test, where there is no test part
MAX_STDS = 5.0  # a count further from its due is no accident; that of MNIST's parts is within 2.6

Index: TypeAlias = "slice | Array"  # the numbers of some images


def cut(labels: Array, count: int) -> tuple[Index, Index]:
    """Return which images make a part of `count`, and which make the rest, each with its due of all classes.

    That is the first `count` and the others, as slices, unless one of both lacks a class of which more
    than half an image is due to it, or is off the due of a class by more than five standard deviations
    of a random draw. Then the images are taken from an order in which every prefix holds the classes in
    proportion, within a class shuffled, and always the same.

    Parameters
    ----------
    labels : integer array (N,)
    count : int

    Returns
    -------
    part, rest : slices or integer arrays
        To index images and labels with.
    """
    if _has_its_due(labels[:count], labels) and _has_its_due(labels[count:], labels):
        return slice(0, count), slice(count, None)
    order = _in_proportion(labels)  # (N,)
    return order[:count], order[count:]


def first(labels: Array, count: int | None) -> Index:
    """Return which images make a part of `count` (None: all), as ``cut`` does; the rest may be anything."""
    count = len(labels) if count is None else min(count, len(labels))
    if _has_its_due(labels[:count], labels):
        return slice(0, count)
    return _in_proportion(labels)[:count]  # (count,)


def _has_its_due(part: Array, labels: Array) -> bool:
    """Whether a part has about as many images of each class as a random draw of its size would."""
    if len(part) == 0:
        return True
    classes, counts = np.unique(labels, return_counts=True)  # (K,), (K,)
    due = counts * len(part) / len(labels)  # (K,)
    found = np.bincount(np.searchsorted(classes, part), minlength=len(classes))  # (K,)
    lacking = (found == 0) & (due > 0.5)
    far = np.abs(found - due) > MAX_STDS * np.sqrt(np.maximum(due, 1))
    return not (lacking | far).any()


def _in_proportion(labels: Array) -> Array:
    """Return an order (N,) in which every prefix holds the classes in proportion."""
    shuffled = np.random.default_rng(ORDER_SEED).permutation(len(labels))  # (N,)
    rank, size = _rank_in_class(labels[shuffled])
    return shuffled[np.argsort((rank + 0.5) / size, kind="stable")]  # (N,)


def every_fifth(labels: Array) -> Array:
    """Return which images are for the test: of every class the 5th, the 10th and so on, booleans (N,)."""
    return _rank_in_class(labels)[0] % TEST_EVERY == TEST_EVERY - 1  # (N,)


def _rank_in_class(labels: Array) -> tuple[Array, Array]:
    """Return the number of each image within its class, from 0, and the size of that class."""
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)  # (N,), (K,)
    rank = np.empty(len(labels), dtype=np.int64)  # (N,)
    starts = np.cumsum(counts) - counts  # (K,)
    rank[np.argsort(numbers, kind="stable")] = np.arange(len(labels)) - np.repeat(starts, counts)
    return rank, counts[numbers]


def natural(name: str) -> tuple[list[str | int], str]:
    """Return what to sort a name by, so that "2" comes before "10"."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name
