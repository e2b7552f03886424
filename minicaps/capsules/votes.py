"""Votes: every lower capsule predicts every upper one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_array, check_gradient, check_number, check_positive
from minicaps.layers import Layer, Seed, generator


class VotesCache(NamedTuple):
    u: Array  # (B, I, D)


class Votes(Layer):
    r"""The prediction vectors, or votes, û_ij = u_i W_ij (Sabour et al. 2017, eq. 2).

    Gradient: du_i = Σ_j dû_ij W_ijᵀ, dW_ij = Σ_B u_iᵀ dû_ij.

    Parameters
    ----------
    lower_capsules, lower_dimension, upper_capsules, upper_dimension : int
        I, D, J and E.
    std : float
        Standard deviation: W (I, D, J, E) starts as N(0, std²).
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
        std: float = 0.05,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("Votes", lower_capsules=lower_capsules, lower_dimension=lower_dimension)
        check_positive("Votes", upper_capsules=upper_capsules, upper_dimension=upper_dimension)
        check_number("Votes", std=std)
        self.lower_capsules, self.lower_dimension = lower_capsules, lower_dimension
        self.upper_capsules, self.upper_dimension = upper_capsules, upper_dimension
        self.std = std
        shape = (lower_capsules, lower_dimension, upper_capsules, upper_dimension)
        self.add_param("W", generator(rng).normal(0.0, std, size=shape).astype(dtype))  # (I, D, J, E)

    def forward(self, u: Array) -> tuple[Array, VotesCache]:
        """u (B, I, D) -> u_hat (B, I, J, E)."""
        W, (I, D, J, E) = self.params["W"], self.params["W"].shape  # noqa: E741
        axes = ("batch B", None), ("lower capsules I", I), ("capsule dimension D", D)
        check_array("Votes.forward", "u", u, *axes, like=W)
        rows = u.swapaxes(0, 1) @ W.reshape(I, D, J * E)  # (I, B, D) @ (I, D, J·E) -> (I, B, J·E)
        return rows.reshape(I, len(u), J, E).swapaxes(0, 1), VotesCache(u)  # (B, I, J, E)

    def backward(self, du_hat: Array, cache: VotesCache) -> Array:
        """du_hat (B, I, J, E) -> du (B, I, D)."""
        W, (I, D, J, E) = self.params["W"], self.params["W"].shape  # noqa: E741
        u = cache.u  # (B, I, D)
        check_gradient("Votes.backward", du_hat, (len(u), I, J, E), W)
        rows = du_hat.swapaxes(0, 1).reshape(I, len(u), J * E)  # (I, B, J·E)
        dW = u.transpose(1, 2, 0) @ rows  # (I, D, B) @ (I, B, J·E) -> (I, D, J·E)
        self.grads["W"] += dW.reshape(W.shape)
        du = rows @ W.reshape(I, D, J * E).swapaxes(1, 2)  # (I, B, J·E) @ (I, J·E, D) -> (I, B, D)
        return du.swapaxes(0, 1)  # (B, I, D)
