"""What the audit finds of a gradient: central differences through the code's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.proof.banks import BANKS, CHOICE, FAULT, HOLDS, UNKNOWN
from minicaps.proof.calls import Caller, NotWritten, Unusable
from minicaps.proof.subjects import Inputs
from minicaps.proof.variants import at_positions, conv_votes, route, votes

STEPS = {"f4": (1e-2, 2e-2), "f8": (1e-5, 1e-5)}  # of a result's dtype: the step, and the error allowed


def check_gradient_of(
    caller: Caller,
    vjp: Caller,
    inputs: Inputs,
    settings: Mapping[str, Any],
    stopped_on_purpose: bool,
    rng: np.random.Generator,
) -> Iterator[tuple[str, ...]]:
    """Yield whether ``NAME_vjp(*inputs, dy)`` is the gradient of a function of such settings."""
    y = caller.call(inputs)
    dy = rng.normal(size=y.shape)
    step, allowed = STEPS.get(y.dtype.str[1:], STEPS["f8"])
    try:
        found = _gradients(vjp, inputs, dy)
    except NotWritten:
        return
    except Unusable as problem:
        yield "gradient", UNKNOWN, f"{vjp.name} {problem}"
        return
    for k, gradient in found.items():
        right = differences(caller, inputs, k, dy, step)
        if gradient.shape != right.shape:
            says = f"the gradient of argument {k + 1} has the shape {gradient.shape}"
            yield "gradient", FAULT, says, f"expected {right.shape}"
            return
        if _off(gradient, right) > allowed:
            says = _what_instead(gradient, right, partial(known_wrong, caller.name, inputs, k, settings, dy))
            kind = FAULT
            if CONSTANT_COUPLINGS in says:
                kind = CHOICE if stopped_on_purpose else FAULT
                says += "" if stopped_on_purpose else "; if that is meant, say so: STOPPED_GRADIENT = True"
            where = np.unravel_index(np.abs(gradient - right).argmax(), right.shape)
            at = f" at {[int(i) for i in where]}" if where else ""
            numbers = f"got {gradient[where]:.6g}{at}, by central differences {right[where]:.6g}"
            yield "gradient", kind, says, numbers, _cost(says)
            return
    yield "gradient", HOLDS, "the gradient is that of the code, by central differences"


def _gradients(vjp: Caller, inputs: Inputs, dy: Array) -> dict[int, Array]:
    """Return the gradients that the code gives, by the number of the argument."""
    result = vjp.raw((*(np.copy(x) if isinstance(x, np.ndarray) else x for x in inputs), dy.copy()))
    floats = [k for k, x in enumerate(inputs) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
    several = result if isinstance(result, (tuple, list)) else (result,)
    if len(several) > len(floats):
        raise Unusable(f"returns {len(several)} gradients for {len(floats)} arrays of floats")
    arrays = {k: np.asarray(gradient, dtype=float) for k, gradient in zip(floats, several, strict=False)}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise Unusable("returns numbers that are not finite")
    return arrays


def differences(caller: Caller, inputs: Inputs, k: int, dy: Array, step: float) -> Array:
    """Return the gradient of ⟨dy, y⟩ with respect to argument k, by central differences."""
    return numeric(lambda x: caller.call((*inputs[:k], x, *inputs[k + 1 :])), inputs[k], dy, step)


def numeric(function: Any, x: Array, dy: Array, step: float) -> Array:
    gradient = np.zeros(x.shape)  # of the shape of x
    for where in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[where] += step
        back[where] -= step
        change = np.asarray(function(there), float) - np.asarray(function(back), float)
        gradient[where] = np.sum(dy * change) / (there[where] - back[where])
    return gradient


def _off(found: Array, right: Array) -> float:
    largest = max(np.abs(found).max(), np.abs(right).max())
    return float(np.abs(found - right).max() / largest) if largest > 0 else 0.0


def _what_instead(found: Array, right: Array, known: Callable[[], dict[str, Array]]) -> str:
    """Return what a wrong gradient is."""
    if np.abs(found).max() == 0:
        return "the gradient is 0 everywhere"
    factor = float((found * right).sum() / (right**2).sum())
    if _off(found, factor * right) < 1e-3:
        return f"the gradient is {factor:.4g} times the right one"
    for says, wrong in known().items():
        if _off(found, wrong) < 1e-3:
            return says
    return "the gradient is not that of the code"


CONSTANT_COUPLINGS = (
    "the gradient takes the couplings for constants, though the forward pass makes them of votes"
)


VOTES_OF: dict[str, Callable[..., Array]] = {
    "routing": lambda u_hat: u_hat,
    "capsule_layer": votes,
    "conv_capsules": lambda u, W, stride, **settings: at_positions(conv_votes(u, W, stride, **settings)),
}


def known_wrong(
    name: str, inputs: Inputs, k: int, settings: Mapping[str, Any], dy: Array
) -> dict[str, Array]:
    """Return the gradients of argument k that codes are known to have in place of the right one."""
    if name == "squash":
        (s,) = inputs
        n = np.sqrt((s**2).sum(axis=-1, keepdims=True))  # (B, J, 1)
        return {"the gradient takes the length of s for a constant": n / (1 + n**2) * dy}
    if name not in VOTES_OF:
        return {}
    *others, iterations = inputs
    of_votes = {key: value for key, value in settings.items() if key in ("place", "samples")}
    u_hat = VOTES_OF[name](*others, **of_votes)  # (B, I, J, E), or (B, N, I, J, E)
    of_routing = {key: value for key, value in settings.items() if key not in of_votes}
    c = route(u_hat, iterations, **of_routing).c  # (B, I, J), or (B, N, I, J)
    compute = BANKS[name].compute

    def with_constants(x: Array) -> Array:
        return compute(*inputs[:k], x, *inputs[k + 1 :], **settings, couplings=c)

    return {CONSTANT_COUPLINGS: numeric(with_constants, inputs[k], dy, 1e-5)}


def _cost(says: str) -> str:
    if CONSTANT_COUPLINGS in says:
        return "-0.45 points of validation accuracy in the experiment ablation"
    return ""
