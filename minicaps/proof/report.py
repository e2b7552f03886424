"""What a gradient check found, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Row:
    """What the check found for one array."""

    array: str
    shape: tuple[int, ...]
    probes: str  # how many rows × columns of U J D were compared
    error: float = np.inf  # max|analytic - numeric| / max(max|analytic|, max|numeric|)
    worst: tuple[int, ...] = ()  # index of the worst entry: in the array, or the direction's number
    analytic: float = np.nan  # the two values there
    numeric: float = np.nan
    crossings: int = 0  # directions in which a kink lay between both sides, whatever the step
    zero: bool = False  # both sides are 0 everywhere: nothing is proven
    problem: str = ""  # why nothing could be compared

    def ok(self, tolerance: float) -> bool:
        return not self.problem and self.crossings == 0 and bool(self.error <= tolerance)

    def verdict(self, tolerance: float) -> str:
        """Return a word or two for the table."""
        if self.ok(tolerance):
            return "ok"
        return "FAILED: a kink" if self.crossings and not self.problem else "FAILED"


@dataclass
class Report:
    """The result of ``gradcheck``; ``print(report)`` shows it as a table.

    Attributes
    ----------
    layer : str
    rows : list of Row, one for every input and every parameter
    tolerance : float
    seed : int
    seconds : float
    """

    layer: str
    tolerance: float
    seed: int
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every array passed, and there was at least one."""
        return bool(self.rows) and all(row.ok(self.tolerance) for row in self.rows)

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max((row.error for row in self.rows), default=np.inf)

    def __str__(self) -> str:
        head = f"{'layer':<34} {'array':<22} {'shape':<18} {'probes':<10} relative error"
        lines = [head] + [
            f"{self.layer:<34} {row.array:<22} {row.shape!s:<18} {row.probes:<10} {row.error:.1e} "
            f"{row.verdict(self.tolerance)}"
            for row in self.rows
        ]
        return "\n".join(lines + self.failures())

    def failures(self) -> list[str]:
        """Return one line for every array that failed: where, both values, the error, the seed."""
        if not self.rows:
            return [f"{self.layer}: no floating-point input and no parameter, nothing was checked"]
        return [self._failure(row) for row in self.rows if not row.ok(self.tolerance)]

    def _failure(self, row: Row) -> str:
        what = f"{self.layer}: gradient of {row.array}"
        if row.problem:
            return f"{what}: {row.problem}"
        if row.crossings:
            return (
                f"{what}: a kink lies within the step in {row.crossings} "
                f"direction{'s' if row.crossings > 1 else ''}; "
                f"move the inputs away from it (seed {self.seed})"
            )
        return (
            f"{what} at {list(row.worst)}: backward says {row.analytic:.10g}, central differences "
            f"say {row.numeric:.10g}; relative error {row.error:.1e}, allowed {self.tolerance:.0e} "
            f"(seed {self.seed})"
        )

    def raise_if_failed(self) -> None:
        """Raise AssertionError with every failure, if there is one."""
        if not self.ok:
            raise AssertionError("\n".join(self.failures()))
