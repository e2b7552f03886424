"""Layer normalisation: the numbers of one vector get mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import any_axes, check_above_zero, check_array, check_gradient, check_positive
from minicaps.layers.contract import Layer


class LayerNormCache(NamedTuple):
    normal: Array  # (..., N), of mean 0 and standard deviation 1
    std: Array  # (..., 1)


def mean(x: Array) -> Array:
    """Return the mean over the last axis: (..., N) -> (..., 1)."""
    return x.mean(axis=-1, keepdims=True)  # (..., 1)


class LayerNorm(Layer):
    r"""y = gain ⊙ x̂ + bias with x̂ = (x - mean x)/std, over the last axis (Ba, Kiros and Hinton 2016).

    std = √(var x + ε); all vectors share gain and bias.

    Gradient: with g = gain ⊙ dy, dx = (g - mean g - x̂ mean(g ⊙ x̂))/std; dgain = Σ dy ⊙ x̂, dbias = Σ dy.

    Parameters
    ----------
    features : int
        N. gain (N,) starts at 1, bias (N,) at 0.
    epsilon : float
        ε, above 0: a vector whose numbers are all equal becomes the bias, unless they are so large that the
        rounding of their mean is more than √ε.
    dtype : float32 or float64

    References
    ----------
    Ba, Kiros and Hinton, `Layer normalization <https://arxiv.org/abs/1607.06450>`_, 2016.
    """

    def __init__(self, features: int, *, epsilon: float = 1e-5, dtype: Any = np.float32) -> None:
        super().__init__()
        check_positive("LayerNorm", features=features)
        check_above_zero("LayerNorm", epsilon=epsilon)
        self.features, self.epsilon = features, float(epsilon)
        self.add_param("gain", np.ones(features, dtype=dtype))  # (N,)
        self.add_param("bias", np.zeros(features, dtype=dtype))  # (N,)

    def forward(self, x: Array) -> tuple[Array, LayerNormCache]:
        """x (..., N) -> y (..., N)."""
        gain, bias = self.params["gain"], self.params["bias"]  # (N,), (N,)
        check_array("LayerNorm.forward", "x", x, *any_axes(x)[:-1], ("features N", self.features), like=gain)
        centred = x - self._mean(x)  # (..., N)
        variance = self._mean(centred * centred)  # (..., 1)
        std = get_xp(x).sqrt(variance + self.epsilon)  # (..., 1)
        normal = centred / std  # (..., N)
        return gain * normal + bias, LayerNormCache(normal, std)  # (..., N)

    def backward(self, dy: Array, cache: LayerNormCache) -> Array:
        """dy (..., N) -> dx (..., N)."""
        normal, std = cache  # (..., N), (..., 1)
        check_gradient("LayerNorm.backward", dy, normal.shape, normal)
        others = tuple(range(dy.ndim - 1))  # every axis but the last
        self.grads["gain"] += (dy * normal).sum(axis=others)  # (N,)
        self.grads["bias"] += dy.sum(axis=others)  # (N,)
        g = self.params["gain"] * dy  # (..., N)
        along = self._mean(g * normal)  # (..., 1)
        return (g - self._mean(g) - normal * along) / std  # (..., N)

    _mean = staticmethod(mean)  # fast.LayerNorm has a faster one
