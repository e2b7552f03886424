"""A loss as large as one likes, for gradients that float16 can hold."""

from __future__ import annotations

from typing import Any

from minicaps.arrays import Array
from minicaps.checks import check_number
from minicaps.layers.contract import Loss


class ScaledLoss(Loss):
    """A loss times a factor, `scale`: by the chain rule every gradient is that much larger.

    Gradient: scale · dL.
    """

    def __init__(self, loss: Loss, scale: float) -> None:
        check_number("ScaledLoss", scale=scale)
        self.loss, self.scale = loss, float(scale)

    def forward(self, prediction: Any, target: Any) -> tuple[Array, Any]:
        """prediction and target: as for the loss."""
        loss, cache = self.loss.forward(prediction, target)
        return loss.dtype.type(
            self.scale
        ) * loss, cache  # before NumPy 2 a Python float would make it float64

    def backward(self, cache: Any) -> Any:
        """-> the gradient of the prediction."""
        d = self.loss.backward(cache)
        return tuple(self.scale * each for each in d) if isinstance(d, tuple) else self.scale * d

    def at(self, done: float) -> Loss:
        """Return the loss for that moment, as large."""
        return ScaledLoss(self.loss.at(done), self.scale)
