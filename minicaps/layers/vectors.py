"""The length and the direction of vectors, safe from 0 to 1e30."""

from __future__ import annotations

from minicaps.arrays import Array, get_xp


def length_and_direction(s: Array) -> tuple[Array, Array]:
    """Return n = ‖s‖ (..., 1) and e = s/n (..., D) for vectors s (..., D), with e = 0 where s = 0.

    Each vector is first divided by its largest component, so that neither the square of 1e30
    overflows float32 nor that of 1e-30 vanishes.
    """
    xp = get_xp(s)
    largest = xp.abs(s).max(axis=-1, keepdims=True)  # (..., 1)
    scaled = s / xp.where(largest > 0, largest, 1)  # (..., D), largest component ±1
    n = xp.sqrt((scaled * scaled).sum(axis=-1, keepdims=True))  # (..., 1), 0 or 1 to √D
    return largest * n, scaled / xp.where(n > 0, n, 1)
