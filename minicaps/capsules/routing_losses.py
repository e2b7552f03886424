"""Losses that look at the routing itself, beside those that look at what comes out.

::

    routing = DynamicRouting(3, outputs=("v", "c", "change"))
    loss = WeightedSum([MarginLoss(), CouplingEntropy(), Unrest()], [1.0, 0.01, 0.01])
    value, cache = loss.forward(routing(u_hat), (labels, None, None))
"""

from __future__ import annotations

import math
from typing import NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.capsules.couplings import LOGITS
from minicaps.checks import check_array
from minicaps.layers import Loss


class EntropyCache(NamedTuple):
    log_c: Array  # (B, I, J), 0 where c is 0
    served: Array  # (B, I, J), boolean: where c > 0
    scale: float


class CouplingEntropy(Loss):
    r"""How undecided the lower capsules are: L = -1/(I ln J) Σ_ij c_ij ln c_ij, the mean over the batch.

    0 if each serves one parent alone, 1 if each shares all of itself out evenly. Keep its weight small:
    it does not care which parent is served, and is content when all serve the same one. At uniform
    couplings a softmax has no gradient of it.

    Gradient: dc_ij = -(ln c_ij + 1)/(B I ln J); 0 where c_ij ≤ 0, which counts as nothing.
    """

    def forward(self, prediction: Array, target: None) -> tuple[Array, EntropyCache]:
        """prediction: couplings c (B, I, J); target: None."""
        check_array("CouplingEntropy.forward", "prediction", prediction, *LOGITS)
        c, (batch, lower, upper) = prediction, prediction.shape
        served = c > 0  # (B, I, J)
        log_c = get_xp(c).log(get_xp(c).where(served, c, 1))  # (B, I, J)
        scale = -1 / (batch * lower * math.log(max(upper, 2)))  # the entropy of one parent is 0
        return (scale * (c * log_c)).sum(), EntropyCache(log_c, served, scale)

    def backward(self, cache: EntropyCache) -> Array:
        """-> dc (B, I, J)."""
        return cache.scale * ((cache.log_c + 1) * cache.served)  # (B, I, J)


class UnrestCache(NamedTuple):
    change: Array  # (B, J, E)


class Unrest(Loss):
    r"""How far the last iteration still moved the capsules: L = Σ_j ‖v_j^R - v_j^(R-1)‖², the batch's mean.

    Gradient: 2 change / B.
    """

    def forward(self, prediction: Array, target: None) -> tuple[Array, UnrestCache]:
        """prediction: the output "change" of a routing (B, J, E); target: None."""
        axes = ("batch B", None), ("upper capsules J", None), ("capsule dimension E", None)
        check_array("Unrest.forward", "prediction", prediction, *axes)
        return (prediction * prediction / len(prediction)).sum(), UnrestCache(prediction)

    def backward(self, cache: UnrestCache) -> Array:
        """-> dchange (B, J, E)."""
        return 2 / len(cache.change) * cache.change  # (B, J, E)
