"""Examples to run a layer on, and what is compared: the parts that the checks of the contract share."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from itertools import islice
from typing import Any

import numpy as np

from minicaps.layers import Example, Layer, Loss
from minicaps.proof.discovery import draw_examples, find_examples


@dataclass(frozen=True)
class Case:
    """One example of a class."""

    cls: Any
    number: int
    name: str

    def make(self, dtype: Any = np.float64) -> Example:
        """Build the example anew; it is the same each time."""
        return next(islice(draw_examples(self.cls, dtype=dtype), self.number, None))

    @property
    def label(self) -> str:
        """Folder or module, class and example: "fast.Conv2d-stride"."""
        return f"{self.cls.__module__.split('.')[-2:][0]}.{self.cls.__name__}-{self.name}"


def cases_of(cls: Any) -> list[Case]:
    """Return a case for every example of a class."""
    return [Case(cls, number, example.name) for number, example in enumerate(find_examples(cls))]


def arrays_in(value: Any) -> list[np.ndarray]:
    """Return all NumPy arrays in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, (np.ndarray, np.generic)):
        return [np.asarray(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        value = list(vars(value).values())
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in arrays_in(part)]
    return []


def map_arrays(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to every array in nested tuples and lists; None stays None."""
    if isinstance(value, (tuple, list)):
        parts = [map_arrays(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value if value is None else function(value)


def upstream(y: Any, seed: int = 1) -> Any:
    """Draw normal upstream gradients of the shape and dtype of the outputs y."""
    rng = np.random.default_rng(seed)
    return map_arrays(lambda part: rng.normal(size=np.shape(part)).astype(part.dtype), y)


@dataclass
class Outcome:
    """What one forward and one backward gave."""

    y: Any
    dx: Any
    grads: dict[str, np.ndarray]

    @property
    def arrays(self) -> list[np.ndarray]:
        return [*arrays_in(self.y), *arrays_in(self.dx), *arrays_in(self.grads)]


def run(layer: Any, inputs: tuple[Any, ...], dy: Any = None) -> Outcome:
    """Run forward and backward once, from gradients of 0."""
    y, cache = layer.forward(*inputs)
    if isinstance(layer, Loss):
        return Outcome(y, layer.backward(cache), {})
    layer.zero_grad()
    dx = layer.backward(upstream(y) if dy is None else dy, cache)
    return Outcome(y, dx, {name: grad.copy() for name, grad in layer.grads.items()})


def assert_equal_bits(found: Any, expected: Any) -> None:
    found, expected = arrays_in(found), arrays_in(expected)
    assert len(found) == len(expected) > 0, f"{len(found)} arrays, expected {len(expected)}"
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype, f"{one.dtype}, expected {other.dtype}"
        np.testing.assert_array_equal(one, other)


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """Compare arrays, relative to the largest number of each."""
    found, expected = arrays_in(found), arrays_in(expected)
    assert len(found) == len(expected) > 0, f"{len(found)} arrays, expected {len(expected)}"
    for one, other in zip(found, expected, strict=True):
        scale = max(np.abs(one).max(), np.abs(other).max())
        difference = np.abs(one - other).max()
        assert difference <= tolerance * scale, f"they differ by {difference:.1e} of {scale:.1e}"


def answering(layer: Any) -> Any:
    """Return a layer, or a snapshot for inference of one whose samples act on each other in training."""
    mixes = isinstance(layer, Layer) and any(part.mixes_samples for _, part in layer.walk())
    return layer.for_inference() if mixes else layer


def own_values(layer: Any) -> dict[str, Any]:
    """Return what a layer keeps; of the layers in it, which they are."""

    def marked(value: Any) -> Any:
        if isinstance(value, (Layer, Loss)):
            return type(value).__name__, id(value)
        if isinstance(value, dict):
            return {key: marked(part) for key, part in value.items()}
        return [marked(part) for part in value] if isinstance(value, (list, tuple)) else value

    return {name: marked(value) for name, value in vars(layer).items()}


def samples(value: Any) -> Iterator[Any]:
    """Yield each sample of a batch as a batch of one."""
    for b in range(len(arrays_in(value)[0])):
        yield map_arrays(operator.itemgetter(slice(b, b + 1)), value)


@contextmanager
def raising_floating_point_warnings() -> Iterator[None]:
    """Raise RuntimeWarning for a division by zero, an overflow or an invalid number."""
    with np.errstate(divide="warn", over="warn", invalid="warn"), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        # OpenBLAS leaves this flag behind now and then, with nothing wrong in the result.
        warnings.filterwarnings("ignore", "invalid value encountered in matmul")
        yield
