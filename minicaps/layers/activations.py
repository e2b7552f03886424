"""The nonlinearities that work element by element, and the softmax."""

from __future__ import annotations

from typing import NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.checks import any_axes, check_array, check_gradient
from minicaps.layers.contract import Layer


class ReLUCache(NamedTuple):
    active: Array  # where x > 0; boolean, so a gradient check sees when a kink is crossed


class ReLU(Layer):
    r"""The rectifier, element by element: y = max(0, x).

    Gradient: dx = dy where x > 0, else 0 (also at x = 0).
    """

    def forward(self, x: Array) -> tuple[Array, ReLUCache]:
        """x of any shape -> y of the same shape."""
        check_array("ReLU.forward", "x", x, *any_axes(x))
        return get_xp(x).maximum(x, 0), ReLUCache(x > 0)

    def backward(self, dy: Array, cache: ReLUCache) -> Array:
        """dy of the shape of y -> dx of the same shape."""
        check_gradient("ReLU.backward", dy, cache.active.shape, dy)
        return dy * cache.active


class SigmoidCache(NamedTuple):
    y: Array


class Sigmoid(Layer):
    r"""The logistic function, element by element: y = 1/(1 + e^-x).

    Written as (1 + tanh(x/2))/2, the same number without an exponential that can overflow.
    Gradient: dx = y (1 - y) dy.
    """

    def forward(self, x: Array) -> tuple[Array, SigmoidCache]:
        """x of any shape -> y of the same shape, between 0 and 1."""
        check_array("Sigmoid.forward", "x", x, *any_axes(x))
        y = 0.5 * (1 + get_xp(x).tanh(0.5 * x))
        return y, SigmoidCache(y)

    def backward(self, dy: Array, cache: SigmoidCache) -> Array:
        """dy of the shape of y -> dx of the same shape."""
        check_gradient("Sigmoid.backward", dy, cache.y.shape, cache.y)
        return dy * cache.y * (1 - cache.y)


def softmax(x: Array) -> Array:
    """Return e^{x_k} / Σ_l e^{x_l} over the last axis, of the shape of x.

    The largest x is subtracted first, which changes nothing, so that no exponential can overflow.
    """
    e = get_xp(x).exp(x - x.max(axis=-1, keepdims=True))  # of the shape of x
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(dy: Array, y: Array) -> Array:
    """Return dx = y (dy - Σ y dy) for y = softmax(x)."""
    return y * (dy - (y * dy).sum(axis=-1, keepdims=True))
