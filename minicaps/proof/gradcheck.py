"""Backward against central differences: the proof that every layer goes through.

For one array a (an input or a parameter) and an output y the Jacobian is J = ∂y/∂a. The check
compares U J D computed twice: by ``backward`` (the rows dyᵀJ, for upstream gradients dy in U) and
by central differences (the columns J d ≈ (y(a + h d) - y(a - h d)) / 2h, for directions d in D).
For a small output U is the identity, and for a small array D is; so small layers have their full
Jacobian compared, entry by entry. Larger ones are seen through random normal rows and columns. One
row of U is always normal: an upstream of ones would see column sums only, where the gradient of a
softmax is 0.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.layers import Loss
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
) -> Report:
    """Compare the backward of `layer` with central differences, for every input and parameter.

    Parameters
    ----------
    layer : Layer or Loss
        Or any object with ``forward`` and ``backward`` of that form (``params`` and ``grads`` are
        dictionaries, and may be missing).
    inputs : sequence
        The arguments of ``forward``, in float64. Integer arrays are held fixed. For a Loss,
        (prediction, target); the target is held fixed.
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

    Returns
    -------
    Report
        ``report.ok``, ``report.rows``; prints as a table. The layer is left as it was.

    Raises
    ------
    TypeError
        If an input or a parameter is floating point, but not float64.

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
    probe = _Probe(layer, tuple(inputs), check_forward, np.random.default_rng(seed))
    for array in probe.arrays:
        report.rows.append(probe.compare(array, step))
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
        self.layer, self.rng = layer, rng
        self.is_loss = isinstance(layer, Loss)
        self.inputs = _copy(inputs)  # the caller's arrays stay as they are
        self.forward = check_forward or layer.forward
        self.params = dict(getattr(layer, "params", {}))
        self.grads = dict(getattr(layer, "grads", {}))
        y, _ = layer.forward(*self.inputs)
        self.upstreams = self._draw_upstreams(_flatten(y))
        self.arrays = [_Array(name, x, []) for name, x in self._named_inputs()]
        self.arrays += [_Array(name, p, []) for name, p in self.params.items()]
        for array in self.arrays:
            if array.value.dtype != np.float64:
                raise TypeError(
                    f"gradcheck: {array.name} of {type(layer).__name__} is {array.value.dtype}; "
                    "central differences need float64: layer.astype(numpy.float64)"
                )
        for upstream in self.upstreams:
            for array, gradient in zip(self.arrays, self._backward(upstream, y), strict=True):
                array.analytic.append(gradient)

    def _named_inputs(self) -> Iterator[tuple[str, np.ndarray]]:
        names = list(inspect.signature(self.layer.forward).parameters)
        names += [f"input {k}" for k in range(len(names), len(self.inputs))]
        for name, value in zip(names, self.inputs[:1] if self.is_loss else self.inputs, strict=False):
            several = isinstance(value, (tuple, list))
            for k, x in enumerate(value if several else (value,)):
                if isinstance(x, np.ndarray) and x.dtype.kind == "f":
                    yield (f"{name} {k}" if several else name), x

    def _draw_upstreams(self, ys: list[np.ndarray]) -> list[np.ndarray]:
        """Return the rows of U, each as one vector over all outputs."""
        if self.is_loss:
            return [np.ones(1)]
        size = sum(y.size for y in ys)
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
                dx = self.layer.backward(_unflatten(upstream, y), cache)
            dparams = [self.grads[name] - offset[name] for name in self.params]
        finally:
            for name, grad in self.grads.items():
                grad[...] = before[name]
        given = _flatten(self.inputs[0] if self.is_loss else self.inputs, keep=True)
        found = _flatten(dx, keep=True)
        if len(found) != len(given):
            raise ValueError(
                f"gradcheck: {type(self.layer).__name__}.backward returned {len(found)} gradients "
                f"for {len(given)} inputs; expected one each, None for integer inputs"
            )
        floating = [isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in given]
        return [g for g, wanted in zip(found, floating, strict=True) if wanted] + dparams

    def compare(self, array: _Array, step: float) -> Row:
        """Compare U J D by backward with U J D by central differences, for one array."""
        size, shape = array.value.size, array.value.shape
        each_entry = size <= JACOBIAN_COLUMNS
        if each_entry:
            directions = np.eye(size)
        else:  # as long as all entries of the largest small array together, so h stays small enough
            directions = self.rng.normal(size=(4, size))
            directions *= (JACOBIAN_COLUMNS**0.5) / np.linalg.norm(directions, axis=1, keepdims=True)
        row = Row(array.name, shape, f"{len(self.upstreams)}×{len(directions)}")
        for gradient in array.analytic:
            if np.shape(gradient) != shape or gradient is None:
                got = "None" if gradient is None else f"shape {np.shape(gradient)}"
                row.problem = f"backward returned {got}, expected shape {shape}"
                return row
        U = np.stack(self.upstreams)  # (rows, outputs)
        analytic = np.stack([g.ravel() for g in array.analytic]) @ directions.T  # (rows, columns)
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
        row.zero = bool(scale == 0)
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
            values = np.concatenate([np.ravel(part) for part in _flatten(y)])  # a copy
            return values, list(_discrete(cache))
        finally:
            array.value[...] = kept


def _copy(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_copy(part) for part in value)
    return value.copy() if isinstance(value, np.ndarray) else value


def _flatten(value: Any, keep: bool = False) -> list[Any]:
    """Return the arrays in nested tuples; with `keep`, None and other things too."""
    if isinstance(value, (tuple, list)):
        return [part for item in value for part in _flatten(item, keep)]
    return [value] if keep or value is not None else []


def _unflatten(vector: np.ndarray, like: Any) -> Any:
    """Cut a vector into arrays shaped as those in `like`: one array or a tuple."""
    if not isinstance(like, tuple):
        return vector.reshape(np.shape(like)).copy()
    ends = np.cumsum([np.size(y) for y in like])[:-1]
    return tuple(
        part.reshape(np.shape(y)).copy() for part, y in zip(np.split(vector, ends), like, strict=True)
    )


def _discrete(cache: Any) -> Iterator[np.ndarray]:
    """Yield every boolean and integer array in a cache: they change only across a kink."""
    if isinstance(cache, np.ndarray):
        if cache.dtype.kind in "biu":
            yield cache.copy()
    elif isinstance(cache, dict):
        for value in cache.values():
            yield from _discrete(value)
    elif isinstance(cache, (tuple, list)):
        for value in cache:
            yield from _discrete(value)
    elif hasattr(cache, "__dict__") and not callable(cache):
        yield from _discrete(vars(cache))
