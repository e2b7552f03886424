"""Tables in Markdown, and the numbers and names that stand in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaps.arrays import Array

NAMES = {"mlp": "MLP", "cnn": "CNN", "capsnet": "CapsNet"}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> str:
    """Return a Markdown table, and below it the note."""
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return f"{text}\n\n{note}" if note else text


def mean_and_spread(values: Sequence[float] | Array) -> tuple[float, float]:
    """Return the mean and the standard deviation of a sample; 0 of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def percent(values: Sequence[float] | Array, digits: int = 2, sign: bool = False) -> str:
    """Write shares as percent: "98.70 ± 0.12", or "98.70" for a single value."""
    mean, spread = mean_and_spread(values)
    text = f"{100 * mean:{'+' if sign else ''}.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {100 * spread:.{digits}f}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Say which seeds a table is of, and what its ± is."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}, no spread is known"
    return f"seeds {seeds[0]} to {seeds[-1]}, mean ± standard deviation"
