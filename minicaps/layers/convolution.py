"""Convolution over channels-last images (B, H, W, C), as one matrix product."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers.contract import Layer
from minicaps.layers.initialization import Seed, generator, uniform
from minicaps.layers.windows import Pair, as_pair, output_size


def im2col(x: Array, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Array:
    """Lay every window of x (B, H, W, C) out as a row: (B, P, Q, KH·KW·C)."""
    P, Q = output_size("im2col", (x.shape[1], x.shape[2]), kernel, stride, padding)
    (above, left), xp = padding, get_xp(x)
    if padding != (0, 0):
        x = xp.pad(x, ((0, 0), (above, above), (left, left), (0, 0)))  # (B, H + 2·above, W + 2·left, C)
    sample, row, column, channel = x.strides
    windows = xp.lib.stride_tricks.as_strided(  # CuPy's sliding_window_view waits for the GPU
        x,
        (len(x), P, Q, *kernel, x.shape[3]),
        (sample, row * stride[0], column * stride[1], row, column, channel),
    )  # (B, P, Q, KH, KW, C), a view
    return windows.reshape(len(x), P, Q, -1)  # (B, P, Q, KH·KW·C)


def col2im(dcols: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Array:
    """Add every row of dcols (B, P, Q, KH·KW·C) to its window: (B, H, W, C). im2col transposed."""
    (B, P, Q, _), (H, W), (above, left) = dcols.shape, size, padding
    dwindows = dcols.reshape(B, P, Q, *kernel, -1)  # (B, P, Q, KH, KW, C)
    shape = (B, above + H + above, left + W + left, dwindows.shape[-1])
    dx = get_xp(dcols).zeros(shape, dtype=dcols.dtype)  # (B, H + 2·above, W + 2·left, C)
    for r in range(kernel[0]):
        for t in range(kernel[1]):  # all windows' pixel (r, t) at once
            rows = slice(r, r + stride[0] * (P - 1) + 1, stride[0])
            columns = slice(t, t + stride[1] * (Q - 1) + 1, stride[1])
            dx[:, rows, columns] += dwindows[:, :, :, r, t]  # (B, P, Q, C)
    return dx[:, above : above + H, left : left + W]  # (B, H, W, C)


class Conv2dCache(NamedTuple):
    cols: Array  # (B, P, Q, KH·KW·C), the windows
    size: Pair  # (H, W) of x


class Conv2d(Layer):
    r"""A convolution (cross-correlation, as everywhere in deep learning).

    y[b, p, q, k] = bias[k] + Σ_{r,t,c} x[b, p·stride + r - padding, q·stride + t - padding, c]
    W[r, t, c, k]. With every window laid out as a row of cols this is one matrix product:
    y = cols W + bias.

    Gradient: dW = colsᵀ dy, dbias = Σ dy, and dcols = dy Wᵀ, each row added back to its window.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K.
    kernel_size, stride, padding : int or (int, int)
        Height and width. The padding is zeros, on both sides.
    rng : numpy.random.Generator or int, optional
        Source of the start values, U(±1/√(KH·KW·C)) for W (KH, KW, C, K) and bias (K,).
    dtype : float32 or float64
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("Conv2d", in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = as_pair("Conv2d", "kernel_size", kernel_size)
        self.stride = as_pair("Conv2d", "stride", stride)
        self.padding = as_pair("Conv2d", "padding", padding, minimum=0)
        rng = generator(rng)
        shape = (*self.kernel_size, in_channels, out_channels)
        fan_in = self.kernel_size[0] * self.kernel_size[1] * in_channels
        self.add_param("W", uniform(rng, shape, fan_in, dtype))  # (KH, KW, C, K)
        self.add_param("bias", uniform(rng, (out_channels,), fan_in, dtype))  # (K,)

    @property
    def window(self) -> tuple[Pair, Pair, Pair]:
        """Kernel size, stride and padding."""
        return self.kernel_size, self.stride, self.padding

    def output_size(self, size: Pair) -> Pair:
        """Return the output's (P, Q) for an input of (H, W).

        Raises
        ------
        ValueError
            If the kernel does not fit.
        """
        return output_size("Conv2d", size, *self.window)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """x (B, H, W, C) -> y (B, P, Q, K)."""
        self._check_input(x)
        W = self.params["W"].reshape(-1, self.out_channels)  # (KH·KW·C, K)
        cols = im2col(x, *self.window)  # (B, P, Q, KH·KW·C)
        y = cols @ W + self.params["bias"]  # (B, P, Q, K)
        return y, Conv2dCache(cols, (x.shape[1], x.shape[2]))

    def backward(self, dy: Array, cache: Any) -> Array:
        """dy (B, P, Q, K) -> dx (B, H, W, C)."""
        cols, size = cache
        check_gradient("Conv2d.backward", dy, (*cols.shape[:3], self.out_channels), cols)
        W = self.params["W"].reshape(-1, self.out_channels)  # (KH·KW·C, K)
        dW = get_xp(dy).tensordot(cols, dy, axes=((0, 1, 2), (0, 1, 2)))  # (KH·KW·C, K)
        self.grads["bias"] += dy.sum(axis=(0, 1, 2))  # (K,)
        self.grads["W"] += dW.reshape(self.params["W"].shape)  # (KH, KW, C, K)
        return col2im(dy @ W.T, size, *self.window)  # (B, H, W, C)

    def _check_input(self, x: Array) -> None:
        axes = ("batch B", None), ("height H", None), ("width W", None), ("channels C", self.in_channels)
        check_array("Conv2d.forward", "x", x, *axes, like=self.params["W"])
        self.output_size((x.shape[1], x.shape[2]))  # says clearly when the kernel does not fit
