r"""Bilinear algorithms: the three matrices that convolve with fewer multiplications.

**One dimension.** The correlation y[p] = Σ_r x[p + r] w[r] of n numbers with k weights costs k
multiplications for each of its n - k + 1 outputs. The convolution theorem says that a Fourier
transform turns it into one product per frequency: Y(f) = X(f) · conj W(f). Cyclically, that is: x
wraps around at its end, but the first n - k + 1 outputs never reach the end, and we keep only them.
Written with three constant matrices it reads

    y = A [(G w) ⊙ (D x)]

G and D transform, ⊙ multiplies number by number, A transforms back. That is a *bilinear algorithm*;
the number T of rows of G and D is how often it multiplies. (Lavin and Gray call the three G, Bᵀ, Aᵀ.)

**Real numbers only.** x and w are real, so X(-f) = conj X(f): half of the frequencies suffice. A
complex product takes three real ones (Gauss): with X = a + ib and conj W = c + id,

    k1 = c (a + b),   k2 = a (d - c),   k3 = b (c + d),   Re = k1 - k3,   Im = k1 + k2.

The sums a + b, d - c and c + d are linear in x or w, so they are rows of D and G; the signs go into
A. A frequency that is its own negative has b = d = 0 and takes one product.

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
dY = Aᵀ dy, dx = Dᵀ (dY · Wᵀ), dw = Gᵀ (Xᵀ · dY).

**Rounding.** The numbers that are summed are of the size of the result, so float32 keeps five to six
digits: the tests hold it to 1e-5.

**Small grids by points.** Read w and y as coefficients of polynomials; then a frequency is a point at
which they are evaluated, a root of unity. Any n different points determine their product, of degree
n - 1. Small rational points are real, so one product for each suffices: 36 instead of 52 on a grid of
6×6 (Toom and Cook; in two dimensions Winograd 1980, Lavin and Gray 2016). With V_m the powers 0 to
m - 1 of the points (the last point is ∞, where the highest coefficient is the value), the product's
coefficients are V_n⁻¹ [(V_k w) ⊙ (V_P y)], P = n - k + 1. This map of y, transposed, is the
correlation: G = V_k, D = V_n⁻ᵀ, A = V_Pᵀ. Powers of more points than 6 differ too much in size for
float32, so larger grids are left to the frequencies.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.layers import Pair, output_size

FETCH = 12  # multiplications that take as long as to fetch one transformed weight from memory, measured
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # and ∞; these round least of those tried (Barabasz et al. 2020)


class Geometry(NamedTuple):
    """The sizes of one convolution; each is (rows, columns)."""

    size: Pair  # of the image
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def outputs(self) -> Pair:
        """Positions of the window, (P, Q)."""
        return output_size("Conv2d", *self)

    @property
    def taps(self) -> Pair:
        """Kernel of one phase."""
        return -(-self.kernel[0] // self.stride[0]), -(-self.kernel[1] // self.stride[1])

    @property
    def grid(self) -> Pair:
        """Pixels of one phase that the windows reach: the transform's size."""
        (P, Q), (n, m) = self.outputs, self.taps
        return P + n - 1, Q + m - 1


class Matrices(NamedTuple):
    """The bilinear algorithm y = A [(G w) ⊙ (D x)] for one geometry."""

    G: Array  # (T, taps), transforms the weights
    D: Array  # (T, grid), transforms the image
    A: Array  # (outputs, T), transforms back


def matrices(geometry: Geometry, like: Array) -> Matrices:
    """Return the three matrices in the library and dtype of `like`."""
    return _matrices(geometry.grid, geometry.taps, geometry.outputs, np.dtype(like.dtype).name, get_xp(like))


@functools.lru_cache(maxsize=32)
def _matrices(grid: Pair, taps: Pair, outputs: Pair, dtype: str, xp: Any) -> Matrices:
    make = by_points if _has_points(grid) else by_frequencies
    return Matrices(*(xp.asarray(np.ascontiguousarray(M, dtype=dtype)) for M in make(grid, taps, outputs)))


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

    G: list[np.ndarray] = []  # rows of G and D, columns of A
    D: list[np.ndarray] = []
    A: list[np.ndarray] = []
    for f in np.ndindex(*grid):
        negative = ((-f[0]) % grid[0], (-f[1]) % grid[1])
        w, x, y = (angles(f, shape) for shape in (taps, grid, outputs))
        if f == negative:  # real
            G.append(np.cos(w))
            D.append(np.cos(x))
            A.append(np.cos(y))
        elif f < negative:  # one of each pair; X = a + ib, conj W = c + id
            a, b, c, d = np.cos(x), -np.sin(x), np.cos(w), np.sin(w)
            G += [c, d - c, c + d]
            D += [a + b, a, b]
            # y = 2 Re(Y e^iy) = 2 (k1 - k3) cos y - 2 (k1 + k2) sin y
            A += [2 * (np.cos(y) - np.sin(y)), -2 * np.sin(y), -2 * np.cos(y)]
    return Matrices(np.stack(G), np.stack(D), np.stack(A, axis=1) / math.prod(grid))


def products(grid: Pair) -> int:
    """Return T, the multiplications of the bilinear algorithm on a grid."""
    if _has_points(grid):
        return math.prod(grid)
    own_negative = math.prod(2 if n % 2 == 0 else 1 for n in grid)
    return own_negative + 3 * (math.prod(grid) - own_negative) // 2


@functools.lru_cache(maxsize=256)
def multiplications(geometry: Geometry, channels: int, filters: int) -> tuple[int, int]:
    """Return what one image costs directly and by frequencies, in multiplications.

    By frequencies: T products of channels × filters, and the transforms of the image and back. The
    transform of the weights is left out: a batch shares it (``pays_from`` says how large it has to be).
    """
    positions, T = math.prod(geometry.outputs), products(geometry.grid)
    direct = positions * math.prod(geometry.kernel) * channels * filters
    channels *= math.prod(geometry.stride)
    transforms = math.prod(geometry.grid) * T * channels + positions * T * filters
    return direct, T * channels * filters + transforms


@functools.lru_cache(maxsize=256)
def pays_from(geometry: Geometry, channels: int, filters: int) -> float:
    """Return from which batch on frequencies are sooner than windows; infinity where they never are.

    There are more transformed weights than weights (by 6 times in ``small``), and a batch has to fetch them
    all, however few images share them.
    """
    direct, by_frequency = multiplications(geometry, channels, filters)
    weights = products(geometry.grid) * channels * math.prod(geometry.stride) * filters  # T·C'·K
    return FETCH * weights / (direct - by_frequency) if by_frequency < direct else math.inf
