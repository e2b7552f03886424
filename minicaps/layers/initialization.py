"""First weights. They are drawn on the host, so one seed gives the same weights on every backend."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from minicaps.arrays import Array

Seed: TypeAlias = np.random.Generator | int | None


def generator(rng: Seed) -> np.random.Generator:
    """Turn a seed, a ``numpy.random.Generator`` or None into a generator (on the host)."""
    return np.random.default_rng(rng)


def uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, dtype: Any) -> Array:
    """Draw U(-1/√fan_in, 1/√fan_in), the start of all weights and biases but W of the votes and the
    bias of the capsule layer."""
    bound = fan_in**-0.5
    return rng.uniform(-bound, bound, size=shape).astype(dtype)
