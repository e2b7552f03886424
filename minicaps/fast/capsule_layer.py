r"""The capsule layer without ever building û (B, I, J, E), by far its largest array.

**Forward.** Routing asks for two things. In Σ_i c_ij (u_i W_ij) = Σ_i (c_ij u_i) W_ij the couplings can
go to u, before one product over all i. And ⟨u_i W_ij, v_j⟩ = ⟨u_i, W_ij v_j⟩. Either way there are D
numbers for a pair of capsules where û has E: half, in the paper. In the first iteration all
couplings are one number, so that s is a share of Σ_i u_i W_ij, without a product with c.

**Backward.** Here dû is needed, for du_i = Σ_j dû_ij W_ijᵀ and dW_ij = Σ_B u_iᵀ dû_ij. But by the loop of
DynamicRouting.backward it is a sum of K = 2R - 1 outer products, cʳ ⊗ dsʳ and db ⊗ vʳ⁻¹, so it is made for
a few lower capsules at a time, used while it is in the processor's cache, and dropped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import Coupling, Frozen, Hard, Iteration, Leaky, Softmax, Stopped
from minicaps.checks import check_gradient
from minicaps.fast.dynamic_routing import DynamicRouting
from minicaps.fast.threads import parallel, work_slices


class FactoredVotes(NamedTuple):
    """û_ij = u_i W_ij by its factors. I stands last because it is the longest axis."""

    u: Array  # (D, B, I)
    W: Array  # (J, D, E, I)

    def total(self) -> Array:
        """Return Σ_i û_ij (B, J, E)."""
        return self._times_W(self.u)

    def combine(self, c: Array) -> Array:
        """Return s_j = Σ_i (c_ij u_i) W_ij: c (B, I, J) -> s (B, J, E)."""
        return self._times_W(self.u * c.transpose(2, 0, 1)[:, None])  # (D, B, I) (J, 1, B, I) -> (J, D, B, I)

    def agree(self, v: Array) -> Array:
        """Return the agreements ⟨u_i, W_ij v_j⟩: v (B, J, E) -> (B, I, J)."""
        Wv = v.swapaxes(0, 1)[:, None] @ self.W  # (J, 1, B, E) @ (J, D, E, I) -> (J, D, B, I)
        agreement = get_xp(v).einsum("dbi,jdbi->jbi", self.u, Wv)  # (J, B, I)
        return agreement.transpose(1, 2, 0)  # (B, I, J)

    def _times_W(self, x: Array) -> Array:
        """Return Σ_i x_i W_ij for x ([J,] D, B, I): (B, J, E)."""
        products = x @ self.W.swapaxes(2, 3)  # ([J,] D, B, I) @ (J, D, I, E) -> (J, D, B, E)
        return products.sum(axis=1).swapaxes(0, 1)  # (B, J, E)


class OuterProducts(NamedTuple):
    """The gradient dû_ij = Σ_k weights_kij · vectors_kj, a sum of K outer products."""

    weights: Array  # (J, B, K, I)
    vectors: Array  # (J, B, K, E)

    def of_samples(self, samples: slice) -> OuterProducts:
        """Return those of some samples, a view."""
        return OuterProducts(self.weights[:, samples], self.vectors[:, samples])

    def set_product(self, k: int, weights: Array, vectors: Array) -> None:
        """Set outer product k: weights (B, I, J), vectors (B, J, E)."""
        self.weights[:, :, k] = weights.transpose(2, 0, 1)  # (J, B, I)
        self.vectors[:, :, k] = vectors.swapaxes(0, 1)  # (J, B, E)

    def of_capsules(self, lower: slice) -> Array:
        """Return dû of some lower capsules, by capsule: (i, B, J, E)."""
        xp = get_xp(self.weights)
        weights = self.weights[..., lower].swapaxes(2, 3)  # (J, B, i, K)
        J, B, i, _ = weights.shape
        du_hat = xp.empty((i, B, J, self.vectors.shape[3]), dtype=weights.dtype)  # (i, B, J, E)
        xp.matmul(weights, self.vectors, out=du_hat.transpose(2, 1, 0, 3))  # (J, B, i, K) @ (J, B, K, E)
        return du_hat


class SliceCache(NamedTuple):
    """The routing of some samples."""

    samples: slice
    votes: FactoredVotes
    iterations: list[Iteration]


class CapsuleCache(NamedTuple):
    """What CapsuleLayer keeps; ``b``, ``c``, ``s``, ``v`` are lists with one array per iteration."""

    u: Array  # (B, I, D)
    slices: list[SliceCache]

    def _whole(self, name: str) -> list[Array]:
        each = [[getattr(iteration, name) for iteration in part.iterations] for part in self.slices]
        return [get_xp(self.u).concatenate(arrays) for arrays in zip(*each, strict=True)]

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


class CapsuleLayer(capsules.CapsuleLayer):
    """capsules.CapsuleLayer, without ever building û, and some samples on each thread.

    That is for dynamic routing; any other does what its definition says.
    """

    DynamicRouting = DynamicRouting

    def forward(self, u: Array, *activations: Array) -> tuple[Any, Any]:
        if activations or not is_written_out_here(self.routing):
            return super().forward(u, *activations)
        self._check_input(u)
        xp, W = get_xp(u), self.votes.params["W"]  # (I, D, J, E)
        I, D, J, E = W.shape
        by_parent = self._kept("by parent", W, lambda: xp.ascontiguousarray(W.transpose(2, 1, 3, 0)))
        share = even_share(self.routing.coupling, xp.zeros((1, I, J), dtype=u.dtype))
        v = xp.empty((len(u), J, E), dtype=u.dtype)  # (B, J, E)

        def work(samples: slice) -> SliceCache:
            by_dimension = xp.ascontiguousarray(u[samples].transpose(2, 0, 1))  # (D, B, I)
            votes = FactoredVotes(by_dimension, by_parent)
            iterations = route(self.routing, votes, share)
            v[samples] = iterations[-1].v
            return SliceCache(samples, votes, iterations)

        return v, CapsuleCache(u, parallel(work, work_slices(len(u), I * D * J, xp)))

    def backward(self, dv: Any, cache: Any) -> Any:
        if not isinstance(cache, CapsuleCache):
            return super().backward(dv, cache)
        u, W = cache.u, self.votes.params["W"]  # (B, I, D), (I, D, J, E)
        check_gradient("CapsuleLayer.backward", dv, (len(u), *W.shape[2:]), u)
        gradient = self._empty_products(dv, u, len(cache.slices[0].iterations))

        def work(part: SliceCache) -> Array:
            return route_backward(self.routing, dv[part.samples], part, gradient.of_samples(part.samples))

        # In order, so that sums have the same bits each time; what the routing's layers learn, they add up
        # themselves, one slice after the other.
        inside = self.routing.coupling.params or self.routing.squash.params
        each = list(map(work, cache.slices)) if inside else parallel(work, cache.slices)
        dbias = sum(each)  # (J, E)
        if self.routing.bias_shape is not None:
            self.routing.grads["bias"] += dbias
        return self._votes_backward(gradient, u)

    def _empty_products(self, dv: Array, u: Array, iterations: int) -> OuterProducts:
        (B, J, E), I, xp = dv.shape, u.shape[1], get_xp(dv)
        K = 1 if is_constant(self.routing.coupling) else 2 * iterations - 1
        weights = xp.empty((J, B, K, I), dtype=dv.dtype)  # (J, B, K, I)
        return OuterProducts(weights, xp.empty((J, B, K, E), dtype=dv.dtype))

    def _votes_backward(self, gradient: OuterProducts, u: Array) -> Array:
        """Return du (B, I, D) and add dW, some lower capsules at a time."""
        xp, W, dW = get_xp(u), self.votes.params["W"], self.votes.grads["W"]  # (I, D, J, E)
        I, D, J, E = W.shape
        du = xp.empty_like(u)  # (B, I, D)

        def work(lower: slice) -> None:
            matrices = W[lower].reshape(-1, D, J * E)  # (i, D, J·E)
            rows = gradient.of_capsules(lower).reshape(len(matrices), len(u), -1)  # (i, B, J·E)
            products = u[:, lower].transpose(1, 2, 0) @ rows  # (i, D, B) @ (i, B, J·E) -> (i, D, J·E)
            dW[lower] += products.reshape(W[lower].shape)  # (i, D, J, E)
            du[:, lower] = (rows @ matrices.swapaxes(1, 2)).swapaxes(0, 1)  # (i, B, J·E) @ (i, J·E, D)

        parallel(work, work_slices(I, len(u) * J * E, xp))
        return du


def is_written_out_here(routing: Any) -> bool:
    """Whether forward and backward of a routing are those of DynamicRouting, with v its one output."""
    own = ("forward", "backward")
    plain = capsules.DynamicRouting
    return (
        isinstance(routing, plain)
        and all(getattr(type(routing), name) is getattr(plain, name) for name in own)
        and routing.outputs == ("v",)
    )


def is_constant(coupling: Coupling) -> bool:
    """Whether the coupling's backward is known to return 0 whatever it is handed; then K = 1."""
    if type(coupling) is Leaky:
        return is_constant(coupling.inner)
    return type(coupling).backward in (Hard.backward, Stopped.backward, Frozen.backward)


def even_share(coupling: Coupling, b: Array) -> float | None:
    """Return the coupling that logits b of 0 give, where it is one number for all pairs of capsules.

    On a GPU a look at it would have to wait, so there each coupling is computed.
    """
    if type(coupling) is Softmax:
        return 1 / b.shape[2]  # asked for in every forward, and known
    if get_xp(b) is not np or coupling.params:
        return None
    c = coupling(b)  # (1, I, J)
    share = float(c[0, 0, 0])
    return share if (c == share).all() else None


def route(routing: capsules.DynamicRouting, votes: FactoredVotes, share: float | None) -> list[Iteration]:
    """Do what DynamicRouting.forward does, for votes by their factors: every iteration."""
    (_, B, I), J, xp = votes.u.shape, len(votes.W), get_xp(votes.u)
    dtype = votes.u.dtype
    bias = None if routing.bias_shape is None else routing.params["bias"]  # (J, E)
    b = xp.broadcast_to(xp.zeros(1, dtype=dtype), (B, I, J))  # (B, I, J)
    iterations: list[Iteration] = []
    for _ in range(routing.iterations):
        if iterations:
            b = b + votes.agree(iterations[-1].v)  # (B, I, J)
        if share is not None and not iterations:
            c, coupling = xp.broadcast_to(xp.full(1, share, dtype=dtype), (B, I, J)), None  # (B, I, J)
            s = votes.total() * share  # (B, J, E)
        else:
            c, coupling = routing.coupling.forward(b)  # (B, I, J)
            s = votes.combine(c)  # (B, J, E)
        if bias is not None:
            s = s + bias  # (B, J, E)
        v, squash = routing.squash.forward(s)  # (B, J, E)
        iterations.append(Iteration(b, c, s, v, coupling, squash))
    return iterations


def route_backward(
    routing: capsules.DynamicRouting, dv: Array, part: SliceCache, gradient: OuterProducts
) -> Any:
    """Do what DynamicRouting.backward does, but keep dû as outer products; return dbias (J, E)."""
    dbias: Any = 0
    db: Any = 0
    for r in reversed(range(len(part.iterations))):
        iteration = part.iterations[r]
        ds = routing.squash.backward(dv, iteration.squash)  # (B, J, E)
        dbias = dbias + ds.sum(axis=0)  # (J, E)
        k = 2 * (len(part.iterations) - 1 - r)
        gradient.set_product(k, iteration.c, ds)
        if is_constant(routing.coupling) or (r == 0 and not routing.coupling.params):
            break
        dc = part.votes.agree(ds)  # (B, I, J)
        db = db + routing.coupling.backward(dc, iteration.coupling)  # (B, I, J)
        if r == 0:
            break
        gradient.set_product(k + 1, db, part.iterations[r - 1].v)
        dv = part.votes.combine(db)  # (B, J, E)
    return dbias
