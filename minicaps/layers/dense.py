"""The dense layer: every output is a weighted sum of all inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers.contract import Layer
from minicaps.layers.initialization import Seed, generator, uniform


class DenseCache(NamedTuple):
    x: Array  # (B, N)


class Dense(Layer):
    r"""A fully connected layer: y = x W + bias.

    Gradient: dx = dy Wᵀ, dW = xᵀ dy, dbias = Σ_B dy.

    Parameters
    ----------
    in_features, out_features : int
        N and M.
    rng : numpy.random.Generator or int, optional
        Source of the start values, U(±1/√N) for W (N, M) and bias (M,).
    dtype : float32 or float64
    """

    def __init__(
        self, in_features: int, out_features: int, *, rng: Seed = None, dtype: Any = np.float32
    ) -> None:
        super().__init__()
        check_positive("Dense", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        rng = generator(rng)
        self.add_param("W", uniform(rng, (in_features, out_features), in_features, dtype))  # (N, M)
        self.add_param("bias", uniform(rng, (out_features,), in_features, dtype))  # (M,)

    def forward(self, x: Array) -> tuple[Array, DenseCache]:
        """x (B, N) -> y (B, M)."""
        W, bias = self.params["W"], self.params["bias"]
        check_array("Dense.forward", "x", x, ("batch B", None), ("features N", W.shape[0]), like=W)
        y = x @ W + bias  # (B, N) @ (N, M) -> (B, M)
        return y, DenseCache(x)

    def backward(self, dy: Array, cache: DenseCache) -> Array:
        """dy (B, M) -> dx (B, N)."""
        W = self.params["W"]
        check_gradient("Dense.backward", dy, (len(cache.x), W.shape[1]), W)
        self.grads["bias"] += dy.sum(axis=0)  # (M,)
        self.grads["W"] += cache.x.T @ dy  # (N, B) @ (B, M) -> (N, M)
        return dy @ W.T  # (B, M) @ (M, N) -> (B, N)
