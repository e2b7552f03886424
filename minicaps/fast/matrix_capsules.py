r"""Matrix capsules a few samples at a time, so that their votes stay in the processor's cache.

A pose's 16 numbers times the block-diagonal matrix diag(W, W, W, W) are all 16 numbers of a vote at once. It
has four times the multiplications of a 4×4 product, but the votes come out in the order in which routing
reads them. They are made again in backward: those of a batch of 32 of the preset ``small`` take 100 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import coordinates
from minicaps.fast.convolution import Conv2d, col2im_by_rows
from minicaps.fast.em_routing import Betas, SliceCache, add_betas, couplings_of, fit, fit_backward
from minicaps.fast.precision import rounded
from minicaps.fast.threads import parallel, sample_slices
from minicaps.layers import col2im, im2col


class MatrixCache(NamedTuple):
    """What both layers keep; ``c`` is a list with one array per iteration."""

    poses: Array  # (B, H, W, types, 16)
    a: Array  # (B, H, W, types)
    slices: list[SliceCache]

    @property
    def c(self) -> list[Array]:
        return couplings_of(self.slices)  # each (B, I, J), or (B, P, Q, I, J)


class PrimaryMatrixCaps(capsules.PrimaryMatrixCaps):
    """capsules.PrimaryMatrixCaps, of fast convolutions."""

    Conv2d = Conv2d


class ConvMatrixCaps(capsules.ConvMatrixCaps):
    """capsules.ConvMatrixCaps, some samples at a time, on several threads."""

    def forward(self, poses: Array, a: Array) -> tuple[tuple[Array, Array], Any]:
        self._check_input(poses, a)
        xp, J = get_xp(poses), self.types
        blocks = blocks_of(self)  # (I, 16, J·16)
        like = im2col(a[:1], self.kernel_size, self.stride)  # (1, P, Q, I)
        (P, Q), B = like.shape[1:3], len(a)
        mu = xp.empty((B, P, Q, J, poses.shape[-1]), dtype=a.dtype)  # (B, P, Q, J, 16)
        active = xp.empty((B, P, Q, J), dtype=a.dtype)  # (B, P, Q, J)

        def work(samples: slice) -> SliceCache:
            M, children = self._children(poses[samples], a[samples])  # (1, I, N, 16), (N, I)
            V = make_votes(self, M, blocks)  # (N, J, I, 16)
            iterations = fit(self.routing, V, children, (len(V) // (P * Q), P, Q))
            mu[samples] = iterations[-1].mu.reshape(mu[samples].shape)
            active[samples] = iterations[-1].a.reshape(active[samples].shape)
            return SliceCache(samples, iterations)

        slices = parallel(work, sample_slices(self, B, like.size * mu[0, 0, 0].size, xp))
        return (mu, active), MatrixCache(poses, a, slices)

    def backward(self, dy: tuple[Array, Array], cache: Any) -> tuple[Array, Array]:
        poses, a, _ = cache
        _, P, Q, *_ = cache.slices[0].iterations[0].c.shape
        self._check_gradient(dy, (len(a), P, Q))
        xp, J, size = get_xp(poses), self.types, (a.shape[1], a.shape[2])
        blocks = blocks_of(self)  # (I, 16, J·16)
        dposes, da = xp.empty_like(poses), xp.empty_like(a)  # (B, H, W, types, 16), (B, H, W, types)

        def work(part: SliceCache) -> tuple[Array, list[Betas]]:
            k = part.samples
            M, children = self._children(poses[k], a[k])  # (1, I, N, 16), (N, I)
            V = make_votes(self, M, blocks)  # (N, J, I, 16)
            upstream = dy[0][k].reshape(len(V), J, -1), dy[1][k].reshape(-1, J)
            dchildren, betas = fit_backward(self.routing, V, children, part.iterations, *upstream)
            dM, dW = votes_backward(self, V, M, blocks)  # (1, I, N, 16), (I, 4, J, 4)
            dcols = xp.ascontiguousarray(dM[0].swapaxes(0, 1)).reshape(-1, P, Q, dM[0, :, 0].size)
            dposes[k] = col2im_by_rows(dcols, size, self.kernel_size, self.stride).reshape(dposes[k].shape)
            dchildren = dchildren.reshape(-1, P, Q, dchildren.shape[1])  # (b, P, Q, I)
            da[k] = col2im(dchildren, size, self.kernel_size, self.stride)
            return dW, betas

        add_up(self, parallel(work, cache.slices))
        return dposes, da

    def _children(self, poses: Array, a: Array) -> tuple[Array, Array]:
        """Return the children of every window: poses (1, I, N, 16), N = b·P·Q, and activations (N, I)."""
        windows = self._windows(poses)  # (b, P, Q, I, 16)
        *_, I, E = windows.shape
        M = get_xp(poses).ascontiguousarray(windows.reshape(-1, I, E).swapaxes(0, 1))  # (I, N, 16)
        return rounded(self, M)[None], im2col(a, self.kernel_size, self.stride).reshape(-1, I)


class ClassMatrixCaps(capsules.ClassMatrixCaps):
    """capsules.ClassMatrixCaps, some samples at a time, on several threads."""

    def forward(self, poses: Array, a: Array) -> tuple[tuple[Array, Array], Any]:
        self._check_input(poses, a)
        xp, J, B = get_xp(poses), self.classes, len(a)
        blocks = blocks_of(self)  # (types, 16, J·16)
        mu, active = xp.empty((B, J, poses.shape[-1]), dtype=a.dtype), xp.empty((B, J), dtype=a.dtype)

        def work(samples: slice) -> SliceCache:
            V = self._votes(self._children(poses[samples]), blocks, poses)  # (b, J, I, 16)
            iterations = fit(self.routing, V, a[samples].reshape(len(V), -1), (len(V),))
            mu[samples], active[samples] = iterations[-1].mu, iterations[-1].a
            return SliceCache(samples, iterations)

        slices = parallel(work, sample_slices(self, B, poses[0].size * J, xp))
        return (mu, active), MatrixCache(poses, a, slices)

    def backward(self, dy: tuple[Array, Array], cache: Any) -> tuple[Array, Array]:
        poses, a, _ = cache
        self._check_gradient(dy, len(a))
        xp, blocks = get_xp(poses), blocks_of(self)  # (types, 16, J·16)
        dposes, da = xp.empty_like(poses), xp.empty_like(a)  # (B, H, W, types, 16), (B, H, W, types)

        def work(part: SliceCache) -> tuple[Array, list[Betas]]:
            k, M = part.samples, self._children(poses[part.samples])  # (H·W, types, b, 16)
            V = self._votes(M, blocks, poses)  # (b, J, I, 16)
            children = a[k].reshape(len(V), -1)  # (b, I)
            part_da, betas = fit_backward(self.routing, V, children, part.iterations, dy[0][k], dy[1][k])
            dM, dW = votes_backward(self, V, M, blocks)  # (H·W, types, b, 16), (types, 4, J, 4)
            dposes[k] = dM.transpose(2, 0, 1, 3).reshape(dposes[k].shape)
            da[k] = part_da.reshape(da[k].shape)
            return dW, betas

        add_up(self, parallel(work, cache.slices))
        return dposes, da

    def _children(self, poses: Array) -> Array:
        """poses (b, H, W, types, 16) -> (H·W, types, b, 16)."""
        rows = poses.reshape(len(poses), -1, *poses.shape[-2:])  # (b, H·W, types, 16)
        M = get_xp(poses).ascontiguousarray(rows.transpose(1, 2, 0, 3))  # (H·W, types, b, 16)
        return rounded(self, M)

    def _votes(self, M: Array, blocks: Array, poses: Array) -> Array:
        """M (H·W, types, b, 16) -> votes (b, J, I, 16), with coordinates."""
        V = make_votes(self, M, blocks)  # (b, J, I, 16)
        if self.coordinates:
            added = coordinates(poses).reshape(len(M), 1, -1)  # (H·W, 1, 16)
            V += get_xp(poses).repeat(added, M.shape[1], axis=1).reshape(-1, added.shape[-1])  # (I, 16)
        return V


def block_diagonal(W: Array) -> Array:
    """Return diag(W, W, W, W) for every child, whose columns are ordered parents first: (I, 16, J·16)."""
    (I, side, J, _), xp = W.shape, get_xp(W)
    blocks = xp.zeros((I, side, side, J, side, side), dtype=W.dtype)  # (I, row, 4, J, row, 4)
    for row in range(side):
        blocks[:, row, :, :, row] = W
    return blocks.reshape(I, side * side, -1)  # (I, 16, J·16)


def blocks_of(layer: Any) -> Array:
    """Return the block-diagonal matrices of a layer's votes (I, 16, J·16), as operands of products."""
    return block_diagonal(rounded(layer, layer.votes.params["W"]))


def make_votes(layer: Any, M: Array, blocks: Array) -> Array:
    """Return the votes (N, J, G·I, 16) of poses M (G, I, N, 16), in memory (G·I, N, J, 16)."""
    G, I, N, E = M.shape
    rows = rounded(layer, M @ blocks)  # (G, I, N, 16) @ (I, 16, J·16) -> (G, I, N, J·16)
    return rows.reshape(G * I, N, -1, E).transpose(1, 2, 0, 3)  # (N, J, G·I, 16)


def votes_backward(layer: Any, dV: Array, M: Array, blocks: Array) -> tuple[Array, Array]:
    """dV (N, J, G·I, 16) of ``make_votes`` -> dM (G, I, N, 16), dW (I, 4, J, 4)."""
    (G, I, N, _), J, side = M.shape, dV.shape[1], int(M.shape[-1] ** 0.5)
    rows = rounded(layer, dV.transpose(2, 0, 1, 3).reshape(G, I, N, -1))  # (G, I, N, J·16)
    dblocks = (M.swapaxes(2, 3) @ rows).sum(axis=0)  # (G, I, 16, N) @ (G, I, N, J·16) -> (I, 16, J·16)
    whole = dblocks.reshape(I, side, side, J, side, side)  # (I, row, 4, J, row, 4)
    dW: Any = 0
    for row in range(side):
        dW = dW + whole[:, row, :, :, row]  # (I, 4, J, 4)
    dM = rows @ blocks.swapaxes(1, 2)  # (G, I, N, J·16) @ (I, J·16, 16) -> (G, I, N, 16)
    return rounded(layer, dM), rounded(layer, dW)


def add_up(layer: Any, found: Sequence[tuple[Array, list[Betas]]]) -> None:
    """Add the gradients of slices to those of the layer; in order, so they have the same bits each time."""
    for dW, _ in found:
        layer.votes.grads["W"] += dW  # (I, 4, J, 4)
    add_betas(layer.routing, [betas for _, betas in found])
