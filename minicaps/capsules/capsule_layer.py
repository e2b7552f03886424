"""Capsule layers: primary capsules, prediction vectors, and the routed capsule layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, generator, get_xp, parallel, pieces
from minicaps.capsules.dynamic_routing import DynamicRouting, OuterProducts, RoutingCache, routing_options
from minicaps.capsules.squash import Squash
from minicaps.checks import check_array, check_flag, check_gradient, check_number, check_positive
from minicaps.layers.contract import Example, Layer
from minicaps.layers.convolution import Conv2d, Pair


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
        check_positive("PredictionVectors", **sizes)
        check_number("PredictionVectors", deviation=deviation)
        self.__dict__.update(sizes, deviation=deviation)
        shape = tuple(sizes.values())
        W = generator(rng).normal(0.0, deviation, size=shape).astype(dtype)  # (I, D, J, E)
        self.add_param("W", W)

    def forward(self, u: Array) -> tuple[Array, PredictionCache]:
        """u (B, I, D) -> u_hat (B, I, J, E)."""
        W = self.params["W"]
        check_lower_capsules("PredictionVectors.forward", u, W)
        return predict(u, W), PredictionCache(u)

    def backward(self, du_hat: Array, cache: PredictionCache) -> Array:
        """du_hat (B, I, J, E) -> du (B, I, D)."""
        W, u = self.params["W"], cache.u
        check_gradient("PredictionVectors.backward", du_hat, (*u.shape[:2], *W.shape[2:]), W)
        du, dW = predict_backward(du_hat, u, W)  # (B, I, D), (I, D, J, E)
        self.grads["W"] += dW
        return du

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        u = rng.normal(size=(2, 5, 4)).astype(dtype)
        yield Example("start", cls(5, 4, 3, 6, rng=rng, dtype=dtype), (u,))
        yield Example("large W", cls(5, 4, 3, 6, deviation=0.5, rng=rng, dtype=dtype), (u,))


class Factors(NamedTuple):
    r"""Prediction vectors û_ij = u_i W_ij as routing sees them, without û itself ever being built.

    Routing asks for two things. In the first, Σ_i c_ij (u_i W_ij) = Σ_i (c_ij u_i) W_ij, so the
    couplings can go to u, before one matrix product over all i. In the second,
    ⟨u_i W_ij, v_j⟩ = ⟨u_i, W_ij v_j⟩. Either way there are D numbers for a pair of capsules instead
    of û's E, and less memory to move. I stands last because it is the longest axis.
    """

    u: Array  # (D, B, I)
    W: Array  # (J, D, E, I)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.u.shape[1], self.u.shape[2], len(self.W)  # B, I, J

    def total(self) -> Array:
        """Return Σ_i û_ij (B, J, E)."""
        return self._times_W(self.u)

    def combine(self, c: Array) -> Array:
        """Return s_j = Σ_i (c_ij u_i) W_ij: c (B, I, J) -> s (B, J, E)."""
        return self._times_W(self.u * c.transpose(2, 0, 1)[:, None])  # from (J, D, B, I)

    def agree(self, v: Array) -> Array:
        """Return the agreements ⟨u_i, W_ij v_j⟩: v (B, J, E) -> (B, I, J)."""
        Wv = v.swapaxes(0, 1)[:, None] @ self.W  # (J, D, B, I)
        agreement = get_xp(v).einsum("dbi,jdbi->jbi", self.u, Wv)  # (J, B, I)
        return agreement.transpose(1, 2, 0)  # (B, I, J)

    def _times_W(self, x: Array) -> Array:
        """Return Σ_i x_i W_ij for x ([J,] D, B, I): (B, J, E)."""
        return (x @ self.W.swapaxes(2, 3)).sum(axis=1).swapaxes(0, 1)  # (J, D, B, E) -> (B, J, E)


class CapsuleCache(NamedTuple):
    """What CapsuleLayer keeps.

    ``cache.b``, ``c``, ``s`` and ``v`` are lists with one array of the whole batch per iteration.
    """

    u: Array  # (B, I, D)
    parts: list[tuple[slice, RoutingCache]]  # the samples of each chunk, and its routing

    def _whole(self, name: str) -> list[Array]:
        xp = get_xp(self.u)
        chunks = [getattr(routing, name) for _, routing in self.parts]
        return [xp.concatenate(arrays) for arrays in zip(*chunks, strict=True)]

    @property
    def b(self) -> list[Array]:
        return self._whole("b")  # each (B, I, J)

    @property
    def c(self) -> list[Array]:
        return self._whole("c")  # each (B, I, J)

    @property
    def s(self) -> list[Array]:
        return self._whole("s")  # each (B, J, E)

    @property
    def v(self) -> list[Array]:
        return self._whole("v")  # each (B, J, E)


class CapsuleLayer(Layer):
    r"""Prediction vectors and dynamic routing in one: v = route(u W) (Sabour et al. 2017, §2).

    It computes what ``Sequential(prediction=PredictionVectors(...), routing=DynamicRouting(...))``
    does, under the same parameter names, but û (B, I, J, E), by far the largest array, is never
    built: see ``Factors``. Threads take a few samples each.

    Gradient: that of both parts, in reverse. Here dû is needed, for du_i = Σ_j dû_ij W_ijᵀ and
    dW_ij = Σ_B u_iᵀ dû_ij, but it is a sum of outer products, so it is made for a few lower
    capsules at a time, used while it is in the cache, and dropped.

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
        check_flag("CapsuleLayer", bias=bias)
        self.iterations, self.bias, self.leaky = iterations, bias, leaky
        self.gradient, self.coupling, self.deviation = gradient, coupling, deviation
        self._by_parent: Array | None = None  # set by for_inference
        bias_shape = (upper_capsules, upper_dimension) if bias else None
        self.add_sublayers(
            prediction=PredictionVectors(
                lower_capsules, lower_dimension, upper_capsules, upper_dimension,
                deviation=deviation, rng=rng, dtype=dtype),
            routing=DynamicRouting(
                iterations, bias_shape=bias_shape, leaky=leaky, gradient=gradient,
                coupling=coupling, dtype=dtype),
        )  # fmt: skip

    def forward(self, u: Array) -> tuple[Array, CapsuleCache]:
        """u (B, I, D) -> v (B, J, E), of lengths 0 to 1."""
        W = self.prediction.params["W"]
        xp = check_lower_capsules("CapsuleLayer.forward", u, W)
        v = xp.empty((len(u), *W.shape[2:]), dtype=u.dtype)  # (B, J, E)
        by_parent = self._weights_by_parent() if self._by_parent is None else self._by_parent

        def work(chunk: slice) -> tuple[slice, RoutingCache]:
            by_dimension = xp.ascontiguousarray(u[chunk].transpose(2, 0, 1))  # (D, B, I)
            v[chunk], routing = self.routing.route(Factors(by_dimension, by_parent))
            return chunk, routing

        return v, CapsuleCache(u, parallel(work, pieces(len(u), u[0].size * W.shape[2], xp)))

    def for_inference(self) -> CapsuleLayer:
        """Return a snapshot that has brought its weights into order once, not for every batch."""
        snapshot = copy.deepcopy(self)
        snapshot._by_parent = self._weights_by_parent()
        return snapshot.freeze()

    def _weights_by_parent(self) -> Array:
        W = self.prediction.params["W"]
        return get_xp(W).ascontiguousarray(W.transpose(2, 1, 3, 0))  # (J, D, E, I)

    def backward(self, dv: Array, cache: CapsuleCache) -> Array:
        """dv (B, J, E) -> du (B, I, D)."""
        W, u = self.prediction.params["W"], cache.u
        check_gradient("CapsuleLayer.backward", dv, (len(u), *W.shape[2:]), u)
        du_hat = self.routing.outer_products((*u.shape[:2], W.shape[2]), dv)

        def work(part: tuple[slice, RoutingCache]) -> Array:
            chunk, routing = part
            return self.routing.route_backward(dv[chunk], routing, du_hat.of(chunk))

        dbias = sum(parallel(work, cache.parts))  # (J, E); in order, so it has the same bits each time
        if self.bias:
            self.routing.grads["bias"] += dbias
        return self._through_prediction(du_hat, u)

    def _through_prediction(self, du_hat: OuterProducts, u: Array) -> Array:
        """Return du (B, I, D) and add dW, some lower capsules at a time."""
        xp, W, dW = get_xp(u), self.prediction.params["W"], self.prediction.grads["W"]
        du = xp.empty_like(u)  # (B, I, D)

        def work(lower: slice) -> None:
            block = du_hat.to_array(lower).swapaxes(0, 1)  # (B, I, J, E)
            du[:, lower], dW_block = predict_backward(block, u[:, lower], W[lower])
            dW[lower] += dW_block

        parallel(work, pieces(len(W), len(u) * W[0, 0].size, xp))
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
        return self.routing.with_couplings(predict(u, self.prediction.params["W"]), c)


def predict(u: Array, W: Array) -> Array:
    """Return û_ij = u_i W_ij (B, I, J, E), in memory (I, B, J, E): one matrix product per capsule."""
    u_hat = by_capsule(u) @ W.reshape(*W.shape[:2], -1)  # (I, B, J·E)
    return by_capsule(u_hat).reshape(*u.shape[:2], *W.shape[2:])  # (B, I, J, E), a view


def predict_backward(du_hat: Array, u: Array, W: Array) -> tuple[Array, Array]:
    """Return du (B, I, D) and dW (I, D, J, E) for û = predict(u, W)."""
    rows = by_capsule(du_hat).reshape(*by_capsule(u).shape[:2], -1)  # (I, B, J·E)
    dW = u.transpose(1, 2, 0) @ rows  # (I, D, J·E)
    du = rows @ W.reshape(*W.shape[:2], -1).transpose(0, 2, 1)  # (I, B, D)
    return by_capsule(du), dW.reshape(W.shape)


def by_capsule(x: Array) -> Array:
    """Swap the batch and the capsule axis, a view: one matrix per capsule."""
    return x.swapaxes(0, 1)


def check_lower_capsules(place: str, u: Array, W: Array) -> Any:
    """Check that u is (B, I, D) for W (I, D, J, E), and return its library."""
    return check_array(place, "u", u, ("batch B", None), ("lower capsules I", W.shape[0]),
                       ("capsule dimension D", W.shape[1]), like=W)  # fmt: skip
