r"""Convolution by frequencies, or by points: the fast algorithm behind Conv2d.

**One dimension.** The correlation y[p] = Σ_r x[p + r] w[r] of n numbers with k weights costs k
multiplications for each of its n - k + 1 outputs. The convolution theorem says that a Fourier
transform turns it into one product per frequency: Y(f) = X(f) · conj W(f). Cyclically, that is: x
wraps around at its end, but the first n - k + 1 outputs never reach the end, and we keep only them.
Written with three constant matrices it reads

    y = C [(A w) ⊙ (B x)]

A and B transform, ⊙ multiplies number by number, C transforms back. That is a *bilinear algorithm*;
the number T of rows of A and B is how often it multiplies.

**Real numbers only.** x and w are real, so X(-f) = conj X(f): half of the frequencies suffice. A
complex product takes three real ones (Gauss): with X = a + ib and conj W = c + id,

    k1 = c (a + b),   k2 = a (d - c),   k3 = b (c + d),   Re = k1 - k3,   Im = k1 + k2.

The sums a + b, d - c and c + d are linear in x or w, so they are rows of B and A; the signs go into
C. A frequency that is its own negative has b = d = 0 and takes one product.

**Two dimensions** are the same with frequencies (f1, f2). A grid of 10×10 has 4 frequencies that
are their own negative and 48 others in pairs: T = 4 + 3·48 = 148 products. The direct way takes
36 · 25 = 900 for the 6×6 outputs of a 5×5 kernel.

**Channels.** Each of the T products becomes a matrix product over the batch and the channels,
(B × C)·(C × K): that is where the time goes, and matrix products are what the machine does best.

**Stride.** With stride s, output p sees the pixels p·s + r. Split the image into s² phases, one for
each remainder of the row and the column: with r = s r' + a, pixel p·s + r is pixel p + r' of phase
a. So the phases are s² times as many channels of a convolution of stride 1 with a kernel s times
smaller in each direction. At 20×20 and 9×9 with stride 2: four grids of 10×10 and kernels of 5×5.

**Backward** is the same three matrices transposed: with Y = X ⊙ W summed over channels,
dY = Cᵀ dy, dx = Bᵀ (dY · Wᵀ), dw = Aᵀ (Xᵀ · dY).

**Rounding.** The transform is orthogonal up to its scale, so float32 keeps about seven digits.

**Small grids by points.** Read w and y as coefficients of polynomials; then a frequency is a point at
which they are evaluated, a root of unity. Any n different points determine their product, of degree
n - 1. Small rational points are real, so one product for each suffices: 36 instead of 52 on a grid of
6×6 (Toom and Cook; in two dimensions Winograd 1980, Lavin and Gray 2016). With V_m the powers 0 to
m - 1 of the points (the last point is ∞, where the highest coefficient is the value), the product's
coefficients are V_n⁻¹ [(V_k w) ⊙ (V_P y)], P = n - k + 1. This map of y, transposed, is the
correlation: A = V_k, B = V_n⁻ᵀ, C = V_Pᵀ. Powers of more points than 6 differ too much in size for
float32, so larger grids are left to the frequencies.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp, parallel, pieces

Pair = tuple[int, int]

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # and ∞; these round least of those tried (Barabasz et al. 2020)


class Geometry(NamedTuple):
    """The sizes of one convolution; each is (rows, columns)."""

    size: Pair  # of the image
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def outputs(self) -> Pair:
        """Places of the window, (P, Q)."""
        return tuple(
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        )

    @property
    def taps(self) -> Pair:
        """Kernel of one phase."""
        return tuple(-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True))

    @property
    def grid(self) -> Pair:
        """Pixels of one phase that the windows reach: the transform's size."""
        return tuple(p + k - 1 for p, k in zip(self.outputs, self.taps, strict=True))


class Matrices(NamedTuple):
    """The bilinear algorithm y = C[(A w) ⊙ (B x)] for one geometry."""

    A: Array  # (T, taps)
    B: Array  # (T, grid)
    C: Array  # (outputs, T)


def matrices(geometry: Geometry, like: Array) -> Matrices:
    """Return the three matrices in the library and dtype of `like`."""
    host = _matrices(geometry.grid, geometry.taps, geometry.outputs, np.dtype(like.dtype).name)
    xp = get_xp(like)
    return host if xp is np else Matrices(*map(xp.asarray, host))


@functools.lru_cache(maxsize=32)
def _matrices(grid: Pair, taps: Pair, outputs: Pair, dtype: str) -> Matrices:
    make = by_points if _has_points(grid) else by_frequencies
    return Matrices(*(np.ascontiguousarray(M, dtype=dtype) for M in make(grid, taps, outputs)))


def _has_points(grid: Pair) -> bool:
    return max(grid) <= len(POINTS) + 1


def by_points(grid: Pair, taps: Pair, outputs: Pair) -> Matrices:
    """Return the matrices of Toom and Cook, T = grid: rows and columns apart, then both at once."""

    def powers(points: int, count: int) -> np.ndarray:
        V = np.vander(POINTS[: points - 1], count, increasing=True)  # (points - 1, count)
        return np.vstack([V, np.eye(count)[-1:]])  # (points, count); the last point is ∞

    pairs = [
        (powers(n, k), np.linalg.inv(powers(n, n)).T, powers(n, p).T)
        for n, k, p in zip(grid, taps, outputs, strict=True)
    ]
    return Matrices(*(np.kron(rows, columns) for rows, columns in zip(*pairs, strict=True)))


def by_frequencies(grid: Pair, taps: Pair, outputs: Pair) -> Matrices:
    """Return the matrices of the Fourier transform in real numbers."""

    def angles(f: Pair, shape: Pair) -> np.ndarray:
        rows, columns = np.indices(shape).reshape(2, -1)
        return 2 * np.pi * (f[0] * rows / grid[0] + f[1] * columns / grid[1])

    A, B, C = [], [], []  # rows of A and B, columns of C
    for f in np.ndindex(*grid):
        negative = ((-f[0]) % grid[0], (-f[1]) % grid[1])
        w, x, y = (angles(f, shape) for shape in (taps, grid, outputs))
        if f == negative:  # real
            A.append(np.cos(w))
            B.append(np.cos(x))
            C.append(np.cos(y))
        elif f < negative:  # one of each pair; X = a + ib, conj W = c + id
            a, b, c, d = np.cos(x), -np.sin(x), np.cos(w), np.sin(w)
            A += [c, d - c, c + d]
            B += [a + b, a, b]
            # y = 2 Re(Y e^iy) = 2 (k1 - k3) cos y - 2 (k1 + k2) sin y
            C += [2 * (np.cos(y) - np.sin(y)), -2 * np.sin(y), -2 * np.cos(y)]
    return Matrices(np.stack(A), np.stack(B), np.stack(C, axis=1) / math.prod(grid))


def products(grid: Pair) -> int:
    """Return T, the multiplications of the bilinear algorithm on a grid."""
    if _has_points(grid):
        return math.prod(grid)
    own_negative = math.prod(2 if n % 2 == 0 else 1 for n in grid)
    return own_negative + 3 * (math.prod(grid) - own_negative) // 2


def multiplications(geometry: Geometry, channels: int, filters: int) -> tuple[int, int]:
    """Return what one image costs directly and by frequencies, in multiplications.

    By frequencies: T products of channels × filters, and the transforms of the image and back. The
    transform of the weights is left out: a batch shares it.
    """
    places, T = math.prod(geometry.outputs), products(geometry.grid)
    direct = places * math.prod(geometry.kernel) * channels * filters
    channels *= math.prod(geometry.stride)
    transforms = math.prod(geometry.grid) * T * channels + places * T * filters
    return direct, T * channels * filters + transforms


class SpectralCache(NamedTuple):
    geometry: Geometry
    X: Array  # (B, T, C'), the transformed image; C' = C · phases
    W_hat: Array  # (T, C', K), the transformed weights


def forward(
    x: Array, W: Array, geometry: Geometry, W_hat: Array | None = None
) -> tuple[Array, SpectralCache]:
    """x (B, H, W, C), W (KH, KW, C, K) -> y (B, P, Q, K), without a bias.

    W_hat (T, C', K) may be given where it is known: it is ``transform_weights(W, geometry, A)``.
    """
    A, B, C = matrices(geometry, W)
    if W_hat is None:
        W_hat = transform_weights(W, geometry, A)  # (T, C', K)
    X = transform_images(x, geometry, B)  # (B, T, C')
    y = multiply(X, W_hat, C)  # (B, P·Q, K)
    return y.reshape(len(x), *geometry.outputs, -1), SpectralCache(geometry, X, W_hat)


def backward(dy: Array, cache: SpectralCache) -> tuple[Array, Array]:
    """dy (B, P, Q, K) -> dx (B, H, W, C), dW (KH, KW, C, K)."""
    geometry, X, W_hat = cache
    A, B, C = matrices(geometry, dy)
    dY = transform_outputs_back(dy, C)  # (B, T, K)
    dW = transform_weights_back(per_frequency(X.transpose(1, 2, 0), dY.transpose(1, 0, 2)), geometry, A)
    dX = get_xp(dy).empty_like(X)  # (B, T, C')
    per_frequency(dY.transpose(1, 0, 2), W_hat.transpose(0, 2, 1), out=dX.transpose(1, 0, 2))
    return transform_images_back(dX, geometry, B), dW


def per_frequency(a: Array, b: Array, out: Array | None = None) -> Array:
    """Return the matrix products a[t] b[t] (T, M, N), some frequencies on each thread."""
    xp = get_xp(a)
    if out is None:
        out = xp.empty((len(a), a.shape[1], b.shape[2]), dtype=a.dtype)  # (T, M, N)
    numbers = a[0].size + b[0].size + out[0].size
    parallel(lambda t: xp.matmul(a[t], b[t], out=out[t]), pieces(len(a), numbers, xp))
    return out


# -- B x and its transpose --------------------------------------------------------------------


def transform_images(x: Array, geometry: Geometry, B: Array) -> Array:
    """Return B x for every sample and channel: x (B, H, W, C) -> (B, T, C')."""
    xp, channels = get_xp(x), x.shape[3] * math.prod(geometry.stride)
    X = xp.empty((len(x), len(B), channels), dtype=x.dtype)  # (B, T, C')
    parallel(lambda k: xp.matmul(B, phases(x[k], geometry), out=X[k]), pieces(len(x), X[0].size, xp))
    return X


def transform_images_back(dX: Array, geometry: Geometry, B: Array) -> Array:
    """Return Bᵀ dX as images: dX (B, T, C') -> dx (B, H, W, C)."""
    xp, channels = get_xp(dX), dX.shape[2] // math.prod(geometry.stride)
    dx = xp.empty((len(dX), *geometry.size, channels), dtype=dX.dtype)  # (B, H, W, C)

    def work(k: slice) -> None:
        dx[k] = from_phases(xp.matmul(B.T, dX[k]), geometry)

    parallel(work, pieces(len(dX), dX[0].size, xp))
    return dx


def phases(x: Array, geometry: Geometry) -> Array:
    """Split images into the phases of the stride: (B, H, W, C) -> (B, grid, C')."""
    (n, m), (s, t) = geometry.grid, geometry.stride
    x = fit(x, geometry.padding, (n * s, m * t))  # (B, n·s, m·t, C)
    split = x.reshape(len(x), n, s, m, t, -1).transpose(0, 1, 3, 2, 4, 5)  # (B, n, m, s, t, C)
    return split.reshape(len(x), n * m, -1)  # (B, n·m, C')


def from_phases(split: Array, geometry: Geometry) -> Array:
    """Put phases together again, ``phases`` transposed: (B, grid, C') -> (B, H, W, C)."""
    (n, m), (s, t) = geometry.grid, geometry.stride
    split = split.reshape(len(split), n, m, s, t, -1).transpose(0, 1, 3, 2, 4, 5)  # (B, n, s, m, t, C)
    x = split.reshape(len(split), n * s, m * t, -1)  # (B, n·s, m·t, C)
    return fit(x, tuple(-p for p in geometry.padding), geometry.size)


def fit(x: Array, before: Pair, size: Pair) -> Array:
    """Move x (B, H, W, C) by `before` rows and columns in a frame of `size`; zeros fill, ends are cut."""
    if before == (0, 0) and x.shape[1:3] == size:
        return x
    framed = get_xp(x).zeros((len(x), *size, x.shape[3]), dtype=x.dtype)  # (B, *size, C)
    inside = [slice(max(0, b), min(n, b + h)) for b, n, h in zip(before, size, x.shape[1:3], strict=True)]
    source = [slice(i.start - b, i.stop - b) for i, b in zip(inside, before, strict=True)]
    framed[:, inside[0], inside[1]] = x[:, source[0], source[1]]
    return framed


# -- A w and its transpose --------------------------------------------------------------------


def transform_weights(W: Array, geometry: Geometry, A: Array) -> Array:
    """Return A w for every channel and filter: W (KH, KW, C, K) -> (T, C', K)."""
    xp = get_xp(W)
    split = weight_phases(W, geometry)  # (taps, C'·K)
    W_hat = xp.empty((len(A), split.shape[1]), dtype=W.dtype)  # (T, C'·K)

    def work(k: slice) -> None:
        W_hat[:, k] = A @ split[:, k]  # a copy, but out of the cache; BLAS would write there thrice

    parallel(work, pieces(split.shape[1], len(A), xp))
    return W_hat.reshape(len(A), -1, W.shape[3])


def transform_weights_back(dW_hat: Array, geometry: Geometry, A: Array) -> Array:
    """Return Aᵀ dW: dW_hat (T, C', K) -> dW (KH, KW, C, K)."""
    xp, filters = get_xp(dW_hat), dW_hat.shape[2]
    rows = dW_hat.reshape(len(A), -1)  # (T, C'·K)
    split = xp.empty((A.shape[1], rows.shape[1]), dtype=rows.dtype)  # (taps, C'·K)

    def work(k: slice) -> None:
        split[:, k] = A.T @ rows[:, k]

    parallel(work, pieces(rows.shape[1], len(A), xp))
    (n, m), (s, t), (height, width) = geometry.taps, geometry.stride, geometry.kernel
    dW = split.reshape(n, m, s, t, -1, filters).transpose(0, 2, 1, 3, 4, 5)  # (n, s, m, t, C, K)
    return dW.reshape(n * s, m * t, -1, filters)[:height, :width]


def weight_phases(W: Array, geometry: Geometry) -> Array:
    """Split a kernel into the phases of the stride: (KH, KW, C, K) -> (taps, C'·K)."""
    (n, m), (s, t), (height, width) = geometry.taps, geometry.stride, geometry.kernel
    padded = get_xp(W).pad(W, ((0, n * s - height), (0, m * t - width), (0, 0), (0, 0)))
    split = padded.reshape(n, s, m, t, *W.shape[2:]).transpose(0, 2, 1, 3, 4, 5)  # (n, m, s, t, C, K)
    return split.reshape(n * m, -1)  # (taps, C'·K)


# -- the products and C -----------------------------------------------------------------------


def multiply(X: Array, W_hat: Array, C: Array) -> Array:
    """Return y = C[X W_hat]: X (B, T, C'), W_hat (T, C', K) -> y (B, P·Q, K)."""
    xp = get_xp(X)
    Y = xp.empty((*X.shape[:2], W_hat.shape[2]), dtype=X.dtype)  # (B, T, K)
    per_frequency(X.transpose(1, 0, 2), W_hat, out=Y.transpose(1, 0, 2))
    y = xp.empty((len(X), len(C), Y.shape[2]), dtype=X.dtype)  # (B, P·Q, K)
    parallel(lambda k: xp.matmul(C, Y[k], out=y[k]), pieces(len(X), Y[0].size, xp))
    return y


def transform_outputs_back(dy: Array, C: Array) -> Array:
    """Return Cᵀ dy: dy (B, P, Q, K) -> dY (B, T, K)."""
    xp = get_xp(dy)
    rows = dy.reshape(len(dy), -1, dy.shape[-1])  # (B, P·Q, K)
    dY = xp.empty((len(dy), C.shape[1], dy.shape[-1]), dtype=dy.dtype)  # (B, T, K)
    parallel(lambda k: xp.matmul(C.T, rows[k], out=dY[k]), pieces(len(dy), dY[0].size, xp))
    return dY
