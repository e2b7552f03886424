"""Votes: every lower capsule predicts every upper one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_gradient, check_number, check_positive
from minicaps.layers import Layer, Seed, generator


class VotesCache(NamedTuple):
    u: Array  # (B, I, D)


class Votes(Layer):
    r"""The prediction vectors, or votes, û_ij = u_i W_ij (Sabour et al. 2017, eq. 2).

    The paper writes W_ij u_i, with capsules as columns; here they are rows, as images are.

    Gradient: du_i = Σ_j dû_ij W_ijᵀ, dW_ij = Σ_B u_iᵀ dû_ij.

    Parameters
    ----------
    lower_capsules, lower_dimension, upper_capsules, upper_dimension : int
        I, D, J and E.
    std : float, optional
        Standard deviation: W (I, D, J, E) starts as N(0, std²). By default 2 J/√(I E), which makes the
        first s about 1 long, so that nothing fades in many layers: with uniform couplings 1/J,
        s_j = Σ_i u_i W_ij/J is a sum of I independent vectors, and E‖s_j‖² = I E ‖u‖² std²/J². A capsule
        with ‖s‖ = 1 is ½ long after squash; with ‖u‖ = ½ below, E‖s_j‖² = 1 asks for that std. (The
        network of the paper starts at 0.05.)
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    eq. 2.
    """

    def __init__(
        self,
        lower_capsules: int,
        lower_dimension: int,
        upper_capsules: int,
        upper_dimension: int,
        *,
        std: float | None = None,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("Votes", lower_capsules=lower_capsules, lower_dimension=lower_dimension)
        check_positive("Votes", upper_capsules=upper_capsules, upper_dimension=upper_dimension)
        if std is None:
            std = 2 * upper_capsules / (lower_capsules * upper_dimension) ** 0.5
        check_number("Votes", std=std)
        self.lower_capsules, self.lower_dimension = lower_capsules, lower_dimension
        self.upper_capsules, self.upper_dimension = upper_capsules, upper_dimension
        self.std = std
        shape = (lower_capsules, lower_dimension, upper_capsules, upper_dimension)
        self.add_param("W", generator(rng).normal(0.0, std, size=shape).astype(dtype))  # (I, D, J, E)

    def forward(self, u: Array) -> tuple[Array, VotesCache]:
        """u (B, I, D) -> u_hat (B, I, J, E)."""
        W = self.params["W"]  # (I, D, J, E)
        axes = ("batch B", None), ("lower capsules I", W.shape[0]), ("capsule dimension D", W.shape[1])
        check_array("Votes.forward", "u", u, *axes, like=W)
        u_hat = get_xp(u).einsum("bid,idje->bije", u, W)  # (B, I, J, E), eq. 2
        return u_hat, VotesCache(u)

    def backward(self, du_hat: Array, cache: VotesCache) -> Array:
        """du_hat (B, I, J, E) -> du (B, I, D)."""
        W, u, xp = self.params["W"], cache.u, get_xp(du_hat)  # (I, D, J, E), (B, I, D)
        check_gradient("Votes.backward", du_hat, (*u.shape[:2], *W.shape[2:]), W)
        self.grads["W"] += xp.einsum("bid,bije->idje", u, du_hat)  # (I, D, J, E)
        return xp.einsum("bije,idje->bid", du_hat, W)  # (B, I, D)
