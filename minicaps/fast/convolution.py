"""Convolution by whatever algorithm multiplies least: by frequencies or points, or window by window."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np

from minicaps import layers
from minicaps.arrays import Array, get_xp
from minicaps.checks import check_gradient
from minicaps.fast import spectral
from minicaps.fast.bilinear import Geometry, pays_from
from minicaps.fast.precision import multiply, operand, result, rounded
from minicaps.fast.threads import in_groups, parallel, work_slices
from minicaps.layers import MIXED, Pair, im2col


class WindowsCache(NamedTuple):
    x: Array  # (B, H, W, C); its windows are laid out again in backward


class Conv2d(layers.Conv2d):
    """layers.Conv2d, by frequencies or points (spectral.py) where that needs fewer multiplications, and
    otherwise, so for a few samples, with the windows of some samples at a time, on several threads.

    Laid out for a batch of 128, the windows of the paper's second convolution take 382 MB.
    """

    def forward(self, x: Array) -> tuple[Array, Any]:
        self._check_input(x)
        geometry, x = self._geometry((x.shape[1], x.shape[2])), operand(self, x)  # (B, H, W, C)
        if not self._takes_spectral(geometry, len(x)):
            return self._forward_by_windows(x), WindowsCache(x)
        y, cache = spectral.forward(x, self._transformed_weights(geometry), geometry)
        y = result(self, y)  # (B, P, Q, K)
        y += self.params["bias"]
        return y, cache

    def backward(self, dy: Array, cache: Any) -> Array:
        self._add_bias_gradient(dy, cache)
        if isinstance(cache, spectral.SpectralCache):
            dx, dW = map(partial(rounded, self), spectral.backward(rounded(self, dy), cache))
        else:
            dx = get_xp(dy).empty_like(cache.x, dtype=dy.dtype)  # (B, H, W, C)
            dW = self._backward_by_windows(dy, cache.x, dx)
        self.grads["W"] += dW  # (KH, KW, C, K)
        return dx

    def backward_params(self, dy: Array, cache: Any) -> None:
        """As ``backward``; by windows, without the gradient of x, which a first layer does not need."""
        if isinstance(cache, spectral.SpectralCache):
            self.backward(dy, cache)
            return
        self._add_bias_gradient(dy, cache)
        self.grads["W"] += self._backward_by_windows(dy, cache.x, None)  # (KH, KW, C, K)

    def _add_bias_gradient(self, dy: Array, cache: Any) -> None:
        if isinstance(cache, spectral.SpectralCache):
            size, batch = cache.geometry.size, len(cache.X)
        else:
            size, batch = (cache.x.shape[1], cache.x.shape[2]), len(cache.x)
        expected = (batch, *self.output_size(size), self.out_channels)
        check_gradient("Conv2d.backward", dy, expected, self.params["W"])
        rows = dy.reshape(-1, self.out_channels)  # (B·P·Q, K)
        ones = get_xp(dy).ones(len(rows), dtype=dy.dtype)  # (B·P·Q,); a product with ones sums fastest
        self.grads["bias"] += ones @ rows  # (K,)

    # -- window by window ----------------------------------------------------------------------

    def _forward_by_windows(self, x: Array) -> Array:
        xp, K, bias = get_xp(x), self.out_channels, self.params["bias"]
        W = operand(self, self.params["W"]).reshape(-1, K)  # (KH·KW·C, K)
        grid = self.output_size((x.shape[1], x.shape[2]))
        y = xp.empty((len(x), *grid, K), dtype=bias.dtype)  # (B, P, Q, K)

        def work(k: slice) -> None:
            rows = y[k].reshape(-1, K)  # (b·P·Q, K), a view
            cols = im2col(x[k], *self.window).reshape(len(rows), -1)  # (b·P·Q, KH·KW·C)
            multiply(self, cols, W, out=rows)
            rows += bias

        parallel(work, self._batch_slices(x))
        return y

    def _backward_by_windows(self, dy: Array, x: Array, dx: Array | None) -> Array:
        """Return dW (KH, KW, C, K), and fill dx (B, H, W, C) where it is wanted."""
        K, dy = self.out_channels, operand(self, dy)  # (B, P, Q, K)
        W = operand(self, self.params["W"]).reshape(-1, K)  # (KH·KW·C, K)

        def of_slice(k: slice) -> Array:
            rows = dy[k].reshape(-1, K)  # (b·P·Q, K)
            cols = im2col(x[k], *self.window)  # (b, P, Q, KH·KW·C)
            if dx is not None:
                dcols = result(self, rows @ W.T).reshape(cols.shape)  # (b, P, Q, KH·KW·C)
                dx[k] = col2im_by_rows(dcols, (x.shape[1], x.shape[2]), *self.window)
            return result(self, cols.reshape(len(rows), -1).T @ rows)  # (KH·KW·C, K)

        def work(group: Sequence[slice]) -> Array:
            return reduce(operator.add, map(of_slice, group))  # (KH·KW·C, K)

        sums: list[Array] = parallel(work, in_groups(self._batch_slices(x)))
        dW = reduce(operator.add, sums)  # in order: the same bits each time
        return dW.reshape(self.params["W"].shape)  # (KH, KW, C, K)

    def _batch_slices(self, x: Array) -> list[slice]:
        """Some samples at a time: their windows laid out, and the outputs."""
        window = math.prod(self.kernel_size) * self.in_channels
        numbers = math.prod(self.output_size((x.shape[1], x.shape[2]))) * (window + self.out_channels)
        return work_slices(len(x), numbers, get_xp(x))

    # -- by frequencies ------------------------------------------------------------------------

    def _geometry(self, size: Pair) -> Geometry:
        return Geometry(size, *self.window)

    def _takes_spectral(self, geometry: Geometry, batch: int) -> bool:
        if self.precision == MIXED and self.xp is not np:
            return False  # a GPU multiplies two matrices of float16 fast, but none of more axes
        return batch > pays_from(geometry, self.in_channels, self.out_channels)

    def _transformed_weights(self, geometry: Geometry) -> Array:
        """Return the weights (T, C', K) as spectral.py needs them; a snapshot for inference keeps them."""
        W = rounded(self, self.params["W"])  # (KH, KW, C, K)
        return self._kept(geometry, W, lambda: spectral.transform_weights(W, geometry))


def col2im_by_rows(dcols: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Array:
    """Do what layers.col2im does, a row of a window at a time: its KW·C numbers lie side by side."""
    B, P, Q, _ = dcols.shape
    (H, W), (above, left) = size, padding
    drows = dcols.reshape(B, P, Q, *kernel, -1)  # (B, P, Q, KH, KW, C)
    shape = (B, above + H + above, left + W + left, drows.shape[-1])
    dx = get_xp(dcols).zeros(shape, dtype=dcols.dtype)  # (B, H + 2·above, W + 2·left, C)
    for r in range(kernel[0]):
        rows = slice(r, r + stride[0] * (P - 1) + 1, stride[0])
        for q in range(Q):
            start = q * stride[1]
            dx[:, rows, start : start + kernel[1]] += drows[:, :, q, r]  # (B, P, KW, C)
    return dx[:, above : above + H, left : left + W]  # (B, H, W, C)
