"""Numbers that are not finite: whether there are any, and in words where the first one is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from minicaps.arrays import Array, get_xp, to_numpy
from minicaps.layers import Loss
from minicaps.networks import Network
from minicaps.training.watch import Method, watched


def sum_of_squares(arrays: Iterable[Array]) -> Any:
    """Return Σ x² over all arrays, a scalar array: finite only if every number is.

    It may overflow where every number is finite; ``all_finite`` is exact, and several times slower.
    """
    squares = [get_xp(array).vdot(array, array) for array in arrays]
    return get_xp(*squares).stack(squares).sum()


def all_finite(*values: Any) -> bool:
    """Whether every number in arrays, and in tuples of them, is finite (None counts as finite).

    From a device there is one copy for all of them.
    """
    arrays = list(_arrays_in(values))
    if not arrays:
        return True
    xp = get_xp(*arrays)
    return bool(to_numpy(xp.stack([xp.isfinite(array).all() for array in arrays])).all())


def _arrays_in(values: Iterable[Any]) -> Iterator[Array]:
    """Yield the arrays in tuples of tuples and arrays, without what is None."""
    for value in values:
        if isinstance(value, tuple):
            yield from _arrays_in(value)
        elif value is not None:
            yield value


def first_not_finite(network: Network, objective: Loss, compute: Callable[[], Any]) -> str:
    """Say in words what is the first that is not finite in a gradient.

    Parameters
    ----------
    network : Network
    objective : Loss
    compute : callable
        Computes the gradient with these two.
    """
    for name, param in network.params.items():
        if not all_finite(param):
            return f"the weights {name}"
    found: list[str] = []
    with ExitStack() as stack:
        for prefix, layer in [*network.walk(), ("loss", objective)]:
            name = prefix.rstrip(".") or type(network).__name__
            for method in ("forward", "backward", "backward_params"):
                if hasattr(layer, method):
                    stack.enter_context(watched(layer, method, _noting(layer, method, name, found)))
        compute()
    return found[0] if found else "nothing, when computed again"


def _noting(layer: Any, method: str, name: str, found: list[str]) -> Callable[[Method], Method]:
    """Return what makes of a method one that notes in `found` when a result of it is not finite."""

    def wrap(original: Method) -> Method:
        def call(*arguments: Any) -> Any:
            result = original(*arguments)
            if method == "forward":
                what, values = "output", result[:1]  # without the cache
            else:
                what, values = "gradient", (result, *getattr(layer, "grads", {}).values())
            if not all_finite(*values):
                found.append(f"the {what} of {name}")
            return result

        return call

    return wrap
