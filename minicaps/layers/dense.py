"""Dense layers, the two nonlinearities, and reshaping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, generator, get_xp, matmul, parallel, pieces, uniform
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers.contract import Example, Layer


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
        self, in_features: int, out_features: int, *, rng: Any = None, dtype: Any = np.float32
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
        y = matmul(x, W) + bias  # (B, M)
        return y, DenseCache(x)

    def backward(self, dy: Array, cache: DenseCache) -> Array:
        """dy (B, M) -> dx (B, N)."""
        W = self.params["W"]
        check_gradient("Dense.backward", dy, (len(cache.x), W.shape[1]), W)
        self.grads["bias"] += dy.sum(axis=0)  # (M,)
        self.grads["W"] += matmul(cache.x.T, dy)  # (N, M)
        return matmul(dy, W.T)  # (B, N)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        layer = cls(5, 4, rng=rng, dtype=dtype)
        yield Example("5 to 4", layer, (rng.normal(size=(3, 5)).astype(dtype),))


class ReLUCache(NamedTuple):
    active: Array  # where x > 0; boolean, so a gradient check sees when a kink is crossed


class ReLU(Layer):
    r"""The rectifier, element by element: y = max(0, x).

    Gradient: dx = dy where x > 0, else 0 (also at x = 0).
    """

    def forward(self, x: Array) -> tuple[Array, ReLUCache]:
        """x of any shape -> y of the same shape."""
        xp = check_array("ReLU.forward", "x", x, *any_axes(x))
        y, active = xp.empty_like(x), xp.empty_like(x, dtype=bool)  # of the shape of x

        def work(k: slice) -> None:
            xp.maximum(x[k], 0, out=y[k])
            xp.greater(x[k], 0, out=active[k])

        parallel(work, pieces(len(x), x[0].size, xp))
        return y, ReLUCache(active)

    def backward(self, dy: Array, cache: ReLUCache) -> Array:
        """dy of the shape of y -> dx of the same shape."""
        check_gradient("ReLU.backward", dy, cache.active.shape, dy)
        xp = get_xp(dy)
        dx = xp.empty_like(dy)  # of the shape of dy
        parallel(lambda k: xp.multiply(dy[k], cache.active[k], out=dx[k]), pieces(len(dy), dy[0].size, xp))
        return dx

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        yield Example("away from 0", cls(), (away_from_zero(rng, (3, 4, 2)).astype(dtype),))


class SigmoidCache(NamedTuple):
    y: Array


class Sigmoid(Layer):
    r"""The logistic function, element by element: y = 1/(1 + e^-x).

    Written as (1 + tanh(x/2))/2, the same number without an exponential that can overflow.
    Gradient: dx = y (1 - y) dy.
    """

    def forward(self, x: Array) -> tuple[Array, SigmoidCache]:
        """x of any shape -> y of the same shape, between 0 and 1."""
        xp = check_array("Sigmoid.forward", "x", x, *any_axes(x))
        y = 0.5 * (1 + xp.tanh(0.5 * x))
        return y, SigmoidCache(y)

    def backward(self, dy: Array, cache: SigmoidCache) -> Array:
        """dy of the shape of y -> dx of the same shape."""
        check_gradient("Sigmoid.backward", dy, cache.y.shape, cache.y)
        return dy * cache.y * (1 - cache.y)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        yield Example("normal", cls(), (rng.normal(size=(3, 4, 2)).astype(dtype),))


class ReshapeCache(NamedTuple):
    shape: tuple[int, ...]  # of x


class Reshape(Layer):
    r"""The same numbers in another shape: y = x, sample by sample.

    Gradient: dx = dy in the shape of x.

    Parameters
    ----------
    *shape : int
        The new shape without the batch, as in ``Reshape(28, 28, 1)``.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        check_positive("Reshape", **{f"axis {k}": n for k, n in enumerate(shape, start=1)})
        self.shape = shape

    def forward(self, x: Array) -> tuple[Array, ReshapeCache]:
        """x (B, ...) -> y (B, *shape)."""
        check_array("Reshape.forward", "x", x, *any_axes(x))
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"Reshape.forward: x has shape {x.shape}, that is {math.prod(x.shape[1:])} numbers "
                f"in each sample, expected {math.prod(self.shape)} for the shape {self.shape}"
            )
        return x.reshape(len(x), *self.shape), ReshapeCache(x.shape)

    def backward(self, dy: Array, cache: ReshapeCache) -> Array:
        """dy (B, *shape) -> dx of the shape of x."""
        check_gradient("Reshape.backward", dy, (cache.shape[0], *self.shape), dy)
        return dy.reshape(cache.shape)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        x = rng.normal(size=(2, 3, 4)).astype(dtype)
        yield Example("split", cls(2, 6), (x,))


class Flatten(Layer):
    r"""Every sample as one row: (B, H, W, C) -> (B, H·W·C), in row-major order.

    Gradient: dx = dy in the shape of x.
    """

    def forward(self, x: Array) -> tuple[Array, ReshapeCache]:
        """x (B, ...) -> y (B, N)."""
        check_array("Flatten.forward", "x", x, *any_axes(x))
        return x.reshape(len(x), -1), ReshapeCache(x.shape)

    def backward(self, dy: Array, cache: ReshapeCache) -> Array:
        """dy (B, N) -> dx of the shape of x."""
        shape = (cache.shape[0], math.prod(cache.shape[1:]))
        check_gradient("Flatten.backward", dy, shape, dy)
        return dy.reshape(cache.shape)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        yield Example("image", cls(), (rng.normal(size=(2, 3, 4, 5)).astype(dtype),))


def any_axes(x: Array) -> list[tuple[str, None]]:
    """Axes for ``check_array`` that allow any shape with a batch axis and no empty axis."""
    return [("batch B", None)] + [(f"axis {k}", None) for k in range(1, len(getattr(x, "shape", ())))]


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers with 0.1 < |x| < 2, for examples of layers with a kink at 0."""
    return rng.uniform(0.1, 2.0, size=shape) * rng.choice([-1.0, 1.0], size=shape)
