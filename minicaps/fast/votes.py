"""Votes as one product of matrices for every child, some children on each thread."""

from __future__ import annotations

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import VotesCache
from minicaps.checks import check_array, check_gradient
from minicaps.fast.precision import rounded
from minicaps.fast.threads import parallel, work_slices


class Votes(capsules.Votes):
    """capsules.Votes, by products of matrices; einsum goes number by number.

    That is for a routing that looks at the votes themselves, such as EM; the others do without them.
    """

    def forward(self, u: Array) -> tuple[Array, VotesCache]:
        W = self.params["W"]  # (I, D, J, E)
        axes = ("batch B", None), ("lower capsules I", W.shape[0]), ("capsule dimension D", W.shape[1])
        check_array("Votes.forward", "u", u, *axes, like=W)
        (I, D, J, E), xp, u = W.shape, get_xp(u), rounded(self, u)
        matrices = rounded(self, W).reshape(I, D, -1)  # (I, D, J·E)
        u_hat = xp.empty((len(u), I, J * E), dtype=u.dtype)  # (B, I, J·E)

        def work(k: slice) -> None:
            products = u[:, k].swapaxes(0, 1) @ matrices[k]  # (i, B, D) @ (i, D, J·E) -> (i, B, J·E)
            u_hat[:, k] = rounded(self, products).swapaxes(0, 1)  # (B, i, J·E)

        parallel(work, work_slices(I, len(u) * J * E, xp))
        return u_hat.reshape(-1, I, J, E), VotesCache(u)

    def backward(self, du_hat: Array, cache: VotesCache) -> Array:
        W, dW, u = self.params["W"], self.grads["W"], cache.u  # (I, D, J, E), (B, I, D)
        check_gradient("Votes.backward", du_hat, (*u.shape[:2], *W.shape[2:]), W)
        (I, D, J, E), xp = W.shape, get_xp(u)
        matrices, du = rounded(self, W).reshape(I, D, -1), xp.empty_like(u)  # (I, D, J·E), (B, I, D)

        def work(k: slice) -> None:
            rows = rounded(self, du_hat[:, k].reshape(len(u), -1, J * E)).swapaxes(0, 1)  # (i, B, J·E)
            products = u[:, k].transpose(1, 2, 0) @ rows  # (i, D, B) @ (i, B, J·E) -> (i, D, J·E)
            dW[k] += rounded(self, products).reshape(dW[k].shape)  # (i, D, J, E)
            columns = rows @ matrices[k].swapaxes(1, 2)  # (i, B, J·E) @ (i, J·E, D) -> (i, B, D)
            du[:, k] = rounded(self, columns).swapaxes(0, 1)  # (B, i, D)

        parallel(work, work_slices(I, len(u) * J * E, xp))
        return du
