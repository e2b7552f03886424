"""Dynamic routing between capsules, forward and backward through every iteration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules.squash import Squash, SquashCache
from minicaps.checks import check_array, check_choice, check_flag, check_gradient, check_positive
from minicaps.layers.contract import Example, Layer


class PredictionArray(NamedTuple):
    """Prediction vectors as an array, as routing sees them."""

    u_hat: Array  # (B, I, J, E)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.u_hat.shape[:3]  # B, I, J

    def total(self) -> Array:
        """Return Σ_i û_ij (B, J, E)."""
        return self.u_hat.sum(axis=1)

    def combine(self, c: Array) -> Array:
        """Return s_j = Σ_i c_ij û_ij: c (B, I, J) -> s (B, J, E), one small product per (B, J)."""
        rows = c.transpose(0, 2, 1)[:, :, None]  # (B, J, 1, I)
        return (rows @ self.u_hat.transpose(0, 2, 1, 3))[:, :, 0]  # (B, J, E)

    def agree(self, v: Array) -> Array:
        """Return the agreements ⟨û_ij, v_j⟩: v (B, J, E) -> (B, I, J)."""
        products = self.u_hat.transpose(0, 2, 1, 3) @ v[..., None]  # (B, J, I, 1)
        return products[..., 0].transpose(0, 2, 1)  # (B, I, J), in memory still (B, J, I)


class RoutingCache(NamedTuple):
    """The course of one routing. Each list holds one entry for every iteration."""

    predictions: Any  # a PredictionArray, or what else has shape, total, combine and agree
    b: list[Array]  # (B, I, J), the logits that the iteration began with
    c: list[Array]  # (B, I, J), couplings; over the parents j they sum to 1
    s: list[Array]  # (B, J, E)
    v: list[Array]  # (B, J, E)
    squash: list[SquashCache]
    best: list[Array]  # (B, I), "hard" only: the chosen parent; J stands for none of them


class OuterProducts(NamedTuple):
    """The gradient dû_ij = Σ_k weights_kij · vectors_kj, a sum of K outer products."""

    weights: Array  # (J, B, K, I)
    vectors: Array  # (J, B, K, E)

    def of(self, samples: slice) -> OuterProducts:
        """Return those of some samples, a view."""
        return OuterProducts(self.weights[:, samples], self.vectors[:, samples])

    def put(self, k: int, weights: Array, vectors: Array) -> None:
        """Set outer product k: weights (B, I, J), vectors (B, J, E)."""
        self.weights[:, :, k] = weights.transpose(2, 0, 1)  # (J, B, I)
        self.vectors[:, :, k] = vectors.swapaxes(0, 1)  # (J, B, E)

    def to_array(self, lower: slice = slice(None)) -> Array:
        """Return dû of some lower capsules, by capsule: (I, B, J, E)."""
        xp = get_xp(self.weights)
        weights = self.weights[..., lower].swapaxes(2, 3)  # (J, B, I, K)
        parents, batch, count, _ = weights.shape
        shape = (count, batch, parents, self.vectors.shape[3])
        du_hat = xp.empty(shape, dtype=weights.dtype)  # (I, B, J, E)
        xp.matmul(weights, self.vectors, out=du_hat.transpose(2, 1, 0, 3))
        return du_hat


def softmax_over_parents(b: Array, leaky: bool = False) -> Array:
    """Return c_ij = exp b_ij / Σ_k exp b_ik (eq. 3) over the parents, the last axis: (B, I, J).

    With `leaky` the sum has one more term, exp 0: a parent for "none of the above", dropped after.
    """
    xp = get_xp(b)
    highest = b.max(axis=-1, keepdims=True)  # (B, I, 1); subtracted, so that exp cannot overflow
    if leaky:
        highest = xp.maximum(highest, 0)  # (B, I, 1)
    exp_b = xp.exp(b - highest)  # (B, I, J)
    total = exp_b.sum(axis=-1, keepdims=True)  # (B, I, 1)
    if leaky:
        total = total + xp.exp(-highest)  # (B, I, 1)
    return exp_b / total


def softmax_backward(dc: Array, c: Array) -> Array:
    """Return db = c (dc - Σ_j c dc), for both forms of the softmax: (B, I, J)."""
    return c * (dc - (c * dc).sum(axis=-1, keepdims=True))


def best_parent(b: Array, leaky: bool) -> Array:
    """Return argmax_j b_ij (B, I); with `leaky` J, "none", where all logits are below 0."""
    best = b.argmax(axis=-1)  # (B, I)
    return get_xp(b).where(b.max(axis=-1) < 0, b.shape[-1], best) if leaky else best


class DynamicRouting(Layer):
    r"""Routing by agreement (Sabour et al. 2017, procedure 1): which parent does a capsule serve?

    b¹ = 0; for r = 1..R: cʳ = softmax_j(bʳ), sʳ_j = Σ_i cʳ_ij û_ij (+ bias_j), vʳ = squash(sʳ),
    bʳ⁺¹ = bʳ + ⟨û_ij, vʳ_j⟩. The output is v^R.

    Gradient, through every iteration: dv = upstream, db = 0; for r = R..1: ds = squash'ᵀ dv;
    dû += cʳ ⊗ ds; and for r > 1: db += softmax'ᵀ⟨û, ds⟩, dû += db ⊗ vʳ⁻¹, dv = Σ_i db û.
    So dû is a sum of 2R - 1 outer products.

    Parameters
    ----------
    iterations : int
        R, 1 or more. With 1 the couplings stay uniform: a plain average.
    bias_shape : (int, int), optional
        (J, E): add a learned bias, which starts at 0.1, to every s (the authors' code does, the
        paper does not).
    leaky : bool
        One more parent, "none of the above", with a logit that is always 0.
    gradient : {"full", "stopped"}
        "stopped" takes the last couplings for constants, as some public codes do.
    coupling : {"softmax", "hard"}
        "hard" sends each lower capsule, from the second iteration on, to its best parent alone;
        the gradient flows along the chosen path.
    dtype : float32 or float64, of the bias
    """

    def __init__(
        self,
        iterations: int = 3,
        *,
        bias_shape: tuple[int, int] | None = None,
        leaky: bool = False,
        gradient: str = "full",
        coupling: str = "softmax",
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("DynamicRouting", iterations=iterations)
        check_flag("DynamicRouting", leaky=leaky)
        if bias_shape is not None and not (isinstance(bias_shape, tuple) and len(bias_shape) == 2):
            raise ValueError(f"DynamicRouting: bias_shape is {bias_shape!r}, expected (J, E)")
        check_choice("DynamicRouting", "gradient", gradient, ("full", "stopped"))
        check_choice("DynamicRouting", "coupling", coupling, ("softmax", "hard"))
        self.iterations, self.bias_shape, self.leaky = iterations, bias_shape, leaky
        self.gradient, self.coupling = gradient, coupling
        self.squash = Squash()
        if bias_shape is not None:
            self.add_param("bias", np.full(bias_shape, 0.1, dtype=dtype))  # (J, E)

    def forward(self, u_hat: Array) -> tuple[Array, RoutingCache]:
        """u_hat (B, I, J, E) -> v (B, J, E), of lengths 0 to 1."""
        bias = self.params.get("bias")
        parents, dimension = (None, None) if bias is None else bias.shape
        check_array("DynamicRouting.forward", "u_hat", u_hat, ("batch B", None),
                    ("lower capsules I", None), ("upper capsules J", parents),
                    ("capsule dimension E", dimension), like=bias)  # fmt: skip
        return self.route(PredictionArray(u_hat))

    def backward(self, dv: Array, cache: RoutingCache) -> Array:
        """dv (B, J, E) -> du_hat (B, I, J, E)."""
        check_gradient("DynamicRouting.backward", dv, cache.v[-1].shape, cache.v[-1])
        du_hat = self.outer_products(cache.predictions.shape, dv)
        dbias = self.route_backward(dv, cache, du_hat)
        if self.bias_shape is not None:
            self.grads["bias"] += dbias
        return du_hat.to_array().swapaxes(0, 1)  # (B, I, J, E)

    def route(self, predictions: Any) -> tuple[Array, RoutingCache]:
        """What ``forward`` does, for predictions of any kind and without its checks: v (B, J, E)."""
        total = predictions.total()  # (B, J, E)
        xp, share = get_xp(total), self._even_share(predictions.shape)
        b = xp.broadcast_to(xp.zeros(1, dtype=total.dtype), predictions.shape)  # (B, I, J)
        c = xp.broadcast_to(xp.full(1, share, dtype=total.dtype), predictions.shape)  # (B, I, J)
        s = total * share  # (B, J, E)
        cache = RoutingCache(predictions, [], [], [], [], [], [])
        for r in range(self.iterations):
            s = self._add_bias(s)  # (B, J, E)
            v, squash_cache = self.squash.forward(s)  # (B, J, E)
            cache.b.append(b)
            cache.c.append(c)
            cache.s.append(s)
            cache.v.append(v)
            cache.squash.append(squash_cache)
            if r < self.iterations - 1:
                b = b + predictions.agree(v)  # (B, I, J)
                c = self._couple(b, cache)  # (B, I, J)
                s = predictions.combine(c)  # (B, J, E)
        return v, cache

    def outer_products(self, shape: tuple[int, int, int], dv: Array) -> OuterProducts:
        """Return room for the gradient of predictions of the shape (B, I, J)."""
        xp, (batch, lower, parents) = get_xp(dv), shape
        count = 2 * self.iterations - 1 if self._through_couplings else 1  # K
        weights = xp.empty((parents, batch, count, lower), dtype=dv.dtype)  # (J, B, K, I)
        vectors = xp.empty((parents, batch, count, dv.shape[2]), dtype=dv.dtype)  # (J, B, K, E)
        return OuterProducts(weights, vectors)

    def route_backward(self, dv: Array, cache: RoutingCache, du_hat: OuterProducts) -> Array:
        """Fill du_hat, return dbias (J, E), and change nothing else."""
        dbias = db = 0
        for r in reversed(range(self.iterations)):
            ds = self.squash.backward(dv, cache.squash[r])  # (B, J, E)
            dbias = dbias + ds.sum(axis=0)  # (J, E)
            du_hat.put(2 * (self.iterations - 1 - r), cache.c[r], ds)
            if r == 0 or not self._through_couplings:
                break  # the couplings of the first iteration are constant
            dc = cache.predictions.agree(ds)  # (B, I, J)
            db = db + self._couple_backward(dc, cache.c[r])  # (B, I, J), b^r feeds b^(r+1) too
            du_hat.put(2 * (self.iterations - 1 - r) + 1, db, cache.v[r - 1])
            dv = cache.predictions.combine(db)  # (B, J, E)
        return dbias

    @property
    def _through_couplings(self) -> bool:
        return self.gradient == "full" and self.coupling == "softmax"

    def _add_bias(self, s: Array) -> Array:
        return s if self.bias_shape is None else s + self.params["bias"]  # (B, J, E)

    def _even_share(self, shape: tuple[int, int, int]) -> float:
        """Return the coupling for logits (B, I, J) that are all 0."""
        return 1 / (shape[2] + self.leaky)

    def _couple(self, b: Array, cache: RoutingCache) -> Array:
        if self.coupling == "softmax":
            return softmax_over_parents(b, self.leaky)  # (B, I, J)
        best = best_parent(b, self.leaky)  # (B, I)
        cache.best.append(best)
        return (best[..., None] == get_xp(b).arange(b.shape[-1])).astype(b.dtype)  # (B, I, J)

    def _couple_backward(self, dc: Array, c: Array) -> Array:
        return softmax_backward(dc, c)  # (B, I, J)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        for name, options in routing_options().items():
            u_hat = rng.normal(size=(2, 5, 3, 4)).astype(dtype)
            bias_shape = (3, 4) if options.pop("bias", False) else None
            layer = cls(**options, bias_shape=bias_shape, dtype=dtype)
            frozen = None
            if layer.gradient == "stopped":
                c = layer.forward(u_hat)[1].c[-1]

                def frozen(u_hat, layer=layer, c=c):
                    return layer.with_couplings(u_hat, c)

            yield Example(name, layer, (u_hat,), frozen)

    def with_couplings(self, u_hat: Array, c: Array) -> tuple[Array, SquashCache]:
        """Return v for given couplings c (B, I, J), which is what "stopped" differentiates."""
        return self.squash.forward(self._add_bias(PredictionArray(u_hat).combine(c)))


def routing_options() -> dict[str, dict[str, Any]]:
    """Return a set of options for every way to route, by name, for examples."""
    return {
        "1 iteration": {"iterations": 1},
        "3 iterations": {"iterations": 3},
        "bias": {"iterations": 2, "bias": True},
        "leaky": {"iterations": 3, "leaky": True},
        "stopped": {"iterations": 3, "gradient": "stopped", "bias": True},
        "hard": {"iterations": 3, "coupling": "hard"},
        "hard and leaky": {"iterations": 3, "coupling": "hard", "leaky": True},
    }
