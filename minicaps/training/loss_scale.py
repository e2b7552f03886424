"""Loss scaling: gradients so large that float16 can hold them, and small again before the update."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_flag, check_number, check_positive
from minicaps.layers import FULL, MIXED, PRECISIONS, Loss, ScaledLoss
from minicaps.networks import Network

FIRST_SCALE = 65_536.0  # 2¹⁶, as in PyTorch's GradScaler, whose rules these are
GROW_AFTER = 2_000  # good steps in a row
MAX_SCALE = float(np.finfo(np.float32).max)  # beyond it the scale does not grow
UNSCALED = "unscaled"  # the precision of a run that is mixed, and whose loss stays as it is
RUN_PRECISIONS = (*PRECISIONS, UNSCALED)


class LossScale:
    """The factor of a training in mixed precision, which finds its size.

    Capsule gradients are small: below 2⁻²⁴ they are 0 in float16. So the loss is multiplied by the scale,
    and the gradients of the weights are divided by it, in float32. A step whose gradient is not finite is
    left out, and the scale is halved; after so many good steps in a row it is doubled.

    Parameters
    ----------
    scale : float
        The first one.
    grow_after : int
        Good steps in a row.
    fixed : bool
        Keep the first one: with 1 there is no scaling. A step that is not finite is left out all the same.

    Attributes
    ----------
    scale : float
    good_steps : int
        Those since the last change of the scale.
    skipped_steps : int
        All that were left out.

    References
    ----------
    Micikevicius et al., `Mixed precision training <https://arxiv.org/abs/1710.03740>`_, 2018: section 3.2.
    """

    def __init__(
        self, scale: float = FIRST_SCALE, *, grow_after: int = GROW_AFTER, fixed: bool = False
    ) -> None:
        check_number("LossScale", scale=scale)
        check_positive("LossScale", grow_after=grow_after)
        check_flag("LossScale", fixed=fixed)
        if not 1 <= scale <= MAX_SCALE:
            raise ValueError(f"LossScale: scale is {scale!r}, expected 1 or more, and what float32 can hold")
        self.scale, self.grow_after, self.fixed, self.good_steps = float(scale), grow_after, fixed, 0
        self.skipped_steps = 0
        self._scaled: ScaledLoss | None = None

    def scaled(self, loss: Loss) -> ScaledLoss:
        """Return the loss with a gradient so many times as large."""
        kept = self._scaled
        if kept is None or kept.loss is not loss or kept.scale != self.scale:
            kept = self._scaled = ScaledLoss(loss, self.scale)  # the same one in every step: it may be sent
        return kept

    def unscale(self, grads: Mapping[str, Array]) -> None:
        """Divide gradients by the scale, in place; if it is a power of two, they lose no digits."""
        for grad in grads.values():
            grad /= self.scale

    def note(self, finite: bool) -> None:
        """Note whether the gradient of a step was finite, and change the scale if it is time to."""
        self.good_steps = self.good_steps + 1 if finite else 0
        self.skipped_steps += not finite
        if self.fixed:
            return
        if not finite:
            self.scale /= 2
        elif self.good_steps >= self.grow_after:
            self.scale, self.good_steps = self.scale * (2 if 2 * self.scale <= MAX_SCALE else 1), 0

    def metrics(self) -> dict[str, float]:
        """Return what ``metrics.jsonl`` says of it after an epoch."""
        return {"skipped_steps": self.skipped_steps, "loss_scale": self.scale}

    # -- saving and loading --------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """Return what continues with the same scales."""
        names = "scale", "good_steps", "skipped_steps"
        return {name: np.array(getattr(self, name)) for name in names}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Set what ``state`` returned.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a number cannot be.
        """
        if state.keys() != self.state().keys():
            got, expected = (", ".join(names) or "nothing" for names in (state, self.state()))
            raise ValueError(f"LossScale.load_state: got {got}, expected {expected}")
        arrays = {name: np.asarray(state[name]) for name in self.state()}
        if any(array.shape != () or array.dtype.kind not in "fiu" for array in arrays.values()):
            raise ValueError("LossScale.load_state: got something else than three numbers")
        scale, *counts = (array.item() for array in arrays.values())
        if not (1 <= scale <= MAX_SCALE and all(0 <= n < 1 << 63 and n == int(n) for n in counts)):
            raise ValueError(
                f"LossScale.load_state: scale is {scale}, good_steps {counts[0]}, skipped_steps {counts[1]}; "
                "expected a number of 1 or more that float32 can hold, and two whole ones of 0 or more"
            )
        self.scale, (self.good_steps, self.skipped_steps) = float(scale), map(int, counts)


def use_precision(network: Network, precision: str) -> LossScale | None:
    """Let a network train in a precision of RUN_PRECISIONS, and return what its loss is scaled by."""
    network.set_precision(FULL if precision == FULL else MIXED)
    if precision == FULL:
        return None
    return LossScale(1, fixed=True) if precision == UNSCALED else LossScale()
