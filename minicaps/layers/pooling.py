"""Max pooling over channels-last images (B, H, W, C)."""

from __future__ import annotations

from typing import NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_gradient
from minicaps.layers.contract import Layer
from minicaps.layers.windows import Pair, as_pair, output_size


class MaxPool2dCache(NamedTuple):
    shape: tuple[int, ...]  # of x
    winner: Array  # (B, P, Q, C), the number of the pixel that is the largest of its window


class MaxPool2d(Layer):
    r"""The largest value of every window, channel by channel: y = max over the window of x.

    Gradient: dx = dy at the pixel that won (the first one, in a tie), 0 elsewhere.

    Parameters
    ----------
    window : int or (int, int)
        Height and width.
    stride : int or (int, int), optional
        By default the window's size, so that windows do not overlap.
    """

    def __init__(self, window: int | Pair, *, stride: int | Pair | None = None) -> None:
        super().__init__()
        self.window = as_pair("MaxPool2d", "window", window)
        self.stride = as_pair("MaxPool2d", "stride", self.window if stride is None else stride)

    def forward(self, x: Array) -> tuple[Array, MaxPool2dCache]:
        """x (B, H, W, C) -> y (B, P, Q, C)."""
        axes = ("batch B", None), ("height H", None), ("width W", None), ("channels C", None)
        check_array("MaxPool2d.forward", "x", x, *axes)
        xp, size = get_xp(x), (x.shape[1], x.shape[2])
        first, *others = self._pixels(output_size("MaxPool2d.forward", size, self.window, self.stride))
        y = x[first].copy()  # (B, P, Q, C)
        winner = xp.zeros(y.shape, dtype=xp.min_scalar_type(len(others)))  # (B, P, Q, C)
        for number, pixel in enumerate(others, 1):
            larger = x[pixel] > y  # (B, P, Q, C); in a tie the first stays
            xp.maximum(winner, larger * winner.dtype.type(number), out=winner)  # a later one is a higher
            xp.maximum(y, x[pixel], out=y)
        return y, MaxPool2dCache(x.shape, winner)

    def backward(self, dy: Array, cache: MaxPool2dCache) -> Array:
        """dy (B, P, Q, C) -> dx (B, H, W, C)."""
        check_gradient("MaxPool2d.backward", dy, cache.winner.shape, dy)
        dx = get_xp(dy).zeros(cache.shape, dtype=dy.dtype)  # (B, H, W, C)
        for number, pixel in enumerate(self._pixels((dy.shape[1], dy.shape[2]))):
            dx[pixel] += dy * (cache.winner == number)  # (B, P, Q, C)
        return dx

    def _pixels(self, grid: Pair) -> list[tuple[slice, ...]]:
        """Return where the first, the second, … pixel of every window is: x[pixel] is (B, P, Q, C)."""
        rows, columns = (
            [slice(k, k + step * (count - 1) + 1, step) for k in range(size)]
            for size, step, count in zip(self.window, self.stride, grid, strict=True)
        )
        return [(slice(None), row, column) for row in rows for column in columns]
