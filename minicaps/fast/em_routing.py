r"""EM routing whose sums, over children or over the numbers of a pose, are products of a row and a matrix.

Votes are looked at parents first, V (N, J, I, E), so that Σ_i w_ij û_ij is a row (1, I) times a matrix
(I, E), and Σ_e p_je D_ije² a matrix (I, E) times a column. V - μ and its square have one array for all
iterations.

**Backward.** By EMRouting.backward dû_ij is a sum of K = 2R - 1 terms weight_ij (y_j + z_j D_ij): of
an M-step the weight is w, y = dμ, z = 2 dσ²; of an E-step it is db, y = 0, z = -1/σ². With the D of the last
iteration for all of them (y then takes z times the difference of both μ) it is two products of matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import TINY_MASS, EMIteration
from minicaps.fast.threads import parallel, work_slices


class Betas(NamedTuple):
    """The gradients of the parameters of a routing."""

    beta_u: Array  # (J,)
    beta_a: Array  # (J,)


def fit(routing: capsules.EMRouting, V: Array, a: Array, grid: tuple[int, ...]) -> list[EMIteration]:
    """Do what EMRouting.forward does: every iteration.

    Parameters
    ----------
    routing : EMRouting
    V : array (N, J, I, E)
        The votes.
    a : array (N, I)
    grid : tuple of int
        What N stands for, (B,) or (B, P, Q): the couplings have these axes before I and J.
    """
    (N, J, I, E), xp = V.shape, get_xp(V)
    beta_u, beta_a = routing.params["beta_u"], routing.params["beta_a"]  # (J,)
    squares = xp.empty_like(V)  # (N, J, I, E)
    b = xp.zeros((*grid, I, J), dtype=V.dtype)  # ([B, P, Q], I, J)
    iterations: list[EMIteration] = []
    for r in range(routing.iterations):
        c, coupling = routing.coupling.forward(b)  # ([B, P, Q], I, J)
        mass = parents_first(c, N) * a[:, None]  # (N, J, I)
        rho = mass.sum(axis=-1)  # (N, J)
        w = mass / (rho + TINY_MASS)[..., None]  # (N, J, I)
        mu = w[..., None, :] @ V  # (N, J, 1, I) @ (N, J, I, E) -> (N, J, 1, E)
        xp.subtract(V, mu, out=squares)
        xp.multiply(squares, squares, out=squares)
        variance = (w[..., None, :] @ squares)[..., 0, :] + routing.min_variance  # (N, J, E)
        half_log = 0.5 * xp.log(variance).sum(axis=-1)  # (N, J), Σ_e ln σ
        price = E * beta_u + half_log  # (N, J)
        z = routing._share(r) * (beta_a - routing.inverse_temperature * rho * price)  # (N, J)
        active = 0.5 * (1 + xp.tanh(0.5 * z))  # (N, J)
        iterations.append(EMIteration(c, coupling, rho, w, mu[..., 0, :], variance, price, z, active))
        if r + 1 < routing.iterations:
            log_a = xp.minimum(z, 0) - xp.log1p(xp.exp(-abs(z)))  # (N, J)
            distance = squares @ (0.5 / variance)[..., None]  # (N, J, I, E) @ (N, J, E, 1) -> (N, J, I, 1)
            b = children_first((log_a - half_log)[..., None] - distance[..., 0], grid)  # ([B, P, Q], I, J)
    return iterations


def fit_backward(
    routing: capsules.EMRouting,
    V: Array,
    a: Array,
    iterations: list[EMIteration],
    dmu: Array,
    da_upper: Array,
) -> tuple[Array, Betas]:
    """Do what EMRouting.backward does; return da (N, I) and the gradients of β, and put dV in the place of V.

    Parameters
    ----------
    routing, V, a, iterations
        As for ``fit``, which returned the iterations.
    dmu : array (N, J, E)
    da_upper : array (N, J)
    """
    (_, _, _, E), xp, last = V.shape, get_xp(V), iterations[-1]
    D, squares = xp.empty_like(V), xp.empty_like(V)  # (N, J, I, E)
    da: Any = 0
    dbeta_u: Any = 0
    dbeta_a: Any = 0
    dvariance: Any = 0
    dz, db = da_upper * last.a * (1 - last.a), None  # (N, J)
    weights: list[Array] = []  # (N, J, I) each
    vectors: list[Array] = []  # (N, J, E) each
    factors: list[Array] = []  # (N, J, E) each
    for r in reversed(range(len(iterations))):
        this = iterations[r]
        xp.subtract(V, this.mu[:, :, None], out=D)
        xp.multiply(D, D, out=squares)
        moved = last.mu - this.mu  # (N, J, E)
        if db is not None:  # the E-step
            p, total, row = (
                1 / this.variance,
                db.sum(axis=-1),
                db[..., None, :],
            )  # (N, J, E), (N, J), (N, J, 1, I)
            dmu = p * (row @ D)[..., 0, :]  # (N, J, 1, I) @ (N, J, I, E) -> (N, J, E)
            dvariance = 0.5 * p * (p * (row @ squares)[..., 0, :] - total[..., None])  # (N, J, E)
            dz = (1 - this.a) * total  # (N, J)
            weights.append(db)
            vectors.append(-p * moved)
            factors.append(-p)
        share, grid = routing._share(r), this.c.shape[:-2]
        dcost = -share * routing.inverse_temperature * dz  # (N, J)
        dbeta_a = dbeta_a + (share * dz).sum(axis=0)  # (J,)
        dbeta_u = dbeta_u + (E * this.rho * dcost).sum(axis=0)  # (J,)
        dvariance = dvariance + 0.5 * (this.rho * dcost)[..., None] / this.variance  # (N, J, E)
        empty = (TINY_MASS / (this.rho + TINY_MASS))[..., None]  # (N, J, 1), 1 - Σ_i w
        dmu = dmu - 2 * dvariance * empty * this.mu  # (N, J, E)
        weights.append(this.w)
        vectors.append(dmu + 2 * dvariance * moved)
        factors.append(2 * dvariance)
        dw = (V @ dmu[..., None] + squares @ dvariance[..., None])[
            ..., 0
        ]  # (N, J, I, E) @ (N, J, E, 1) -> (N, J, I)
        mean = (this.w * dw).sum(axis=-1, keepdims=True)  # (N, J, 1)
        dmass = (dw - mean) / (this.rho + TINY_MASS)[..., None] + (this.price * dcost)[..., None]  # (N, J, I)
        da = da + (dmass * parents_first(this.c, len(V))).sum(axis=1)  # (N, I)
        if r > 0:
            dc = children_first(dmass * a[:, None], grid)  # ([B, P, Q], I, J)
            db = parents_first(routing.coupling.backward(dc, this.coupling), len(V))  # (N, J, I)
    each = xp.stack(weights, axis=-1)  # (N, J, I, K), K = 2R - 1
    xp.matmul(each, xp.stack(vectors, axis=2), out=D)  # (N, J, I, K) @ (N, J, K, E) -> (N, J, I, E)
    xp.matmul(each, xp.stack(factors, axis=2), out=squares)
    V -= last.mu[:, :, None]
    V *= squares
    V += D
    return da, Betas(dbeta_u, dbeta_a)


def parents_first(c: Array, count: int) -> Array:
    """Return couplings ([B, P, Q], I, J) as (N, J, I), a view."""
    return c.reshape(count, *c.shape[-2:]).swapaxes(1, 2)  # (N, J, I)


def children_first(b: Array, grid: tuple[int, ...]) -> Array:
    """Return logits (N, J, I) as ([B, P, Q], I, J)."""
    (_, J, I), xp = b.shape, get_xp(b)
    return xp.ascontiguousarray(b.swapaxes(1, 2)).reshape(*grid, I, J)  # ([B, P, Q], I, J)


class SliceCache(NamedTuple):
    """The routing of some samples."""

    samples: slice
    iterations: list[EMIteration]  # with w (N, J, I), and c ([B, P, Q], I, J)


class EMCache(NamedTuple):
    """What EMRouting keeps; ``c`` is a list with one array per iteration."""

    u_hat: Array  # (B, I, J, E)
    a: Array  # (B, I)
    slices: list[SliceCache]

    @property
    def c(self) -> list[Array]:
        return couplings_of(self.slices)  # each (B, I, J)


def couplings_of(slices: list[SliceCache]) -> list[Array]:
    """Return the couplings of the whole batch, one array per iteration."""
    each = [[iteration.c for iteration in part.iterations] for part in slices]
    return [get_xp(arrays[0]).concatenate(arrays) for arrays in zip(*each, strict=True)]


def add_betas(routing: capsules.EMRouting, found: list[Betas]) -> None:
    """Add up the gradients of slices; in order, so they have the same bits each time."""
    for betas in found:
        routing.grads["beta_u"] += betas.beta_u  # (J,)
        routing.grads["beta_a"] += betas.beta_a  # (J,)


class EMRouting(capsules.EMRouting):
    """capsules.EMRouting, with its sums as products of matrices, and some samples on each thread."""

    def forward(self, u_hat: Array, a: Array) -> tuple[tuple[Array, Array], Any]:
        self._check_input(u_hat, a)
        xp, grid, (I, J, E) = get_xp(u_hat), a.shape[:-1], u_hat.shape[-3:]
        mu = xp.empty((*grid, J, E), dtype=u_hat.dtype)  # (B, J, E)
        active = xp.empty((*grid, J), dtype=u_hat.dtype)  # (B, J)

        def work(samples: slice) -> SliceCache:
            votes, own = u_hat[samples], a[samples]
            V = votes.reshape(-1, I, J, E).swapaxes(1, 2)  # (N, J, I, E)
            iterations = fit(self, V, own.reshape(-1, I), own.shape[:-1])
            mu[samples] = iterations[-1].mu.reshape(mu[samples].shape)
            active[samples] = iterations[-1].a.reshape(active[samples].shape)
            return SliceCache(samples, iterations)

        slices = parallel(work, work_slices(len(a), u_hat[0].size, xp))
        return (mu, active), EMCache(u_hat, a, slices)

    def backward(self, dy: tuple[Array, Array], cache: Any) -> tuple[Array, Array]:
        u_hat, a, (I, J, E) = cache.u_hat, cache.a, cache.u_hat.shape[-3:]
        self._check_gradient(dy, u_hat)
        xp = get_xp(u_hat)
        du_hat, da = xp.array(u_hat), xp.empty_like(a)  # (B, I, J, E), (B, I)

        def work(part: SliceCache) -> Betas:
            k = part.samples
            V = du_hat[k].reshape(-1, I, J, E).swapaxes(1, 2)  # (N, J, I, E), a view of du_hat
            upstream = dy[0][k].reshape(-1, J, E), dy[1][k].reshape(-1, J)
            part_da, betas = fit_backward(self, V, a[k].reshape(-1, I), part.iterations, *upstream)
            da[k] = part_da.reshape(da[k].shape)
            return betas

        add_betas(self, parallel(work, cache.slices))
        return du_hat, da
