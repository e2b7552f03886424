"""Losses: the mean over the batch of a sum over each sample."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import any_axes, check_array, check_labels, check_number, check_shape
from minicaps.layers.contract import Loss
from minicaps.layers.vectors import length_and_direction


class MarginCache(NamedTuple):
    n: Array  # (B, J), the lengths
    e: Array | None  # (B, J, E), the directions; None where the prediction was lengths
    T: Array  # (B, J), 1 where the class is present
    short: Array  # (B, J), boolean: n < m⁺
    long: Array  # (B, J), boolean: n > m⁻


class MarginLoss(Loss):
    r"""The margin loss for digit existence (Sabour et al. 2017, eq. 4), summed over the classes.

    L = Σ_k T_k max(0, m⁺ - ‖v_k‖)² + λ (1 - T_k) max(0, ‖v_k‖ - m⁻)².

    Gradient: dv_k = (-2 T_k max(0, m⁺ - ‖v_k‖) + 2 λ (1 - T_k) max(0, ‖v_k‖ - m⁻)) v_k/‖v_k‖,
    divided by the batch size; 0 at v_k = 0.

    Parameters
    ----------
    present, absent : float
        The margins m⁺ and m⁻.
    down_weight : float
        λ, the weight of absent classes.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    eq. 4.
    """

    def __init__(self, *, present: float = 0.9, absent: float = 0.1, down_weight: float = 0.5) -> None:
        check_number("MarginLoss", present=present, absent=absent, down_weight=down_weight)
        self.present, self.absent, self.down_weight = float(present), float(absent), float(down_weight)

    def forward(self, prediction: Array, target: Array) -> tuple[Array, MarginCache]:
        """prediction v (B, J, E) or lengths (B, J); target: classes (B,), or T (B, J) of 0 and 1."""
        v, axes = prediction, (("batch B", None), ("classes J", None), ("capsule dimension E", None))
        are_lengths = getattr(v, "ndim", 3) == 2
        check_array("MarginLoss.forward", "prediction", v, *axes[: 2 if are_lengths else 3])
        T = class_targets("MarginLoss.forward", target, v.shape[0], v.shape[1], v.dtype)  # (B, J)
        n, e = (v[..., None], None) if are_lengths else length_and_direction(v)  # (B, J, 1), (B, J, E)
        n = n[..., 0]  # (B, J)
        cache = MarginCache(n, e, T, n < self.present, n > self.absent)
        too_short, too_long = self._hinges(cache)  # (B, J)
        per_class = T * too_short**2 + self.down_weight * (1 - T) * too_long**2  # (B, J), eq. 4
        return (per_class / len(v)).sum(), cache

    def backward(self, cache: MarginCache) -> Array:
        """-> dv (B, J, E), or that of the lengths (B, J)."""
        T = cache.T
        too_short, too_long = self._hinges(cache)  # (B, J)
        dn = -2 * T * too_short + 2 * self.down_weight * (1 - T) * too_long  # (B, J)
        if cache.e is None:
            return dn / len(dn)  # (B, J)
        return (dn / len(dn))[..., None] * cache.e  # (B, J, 1) (B, J, E) -> (B, J, E)

    def _hinges(self, cache: MarginCache) -> tuple[Array, Array]:
        return (self.present - cache.n) * cache.short, (cache.n - self.absent) * cache.long


class ReconstructionCache(NamedTuple):
    difference: Array  # (B, ...), reconstruction - images


class ReconstructionLoss(Loss):
    r"""The scaled *sum* of squared errors over all pixels (Sabour et al. 2017, §4.1).

    L = scale · Σ (reconstruction - image)², the mean over the batch.

    Gradient: 2 scale (reconstruction - image) / B.

    Parameters
    ----------
    scale : float
        0.0005 in the paper, for a sum over 784 pixels; as a mean it would be 784 times weaker.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 4.1.
    """

    def __init__(self, *, scale: float = 0.0005) -> None:
        check_number("ReconstructionLoss", scale=scale)
        self.scale = float(scale)  # a number of NumPy's would make float64 of float32

    def forward(self, prediction: Array, target: Array) -> tuple[Array, ReconstructionCache]:
        """prediction and target: images (B, ...) of one shape."""
        where = "ReconstructionLoss.forward"
        check_array(where, "prediction", prediction, *any_axes(prediction))
        axes = [(f"axis {k}", size) for k, size in enumerate(prediction.shape)]
        check_array(where, "target", target, *axes, like=prediction, of="the prediction is")
        difference = prediction - target  # (B, ...)
        loss = ((self.scale / len(difference)) * (difference * difference)).sum()  # a scalar
        return loss, ReconstructionCache(difference)

    def backward(self, cache: ReconstructionCache) -> Array:
        """-> the gradient of the reconstruction, of its shape."""
        return (2 * self.scale / len(cache.difference)) * cache.difference  # (B, ...)


class CrossEntropyCache(NamedTuple):
    p: Array  # (B, J), the softmax
    T: Array  # (B, J), 1 where the class is present


class CrossEntropyLoss(Loss):
    r"""Cross-entropy of a softmax over logits: L = -Σ_k T_k log p_k, p = softmax(x).

    T is 1 at the label and 0 elsewhere: -log p_label; of several labels each has its term.

    Gradient: dx = (p Σ_k T_k - T) / B.
    """

    def forward(self, prediction: Array, target: Array) -> tuple[Array, CrossEntropyCache]:
        """prediction: logits (B, J); target: classes (B,), or T (B, J) of 0 and 1 for several."""
        where = "CrossEntropyLoss.forward"
        axes = (("batch B", None), ("classes J", None))
        check_array(where, "prediction", prediction, *axes)
        xp, (batch, classes) = get_xp(prediction), prediction.shape
        T = class_targets(where, target, batch, classes, prediction.dtype)  # (B, J)
        shifted = prediction - prediction.max(axis=1, keepdims=True)  # (B, J), exp cannot overflow
        exp_x = xp.exp(shifted)  # (B, J)
        total = exp_x.sum(axis=1, keepdims=True)  # (B, 1)
        loss = (T * (xp.log(total) - shifted) / len(T)).sum()  # a scalar
        return loss, CrossEntropyCache(exp_x / total, T)

    def backward(self, cache: CrossEntropyCache) -> Array:
        """-> the gradient of the logits (B, J)."""
        T = cache.T
        return (cache.p * T.sum(axis=1, keepdims=True) - T) / len(T)  # (B, J)


class WeightedSum(Loss):
    r"""A sum of losses, each of its own prediction and target: L = Σ_k weight_k L_k.

    Gradient: weight_k dL_k for the k-th prediction.

    Parameters
    ----------
    losses : sequence of Loss
    weights : sequence of float, optional
        1 each by default.
    """

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        self.losses = tuple(losses)
        self.weights = (1.0,) * len(self.losses) if weights is None else tuple(weights)
        if not self.losses or len(self.losses) != len(self.weights):
            raise ValueError(
                f"WeightedSum: got {len(self.losses)} losses and {len(self.weights)} weights, "
                "expected as many of each, and at least one"
            )
        check_number("WeightedSum", **{f"weight {k}": weight for k, weight in enumerate(self.weights)})
        self.weights = tuple(map(float, self.weights))
        if any(isinstance(loss, WeightedSum) for loss in self.losses):
            raise ValueError("WeightedSum: a sum within a sum; write all losses and weights into one")

    def forward(self, prediction: tuple[Any, ...], target: tuple[Any, ...]) -> tuple[Array, list[Any]]:
        """prediction and target: one for each loss."""
        for name, value in (("predictions", prediction), ("targets", target)):
            if len(value) != len(self.losses):
                raise ValueError(
                    f"WeightedSum.forward: got {len(value)} {name}, expected one for each of "
                    f"{len(self.losses)} losses"
                )
        results = [loss.forward(p, t) for loss, p, t in zip(self.losses, prediction, target, strict=True)]
        xp = get_xp(results[0][0])
        parts = [  # NumPy 1 would make a float64 of a float32 scalar times a Python number
            xp.multiply(value, weight, dtype=value.dtype)
            for weight, (value, _) in zip(self.weights, results, strict=True)
        ]
        return functools.reduce(operator.add, parts), [cache for _, cache in results]

    def at(self, done: float) -> WeightedSum:
        losses = [loss.at(done) for loss in self.losses]
        same = all(new is old for new, old in zip(losses, self.losses, strict=True))
        return self if same else WeightedSum(losses, self.weights)

    def backward(self, cache: list[Any]) -> tuple[Any, ...]:
        """-> the gradient of every prediction."""
        parts = zip(self.losses, self.weights, cache, strict=True)
        return tuple(weight * loss.backward(loss_cache) for loss, weight, loss_cache in parts)


def class_targets(where: str, target: Array, batch: int, classes: int, dtype: Any) -> Array:
    """Return T (B, J) of 0 and 1 from classes (B,) or from such an array."""
    try:
        xp = get_xp(target)
    except TypeError as error:
        raise TypeError(f"{where}: target: {error}") from None
    if target.ndim == 1:
        check_labels(where, target, batch, classes)
        return one_hot(target, classes, dtype)
    check_shape(where, "target", target, ("batch B", batch), ("classes J", classes))
    if xp is np and not np.isin(target, (0, 1)).all():
        stray = target[~np.isin(target, (0, 1))][0]
        raise ValueError(f"{where}: a target of shape (B, J) holds {stray}, expected only 0 and 1")
    return target.astype(dtype)


def one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    """Return T (B, J) with T[k, labels[k]] = 1 and 0 elsewhere."""
    xp = get_xp(labels)
    return (labels[:, None] == xp.arange(classes)).astype(dtype)  # (B, J)
