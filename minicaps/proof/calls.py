"""Calling functions of unknown make: what they return, change, raise, and how long they take."""

from __future__ import annotations

import copy
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.proof.banks import FAULT, HOLDS


class Unusable(Exception):
    """A function cannot be audited; the message says why, in one line."""


class NotWritten(Unusable):
    """A function of the template that is still as it was."""


class Caller:
    """One function of the code under audit.

    Parameters
    ----------
    name : str
    function : callable
    limit : float
        Seconds that a call may take, where the system can interrupt one.
    """

    def __init__(self, name: str, function: Callable[..., Any], limit: float) -> None:
        self.name, self.function, self.limit = name, function, limit

    def call(self, inputs: Sequence[Any], shape: tuple[int, ...] | None = None, finite: bool = True) -> Array:
        """Return the function's result for copies of the inputs.

        Raises
        ------
        Unusable
            If it raises, takes too long, or returns something else than numbers of this shape.
        """
        result = self.raw(copy.deepcopy(inputs))
        try:
            array = np.asarray(result)
        except Exception as error:
            raise Unusable(f"returns a {type(result).__name__}, which is no array ({error})") from None
        if array.dtype.kind not in "fiub":
            raise Unusable(
                f"returns a {type(result).__name__} of {array.dtype}, expected an array of numbers"
            )
        if shape is not None and array.shape != shape and not (shape == () and array.size == 1):
            raise Unusable(f"returns the shape {array.shape}, expected {shape} for {shapes_of(inputs)}")
        if finite and not np.isfinite(array).all():
            raise Unusable(f"returns {_kind_of_not_finite(array)} for random numbers near 1")
        return array

    def raw(self, inputs: Sequence[Any]) -> Any:
        """Call the function with these very inputs, and return what it returns."""
        try:
            with time_limit(self.limit), np.errstate(all="ignore"):
                return self.function(*inputs)
        except NotImplementedError:
            raise NotWritten("is not written yet") from None
        except TimeoutError:
            raise Unusable(f"takes more than {self.limit:g} s for {shapes_of(inputs)}") from None
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            what = " ".join(str(error).split()) or "no message"
            where = f"{line.filename.rsplit('/', 1)[-1]}, line {line.lineno}"
            raise Unusable(
                f"raises {type(error).__name__} ({what}) in {where}, for {shapes_of(inputs)}"
            ) from None

    def purity(self, inputs: Sequence[Any], result: Array) -> Iterator[tuple[str, ...]]:
        """Yield whether the function leaves its arguments alone and gives the same again."""
        given = copy.deepcopy(inputs)
        again = np.asarray(self.raw(given))
        for number, (before, after) in enumerate(zip(inputs, given, strict=True)):
            if not np.array_equal(before, after):
                off = np.abs(np.asarray(after, float) - before).max()
                yield (
                    "pure",
                    FAULT,
                    f"the code changes its argument number {number + 1}",
                    f"by up to {off:.3g}",
                )
                return
        if again.shape != result.shape or not np.array_equal(again, result, equal_nan=True):
            off = np.abs(again - result).max() if again.shape == result.shape else np.inf
            says = "the code gives another result for the same arguments"
            yield "pure", FAULT, says, f"two calls differ by up to {off:.3g}"
            return
        yield "pure", HOLDS, "the same arguments give the same result, and are not changed"


def shapes_of(inputs: Sequence[Any]) -> str:
    """Return what was handed over, in words."""
    return ", ".join(str(np.shape(x)) if isinstance(x, np.ndarray) else repr(x) for x in inputs)


def _kind_of_not_finite(array: Array) -> str:
    return "NaN" if np.isnan(array).any() else "an infinite number"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so many seconds: in the main thread of a system with signals, else never."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def adapt(
    function: Callable[..., Any],
    takes: Sequence[str | None] = (),
    gives: str | None = None,
    *,
    iterations: int = 0,
    dtype: Any = None,
) -> Callable[..., Any]:
    """Return a function for the audit from one with other axes, another count of iterations or another dtype.

    Parameters
    ----------
    function : callable
    takes : sequence of str
        For each argument how its axes become those of `function`, as in "BIJE -> BJIE1"; a 1 is an axis of
        size one. None leaves an argument as it is.
    gives : str
        The same for the result, as in "BJE1 -> BJE".
    iterations : int
        What is added to the last argument: -1 for a code whose 0 means one iteration.
    dtype : float32 or float64, optional
        What the arrays of floats are converted to.

    Raises
    ------
    ValueError
        If a text is not of this form.

    Examples
    --------
    >>> import numpy as np
    >>> def their_squash(s):  # (J, E, B)
    ...     return s / (1 + (s**2).sum(axis=1, keepdims=True))
    >>> adapt(their_squash, ["BJE -> JEB"], "JEB -> BJE")(np.ones((2, 3, 4))).shape
    (2, 3, 4)
    """
    moves = [None if text is None else _axes(text) for text in takes]
    back = None if gives is None else _axes(gives)

    def adapted(*inputs: Any) -> Any:
        given = list(inputs)
        for k, (left, right) in ((k, move) for k, move in enumerate(moves) if move is not None):
            given[k] = _move(given[k], left, right)
        if dtype is not None:
            given = [
                x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in given
            ]
        if iterations:
            given[-1] += iterations
        result = function(*given)
        return result if back is None else _move(np.asarray(result), *back)

    return adapted


def _axes(text: str) -> tuple[str, str]:
    left, arrow, right = text.replace(" ", "").partition("->")
    if not arrow or sorted(left.replace("1", "")) != sorted(right.replace("1", "")):
        raise ValueError(f"adapt: {text!r}, expected the same letters on both sides, as in 'BIJE -> BJIE1'")
    return left, right


def _move(array: Array, left: str, right: str) -> Array:
    """Take axes named `left` to `right`; an axis called 1 has size one."""
    if array.ndim != len(left):
        raise ValueError(f"adapt: an array of shape {array.shape} for the axes {left}")
    array = array.reshape([size for size, letter in zip(array.shape, left, strict=True) if letter != "1"])
    letters = left.replace("1", "")
    array = array.transpose([letters.index(letter) for letter in right.replace("1", "")])
    sizes = iter(array.shape)
    return array.reshape([1 if letter == "1" else next(sizes) for letter in right])
