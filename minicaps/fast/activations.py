"""The rectifier, slice by slice: each pass over a large array shared out among threads."""

from __future__ import annotations

from minicaps import layers
from minicaps.arrays import Array, get_xp
from minicaps.checks import any_axes, check_array, check_gradient
from minicaps.fast.threads import parallel, slices_along
from minicaps.layers import ReLUCache


class ReLU(layers.ReLU):
    """layers.ReLU, a slice of the batch on each thread."""

    def forward(self, x: Array) -> tuple[Array, ReLUCache]:
        check_array("ReLU.forward", "x", x, *any_axes(x))
        xp = get_xp(x)
        y, active = xp.empty_like(x), xp.empty_like(x, dtype=bool)  # of the shape of x

        def work(k: slice) -> None:
            xp.maximum(x[k], 0, out=y[k])
            xp.greater(x[k], 0, out=active[k])

        parallel(work, slices_along(x))
        return y, ReLUCache(active)

    def __call__(self, x: Array) -> Array:
        """Return y alone, without looking where x is above 0."""
        check_array("ReLU", "x", x, *any_axes(x))
        xp = get_xp(x)
        y = xp.empty_like(x)  # of the shape of x
        parallel(lambda k: xp.maximum(x[k], 0, out=y[k]), slices_along(x))
        return y

    def backward(self, dy: Array, cache: ReLUCache) -> Array:
        check_gradient("ReLU.backward", dy, cache.active.shape, dy)
        xp = get_xp(dy)
        dx = xp.empty_like(dy)  # of the shape of dy
        slices = slices_along(dy)
        parallel(lambda k: xp.multiply(dy[k], cache.active[k], out=dx[k]), slices)
        return dx
