"""Batch normalisation: every feature gets mean 0 and standard deviation 1 over the batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import (
    any_axes,
    check_above_zero,
    check_array,
    check_gradient,
    check_number,
    check_positive,
)
from minicaps.layers.contract import Layer


class BatchMoments(NamedTuple):
    """What a batch says about the features."""

    mean: Array  # (N,)
    variance: Array  # (N,), the mean of the squared distances from the mean
    vectors: int  # M


class BatchNormCache(NamedTuple):
    normal: Array  # (..., N), x̂
    std: Array  # (N,)
    batch: BatchMoments | None  # None where x was normalised by the running averages


class BatchNorm(Layer):
    r"""y = gain ⊙ x̂ + bias with x̂ = (x - mean)/std for every feature (Ioffe and Szegedy 2015, algorithm 1).

    Features are the last axis. In training, that is in ``forward``, mean and variance are those of the
    M = B·H·W… vectors of the batch; std = √(variance + ε). The call ``layer(x)`` and snapshots for
    inference take running averages instead, so that what they answer for a sample depends on no other.

    Gradient, through mean and std too: dx = gain/std ⊙ (dy - dbias/M - x̂ ⊙ dgain/M) with dgain = Σ dy ⊙ x̂,
    dbias = Σ dy. With running averages, which are constants, dx = gain/std ⊙ dy.

    The running averages are mean = sum/count and variance = squares/count of running sums, with each step

        count ← momentum · count + M,  sum ← momentum · sum + M mean,
        squares ← momentum · squares + M · M/(M - 1) variance,

    where M/(M - 1) makes the variance unbiased, as in algorithm 2; a batch of one vector, which says nothing
    of it, leaves the average as it is. So a batch counts by its size, and a
    short training has averages of what it has seen: the usual running averages, without their bias to
    the start. They begin as if one vector of mean 0 and variance 1 had been seen. Forward is pure, so
    ``backward`` notes M, M mean, … beside the gradients, and the optimizer's step moves the sums
    (``after_step``).

    Where a batch is shared out in slices (``training.DataParallel``, of 40 images at least), each slice is
    normalised by its own moments, as in every data-parallel training; its sums are added up in order, as
    gradients are.

    Parameters
    ----------
    features : int
        N. gain (N,) starts at 1, bias (N,) at 0.
    momentum : float
        How much of the running sums stays in a step, 0 to below 1.
    epsilon : float
        ε, above 0: a feature that is the same everywhere becomes its bias, unless it is so large that the
        rounding of its mean is more than √ε.
    dtype : float32 or float64

    References
    ----------
    Ioffe and Szegedy, `Batch normalization: accelerating deep network training by reducing internal
    covariate shift <https://arxiv.org/abs/1502.03167>`_, 2015: algorithms 1 and 2.
    """

    mixes_samples = True

    def __init__(
        self, features: int, *, momentum: float = 0.99, epsilon: float = 1e-5, dtype: Any = np.float32
    ) -> None:
        super().__init__()
        check_positive("BatchNorm", features=features)
        check_number("BatchNorm", momentum=momentum)
        check_above_zero("BatchNorm", epsilon=epsilon)
        if not momentum < 1:
            raise ValueError(f"BatchNorm: momentum is {momentum!r}, expected 0 to below 1")
        self.features, self.momentum, self.epsilon = features, float(momentum), float(epsilon)
        self.add_param("gain", np.ones(features, dtype=dtype))  # (N,)
        self.add_param("bias", np.zeros(features, dtype=dtype))  # (N,)
        self.add_running("count", np.ones(1, dtype=dtype))  # (1,)
        self.add_running("sum", np.zeros(features, dtype=dtype))  # (N,)
        self.add_running("squares", np.ones(features, dtype=dtype))  # (N,)

    @property
    def mean(self) -> Array:
        """The running average of the means (N,)."""
        return self.running["sum"] / self.running["count"]

    @property
    def variance(self) -> Array:
        """The running average of the variances (N,), of M/(M - 1) times those of the batches: unbiased."""
        return self.running["squares"] / self.running["count"]

    def forward(self, x: Array) -> tuple[Array, BatchNormCache]:
        """x (..., N) -> y (..., N), by the batch's mean and variance; of a snapshot, by the running ones."""
        if self._is_snapshot:
            return self._by_running_averages(x)
        self._check_input(x)
        rows = x.reshape(-1, self.features)  # (M, N)
        mean = rows.mean(axis=0)  # (N,)
        centred = rows - mean  # (M, N)
        variance = (centred * centred).mean(axis=0)  # (N,)
        std = get_xp(x).sqrt(variance + self.epsilon)  # (N,)
        normal = (centred / std).reshape(x.shape)  # (..., N)
        y = self.params["gain"] * normal + self.params["bias"]  # (..., N)
        return y, BatchNormCache(normal, std, BatchMoments(mean, variance, len(rows)))

    def backward(self, dy: Array, cache: BatchNormCache) -> Array:
        """dy (..., N) -> dx (..., N)."""
        normal, std, batch = cache  # (..., N), (N,)
        check_gradient("BatchNorm.backward", dy, normal.shape, normal)
        others = tuple(range(dy.ndim - 1))  # every axis but the last
        dgain = (dy * normal).sum(axis=others)  # (N,)
        dbias = dy.sum(axis=others)  # (N,)
        self.grads["gain"] += dgain
        self.grads["bias"] += dbias
        slope = self.params["gain"] / std  # (N,)
        if batch is None:
            return slope * dy  # (..., N)
        self._add_batch(batch)
        return slope * (
            dy - dbias / batch.vectors - normal * (dgain / batch.vectors)
        )  # of mean, of std: (..., N)

    def __call__(self, x: Array) -> Array:
        return self._by_running_averages(x)[0]  # (..., N)

    def _by_running_averages(self, x: Array) -> tuple[Array, BatchNormCache]:
        self._check_input(x)
        std = get_xp(x).sqrt(self.variance + self.epsilon)  # (N,)
        normal = (x - self.mean) / std  # (..., N)
        y = self.params["gain"] * normal + self.params["bias"]  # (..., N)
        return y, BatchNormCache(normal, std, None)

    def _check_input(self, x: Array) -> None:
        features = ("features N", self.features)
        check_array("BatchNorm.forward", "x", x, *any_axes(x)[:-1], features, like=self.params["gain"])

    # -- running averages ----------------------------------------------------------------------

    def _add_batch(self, batch: BatchMoments) -> None:
        mean, variance, M = batch
        squares = M * M / (M - 1) * variance if M > 1 else M * self.variance  # (N,)
        self.added["count"] += M  # (1,)
        self.added["sum"] += M * mean  # (N,)
        self.added["squares"] += squares  # (N,)

    def after_step(self) -> None:
        """Let the running sums take in the batch; without one they stay."""
        added = self.added["count"]  # (1,)
        keep = get_xp(added).where(added > 0, self.momentum, 1).astype(added.dtype)  # (1,)
        for name, total in self.running.items():
            total *= keep
            total += self.added[name]
