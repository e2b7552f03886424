"""The couplings of convolutional capsules: a child's parents stand in every window that sees it."""

from __future__ import annotations

from typing import Any, NamedTuple

from minicaps.arrays import Array, get_xp
from minicaps.capsules.couplings import Coupling
from minicaps.checks import check_array, check_gradient
from minicaps.layers import Pair, as_pair, col2im, im2col


class WindowSoftmaxCache(NamedTuple):
    c: Array  # (B, P, Q, I, J)


class WindowSoftmax(Coupling):
    r"""A softmax over all parents of a child: all types, in all windows that see it (Hinton et al. 2018, §4).

    c = exp b / Σ exp b, the sum over all (p, q, j) whose window holds the same child. Logits of 0 give 1/J to
    a child in a corner, which one window sees, and less to one that several see.

    Gradient: db = c (dc - Σ c dc), with the same sum.

    Parameters
    ----------
    kernel_size, stride : int or (int, int)
        Of the windows. The I = KH·KW·types children of one are in the order of ``im2col``.

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: section 4.
    """

    def __init__(self, kernel_size: int | Pair, *, stride: int | Pair = 1) -> None:
        super().__init__()
        self.kernel_size = as_pair("WindowSoftmax", "kernel_size", kernel_size)
        self.stride = as_pair("WindowSoftmax", "stride", stride)

    def forward(self, b: Array) -> tuple[Array, WindowSoftmaxCache]:
        """b (B, P, Q, I, J) -> c (B, P, Q, I, J), over the parents of a child they sum to 1."""
        self._check_input(b)
        largest = self._max_over_windows(b.max(axis=-1))  # (B, P, Q, I)
        e = get_xp(b).exp(b - largest[..., None])  # (B, P, Q, I, J)
        c = e / self._sum_over_windows(e.sum(axis=-1))[..., None]  # (B, P, Q, I, J)
        return c, WindowSoftmaxCache(c)

    def backward(self, dc: Array, cache: WindowSoftmaxCache) -> Array:
        """dc (B, P, Q, I, J) -> db (B, P, Q, I, J)."""
        c = cache.c
        check_gradient("WindowSoftmax.backward", dc, c.shape, c)
        total = self._sum_over_windows((c * dc).sum(axis=-1))  # (B, P, Q, I)
        return c * (dc - total[..., None])  # (B, P, Q, I, J)

    def _sum_over_windows(self, x: Array) -> Array:
        """x (B, P, Q, I) of a child in a window -> its sum over all windows that see the child."""
        whole = col2im(x, self._size(x), self.kernel_size, self.stride)  # (B, H, W, types)
        return im2col(whole, self.kernel_size, self.stride)  # (B, P, Q, I)

    def _max_over_windows(self, x: Array) -> Array:
        """As ``_sum_over_windows``, but the largest."""
        (B, P, Q, _), (KH, KW), (down, right) = x.shape, self.kernel_size, self.stride
        xp, windows = get_xp(x), x.reshape(B, P, Q, KH, KW, -1)  # (B, P, Q, KH, KW, types)
        shape = (B, *self._size(x), windows.shape[-1])  # (B, H, W, types)
        whole = xp.full(shape, -float("inf"), dtype=x.dtype)  # (B, H, W, types)
        for r in range(KH):
            for t in range(KW):
                seen = whole[:, r : r + down * (P - 1) + 1 : down, t : t + right * (Q - 1) + 1 : right]
                seen[...] = xp.maximum(seen, windows[:, :, :, r, t])  # (B, P, Q, types), a view of whole
        return im2col(whole, self.kernel_size, self.stride)  # (B, P, Q, I)

    def _size(self, x: Array) -> Pair:
        """Return the rows and columns of the children that x (B, P, Q, I) has in its windows."""
        (_, P, Q, *_), (KH, KW), (down, right) = x.shape, self.kernel_size, self.stride
        return (P - 1) * down + KH, (Q - 1) * right + KW

    def _check_input(self, b: Any) -> None:
        axes = ("batch B", None), ("rows P", None), ("columns Q", None), ("lower capsules I", None)
        check_array("WindowSoftmax.forward", "b", b, *axes, ("upper capsules J", None))
        KH, KW = self.kernel_size
        if b.shape[3] % (KH * KW):
            raise ValueError(
                f"WindowSoftmax.forward: b has shape {b.shape}; axis 3 (lower capsules I) is {b.shape[3]}, "
                f"expected a multiple of {KH * KW}, since a window holds {KH}×{KW} positions"
            )
