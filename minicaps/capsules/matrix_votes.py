"""Votes of matrix capsules: a pose times the matrix that leads from a part to its whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_gradient, check_number, check_positive
from minicaps.layers import Layer, Seed, generator

SIDE = 4  # a pose is a 4×4 matrix, kept as its 16 numbers, row after row


class MatrixVotesCache(NamedTuple):
    poses: Array  # (..., I, 16)


class MatrixVotes(Layer):
    r"""The votes û_ij = M_i W_ij of 4×4 poses M_i (Hinton et al. 2018, §2).

    Gradient: dM_i = Σ_j dû_ij W_ijᵀ, dW_ij = Σ M_iᵀ dû_ij, over all axes before I.

    Parameters
    ----------
    lower_capsules, upper_capsules : int
        I and J.
    std : float
        Standard deviation of the noise that is added to the identity in the first W (I, 4, J, 4).
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: section 2.
    """

    def __init__(
        self,
        lower_capsules: int,
        upper_capsules: int,
        *,
        std: float = 0.1,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("MatrixVotes", lower_capsules=lower_capsules, upper_capsules=upper_capsules)
        check_number("MatrixVotes", std=std)
        self.lower_capsules, self.upper_capsules, self.std = lower_capsules, upper_capsules, std
        noise = generator(rng).normal(0.0, std, size=(lower_capsules, SIDE, upper_capsules, SIDE))
        self.add_param("W", (np.eye(SIDE)[:, None] + noise).astype(dtype))  # (I, 4, J, 4)

    def forward(self, poses: Array) -> tuple[Array, MatrixVotesCache]:
        """poses (B, ..., I, 16) -> u_hat (B, ..., I, J, 16)."""
        self._check_input(poses)
        W, xp = self.params["W"], get_xp(poses)  # (I, 4, J, 4)
        M = poses.reshape(-1, len(W), SIDE, SIDE)  # (N, I, 4, 4)
        u_hat = xp.einsum("nixk,ikjy->nijxy", M, W)  # (N, I, J, 4, 4)
        return u_hat.reshape(*poses.shape[:-1], W.shape[2], -1), MatrixVotesCache(poses)  # (..., I, J, 16)

    def backward(self, du_hat: Array, cache: MatrixVotesCache) -> Array:
        """du_hat (B, ..., I, J, 16) -> dposes (B, ..., I, 16)."""
        W, poses, xp = self.params["W"], cache.poses, get_xp(du_hat)  # (I, 4, J, 4)
        check_gradient("MatrixVotes.backward", du_hat, (*poses.shape[:-1], W.shape[2], SIDE**2), W)
        M = poses.reshape(-1, len(W), SIDE, SIDE)  # (N, I, 4, 4)
        dvotes = du_hat.reshape(len(M), len(W), -1, SIDE, SIDE)  # (N, I, J, 4, 4)
        self.grads["W"] += xp.einsum("nixk,nijxy->ikjy", M, dvotes)  # (I, 4, J, 4)
        return xp.einsum("nijxy,ikjy->nixk", dvotes, W).reshape(poses.shape)  # (..., I, 16)

    def _check_input(self, poses: Array) -> None:
        between = [(f"axis {k}", None) for k in range(1, getattr(poses, "ndim", 0) - 2)]
        own = ("lower capsules I", self.lower_capsules), ("numbers of a pose E", SIDE**2)
        axes = ("batch B", None), *between, *own
        check_array("MatrixVotes.forward", "poses", poses, *axes, like=self.params["W"])
