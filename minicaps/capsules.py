"""Capsule layers: primary capsules, prediction vectors, and the routed capsule layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minicaps.backend import Array, generator, get_xp
from minicaps.conv import Conv2d, Pair
from minicaps.layer import Example, Layer, check_array, check_gradient, check_positive
from minicaps.routing import DynamicRouting, OuterProducts, RoutingCache, routing_options
from minicaps.squash import Squash


class PrimaryCaps(Layer):
    r"""The first capsules: a convolution whose channels are read as vectors (Sabour et al. 2017, §4).

    u = squash(reshape(conv(x))). Images are channels-last, so the D numbers of one capsule are D
    neighbouring channels at one place, and the reshape cannot mix places. Capsule number
    i = (p·Q + q)·types + t stands at row p, column q and is of type t.

    Gradient: that of its parts, in reverse.

    Deviation: no nonlinearity before squash and no scaling by 1/32, which the authors' code has.

    Parameters
    ----------
    in_channels : int
        C.
    types, dimension : int
        How many capsules stand at each place, and D.
    kernel_size, stride, padding : int or (int, int)
        Of the convolution.
    rng, dtype
        As for Conv2d.
    """

    def __init__(
        self,
        in_channels: int,
        types: int,
        dimension: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("PrimaryCaps", in_channels=in_channels, types=types, dimension=dimension)
        self.in_channels, self.types, self.dimension = in_channels, types, dimension
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.add_sublayers(
            conv=Conv2d(in_channels, types * dimension, kernel_size, stride=stride,
                        padding=padding, rng=rng, dtype=dtype),
            squash=Squash(),
        )  # fmt: skip

    def forward(self, x: Array) -> tuple[Array, tuple]:
        """x (B, H, W, C) -> u (B, P·Q·types, D)."""
        y, conv_cache = self.conv.forward(x)  # (B, P, Q, types·D)
        s = y.reshape(len(y), -1, self.dimension)  # (B, I, D)
        u, squash_cache = self.squash.forward(s)  # (B, I, D)
        return u, (conv_cache, squash_cache, y.shape)

    def backward(self, du: Array, cache: tuple) -> Array:
        """du (B, I, D) -> dx (B, H, W, C)."""
        conv_cache, squash_cache, shape = cache
        ds = self.squash.backward(du, squash_cache)  # (B, I, D)
        return self.conv.backward(ds.reshape(shape), conv_cache)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        x = rng.normal(size=(2, 6, 5, 3)).astype(dtype)
        for name, options in {"plain": {}, "stride and padding": {"stride": 2, "padding": 1}}.items():
            layer = cls(3, 2, 4, (3, 2), rng=rng, dtype=dtype, **options)
            yield Example(name, layer, (x,))


class PredictionCache(NamedTuple):
    u: Array  # (B, I, D)


class PredictionVectors(Layer):
    r"""Every lower capsule predicts every upper one: û_ij = u_i W_ij (Sabour et al. 2017, eq. 2).

    Gradient: du_i = Σ_j dû_ij W_ijᵀ, dW_ij = Σ_B u_iᵀ dû_ij.

    Parameters
    ----------
    lower_capsules, lower_dimension, upper_capsules, upper_dimension : int
        I, D, J and E.
    deviation : float
        W (I, D, J, E) starts as N(0, deviation²).
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64
    """

    def __init__(
        self,
        lower_capsules: int,
        lower_dimension: int,
        upper_capsules: int,
        upper_dimension: int,
        *,
        deviation: float = 0.05,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        sizes = {"lower_capsules": lower_capsules, "lower_dimension": lower_dimension,
                 "upper_capsules": upper_capsules, "upper_dimension": upper_dimension}  # fmt: skip
        check_positive(type(self).__name__, **sizes)
        self.__dict__.update(sizes, deviation=deviation)
        shape = tuple(sizes.values())
        W = generator(rng).normal(0.0, deviation, size=shape).astype(dtype)  # (I, D, J, E)
        self.add_param("W", W)

    def forward(self, u: Array) -> tuple[Array, PredictionCache]:
        """u (B, I, D) -> u_hat (B, I, J, E)."""
        W = self.params["W"]
        check_lower_capsules("PredictionVectors.forward", u, W)
        u_hat = by_capsule(u) @ W.reshape(*W.shape[:2], -1)  # (I, B, J·E)
        return by_capsule(u_hat).reshape(*u.shape[:2], *W.shape[2:]), PredictionCache(u)

    def backward(self, du_hat: Array, cache: PredictionCache) -> Array:
        """du_hat (B, I, J, E) -> du (B, I, D)."""
        W, u = self.params["W"], cache.u
        check_gradient("PredictionVectors.backward", du_hat, (*u.shape[:2], *W.shape[2:]), W)
        rows = by_capsule(du_hat.reshape(*u.shape[:2], -1))  # (I, B, J·E)
        self.grads["W"] += (u.transpose(1, 2, 0) @ rows).reshape(W.shape)  # (I, D, J, E)
        du = rows @ W.reshape(*W.shape[:2], -1).transpose(0, 2, 1)  # (I, B, D)
        return by_capsule(du)  # (B, I, D)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        u = rng.normal(size=(2, 5, 4)).astype(dtype)
        yield Example("start", cls(5, 4, 3, 6, rng=rng, dtype=dtype), (u,))
        yield Example("large W", cls(5, 4, 3, 6, deviation=0.5, rng=rng, dtype=dtype), (u,))


class FactoredPredictions(NamedTuple):
    """Prediction vectors held as u and W, so that û, by far the largest array, is never built.

    Σ_i c_ij û_ij = Σ_i (c_ij u_i) W_ij and ⟨û_ij, v_j⟩ = ⟨u_i, W_ij v_j⟩: for every parent j one
    matrix product between (B, I·D) and (I·D, E). ``PredictionArray`` is the plain twin.
    """

    u: Array  # (B, I, D)
    W: Array  # (I, D, J, E)

    @property
    def u_hat(self) -> Array:
        W = self.W.reshape(*self.W.shape[:2], -1)  # (I, D, J·E)
        return by_capsule(by_capsule(self.u) @ W).reshape(*self.u.shape[:2], *self.W.shape[2:])

    def matrix(self, j: int) -> Array:
        """Return the weights to parent j as one matrix (I·D, E), a view."""
        return self.W.reshape(-1, *self.W.shape[2:])[:, j]

    def weighted(self, c: Array, j: int) -> Array:
        """Return the capsules weighted by c_ij as rows: (B, I·D)."""
        return (c[:, :, j, None] * self.u).reshape(len(self.u), -1)

    def back(self, v: Array, j: int) -> Array:
        """Return W_ij v_j (B, I, D)."""
        return (v[:, j] @ self.matrix(j).T).reshape(self.u.shape)

    def combine(self, c: Array) -> Array:
        xp, parents = get_xp(c), range(self.W.shape[2])
        return xp.stack([self.weighted(c, j) @ self.matrix(j) for j in parents], axis=1)  # (B, J, E)

    def agree(self, v: Array) -> Array:
        xp, parents = get_xp(v), range(self.W.shape[2])
        return xp.stack([(self.u * self.back(v, j)).sum(axis=-1) for j in parents], axis=2)  # (B, I, J)

    def backward(self, du_hat: OuterProducts) -> tuple[Array, Array]:
        """Return du (B, I, D) and dW (I, D, J, E) for dû = Σ_k weight_k ⊗ vector_k."""
        xp = get_xp(self.u)
        du = xp.zeros_like(self.u)  # (B, I, D)
        dW = xp.zeros_like(self.W)  # (I, D, J, E)
        dW_rows = dW.reshape(-1, *self.W.shape[2:])  # (I·D, J, E), a view
        for j in range(self.W.shape[2]):
            for weight, vector in zip(du_hat.weights, du_hat.vectors, strict=True):
                du += weight[:, :, j, None] * self.back(vector, j)
                dW_rows[:, j] += self.weighted(weight, j).T @ vector[:, j]
        return du, dW


class CapsuleLayer(Layer):
    r"""Prediction vectors and dynamic routing in one: v = route(u W) (Sabour et al. 2017, §2).

    It computes what ``Sequential(prediction=PredictionVectors(...), routing=DynamicRouting(...))``
    does, under the same parameter names, without building û (B, I, J, E).

    Gradient: dû from DynamicRouting as 2R - 1 outer products weight_k ⊗ vector_k; then
    du_i = Σ_k Σ_j weight_k,ij W_ij vector_k,j and dW_ij = Σ_B Σ_k (weight_k,ij u_i)ᵀ vector_k,j.

    Parameters
    ----------
    lower_capsules, lower_dimension, upper_capsules, upper_dimension, deviation
        As for PredictionVectors.
    iterations, leaky, gradient, coupling
        As for DynamicRouting.
    bias : bool
        Add a learned bias (J, E) to every s.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64
    """

    def __init__(
        self,
        lower_capsules: int,
        lower_dimension: int,
        upper_capsules: int,
        upper_dimension: int,
        *,
        iterations: int = 3,
        bias: bool = False,
        leaky: bool = False,
        gradient: str = "full",
        coupling: str = "softmax",
        deviation: float = 0.05,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        self.iterations, self.bias, self.leaky = iterations, bias, leaky
        self.gradient, self.coupling, self.deviation = gradient, coupling, deviation
        bias_shape = (upper_capsules, upper_dimension) if bias else None
        self.add_sublayers(
            prediction=PredictionVectors(
                lower_capsules, lower_dimension, upper_capsules, upper_dimension,
                deviation=deviation, rng=rng, dtype=dtype),
            routing=DynamicRouting(
                iterations, bias_shape=bias_shape, leaky=leaky, gradient=gradient,
                coupling=coupling, dtype=dtype),
        )  # fmt: skip

    def forward(self, u: Array) -> tuple[Array, RoutingCache]:
        """u (B, I, D) -> v (B, J, E), of lengths 0 to 1."""
        W = self.prediction.params["W"]
        xp = check_lower_capsules("CapsuleLayer.forward", u, W)
        b = xp.zeros((*u.shape[:2], W.shape[2]), dtype=u.dtype)  # (B, I, J)
        return self.routing.route(FactoredPredictions(u, W), b)

    def backward(self, dv: Array, cache: RoutingCache) -> Array:
        """dv (B, J, E) -> du (B, I, D)."""
        check_gradient("CapsuleLayer.backward", dv, cache.v[-1].shape, cache.v[-1])
        du_hat = self.routing.route_backward(dv, cache)
        du, dW = cache.predictions.backward(du_hat)  # (B, I, D), (I, D, J, E)
        self.prediction.grads["W"] += dW
        return du

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        for name, options in {**routing_options(), "small W": {"deviation": 0.1}}.items():
            u = rng.normal(size=(2, 5, 3)).astype(dtype)
            layer = cls(5, 3, 4, 6, **{"deviation": 0.7, **options}, rng=rng, dtype=dtype)
            frozen = None
            if layer.gradient == "stopped":
                c = layer.forward(u)[1].c[-1]

                def frozen(u, layer=layer, c=c):
                    return layer.with_couplings(u, c)

            yield Example(name, layer, (u,), frozen)

    def with_couplings(self, u: Array, c: Array) -> tuple[Array, Any]:
        """Return v for given couplings c (B, I, J), which is what "stopped" differentiates."""
        return self.routing.with_couplings(FactoredPredictions(u, self.prediction.params["W"]), c)


def by_capsule(u: Array) -> Array:
    """Swap the batch and the capsule axis, a view: one matrix per capsule."""
    return u.transpose(1, 0, 2)


def check_lower_capsules(place: str, u: Array, W: Array) -> Any:
    """Check that u is (B, I, D) for W (I, D, J, E), and return its library."""
    return check_array(place, "u", u, ("batch B", None), ("lower capsules I", W.shape[0]),
                       ("capsule dimension D", W.shape[1]), like=W)  # fmt: skip
