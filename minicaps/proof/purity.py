"""What spoils a proof whatever the gradient is: a forward or a backward that is not what it seems.

Each is said in its own words, so that nobody looks for it in a gradient that is right.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaps.layers import Layer, Loss
from minicaps.proof.nested import as_vector, every_array, kinks, outputs, unflatten

REPEATS = 1e-12  # relative; two forwards of one input agree to that, whatever the threads do


def problems_of_forward(layer: Any, inputs: tuple[Any, ...]) -> list[str]:
    """Return a line for everything that is wrong with ``forward``; inputs and parameters stay.

    Parameters
    ----------
    layer : Layer, Loss or object with ``forward``
    inputs : tuple
        The arguments of ``forward``.
    """
    watched = [(name, array) for name, array in _given(layer, inputs)]
    kept = [array.copy() for _, array in watched]
    result = layer.forward(*inputs)
    changed = list(_changed(watched, kept))
    for (_, array), before in zip(watched, kept, strict=True):
        array[...] = before
    if not (isinstance(result, tuple) and len(result) == 2):
        return [f"forward returns {type(result).__name__}, expected a pair: the output, and the cache"]
    if changed:
        return [f"forward changes {', '.join(changed)} in place; work on a copy"]
    hidden = hidden_layers(layer)
    problems = (
        [f"nobody finds {', '.join(hidden)} in it; make it an attribute, or put it in a list"]
        if hidden
        else []
    )
    return problems + (_of_values(*result) or _of_repeating(result, layer.forward(*inputs)))


def _of_values(y: Any, cache: Any) -> list[str]:
    arrays = outputs(y)
    if not arrays:
        return ["forward returns no output"]
    for array in arrays:
        if array.dtype.kind not in "biuf":
            return [f"forward returns an output of dtype {array.dtype}, expected real numbers"]
        if not np.isfinite(array).all():
            index = np.unravel_index(np.argmin(np.isfinite(array)), array.shape)
            return [f"forward returns {array[index]} at {[int(k) for k in index]}; choose other inputs"]
    for what, found in (("returns", arrays), ("keeps in its cache", every_array(cache))):
        other = [array.dtype for array in found if array.dtype.kind == "f" and array.dtype != np.float64]
        if other:
            return [
                f"forward {what} {other[0]}: it does not compute in float64 throughout, and differences of "
                "rounded numbers prove nothing"
            ]
    return []


def _of_repeating(first: Any, second: Any) -> list[str]:
    one, other = as_vector(first[0]), as_vector(second[0])
    same = one.shape == other.shape and np.abs(one - other).max(initial=0) <= REPEATS * np.abs(one).max(
        initial=0
    )
    choices = zip(kinks(first[1]), kinks(second[1]), strict=False)
    if same and all(np.array_equal(a, b) for a, b in choices):
        return []
    return [
        "forward is not deterministic: called twice on one input, it gives two answers; draw random numbers "
        "outside of it, or from a seed"
    ]


def problems_of_backward(layer: Any, inputs: tuple[Any, ...], upstream: np.ndarray) -> list[str]:
    """Return a line for everything that ``backward`` changes and must not; gradients stay."""
    y, cache = layer.forward(*inputs)
    dy = unflatten(upstream, y)
    grads = dict(getattr(layer, "grads", {}))
    watched = [("dy", array) for array in every_array(dy)]
    watched += [("its cache", array) for array in every_array(cache)]
    watched += [(name, array) for name, array in _given(layer, inputs)]
    kept, kept_grads = [array.copy() for _, array in watched], {k: grad.copy() for k, grad in grads.items()}
    layer.backward(cache) if isinstance(layer, Loss) else layer.backward(dy, cache)
    changed = list(_changed(watched, kept))
    for (_, array), before in zip(watched, kept, strict=True):
        if array.flags.writeable:
            array[...] = before
    others = [name for name, grad in getattr(layer, "grads", {}).items() if grads.get(name) is not grad]
    for name, grad in grads.items():
        grad[...] = kept_grads[name]
        if name in others:
            layer.grads[name] = grad
    problems = [f"backward changes {', '.join(changed)}; work on a copy"] if changed else []
    if others:
        problems.append(
            f"backward replaces the gradient of {', '.join(others)}; add to it, as in grads[...] += …"
        )
    return problems


def rounds_to_float32(y: Any, inputs: tuple[Any, ...]) -> bool:
    """Whether an output has the digits of float32 only, where the inputs have more; whole numbers aside."""

    def rounded(x: np.ndarray) -> bool:
        with np.errstate(over="ignore"):
            return bool((x.astype(np.float32) == x).all())

    numbers, given = as_vector(y), [x for x in every_array(inputs) if x.dtype == np.float64]
    is_whole = bool((numbers == np.round(numbers)).all())
    return rounded(numbers) and not is_whole and not all(map(rounded, given))


def hidden_layers(layer: Any) -> list[str]:
    """Return the classes of layers that are somewhere inside a layer, but not contained in it."""
    if not isinstance(layer, Layer):
        return []
    met: dict[int, Any] = {}
    try:
        twin = copy.deepcopy(layer, met)  # it goes wherever an object can be, and notes what it met
    except TypeError:  # a lock, say, which cannot be copied
        return []
    contained = {id(part) for _, part in twin.walk()}
    of_class = [value for cls in type(layer).__mro__ for value in vars(cls).values()]
    inside = [part for part in [*met.values(), *of_class] if isinstance(part, Layer)]
    return sorted({type(part).__name__ for part in inside if id(part) not in contained})


def _given(layer: Any, inputs: tuple[Any, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what is handed in, with its name: every argument, and every parameter."""
    names = [*inspect.signature(layer.forward).parameters, *map(str, range(len(inputs)))]
    for name, value in zip(names, inputs, strict=False):
        yield from ((f"its argument {name}", array) for array in every_array(value))
    yield from ((f"the parameter {name}", param) for name, param in getattr(layer, "params", {}).items())


def _changed(watched: list[tuple[str, np.ndarray]], kept: list[np.ndarray]) -> Iterator[str]:
    """Yield the names of the arrays that are no longer what was kept, each once."""
    different = [
        name for (name, array), before in zip(watched, kept, strict=True)
        if not np.array_equal(array, before, equal_nan=array.dtype.kind == "f")
    ]  # fmt: skip
    yield from dict.fromkeys(different)
