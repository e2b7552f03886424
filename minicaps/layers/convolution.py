"""Convolution and max pooling over channels-last images (B, H, W, C)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, generator, get_xp, lanes, parallel, pieces, uniform
from minicaps.checks import check_array, check_choice, check_gradient, check_positive
from minicaps.fast import spectral
from minicaps.layers.contract import Example, Layer

Pair = tuple[int, int]

SPECTRAL_SHARE = 1.0  # im2col moves more memory for a multiplication, above all in backward


def as_pair(place: str, name: str, value: int | Pair, least: int = 1) -> Pair:
    """Return (height, width) from one number or two, each a whole number of at least `least`."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not whole or min(pair) < least:
        raise ValueError(
            f"{place}: {name} is {value!r}, expected one or two whole numbers of at least {least}"
        )
    return pair


def output_size(place: str, size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Pair:
    """Return the grid (P, Q) of places where a window fits: ⌊(size + 2·padding - kernel)/stride⌋ + 1.

    Raises
    ------
    ValueError
        If the window is larger than the padded image.
    """
    for axis, n, k, p in zip(("height", "width"), size, kernel, padding, strict=True):
        if n + 2 * p < k:
            raise ValueError(
                f"{place}: a window of {axis} {k} does not fit an image of {axis} {n} with padding "
                f"{p}; use a larger image, a smaller kernel, a smaller stride before, or padding"
            )
    return tuple(
        (n + 2 * p - k) // s + 1
        for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )  # fmt: skip


def pad(x: Array, padding: Pair) -> Array:
    """Surround x (B, H, W, C) with zeros."""
    if padding == (0, 0):
        return x
    return get_xp(x).pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))


def im2col(x: Array, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Array:
    """Lay every window of x (B, H, W, C) out as a row: (B, P, Q, KH·KW·C)."""
    grid = output_size("im2col", x.shape[1:3], kernel, stride, padding)
    x = pad(x, padding)
    sample, row, column, channel = x.strides
    windows = get_xp(x).lib.stride_tricks.as_strided(  # CuPy's sliding_window_view waits for the GPU
        x,
        (len(x), *grid, *kernel, x.shape[3]),
        (sample, row * stride[0], column * stride[1], row, column, channel),
    )  # (B, P, Q, KH, KW, C), a view
    return windows.reshape(len(x), *grid, -1)  # (B, P, Q, KH·KW·C)


def col2im(dcols: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Array:
    """Add every row of dcols (B, P, Q, KH·KW·C) to its window: (B, H, W, C). im2col transposed."""
    xp = get_xp(dcols)
    batch, *grid, _ = dcols.shape
    dcols = dcols.reshape(batch, *grid, *kernel, -1)  # (B, P, Q, KH, KW, C)
    (height, width), (above, left) = size, padding
    shape = (batch, height + 2 * above, width + 2 * left, dcols.shape[-1])
    dx = xp.zeros(shape, dtype=dcols.dtype)  # (B, H + 2·above, W + 2·left, C)
    for row in range(kernel[0]):
        rows = slice(row, row + stride[0] * (grid[0] - 1) + 1, stride[0])
        for q in range(grid[1]):  # a window's row lies in one piece: KW·C numbers at a time
            start = q * stride[1]
            dx[:, rows, start : start + kernel[1]] += dcols[:, :, q, row]  # (B, P, KW, C)
    return dx[:, above : above + height, left : left + width]  # (B, H, W, C)


def sum_over_places(dy: Array) -> Array:
    """Return Σ dy over batch and places: (B, P, Q, K) -> (K,). A product with ones does it fastest."""
    rows = dy.reshape(-1, dy.shape[-1])  # (B·P·Q, K)
    return (get_xp(dy).ones((1, len(rows)), dtype=dy.dtype) @ rows)[0]


class Im2colCache(NamedTuple):
    x: Array  # (B, H, W, C); its windows are laid out again in backward


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
    algorithm : {"auto", "im2col", "spectral"}
        "im2col" is the formula above, a few samples at a time. "spectral" multiplies frequencies
        (spectral.py) and agrees to rounding. "auto" takes it where it needs less than
        SPECTRAL_SHARE of the multiplications.
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
        algorithm: str = "auto",
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("Conv2d", in_channels=in_channels, out_channels=out_channels)
        check_choice("Conv2d", "algorithm", algorithm, ("auto", "im2col", "spectral"))
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = as_pair("Conv2d", "kernel_size", kernel_size)
        self.stride = as_pair("Conv2d", "stride", stride)
        self.padding = as_pair("Conv2d", "padding", padding, least=0)
        self.algorithm = algorithm
        self._transformed: dict[spectral.Geometry, Array] = {}  # filled in snapshots for inference only
        rng = generator(rng)
        shape = (*self.kernel_size, in_channels, out_channels)
        fan_in = self.kernel_size[0] * self.kernel_size[1] * in_channels
        self.add_param("W", uniform(rng, shape, fan_in, dtype))  # (KH, KW, C, K)
        self.add_param("bias", uniform(rng, (out_channels,), fan_in, dtype))  # (K,)

    def output_size(self, size: Pair) -> Pair:
        """Return the output's (P, Q) for an input of (H, W)."""
        return output_size("Conv2d", size, self.kernel_size, self.stride, self.padding)

    def forward(self, x: Array) -> tuple[Array, Im2colCache | spectral.SpectralCache]:
        """x (B, H, W, C) -> y (B, P, Q, K)."""
        W, bias = self.params["W"], self.params["bias"]
        check_array("Conv2d.forward", "x", x, ("batch B", None), ("height H", None),
                    ("width W", None), ("channels C", W.shape[2]), like=W)  # fmt: skip
        self.output_size(x.shape[1:3])  # says clearly when the kernel does not fit
        geometry = self._geometry(x.shape[1:3])
        if self._takes_spectral(geometry):
            y, cache = spectral.forward(x, W, geometry, self._transformed.get(geometry))  # (B, P, Q, K)
            y += bias
            return y, cache
        return self._im2col(x), Im2colCache(x)

    def backward(self, dy: Array, cache: Im2colCache | spectral.SpectralCache) -> Array:
        """dy (B, P, Q, K) -> dx (B, H, W, C)."""
        self._check_dy(dy, cache)
        self.grads["bias"] += sum_over_places(dy)  # (K,)
        if isinstance(cache, spectral.SpectralCache):
            dx, dW = spectral.backward(dy, cache)
        else:
            dx, dW = self._im2col_backward(dy, cache.x)
        self.grads["W"] += dW  # (KH, KW, C, K)
        return dx

    def backward_params(self, dy: Array, cache: Im2colCache | spectral.SpectralCache) -> None:
        """As ``backward``, without the gradient of x: a first layer needs none."""
        if isinstance(cache, spectral.SpectralCache):
            self.backward(dy, cache)
            return
        self._check_dy(dy, cache)
        self.grads["bias"] += sum_over_places(dy)  # (K,)
        self.grads["W"] += self._im2col_backward(dy, cache.x, with_dx=False)[1]

    def for_inference(self, size: Pair) -> Conv2d:
        """Return a snapshot for inputs of (H, W) that holds the transformed weights."""
        snapshot, geometry = copy.deepcopy(self), self._geometry(size)
        if self._takes_spectral(geometry):
            W = snapshot.params["W"]
            W_hat = spectral.transform_weights(W, geometry, spectral.matrices(geometry, W).A)
            snapshot._transformed[geometry] = W_hat  # (T, C', K)
        return snapshot.freeze()

    def _im2col(self, x: Array) -> Array:
        W, bias, xp = self.params["W"], self.params["bias"], get_xp(x)
        y = xp.empty((len(x), *self.output_size(x.shape[1:3]), W.shape[3]), dtype=x.dtype)  # (B, P, Q, K)

        def work(k: slice) -> None:
            cols = im2col(x[k], *self._window)  # (b, P, Q, KH·KW·C)
            rows = y[k].reshape(-1, W.shape[3])  # (b·P·Q, K), a view
            xp.matmul(cols.reshape(len(rows), -1), W.reshape(-1, W.shape[3]), out=rows)
            rows += bias

        parallel(work, self._pieces(x))
        return y

    def _im2col_backward(self, dy: Array, x: Array, with_dx: bool = True) -> tuple[Array | None, Array]:
        W = self.params["W"]
        matrix = W.reshape(-1, W.shape[3])  # (KH·KW·C, K)
        dx = get_xp(x).empty_like(x) if with_dx else None  # (B, H, W, C)

        def work(lane: list[slice]) -> Array:
            dW = 0
            for k in lane:
                cols = im2col(x[k], *self._window)  # (b, P, Q, KH·KW·C)
                rows = dy[k].reshape(-1, W.shape[3])  # (b·P·Q, K)
                dW = dW + cols.reshape(len(rows), -1).T @ rows  # (KH·KW·C, K)
                if with_dx:
                    dcols = (rows @ matrix.T).reshape(cols.shape)  # (b, P, Q, KH·KW·C)
                    dx[k] = col2im(dcols, x.shape[1:3], *self._window)
            return dW

        parts = parallel(work, lanes(self._pieces(x)))
        return dx, sum(parts).reshape(W.shape)  # in order: the same bits each time

    @property
    def _window(self) -> tuple[Pair, Pair, Pair]:
        return self.kernel_size, self.stride, self.padding

    def _pieces(self, x: Array) -> list[slice]:
        """Some samples at a time: their windows laid out, and the outputs."""
        KH, KW, C, K = self.params["W"].shape
        numbers = math.prod(self.output_size(x.shape[1:3])) * (KH * KW * C + K)
        return pieces(len(x), numbers, get_xp(x))

    def _geometry(self, size: Pair) -> spectral.Geometry:
        return spectral.Geometry(tuple(size), *self._window)

    def _takes_spectral(self, geometry: spectral.Geometry) -> bool:
        if self.algorithm != "auto":
            return self.algorithm == "spectral"
        direct, by_frequency = spectral.multiplications(geometry, self.in_channels, self.out_channels)
        return by_frequency < SPECTRAL_SHARE * direct

    def _check_dy(self, dy: Array, cache: Im2colCache | spectral.SpectralCache) -> None:
        W, of_spectral = self.params["W"], isinstance(cache, spectral.SpectralCache)
        size, batch = (
            (cache.geometry.size, len(cache.X)) if of_spectral else (cache.x.shape[1:3], len(cache.x))
        )
        check_gradient("Conv2d.backward", dy, (batch, *self.output_size(size), W.shape[3]), W)

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        x = rng.normal(size=(2, 7, 6, 3)).astype(dtype)
        for name, options in {
            "plain": {"kernel_size": (3, 2)},
            "stride": {"kernel_size": (2, 3), "stride": (3, 2)},
            "padding": {"kernel_size": (3, 4), "padding": (2, 1)},
            "all": {"kernel_size": (4, 3), "stride": (2, 3), "padding": (1, 2)},
        }.items():
            for algorithm in ("im2col", "spectral"):
                layer = cls(3, 4, algorithm=algorithm, rng=rng, dtype=dtype, **options)
                yield Example(f"{name}, {algorithm}", layer, (x,))


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
        axes = [(name, None) for name in ("batch B", "height H", "width W", "channels C")]
        xp = check_array("MaxPool2d.forward", "x", x, *axes)
        grid = output_size("MaxPool2d.forward", x.shape[1:3], self.window, self.stride)
        first, *others = self._pixels(grid)
        y = x[first].copy()  # (B, P, Q, C)
        winner = xp.zeros(y.shape, dtype=xp.min_scalar_type(len(others)))  # (B, P, Q, C)
        for number, pixel in enumerate(others, 1):
            larger = x[pixel] > y  # (B, P, Q, C); in a tie the first stays
            xp.maximum(winner, larger * winner.dtype.type(number), out=winner)  # a later one is a higher
            xp.maximum(y, x[pixel], out=y)
        return y, MaxPool2dCache(x.shape, winner)

    def backward(self, dy: Array, cache: MaxPool2dCache) -> Array:
        """dy (B, P, Q, C) -> dx (B, H, W, C)."""
        xp = get_xp(dy)
        check_gradient("MaxPool2d.backward", dy, cache.winner.shape, dy)
        dx = xp.zeros(cache.shape, dtype=dy.dtype)  # (B, H, W, C)
        for number, pixel in enumerate(self._pixels(dy.shape[1:3])):
            dx[pixel] += dy * (cache.winner == number)  # (B, P, Q, C)
        return dx

    def _pixels(self, grid: Pair) -> list[tuple[slice, ...]]:
        """Return where the first, the second, … pixel of every window is: x[pixel] is (B, P, Q, C)."""
        rows, columns = (
            [slice(k, k + step * (count - 1) + 1, step) for k in range(size)]
            for size, step, count in zip(self.window, self.stride, grid, strict=True)
        )
        return [(slice(None), row, column) for row in rows for column in columns]

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        numbers = rng.permutation(2 * 7 * 6 * 3)  # all different, so no window is near a tie
        x = (numbers.reshape(2, 7, 6, 3) / len(numbers)).astype(dtype)
        yield Example("plain", cls((3, 2)), (x,))
        yield Example("overlapping", cls((2, 3), stride=(1, 2)), (x,))
