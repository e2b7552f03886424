"""The spread loss: the label's activation ahead of all others by a margin."""

from __future__ import annotations

from typing import NamedTuple

from minicaps.arrays import Array
from minicaps.checks import check_array, check_labels, check_number
from minicaps.layers.contract import Loss
from minicaps.layers.losses import one_hot


class SpreadCache(NamedTuple):
    gaps: Array  # (B, J), what is missing to the margin; 0 at the label
    T: Array  # (B, J), 1 at the label
    behind: Array  # (B, J), boolean: something is missing


class SpreadLoss(Loss):
    r"""The spread loss (Hinton et al. 2018, §5), L = Σ_{k≠t} max(0, m - (a_t - a_k))² for the label t.

    Gradient, with the gaps g_k = max(0, m - (a_t - a_k)): da_k = 2 g_k for k ≠ t, da_t = -2 Σ_k g_k,
    divided by the batch size.

    Parameters
    ----------
    margin : float
        m, 0 to 1, as activations are; that of the end of a training.
    first_margin : float
        That of its beginning, see ``at``; a small one leaves those classes alone that are behind already.

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: section 5.
    """

    def __init__(self, *, margin: float = 0.9, first_margin: float = 0.2) -> None:
        check_number("SpreadLoss", margin=margin, first_margin=first_margin)
        for name, value in (("margin", margin), ("first_margin", first_margin)):
            if value > 1:
                raise ValueError(f"SpreadLoss: {name} is {value!r}, expected 0 to 1, as activations are")
        self.margin, self.first_margin = float(margin), float(first_margin)

    def at(self, done: float) -> SpreadLoss:
        """Return the loss whose margin has grown evenly from the first, when so much is done, 0 to 1."""
        margin = self.first_margin + (self.margin - self.first_margin) * min(1.0, done)
        return SpreadLoss(margin=margin, first_margin=self.first_margin)

    def forward(self, prediction: Array, target: Array) -> tuple[Array, SpreadCache]:
        """prediction: activations (B, J); target: classes (B,)."""
        where, a = "SpreadLoss.forward", prediction
        check_array(where, "prediction", a, ("batch B", None), ("classes J", None))
        check_labels(where, target, *a.shape)
        T = one_hot(target, a.shape[1], a.dtype)  # (B, J)
        missing = self.margin - ((a * T).sum(axis=1, keepdims=True) - a)  # (B, J)
        behind = (missing > 0) & (T == 0)  # (B, J)
        gaps = missing * behind  # (B, J)
        return (gaps**2 / len(a)).sum(), SpreadCache(gaps, T, behind)

    def backward(self, cache: SpreadCache) -> Array:
        """-> the gradient of the activations (B, J)."""
        gaps, T, _ = cache
        return 2 / len(T) * (gaps - T * gaps.sum(axis=1, keepdims=True))  # (B, J)
