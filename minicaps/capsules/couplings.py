r"""Couplings: how a capsule shares itself out among its parents, from its routing logits.

Each is a layer, b (B, I, J) -> c (B, I, J), so what varies inside routing is chosen by handing in
another one, and a coupling of your own needs a forward and a backward only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers import Layer, softmax, softmax_backward

LOGITS = ("batch B", None), ("lower capsules I", None), ("upper capsules J", None)


class Coupling(Layer):
    """Base of the couplings: a layer from routing logits b (B, I, J) to couplings c (B, I, J)."""


def check_coupling(where: str, coupling: Coupling | None) -> Coupling:
    """Return the coupling, or ``Softmax()`` for None; raise TypeError if it is something else."""
    if coupling is None:
        return Softmax()
    if not isinstance(coupling, Coupling):
        raise TypeError(f"{where}: coupling is {coupling!r}, expected a Coupling such as Softmax()")
    return coupling


class SoftmaxCache(NamedTuple):
    c: Array  # (B, I, J)


class Softmax(Coupling):
    r"""c_ij = exp b_ij / Σ_k exp b_ik: a softmax over the parents j (Sabour et al. 2017, eq. 3).

    Gradient: db_ij = c_ij (dc_ij - Σ_k c_ik dc_ik).

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    eq. 3.
    """

    def forward(self, b: Array) -> tuple[Array, SoftmaxCache]:
        """b (B, I, J) -> c (B, I, J), over the parents j they sum to 1."""
        check_array("Softmax.forward", "b", b, *LOGITS)
        c = softmax(b)  # (B, I, J), eq. 3
        return c, SoftmaxCache(c)

    def backward(self, dc: Array, cache: SoftmaxCache) -> Array:
        """dc (B, I, J) -> db (B, I, J)."""
        check_gradient("Softmax.backward", dc, cache.c.shape, cache.c)
        return softmax_backward(dc, cache.c)  # (B, I, J)


class LeakyCache(NamedTuple):
    inner: Any  # the cache of the inner coupling
    shape: tuple[int, ...]  # of b


class Leaky(Coupling):
    r"""One more parent, "none of the above", whose logit is always 0: its share is dropped.

    c_ij = exp b_ij / (1 + Σ_k exp b_ik) with a softmax inside, as in the code of Sabour et al. 2017.

    Gradient: that of the inner coupling, with 0 for the share that was dropped.

    Parameters
    ----------
    inner : Coupling, optional
        What shares out among J + 1 parents; by default ``Softmax()``.

    References
    ----------
    The code of Sabour et al., `Sarasra/models <https://github.com/Sarasra/models/tree/master/research/capsules>`_.
    """

    def __init__(self, inner: Coupling | None = None) -> None:
        super().__init__()
        self.inner = check_coupling("Leaky", inner)

    def forward(self, b: Array) -> tuple[Array, LeakyCache]:
        """b (B, I, J) -> c (B, I, J), over the parents j they sum to 1 or less."""
        check_array("Leaky.forward", "b", b, *LOGITS)
        c, inner = self.inner.forward(self._append_0(b))  # (B, I, J + 1)
        return c[..., :-1], LeakyCache(inner, b.shape)

    def backward(self, dc: Array, cache: LeakyCache) -> Array:
        """dc (B, I, J) -> db (B, I, J)."""
        check_gradient("Leaky.backward", dc, cache.shape, dc)
        return self.inner.backward(self._append_0(dc), cache.inner)[..., :-1]

    @staticmethod
    def _append_0(x: Array) -> Array:
        return get_xp(x).pad(x, ((0, 0), (0, 0), (0, 1)))  # (B, I, J + 1)


class HardCache(NamedTuple):
    best: Array  # (B, I, J), boolean: the chosen parent, or several that tie


class Hard(Coupling):
    r"""Each lower capsule goes to its best parent alone: c_ij = 1 where b_ij = max_k b_ik.

    Parents that tie share evenly: before the first agreement, when all logits are 0, all do.

    Gradient: db = 0, since c does not change with b; the gradient flows along the chosen path.
    """

    def forward(self, b: Array) -> tuple[Array, HardCache]:
        """b (B, I, J) -> c (B, I, J), over the parents j they sum to 1."""
        check_array("Hard.forward", "b", b, *LOGITS)
        best = b == b.max(axis=-1, keepdims=True)  # (B, I, J)
        c = best.astype(b.dtype)  # (B, I, J)
        return c / c.sum(axis=-1, keepdims=True), HardCache(best)  # (B, I, J)

    def backward(self, dc: Array, cache: HardCache) -> Array:
        """dc (B, I, J) -> db = 0 (B, I, J)."""
        check_gradient("Hard.backward", dc, cache.best.shape, dc)
        return get_xp(dc).zeros_like(dc)


class Stopped(Coupling):
    r"""The couplings of another coupling, taken for constants: the gradient stops here.

    With it only the last couplings of a routing matter to its gradient, as in some public codes.

    Gradient: db = 0, on purpose; central differences agree with it while c is held fixed.

    Parameters
    ----------
    inner : Coupling, optional
        By default ``Softmax()``.
    """

    def __init__(self, inner: Coupling | None = None) -> None:
        super().__init__()
        self.inner = check_coupling("Stopped", inner)

    def forward(self, b: Array) -> tuple[Array, SoftmaxCache]:
        """b (B, I, J) -> c (B, I, J), those of the inner coupling."""
        check_array("Stopped.forward", "b", b, *LOGITS)
        c = self.inner(b)  # (B, I, J)
        return c, SoftmaxCache(c)

    def backward(self, dc: Array, cache: SoftmaxCache) -> Array:
        """dc (B, I, J) -> db = 0 (B, I, J)."""
        check_gradient("Stopped.backward", dc, cache.c.shape, cache.c)
        return get_xp(dc).zeros_like(dc)


def plus_pairs(b: Array, x: Array) -> Array:
    """Return b + x, with a number for every pair of capsules: b (B, I, J), x (I, J) -> (B, I, J)."""
    return b + x  # (B, I, J)


class PriorCache(NamedTuple):
    inner: Any  # the cache of the inner coupling
    shape: tuple[int, ...]  # of b


class Prior(Coupling):
    r"""Learned logits on top of what routing finds: c = inner(b + prior).

    Since routing adds agreements up, it then begins with the logits b¹ = prior instead of 0, as Sabour et
    al. 2017 (§2) allow. With one iteration the couplings are learned by gradient descent alone, without
    routing.

    Gradient: that of the inner coupling, db; dprior_ij = Σ_B db_ij, of every iteration.

    Parameters
    ----------
    lower_capsules, upper_capsules : int
        I and J; prior (I, J) starts at 0.
    inner : Coupling, optional
        By default ``Softmax()``.
    dtype : float32 or float64

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 2.
    """

    def __init__(
        self,
        lower_capsules: int,
        upper_capsules: int,
        inner: Coupling | None = None,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("Prior", lower_capsules=lower_capsules, upper_capsules=upper_capsules)
        self.inner = check_coupling("Prior", inner)
        self.add_param("prior", np.zeros((lower_capsules, upper_capsules), dtype=dtype))  # (I, J)

    def forward(self, b: Array) -> tuple[Array, PriorCache]:
        """b (B, I, J) -> c (B, I, J), those of the inner coupling."""
        prior = self.params["prior"]  # (I, J)
        axes = zip(("lower capsules I", "upper capsules J"), prior.shape, strict=True)
        check_array("Prior.forward", "b", b, LOGITS[0], *axes, like=prior)
        c, inner = self.inner.forward(self._plus_pairs(b, prior))  # (B, I, J)
        return c, PriorCache(inner, b.shape)

    def backward(self, dc: Array, cache: PriorCache) -> Array:
        """dc (B, I, J) -> db (B, I, J)."""
        check_gradient("Prior.backward", dc, cache.shape, self.params["prior"])
        db = self.inner.backward(dc, cache.inner)  # (B, I, J)
        self.grads["prior"] += db.sum(axis=0)  # (I, J)
        return db

    _plus_pairs = staticmethod(plus_pairs)  # fast.Prior has a faster one


class FrozenCache(NamedTuple):
    shape: tuple[int, ...]  # of b


class Frozen(Coupling):
    r"""Given couplings, whatever the logits: c = c₀. To see what routing changes.

    Gradient: db = 0.

    Parameters
    ----------
    c : array (I, J)
        The same for every sample.
    """

    def __init__(self, c: Array) -> None:
        super().__init__()
        check_array("Frozen", "c", c, *LOGITS[1:])
        self.c = c

    def _convert(self, convert: Callable[[Array], Array]) -> None:
        super()._convert(convert)
        self.c = convert(self.c)

    def forward(self, b: Array) -> tuple[Array, FrozenCache]:
        """b (B, I, J) -> c (B, I, J), those given."""
        axes = zip(("lower capsules I", "upper capsules J"), self.c.shape, strict=True)
        check_array("Frozen.forward", "b", b, LOGITS[0], *axes, like=self.c, of="the couplings are")
        return get_xp(b).broadcast_to(self.c, b.shape), FrozenCache(b.shape)  # (B, I, J)

    def backward(self, dc: Array, cache: FrozenCache) -> Array:
        """dc (B, I, J) -> db = 0 (B, I, J)."""
        check_gradient("Frozen.backward", dc, cache.shape, self.c)
        return get_xp(dc).zeros_like(dc)
