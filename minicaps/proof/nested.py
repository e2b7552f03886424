"""Arrays in nested tuples, lists, dictionaries and caches: what layers take, return and keep."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaps.arrays import get_xp
from minicaps.layers import Loss


def copy_inputs(layer: Any, inputs: Any) -> tuple[Any, ...]:
    """Return the arguments of ``forward`` with every array copied, and every float made one.

    Raises
    ------
    TypeError
        If one is an array of another library, or a subclass of NumPy's with operators of its own.
    """

    def copied(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(copied(part) for part in value)
        if isinstance(value, (float, np.generic)):
            return np.array(value)
        if isinstance(value, np.ndarray) and get_xp(value) is np:
            return np.array(value)
        if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
            raise TypeError(
                f"got a {type(value).__name__}, expected a NumPy array, as numpy.asarray(x) makes of it"
            )
        return value

    try:
        return tuple(copied(value) for value in inputs)
    except TypeError as error:
        raise TypeError(f"gradcheck: an input of {type(layer).__name__}: {error}") from None


def named_inputs(layer: Any, inputs: tuple[Any, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every floating-point array that has a gradient, with its name: of a loss, the prediction."""
    names = list(inspect.signature(layer.forward).parameters)
    names += [f"input {k}" for k in range(len(names), len(inputs))]
    for name, value in zip(names, inputs[:1] if isinstance(layer, Loss) else inputs, strict=False):
        several = isinstance(value, (tuple, list))
        for k, x in enumerate(value if several else (value,)):
            if isinstance(x, np.ndarray) and x.dtype.kind == "f":
                yield (f"{name} {k}" if several else name), x


def flatten(value: Any) -> list[Any]:
    """Return what is in nested tuples and lists, None included."""
    if isinstance(value, (tuple, list)):
        return [part for item in value for part in flatten(item)]
    return [value]


def outputs(y: Any) -> list[np.ndarray]:
    """Return the arrays of an output: a number becomes one, and None is left out."""
    return [np.asarray(part) for part in flatten(y) if part is not None]


def as_vector(y: Any) -> np.ndarray:
    """Return all numbers of an output as one new vector (N,)."""
    return np.concatenate([np.ravel(part) for part in outputs(y)])


def unflatten(vector: np.ndarray, like: Any) -> Any:
    """Cut a vector into arrays shaped as those in `like`: one array, or nested tuples or lists."""
    start = 0

    def cut(value: Any) -> Any:
        nonlocal start
        if isinstance(value, (tuple, list)):
            return tuple(cut(part) for part in value)
        if value is None:
            return None
        part = vector[start : start + np.size(value)].reshape(np.shape(value)).copy()
        start += np.size(value)
        return part

    return cut(like)


def every_array(value: Any) -> Iterator[np.ndarray]:
    """Yield every array in a cache: in tuples, lists, dictionaries and objects, each of these once.

    A gradient check asks for them many times, so it does not call itself.
    """
    waiting, seen = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, np.ndarray):
            yield value
        elif id(value) not in seen:  # a cache may hold itself
            seen.add(id(value))
            waiting.extend(reversed(held_by(value)))


def held_by(value: Any) -> list[Any]:
    """Return what a tuple, a list, a dictionary or an object holds."""
    if isinstance(value, (tuple, list)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    return list(vars(value).values()) if hasattr(value, "__dict__") and not callable(value) else []


def kinks(cache: Any) -> list[np.ndarray]:
    """Return a copy of every boolean and integer array in a cache: they change only across a kink."""
    return [array.copy() for array in every_array(cache) if array.dtype.kind in "biu"]
