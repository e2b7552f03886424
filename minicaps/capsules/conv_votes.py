"""Votes of convolutional and deconvolutional capsules: one convolution for each type of child."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_flag, check_gradient, check_number, check_positive
from minicaps.layers import (
    Layer,
    Pair,
    Seed,
    as_pair,
    col2im,
    generator,
    im2col,
    output_size,
    transposed_size,
)


class GridVotesCache(NamedTuple):
    rows: Array  # (I, N, L), what W was multiplied by
    shape: tuple[int, ...]  # (B, H, W, I, D), of u


class GridVotes(Layer):
    """Base of the votes on a grid: u (B, H, W, I, D) -> u_hat (B, P, Q, I, J, E).

    Types come first while they are computed with, so that each is a batch of images of its own, and nothing
    but whole axes ever moves.
    """

    def __init__(
        self,
        in_types: int,
        in_dimension: int,
        types: int,
        dimension: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        shared: bool = False,
        std: float | None = None,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_positive(name, in_types=in_types, in_dimension=in_dimension, types=types, dimension=dimension)
        check_flag(name, shared=shared)
        self.in_types, self.in_dimension = in_types, in_dimension
        self.types, self.dimension, self.shared = types, dimension, shared
        self.kernel_size = as_pair(name, "kernel_size", kernel_size)
        self.stride = as_pair(name, "stride", stride)
        self.padding = as_pair(name, "padding", padding, minimum=0)
        if std is None:
            std = 2 * types / (in_types * self._children_of_a_type() * dimension) ** 0.5
        check_number(name, std=std)
        self.std = std
        shape = (1 if shared else in_types, *self._shape_of_W())
        self.add_param("W", generator(rng).normal(0.0, std, size=shape).astype(dtype))

    @property
    def window(self) -> tuple[Pair, Pair, Pair]:
        """Kernel size, stride and padding."""
        return self.kernel_size, self.stride, self.padding

    @abstractmethod
    def output_size(self, size: Pair) -> Pair:
        """Return the (P, Q) of the votes for capsules on a grid (H, W)."""

    @abstractmethod
    def _children_of_a_type(self) -> float:
        """Return how many children of one type vote at a position."""

    @abstractmethod
    def _shape_of_W(self) -> tuple[int, ...]:
        """Return the shape of W for one type of child."""

    @abstractmethod
    def _matrices(self) -> Array:
        """Return W as a matrix for each type: (I, L, M), or (1, L, M) where they share one."""

    def _add_gradient(self, rows: Array, dy: Array) -> Array:
        """Add the gradient of y = rows W to that of W, and return drows: rows (I, N, L), dy (I, N, M)."""
        W = self._matrices()  # (I, L, M), or (1, L, M)
        dW = rows.swapaxes(1, 2) @ dy  # (I, L, N) @ (I, N, M) -> (I, L, M)
        dW = dW.reshape(len(W), -1, *W.shape[1:]).sum(axis=1)  # over the types that share it: as W
        self.grads["W"] += dW.reshape(self.params["W"].shape)
        return dy @ W.swapaxes(1, 2)  # (I, N, M) @ (I, M, L) -> (I, N, L)

    def _check_gradient(self, du_hat: Array, shape: tuple[int, ...]) -> None:
        """Check du_hat for children u of a `shape` (B, H, W, I, D)."""
        B, H, W, I, _ = shape
        expected = (B, *self.output_size((H, W)), I, self.types, self.dimension)
        check_gradient(f"{type(self).__name__}.backward", du_hat, expected, self.params["W"])

    def check_input(self, where: str, u: Array) -> None:
        """Raise ValueError or TypeError unless u is (B, H, W, I, D), of capsules that there are votes of."""
        grid = ("batch B", None), ("height H", None), ("width W", None)
        below = ("lower types I", self.in_types), ("capsule dimension D", self.in_dimension)
        check_array(where, "u", u, *grid, *below, like=self.params["W"])
        self.output_size((u.shape[1], u.shape[2]))  # says clearly when there would be no votes


def types_first(x: Array) -> Array:
    """Return one batch of images for each type, one behind the other: (B, H, W, I, ...) -> (I·B, H, W, K)."""
    B, H, W, I = x.shape[:4]
    return get_xp(x).moveaxis(x, 3, 0).reshape(I * B, H, W, -1)  # (I, B, H, W, ...) -> (I·B, H, W, K)


def types_back(x: Array, I: int, *pose: int) -> Array:
    """Undo types_first: (I·B, H, W, K) -> (B, H, W, I, *pose), a view."""
    _, H, W, _ = x.shape
    return get_xp(x).moveaxis(x.reshape(I, -1, H, W, *pose), 0, 3)  # (I, B, H, W, ...) -> (B, H, W, I, ...)


class ConvVotes(GridVotes):
    r"""Votes of windows (LaLonde and Bagci 2018): û_i = conv(u_i; W_i), for every type i of child.

    û_pqij = Σ_{r,t} u[p·stride + r - padding, q·stride + t - padding, i] W_irtj: what the children of type i
    in the window at (p, q) say about parent j is summed before anything is routed, so that there are I votes
    for a parent and not KH·KW·I. With every window laid out as a row it is one product for each type:
    û_i = cols_i W_i.

    Gradient: dW_i = cols_iᵀ dû_i, summed over the types that share it, and dcols_i = dû_i W_iᵀ, each row
    added back to its window.

    Parameters
    ----------
    in_types, in_dimension, types, dimension : int
        I and D of the children, J and E of the parents.
    kernel_size, stride, padding : int or (int, int)
        As for Conv2d.
    shared : bool
        Whether all types of children have one W, as in the authors' code; in the paper each has its own.
    std : float, optional
        Standard deviation: W (I, KH, KW, D, J, E), or (1, ...) where it is shared, starts as N(0, std²). By
        default as for Votes, with I·KH·KW children.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    LaLonde and Bagci, `Capsules for object segmentation <https://arxiv.org/abs/1804.04241>`_, 2018.
    """

    def output_size(self, size: Pair) -> Pair:
        return output_size("ConvVotes", size, *self.window)

    def _children_of_a_type(self) -> float:
        return math.prod(self.kernel_size)

    def _shape_of_W(self) -> tuple[int, ...]:
        return (*self.kernel_size, self.in_dimension, self.types, self.dimension)  # (KH, KW, D, J, E)

    def _matrices(self) -> Array:
        W = self.params["W"]  # (I, KH, KW, D, J, E), or (1, ...)
        return W.reshape(len(W), -1, self.types * self.dimension)  # (I, KH·KW·D, J·E)

    def forward(self, u: Array) -> tuple[Array, GridVotesCache]:
        """u (B, H, W, I, D) -> u_hat (B, P, Q, I, J, E)."""
        self.check_input("ConvVotes.forward", u)
        cols = im2col(types_first(u), *self.window)  # (I·B, P, Q, KH·KW·D)
        rows = cols.reshape(self.in_types, -1, cols.shape[3])  # (I, B·P·Q, KH·KW·D)
        y = rows @ self._matrices()  # (I, N, KH·KW·D) @ (I, KH·KW·D, J·E) -> (I, N, J·E), N = B·P·Q
        images = y.reshape(*cols.shape[:3], -1)  # (I·B, P, Q, J·E)
        return types_back(images, self.in_types, self.types, self.dimension), GridVotesCache(rows, u.shape)

    def backward(self, du_hat: Array, cache: GridVotesCache) -> Array:
        """du_hat (B, P, Q, I, J, E) -> du (B, H, W, I, D)."""
        rows, shape = cache
        self._check_gradient(du_hat, shape)
        images = types_first(du_hat)  # (I·B, P, Q, J·E)
        drows = self._add_gradient(rows, images.reshape(len(rows), -1, images.shape[3]))  # (I, N, KH·KW·D)
        dcols = drows.reshape(*images.shape[:3], -1)  # (I·B, P, Q, KH·KW·D)
        du = col2im(dcols, (shape[1], shape[2]), *self.window)  # (I·B, H, W, D)
        return types_back(du, *shape[3:])  # (B, H, W, I, D)


class DeconvVotes(GridVotes):
    r"""Votes for a finer grid (LaLonde and Bagci 2018), by transposed convolution: û_i = col2im(u_i W_i).

    Every child has votes for a whole window of parents, and where windows overlap, they are summed:
    û_pqij = Σ u[h, w, i] W_irtj over all h, w, r, t with p = h·stride + r - padding and
    q = w·stride + t - padding. n children along an axis have (n - 1)·stride + kernel - 2·padding parents.

    Gradient: dcols_i = im2col(dû_i), du_i = dcols_i W_iᵀ, dW_i = u_iᵀ dcols_i, summed over the types that
    share it.

    Parameters
    ----------
    in_types, in_dimension, types, dimension, shared, rng, dtype
        As for ConvVotes.
    kernel_size, stride, padding : int or (int, int)
        Of the convolution that this is the transpose of: the padding is cut off on both sides.
    std : float, optional
        As for ConvVotes, of W (I, D, KH, KW, J, E), or (1, ...); with a stride fewer children than
        I·KH·KW reach a position.

    References
    ----------
    LaLonde and Bagci, `Capsules for object segmentation <https://arxiv.org/abs/1804.04241>`_, 2018.
    """

    def output_size(self, size: Pair) -> Pair:
        return transposed_size("DeconvVotes", size, *self.window)

    def _children_of_a_type(self) -> float:
        return math.prod(max(1, k / s) for k, s in zip(self.kernel_size, self.stride, strict=True))

    def _shape_of_W(self) -> tuple[int, ...]:
        return (self.in_dimension, *self.kernel_size, self.types, self.dimension)  # (D, KH, KW, J, E)

    def _matrices(self) -> Array:
        W = self.params["W"]  # (I, D, KH, KW, J, E), or (1, ...)
        return W.reshape(len(W), self.in_dimension, -1)  # (I, D, KH·KW·J·E)

    def forward(self, u: Array) -> tuple[Array, GridVotesCache]:
        """u (B, H, W, I, D) -> u_hat (B, P, Q, I, J, E)."""
        self.check_input("DeconvVotes.forward", u)
        images = types_first(u)  # (I·B, H, W, D)
        rows = images.reshape(self.in_types, -1, self.in_dimension)  # (I, B·H·W, D)
        y = rows @ self._matrices()  # (I, N, D) @ (I, D, KH·KW·J·E) -> (I, N, KH·KW·J·E), N = B·H·W
        cols = y.reshape(*images.shape[:3], -1)  # (I·B, H, W, KH·KW·J·E)
        votes = col2im(cols, self.output_size((u.shape[1], u.shape[2])), *self.window)  # (I·B, P, Q, J·E)
        return types_back(votes, self.in_types, self.types, self.dimension), GridVotesCache(rows, u.shape)

    def backward(self, du_hat: Array, cache: GridVotesCache) -> Array:
        """du_hat (B, P, Q, I, J, E) -> du (B, H, W, I, D)."""
        rows, shape = cache
        self._check_gradient(du_hat, shape)
        dcols = im2col(types_first(du_hat), *self.window)  # (I·B, H, W, KH·KW·J·E)
        drows = self._add_gradient(rows, dcols.reshape(len(rows), -1, dcols.shape[3]))  # (I, N, D)
        return types_back(drows.reshape(*dcols.shape[:3], -1), *shape[3:])  # (B, H, W, I, D)
