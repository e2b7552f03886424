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
    zero: bool = False  # both sides are 0 everywhere, but for rounding: nothing is proven
    zero_expected: bool = False  # and that is meant
    problem: str = ""  # why nothing could be compared

    def ok(self, tolerance: float) -> bool:
        proven = self.zero_expected or not self.zero
        return proven and not self.problem and self.crossings == 0 and bool(self.error <= tolerance)

    def verdict(self, tolerance: float) -> str:
        """Return a word or two for the table."""
        if self.ok(tolerance):
            return "ok"
        if self.problem:
            return "FAILED"
        return "FAILED: a kink" if self.crossings else "FAILED: nothing proven" if self.zero else "FAILED"


@dataclass
class Report:
    """The result of ``gradcheck``; ``print(report)`` shows it as a table.

    The relative error of an array is max|a - n| / max(max|a|, max|n|), with a by backward and n by central
    differences, over all entries that were compared: relative to the largest, not entry by entry.

    Attributes
    ----------
    layer : str
    rows : list of Row, one for every input and every parameter
    tolerance : float
    seed : int
    seconds : float
    problems : list of str
        What is wrong with forward or backward as a whole: it is random, say, or changes its argument.
    """

    layer: str
    tolerance: float
    seed: int
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every array passed, there was at least one, and there are no problems."""
        return bool(self.rows) and not self.problems and all(row.ok(self.tolerance) for row in self.rows)

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
        """Return one line for every problem, and for every array that failed: where, values, seed."""
        lines = [f"{self.layer}: {problem}" for problem in self.problems]
        if not self.rows and not lines:
            return [f"{self.layer}: no floating-point input and no parameter, nothing was checked"]
        return lines + [self._failure(row) for row in self.rows if not row.ok(self.tolerance)]

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
        if row.zero:
            return (
                f"{what}: 0 by backward and by central differences; it has no influence on the output here, "
                "so nothing is proven: choose other inputs, or say zero_gradient=True where that is meant"
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
