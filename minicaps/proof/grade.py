"""Grading what a reader of a lesson writes: exact, close, or wrong and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TOLERANCE = 1e-6  # relative to the largest number that is expected, as for gradients


def cmp(name: str, mine: Any, expected: Any, say: Callable[[str], None] = print) -> bool:
    """Compare an array of one's own with the expected one, and say in a line how it went.

    "close" means within 1e-6 of the largest number that is expected: other rounding, the same formula.

    Parameters
    ----------
    name : str
        What it is, for the line.
    mine : array-like, None or ...
        None and ``...`` stand for what is not written yet.
    expected : array
    say : callable
        Receives the line.

    Returns
    -------
    bool
        Whether it is right: exact or close.
    """
    right, verdict = _judge(mine, np.asarray(expected))
    say(f"{name}: {verdict}")
    return right


def _judge(mine: Any, expected: np.ndarray) -> tuple[bool, str]:
    if mine is None or mine is ...:
        return False, "not written yet"
    try:
        mine = np.asarray(mine, dtype=np.float64)
    except (TypeError, ValueError):
        return False, f"wrong, {type(mine).__name__} is no array of numbers"
    if mine.shape != expected.shape:
        return False, f"wrong, it has shape {mine.shape}, expected {expected.shape}"
    if np.array_equal(mine, expected):
        return True, "exact"
    error = np.abs(mine - expected)
    off = ~(error <= TOLERANCE * np.abs(expected).max())  # NaN is off
    if not off.any():
        return True, f"close, at most {error.max():.0e} off"
    worst = np.unravel_index(np.where(np.isnan(error), np.inf, error).argmax(), error.shape)
    index = f" at [{', '.join(map(str, worst))}]" if worst else ""
    got, wanted = mine[worst], expected[worst]
    return False, f"wrong{index}, {got:.6g}, expected {wanted:.6g}; {off.sum()} of {off.size} numbers are off"
