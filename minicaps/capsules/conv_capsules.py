"""Convolutional matrix capsules: votes in windows, and EM routing to the parents of all windows at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.capsules.em_routing import EMCache, EMRouting
from minicaps.capsules.matrix_votes import SIDE, MatrixVotes, MatrixVotesCache
from minicaps.capsules.window_softmax import WindowSoftmax
from minicaps.checks import check_array, check_positive, check_two_gradients
from minicaps.layers import Layer, Pair, Seed, as_pair, col2im, im2col, output_size


class ConvMatrixCapsCache(NamedTuple):
    """What ConvMatrixCaps keeps; ``c`` is a list with one array per iteration."""

    votes: MatrixVotesCache
    routing: EMCache
    size: Pair  # (H, W)

    @property
    def c(self) -> list[Array]:
        return self.routing.c  # each (B, P, Q, I, J)


class ConvMatrixCaps(Layer):
    r"""Convolutional capsules (Hinton et al. 2018, §4): types of capsules at every position of a grid.

    The capsules at a position fit the votes M W of the I = KH·KW·types children in their window. The matrices
    W are the same at every position; a child shares itself out among the parents of all windows that see it.

    Gradient: of the routing and of the votes; then the windows' gradients are added where they overlap.

    Parameters
    ----------
    in_types, types : int
        Types of capsules below, and here (J).
    kernel_size, stride : int or (int, int)
        Of the windows.
    iterations, inverse_temperature, min_variance, beta_u_start
        As for EMRouting.
    std, rng, dtype
        As for MatrixVotes.

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: section 4.
    """

    def __init__(
        self,
        in_types: int,
        types: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        iterations: int = 3,
        inverse_temperature: float = 0.001,
        min_variance: float = 5e-4,
        beta_u_start: float = 0.0,
        std: float = 0.1,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("ConvMatrixCaps", in_types=in_types, types=types)
        self.in_types, self.types = in_types, types
        self.kernel_size = as_pair("ConvMatrixCaps", "kernel_size", kernel_size)
        self.stride = as_pair("ConvMatrixCaps", "stride", stride)
        children = self.kernel_size[0] * self.kernel_size[1] * in_types
        self.votes = MatrixVotes(children, types, std=std, rng=rng, dtype=dtype)
        self.routing = EMRouting(
            types,
            iterations,
            inverse_temperature=inverse_temperature,
            min_variance=min_variance,
            beta_u_start=beta_u_start,
            coupling=WindowSoftmax(self.kernel_size, stride=self.stride),
            dtype=dtype,
        )

    def forward(self, poses: Array, a: Array) -> tuple[tuple[Array, Array], Any]:
        """poses (B, H, W, types, 16), a (B, H, W, types) -> mu (B, P, Q, J, 16), a' (B, P, Q, J)."""
        self._check_input(poses, a)
        size = poses.shape[1], poses.shape[2]
        u_hat, votes = self.votes.forward(self._windows(poses))  # (B, P, Q, I, J, 16)
        y, routing = self.routing.forward(u_hat, im2col(a, self.kernel_size, self.stride))
        return y, ConvMatrixCapsCache(votes, routing, size)

    def backward(self, dy: tuple[Array, Array], cache: Any) -> tuple[Array, Array]:
        """(dmu (B, P, Q, J, 16), da' (B, P, Q, J)) -> dposes (B, H, W, types, 16), da (B, H, W, types)."""
        self._check_gradient(dy, cache.routing.a.shape[:3])
        du_hat, dchildren = self.routing.backward(dy, cache.routing)  # (B, P, Q, I, J, 16), (B, P, Q, I)
        dwindows = self.votes.backward(du_hat, cache.votes)  # (B, P, Q, I, 16)
        da = col2im(dchildren, cache.size, self.kernel_size, self.stride)  # (B, H, W, types)
        return self._windows_backward(dwindows, cache.size), da

    def _windows(self, poses: Array) -> Array:
        """Return the children of every window: poses (B, H, W, types, 16) -> (B, P, Q, I, 16)."""
        images = poses.reshape(*poses.shape[:3], -1)  # (B, H, W, types·16)
        cols = im2col(images, self.kernel_size, self.stride)  # (B, P, Q, I·16)
        return cols.reshape(*cols.shape[:3], -1, SIDE**2)  # (B, P, Q, I, 16)

    def _windows_backward(self, dwindows: Array, size: Pair) -> Array:
        """dwindows (B, P, Q, I, 16) -> dposes (B, H, W, types, 16)."""
        dcols = dwindows.reshape(*dwindows.shape[:3], -1)  # (B, P, Q, I·16)
        dimages = col2im(dcols, size, self.kernel_size, self.stride)  # (B, H, W, types·16)
        return dimages.reshape(*dimages.shape[:3], -1, SIDE**2)  # (B, H, W, types, 16)

    def _check_input(self, poses: Array, a: Array) -> None:
        where, like = "ConvMatrixCaps.forward", self.votes.params["W"]
        grid = ("batch B", None), ("height H", None), ("width W", None), ("types", self.in_types)
        check_array(where, "poses", poses, *grid, ("numbers of a pose E", SIDE**2), like=like)
        sizes = zip(("batch B", "height H", "width W", "types"), poses.shape, strict=False)
        check_array(where, "a", a, *sizes, like=like)
        output_size("ConvMatrixCaps", (poses.shape[1], poses.shape[2]), self.kernel_size, self.stride)

    def _check_gradient(self, dy: tuple[Array, Array], grid: tuple[int, ...]) -> None:
        shapes = (*grid, self.types, SIDE**2), (*grid, self.types)
        check_two_gradients("ConvMatrixCaps.backward", dy, shapes, self.votes.params["W"])
