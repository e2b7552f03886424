"""Schedules: the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from minicaps.checks import check_above_zero, check_whole

Schedule = Callable[[int], float]  # step number, from 0 -> learning rate


def _warm(step: int, warmup: int) -> float:
    """Return the factor of a linear warm-up, (step + 1)/warmup up to 1."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def _check(where: str, learning_rate: float, warmup: int) -> None:
    check_above_zero(where, learning_rate=learning_rate)
    check_whole(where, 0, warmup=warmup)


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step, after `warmup` steps of linear increase.

    Raises
    ------
    ValueError
        If `learning_rate` is not a number above 0, or `warmup` not a whole number, 0 or more.
    """

    learning_rate: float
    warmup: int = 0

    def __post_init__(self) -> None:
        _check("Constant", self.learning_rate, self.warmup)

    def __call__(self, step: int) -> float:
        return self.learning_rate * _warm(step, self.warmup)


@dataclass(frozen=True)
class Exponential:
    """max(floor, learning_rate · decay^(step/every)), after `warmup` steps of linear increase.

    The defaults of `decay`, `every` and `floor` are those of the paper's authors (Sabour et al. 2017,
    in the code that they published).

    Raises
    ------
    ValueError
        If a value is not as for ``Constant``, or `decay` not above 0 and up to 1, or `every` below 1.
    """

    learning_rate: float
    warmup: int = 0
    decay: float = 0.96
    every: int = 2000
    floor: float = 1e-6

    def __post_init__(self) -> None:
        _check("Exponential", self.learning_rate, self.warmup)
        if not 0 < self.decay <= 1 or self.every < 1:
            raise ValueError(
                f"Exponential: decay is {self.decay!r} every {self.every!r} steps, expected a decay "
                "above 0 and up to 1, every 1 step or more"
            )

    def __call__(self, step: int) -> float:
        decayed = max(self.floor, self.learning_rate * self.decay ** (step / self.every))
        return decayed * _warm(step, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `learning_rate` down to `floor` at step `steps`, after a linear `warmup`.

    Raises
    ------
    ValueError
        If a value is not as for ``Constant``, or `steps` below 1, or the warm-up longer than all steps.
    """

    learning_rate: float
    steps: int
    warmup: int = 0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        _check("Cosine", self.learning_rate, self.warmup)
        if self.steps < 1:
            raise ValueError(f"Cosine: steps is {self.steps!r}, expected 1 or more")
        if self.warmup > self.steps:
            raise ValueError(f"Cosine: warmup is {self.warmup!r}, expected at most its {self.steps!r} steps")

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.learning_rate * _warm(step, self.warmup)
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))  # 0 to 1
        floor = min(self.floor, self.learning_rate)
        return floor + (self.learning_rate - floor) * 0.5 * (1 + math.cos(math.pi * done))
