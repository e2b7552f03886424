"""The dense layer, its three products shared out among threads where they are large."""

from __future__ import annotations

from minicaps import layers
from minicaps.arrays import Array
from minicaps.checks import check_array, check_gradient
from minicaps.fast.precision import operand, result
from minicaps.fast.threads import matmul
from minicaps.layers import DenseCache


class Dense(layers.Dense):
    """layers.Dense, with the products of matrices on several threads."""

    def forward(self, x: Array) -> tuple[Array, DenseCache]:
        W, bias = self.params["W"], self.params["bias"]
        check_array("Dense.forward", "x", x, ("batch B", None), ("features N", W.shape[0]), like=W)
        x = operand(self, x)  # (B, N)
        y = result(self, matmul(x, operand(self, W))) + bias  # (B, N) @ (N, M) -> (B, M)
        return y, DenseCache(x)

    def backward(self, dy: Array, cache: DenseCache) -> Array:
        W = self.params["W"]
        check_gradient("Dense.backward", dy, (len(cache.x), W.shape[1]), W)
        self.grads["bias"] += dy.sum(axis=0)  # (M,)
        dy = operand(self, dy)  # (B, M)
        self.grads["W"] += result(self, matmul(cache.x.T, dy))  # (N, B) @ (B, M) -> (N, M)
        return result(self, matmul(dy, operand(self, W).T))  # (B, M) @ (M, N) -> (B, N)
