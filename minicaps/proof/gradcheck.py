"""Backward against central differences: the proof that every layer goes through.

For one array a (an input or a parameter) and an output y the Jacobian is J = ∂y/∂a. The check
compares U J D computed twice: by ``backward`` (the rows dyᵀJ, for upstream gradients dy in U) and
by central differences (the columns J d ≈ (y(a + h d) - y(a - h d)) / 2h, for directions d in D).
For a small output U is the identity, and for a small array D is; so small layers have their full
Jacobian compared, entry by entry. Larger ones are seen through random normal rows and columns. One
row of U is always normal: an upstream of ones would see column sums only, where the gradient of a
softmax is 0.

Before that it looks whether forward and backward are what a proof takes for granted: purity.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.layers import Loss
from minicaps.proof.nested import as_vector, copy_inputs, flatten, kinks, named_inputs, unflatten
from minicaps.proof.purity import problems_of_backward, problems_of_forward, rounds_to_float32
from minicaps.proof.report import Report, Row

JACOBIAN_ROWS = 64  # outputs up to this size get the identity as upstream gradients
JACOBIAN_COLUMNS = 256  # arrays up to this size are perturbed entry by entry


def gradcheck(
    layer: Any,
    inputs: Sequence[Any],
    *,
    check_forward: Callable[..., Any] | None = None,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    seed: int = 0,
    name: str | None = None,
    zero_gradient: bool = False,
) -> Report:
    """Compare the backward of `layer` with central differences, for every input and parameter.

    Parameters
    ----------
    layer : Layer or Loss
        Or any object with ``forward`` and ``backward`` of that form (``params`` and ``grads`` are
        dictionaries, and may be missing).
    inputs : sequence
        The arguments of ``forward``, in float64 (a Python float becomes an array). Integer arrays are
        held fixed. For a Loss, (prediction, target); the target is held fixed.
    check_forward : callable, optional
        What finite differences look at instead of ``layer.forward``; for a backward that is meant
        to be the gradient of something else, such as stopped gradients.
    step : float
        h. Where an entry of a boolean or integer array in the cache differs between both sides, a
        kink was crossed: the direction is measured again with h/10 and h/100, and fails if that
        does not help.
    tolerance : float
        Largest relative error allowed: max|a - n| / max(max|a|, max|n|) over an array.
    seed : int
        Of the random upstream gradients and directions.
    name : str, optional
        The layer's name in the report.
    zero_gradient : bool
        Whether a gradient may be 0 everywhere. Without it an array that has no influence on the output
        fails: 0 against 0 proves nothing.

    Returns
    -------
    Report
        ``report.ok``, ``report.rows``; prints as a table. The layer is left as it was. Where forward
        changes what it is given, draws random numbers, is not computed in float64 or gives numbers that
        are not finite, ``report.problems`` says so, and no gradient is compared.

    Raises
    ------
    TypeError
        If an input or a parameter is floating point, but not float64; or an array, but not one of NumPy.

    Examples
    --------
    Your own layer. It needs no base class:

    >>> import numpy as np
    >>> from minicaps import gradcheck
    >>> class Cube:
    ...     def forward(self, x):
    ...         return x**3, x
    ...     def backward(self, dy, x):
    ...         return 3 * x**2 * dy
    >>> report = gradcheck(Cube(), [np.array([[0.5, -1.0, 2.0]])])
    >>> report.ok
    True
    >>> Cube.backward = lambda self, dy, x: 2.9 * x**2 * dy
    >>> gradcheck(Cube(), [np.array([[0.5, -1.0, 2.0]])]).ok
    False
    """
    start = time.perf_counter()
    report = Report(name or type(layer).__name__, tolerance, seed)
    probe = _Probe(layer, copy_inputs(layer, inputs), check_forward, np.random.default_rng(seed))
    report.problems += problems_of_forward(layer, probe.inputs)
    if not report.problems:
        y = probe.differentiate()
        report.problems += problems_of_backward(layer, probe.inputs, probe.upstreams[-1])
        report.rows += [probe.compare(array, step, zero_gradient) for array in probe.arrays]
        wrong = any(np.isfinite(row.error) and not row.ok(tolerance) for row in report.rows)
        if wrong and rounds_to_float32(y, probe.inputs):
            report.problems.append("forward gives float64 with the digits of float32: where does it round?")
    report.seconds = time.perf_counter() - start
    return report


@dataclass
class _Array:
    name: str
    value: np.ndarray  # perturbed in place, and restored
    analytic: list[Any]  # one gradient for every upstream


class _Probe:
    """One layer with its inputs, and the gradients that backward gives for every upstream."""

    def __init__(
        self,
        layer: Any,
        inputs: tuple[Any, ...],
        check_forward: Callable[..., Any] | None,
        rng: np.random.Generator,
    ) -> None:
        self.layer, self.inputs, self.rng = layer, inputs, rng
        self.is_loss = isinstance(layer, Loss)
        self.forward = check_forward or layer.forward
        self.params = dict(getattr(layer, "params", {}))
        self.grads = dict(getattr(layer, "grads", {}))
        self.arrays = [_Array(name, x, []) for name, x in named_inputs(layer, inputs)]
        self.arrays += [_Array(name, p, []) for name, p in self.params.items()]
        self.upstreams: list[np.ndarray] = []
        self.noise = 0.0
        for array in self.arrays:
            if array.value.dtype != np.float64:
                raise TypeError(
                    f"gradcheck: {array.name} of {type(layer).__name__} is {array.value.dtype}; "
                    "central differences need float64: layer.astype(numpy.float64)"
                )

    def differentiate(self) -> Any:
        """Collect what backward gives for every upstream, and return the output."""
        y, _ = self.layer.forward(*self.inputs)
        numbers = as_vector(y)  # (N,)
        self.upstreams = self._draw_upstreams(numbers.size)
        # What remains of U y when two sides that are equal but for rounding are subtracted.
        self.noise = 4 * np.finfo(float).eps * max(float(np.linalg.norm(u * numbers)) for u in self.upstreams)
        for upstream in self.upstreams:
            for array, gradient in zip(self.arrays, self._backward(upstream, y), strict=True):
                array.analytic.append(gradient)
        return y

    def _draw_upstreams(self, size: int) -> list[np.ndarray]:
        """Return the rows of U, each as one vector over all outputs."""
        if self.is_loss:
            return [np.ones(1)]
        if size <= JACOBIAN_ROWS:
            return [*np.eye(size), self.rng.normal(size=size)]
        return list(self.rng.normal(size=(2, size)))

    def _backward(self, upstream: np.ndarray, y: Any) -> list[Any]:
        """Return the gradient of every array, for one upstream."""
        _, cache = self.layer.forward(*self.inputs)
        before = {name: grad.copy() for name, grad in self.grads.items()}
        offset = {name: self.rng.normal(size=grad.shape) for name, grad in self.grads.items()}
        for name, grad in self.grads.items():
            grad[...] = offset[name]  # backward must add to what is there, so leave something there
        try:
            if self.is_loss:
                dx = self.layer.backward(cache)
            else:
                dx = self.layer.backward(unflatten(upstream, y), cache)
            dparams = [
                self.grads[name] - offset[name] if name in self.grads else None for name in self.params
            ]
        finally:
            for name, grad in self.grads.items():
                grad[...] = before[name]
        given = flatten(self.inputs[0] if self.is_loss else self.inputs)
        found = flatten(dx)
        if len(found) != len(given):
            raise ValueError(
                f"gradcheck: {type(self.layer).__name__}.backward returned {len(found)} gradients "
                f"for {len(given)} inputs; expected one each, None for integer inputs"
            )
        floating = [isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in given]
        return [g for g, wanted in zip(found, floating, strict=True) if wanted] + dparams

    def compare(self, array: _Array, step: float, zero_gradient: bool) -> Row:
        """Compare U J D by backward with U J D by central differences, for one array."""
        size, shape = array.value.size, array.value.shape
        each_entry = size <= JACOBIAN_COLUMNS
        if each_entry:
            directions = np.eye(size)
        else:  # as long as all entries of the largest small array together, so h stays small enough
            directions = self.rng.normal(size=(4, size))
            directions *= (JACOBIAN_COLUMNS**0.5) / np.linalg.norm(directions, axis=1, keepdims=True)
        row = Row(array.name, shape, f"{len(self.upstreams)}×{len(directions)}", zero_expected=zero_gradient)
        for gradient in array.analytic:
            if np.shape(gradient) != shape or gradient is None:
                got = "None" if gradient is None else f"shape {np.shape(gradient)}"
                row.problem = f"backward returned {got}, expected shape {shape}"
                return row
        U = np.stack(self.upstreams)  # (rows, outputs)
        analytic = np.stack([np.ravel(g) for g in array.analytic]) @ directions.T  # (rows, columns)
        found = [(k, self._column(array, d.reshape(shape), step)) for k, d in enumerate(directions)]
        columns = {k: column for k, column in found if column is not None}
        row.crossings, seen = len(found) - len(columns), list(columns)
        if not seen:
            return row
        numeric = U @ np.stack(list(columns.values()), axis=1)  # (rows, columns)
        analytic = analytic[:, seen]
        difference = np.abs(analytic - numeric)
        where = np.unravel_index(difference.argmax(), difference.shape)  # also finds the first NaN
        scale = max(np.abs(analytic).max(), np.abs(numeric).max())
        row.zero = bool(scale <= self.noise / step)
        row.error = 0.0 if row.zero else float(difference[where] / scale)
        row.analytic, row.numeric = float(analytic[where]), float(numeric[where])
        k = seen[where[1]]
        row.worst = tuple(int(n) for n in np.unravel_index(k, shape)) if each_entry else (k,)
        return row

    def _column(self, array: _Array, direction: np.ndarray, step: float) -> np.ndarray | None:
        """Return J d as one vector over all outputs, or None if a kink is in the way."""
        for h in (step, step / 10, step / 100):
            above, above_kinks = self._evaluate(array, h * direction)
            below, below_kinks = self._evaluate(array, -h * direction)
            if all(np.array_equal(a, b) for a, b in zip(above_kinks, below_kinks, strict=True)):
                return (above - below) / (2 * h)
        return None

    def _evaluate(self, array: _Array, change: np.ndarray) -> tuple[np.ndarray, list[Any]]:
        kept = array.value.copy()
        array.value += change
        try:
            y, cache = self.forward(*self.inputs)
            return as_vector(y), kinks(cache)
        finally:
            array.value[...] = kept
