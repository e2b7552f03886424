"""Convolution by frequencies, or by points: transform, multiply, transform back (see bilinear.py)."""

from __future__ import annotations

import math
from typing import NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.fast.bilinear import Geometry, matrices
from minicaps.fast.threads import parallel, slices_along, work_slices
from minicaps.layers import Pair


class SpectralCache(NamedTuple):
    """What the backward of a convolution by frequencies needs."""

    geometry: Geometry
    X: Array  # (B, T, C'), the transformed image; C' = C · phases
    W_hat: Array  # (T, C', K), the transformed weights


def forward(x: Array, W_hat: Array, geometry: Geometry) -> tuple[Array, SpectralCache]:
    """x (B, H, W, C), W_hat (T, C', K) -> y (B, P, Q, K), without a bias."""
    _, D, A = matrices(geometry, x)
    X = transform_images(x, geometry, D)  # (B, T, C')
    y = multiply(X, W_hat, A)  # (B, P·Q, K)
    return y.reshape(len(x), *geometry.outputs, -1), SpectralCache(geometry, X, W_hat)


def backward(dy: Array, cache: SpectralCache) -> tuple[Array, Array]:
    """dy (B, P, Q, K) -> dx (B, H, W, C), dW (KH, KW, C, K)."""
    geometry, X, W_hat = cache
    G, D, A = matrices(geometry, dy)
    dY = transform_outputs_back(dy, A)  # (B, T, K)
    dW = transform_weights_back(per_frequency(X.transpose(1, 2, 0), dY.transpose(1, 0, 2)), geometry, G)
    dX = get_xp(dy).empty_like(X)  # (B, T, C')
    per_frequency(dY.transpose(1, 0, 2), W_hat.transpose(0, 2, 1), out=dX.transpose(1, 0, 2))
    return transform_images_back(dX, geometry, D), dW


def per_frequency(a: Array, b: Array, out: Array | None = None) -> Array:
    """Return the matrix products a[t] b[t] (T, M, N), some frequencies on each thread."""
    xp = get_xp(a)
    if out is None:
        out = xp.empty((len(a), a.shape[1], b.shape[2]), dtype=a.dtype)  # (T, M, N)
    parallel(lambda t: xp.matmul(a[t], b[t], out=out[t]), slices_along(a, b, out))
    return out


# -- D x and its transpose --------------------------------------------------------------------


def transform_images(x: Array, geometry: Geometry, D: Array) -> Array:
    """Return D x for every sample and channel: x (B, H, W, C) -> (B, T, C')."""
    xp, channels = get_xp(x), x.shape[3] * math.prod(geometry.stride)
    X = xp.empty((len(x), len(D), channels), dtype=x.dtype)  # (B, T, C')
    parallel(lambda k: xp.matmul(D, phases(x[k], geometry), out=X[k]), slices_along(X))
    return X


def transform_images_back(dX: Array, geometry: Geometry, D: Array) -> Array:
    """Return Dᵀ dX as images: dX (B, T, C') -> dx (B, H, W, C)."""
    xp, channels = get_xp(dX), dX.shape[2] // math.prod(geometry.stride)
    dx = xp.empty((len(dX), *geometry.size, channels), dtype=dX.dtype)  # (B, H, W, C)

    def work(k: slice) -> None:
        dx[k] = from_phases(xp.matmul(D.T, dX[k]), geometry)

    parallel(work, slices_along(dX))
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
    return fit(x, (-geometry.padding[0], -geometry.padding[1]), geometry.size)


def fit(x: Array, before: Pair, size: Pair) -> Array:
    """Move x (B, H, W, C) by `before` rows and columns in a frame of `size`; zeros fill, ends are cut."""
    if before == (0, 0) and x.shape[1:3] == size:
        return x
    framed = get_xp(x).zeros((len(x), *size, x.shape[3]), dtype=x.dtype)  # (B, *size, C)
    inside = [slice(max(0, b), min(n, b + h)) for b, n, h in zip(before, size, x.shape[1:3], strict=True)]
    source = [slice(i.start - b, i.stop - b) for i, b in zip(inside, before, strict=True)]
    framed[:, inside[0], inside[1]] = x[:, source[0], source[1]]
    return framed


# -- G w and its transpose --------------------------------------------------------------------


def transform_weights(W: Array, geometry: Geometry) -> Array:
    """Return G w for every channel and filter: W (KH, KW, C, K) -> (T, C', K)."""
    G, xp = matrices(geometry, W).G, get_xp(W)
    split = weight_phases(W, geometry)  # (taps, C'·K)
    W_hat = xp.empty((len(G), split.shape[1]), dtype=W.dtype)  # (T, C'·K)

    def work(k: slice) -> None:
        W_hat[:, k] = G @ split[:, k]  # made within the processor's cache, then copied: faster than out=

    parallel(work, work_slices(split.shape[1], len(G), xp))
    return W_hat.reshape(len(G), -1, W.shape[3])


def transform_weights_back(dW_hat: Array, geometry: Geometry, G: Array) -> Array:
    """Return Gᵀ dW: dW_hat (T, C', K) -> dW (KH, KW, C, K)."""
    xp, filters = get_xp(dW_hat), dW_hat.shape[2]
    rows = dW_hat.reshape(len(G), -1)  # (T, C'·K)
    split = xp.empty((G.shape[1], rows.shape[1]), dtype=rows.dtype)  # (taps, C'·K)

    def work(k: slice) -> None:
        split[:, k] = G.T @ rows[:, k]

    parallel(work, work_slices(rows.shape[1], len(G), xp))
    (n, m), (s, t), (height, width) = geometry.taps, geometry.stride, geometry.kernel
    dW = split.reshape(n, m, s, t, -1, filters).transpose(0, 2, 1, 3, 4, 5)  # (n, s, m, t, C, K)
    return dW.reshape(n * s, m * t, -1, filters)[:height, :width]


def weight_phases(W: Array, geometry: Geometry) -> Array:
    """Split a kernel into the phases of the stride: (KH, KW, C, K) -> (taps, C'·K)."""
    (n, m), (s, t), (height, width) = geometry.taps, geometry.stride, geometry.kernel
    padded = get_xp(W).pad(W, ((0, n * s - height), (0, m * t - width), (0, 0), (0, 0)))
    split = padded.reshape(n, s, m, t, *W.shape[2:]).transpose(0, 2, 1, 3, 4, 5)  # (n, m, s, t, C, K)
    return split.reshape(n * m, -1)  # (taps, C'·K)


# -- the products and A -----------------------------------------------------------------------


def multiply(X: Array, W_hat: Array, A: Array) -> Array:
    """Return y = A [X W_hat]: X (B, T, C'), W_hat (T, C', K) -> y (B, P·Q, K)."""
    xp = get_xp(X)
    Y = xp.empty((*X.shape[:2], W_hat.shape[2]), dtype=X.dtype)  # (B, T, K)
    per_frequency(X.transpose(1, 0, 2), W_hat, out=Y.transpose(1, 0, 2))
    y = xp.empty((len(X), len(A), Y.shape[2]), dtype=X.dtype)  # (B, P·Q, K)
    parallel(lambda k: xp.matmul(A, Y[k], out=y[k]), slices_along(Y))
    return y


def transform_outputs_back(dy: Array, A: Array) -> Array:
    """Return Aᵀ dy: dy (B, P, Q, K) -> dY (B, T, K)."""
    xp = get_xp(dy)
    rows = dy.reshape(len(dy), -1, dy.shape[-1])  # (B, P·Q, K)
    dY = xp.empty((len(dy), A.shape[1], dy.shape[-1]), dtype=dy.dtype)  # (B, T, K)
    parallel(lambda k: xp.matmul(A.T, rows[k], out=dY[k]), slices_along(dY))
    return dY
