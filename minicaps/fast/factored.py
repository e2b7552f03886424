r"""Votes that are not built: û (B, I, J, E), by far the largest array of a capsule layer, by its factors.

**Forward.** A routing asks for two things. In Σ_i c_ij (u_i W_ij) = Σ_i (c_ij u_i) W_ij the couplings can
go to u, before one product over all i. And ⟨u_i W_ij, v_j⟩ = ⟨u_i, W_ij v_j⟩. Either way there are D
numbers for a pair of capsules where û has E: half, in the paper. Where all couplings are one number, s is
a share of Σ_i u_i W_ij, without a product with c.

Of a few samples û is smaller than W. There each of the 2R - 1 products would fetch all of W for little to do;
so it is fetched once, to build û after all. That halves the time, and the copy of W by parents is saved too.

**Backward.** Here dû is needed, for du_i = Σ_j dû_ij W_ijᵀ and dW_ij = Σ_B u_iᵀ dû_ij. But it is a sum of K
outer products, such as c ⊗ ds, so it is made for a few lower capsules at a time, used while it is in the
processor's cache, and dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import Coupling, Frozen, Hard, Iteration, Leaky, Routing, Softmax, Stopped
from minicaps.fast.couplings import TopK


@dataclass(frozen=True)
class FactoredVotes:
    """û_ij = u_i W_ij by its factors. I stands last because it is the longest axis."""

    u: Array  # (D, B, I)
    W: Array  # (J, D, E, I)

    @property
    def dimension(self) -> int:
        """E."""
        return self.W.shape[2]

    @functools.cached_property
    def total(self) -> Array:
        """Σ_i û_ij (B, J, E)."""
        return self._times_W(self.u)

    def combine(self, c: Array) -> Array:
        """Return s_j = Σ_i (c_ij u_i) W_ij: c (B, I, J) -> s (B, J, E)."""
        return self._times_W(self.u * c.transpose(2, 0, 1)[:, None])  # (D, B, I) (J, 1, B, I) -> (J, D, B, I)

    def agree(self, v: Array) -> Array:
        """Return the agreements ⟨u_i, W_ij v_j⟩: v (B, J, E) -> (B, I, J)."""
        Wv = v.swapaxes(0, 1)[:, None] @ self.W  # (J, 1, B, E) @ (J, D, E, I) -> (J, D, B, I)
        agreement = get_xp(v).einsum("dbi,jdbi->jbi", self.u, Wv)  # (J, B, I)
        return agreement.transpose(1, 2, 0)  # (B, I, J)

    def zero_logits(self) -> Array:
        """Return the logits of 0 that a routing begins with (B, I, J)."""
        (_, B, I), J = self.u.shape, len(self.W)
        return constant(0, (B, I, J), self.u.dtype, get_xp(self.u))

    def _times_W(self, x: Array) -> Array:
        """Return Σ_i x_i W_ij for x ([J,] D, B, I): (B, J, E)."""
        products = x @ self.W.swapaxes(2, 3)  # ([J,] D, B, I) @ (J, D, I, E) -> (J, D, B, E)
        return products.sum(axis=1).swapaxes(0, 1)  # (B, J, E)


class BuiltVotes:
    """û_ij = u_i W_ij themselves, for a few samples: they are then not much larger than W.

    What takes time there is to fetch W: here that is done once, and not for each sum and each agreement.

    Parameters
    ----------
    u : array (B, I, D)
    W : array (I, D, J, E)
    """

    def __init__(self, u: Array, W: Array) -> None:
        I, D, J, E = W.shape
        self._by_child = u.swapaxes(0, 1) @ W.reshape(I, D, -1)  # (I, B, D) @ (I, D, J·E) -> (I, B, J·E)
        self.u_hat = self._by_child.reshape(I, -1, J, E).transpose(2, 1, 0, 3)  # (J, B, I, E), a view

    @property
    def dimension(self) -> int:
        """E."""
        return self.u_hat.shape[3]

    @functools.cached_property
    def total(self) -> Array:
        """Σ_i û_ij (B, J, E)."""
        J, B, I, E = self.u_hat.shape
        ones = get_xp(self.u_hat).ones(I, dtype=self.u_hat.dtype)  # (I,)
        return (ones @ self._by_child.reshape(I, -1)).reshape(B, J, E)

    def combine(self, c: Array) -> Array:
        """Return s_j = Σ_i c_ij û_ij: c (B, I, J) -> s (B, J, E)."""
        s = c.transpose(2, 0, 1)[:, :, None] @ self.u_hat  # (J, B, 1, I) @ (J, B, I, E) -> (J, B, 1, E)
        return s[:, :, 0].swapaxes(0, 1)  # (B, J, E)

    def agree(self, v: Array) -> Array:
        """Return the agreements ⟨û_ij, v_j⟩: v (B, J, E) -> (B, I, J)."""
        agreement = self.u_hat @ v.swapaxes(0, 1)[..., None]  # (J, B, I, E) @ (J, B, E, 1) -> (J, B, I, 1)
        return agreement[..., 0].transpose(1, 2, 0)  # (B, I, J)

    def zero_logits(self) -> Array:
        """Return the logits of 0 that a routing begins with (B, I, J)."""
        J, B, I, _ = self.u_hat.shape
        return constant(0, (B, I, J), self.u_hat.dtype, get_xp(self.u_hat))


@functools.lru_cache(maxsize=64)  # two for each routing, in the memory of one number each
def constant(value: float, shape: tuple[int, ...], dtype: Any, xp: Any) -> Array:
    """Return an array of one number, for reading."""
    return xp.broadcast_to(xp.full(1, value, dtype=dtype), shape)


AnyVotes: TypeAlias = FactoredVotes | BuiltVotes


class OuterProducts(NamedTuple):
    """The gradient dû_ij = Σ_k weights_kij · vectors_kj, a sum of K outer products."""

    weights: Array  # (J, B, K, I)
    vectors: Array  # (J, B, K, E)

    def of_samples(self, samples: slice) -> OuterProducts:
        """Return those of some samples, a view."""
        return OuterProducts(self.weights[:, samples], self.vectors[:, samples])

    def set_product(self, k: int, weights: Any, vectors: Array) -> None:
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


class Factored(NamedTuple):
    """How a family of routings works on votes by their factors.

    ``route(routing, votes, share)`` does what the routing's forward does: it returns its output, and every
    iteration; ``share`` is the ``even_share`` of its coupling. ``route_backward(routing, dy, votes,
    iterations, gradient)`` does what its backward does, but sets dû as outer products, of which there are
    ``count_products(routing, iterations)``.
    """

    plain: type[Routing]
    route: Callable[[Any, AnyVotes, float | None], tuple[Any, list[Iteration]]]
    count_products: Callable[[Any, list[Iteration]], int]
    route_backward: Callable[[Any, Any, AnyVotes, list[Iteration], OuterProducts], None]

    def does(self, routing: Routing) -> bool:
        """Whether forward and backward of a routing are those of the definition."""
        own, kind = ("forward", "backward"), type(routing)
        return isinstance(routing, self.plain) and all(
            getattr(kind, name) is getattr(self.plain, name) for name in own
        )


def couple(
    coupling: Coupling, votes: AnyVotes, b: Array, share: float | None = None
) -> tuple[Array, Array, Any]:
    """Return c (B, I, J) of logits b (B, I, J), s = Σ_i c û (B, J, E), and the cache of the coupling.

    With a share all couplings are known to be this number; then there is no cache.
    """
    if share is None:
        c, cache = coupling.forward(b)  # (B, I, J)
        return c, votes.combine(c), cache
    c = constant(share, b.shape, b.dtype, get_xp(b))  # (B, I, J)
    return c, votes.total * share, None  # (B, I, J), (B, J, E)


def is_constant(coupling: Coupling) -> bool:
    """Whether the coupling's backward is known to return 0 whatever it is handed."""
    if type(coupling) is Leaky:
        return is_constant(coupling.inner)
    return type(coupling).backward in (Hard.backward, Stopped.backward, Frozen.backward)


def even_share(coupling: Any, b: Array) -> float | None:
    """Return the coupling that logits b of 0 give, where it is one number for all pairs of capsules.

    On a GPU a look at it would have to wait, so there each coupling is computed.
    """
    J, kind = b.shape[2], type(coupling)
    if kind is Softmax or (kind in (capsules.TopK, TopK) and coupling.k <= J):
        return 1 / J  # asked for in every forward, and known: parents that tie are all chosen
    if get_xp(b) is not np or coupling.params:
        return None
    c = coupling(b)  # (1, I, J)
    share = float(c[0, 0, 0])
    return share if (c == share).all() else None
