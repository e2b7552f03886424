r"""EM routing whose sums, over children or over the numbers of a pose, are products of a row and a matrix.

Votes are looked at parents first, V (N, J, I, E), so that Σ_i w_ij û_ij is a row (1, I) times a matrix
(I, E), and Σ_e p_je D_ije² a matrix (I, E) times a column. V - μ and its square have one array for all
iterations.

**Backward.** By EMRouting.backward dû_ij is a sum of K = 2R - 1 terms weight_ij (y_j + z_j D_ij): of
an M-step the weight is w, y = dμ, z = 2 dσ²; of an E-step it is db, y = 0, z = -1/σ². With the D of the last
iteration for all of them (y then takes z times the difference of both μ) it is two products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from minicaps import capsules
from minicaps.arrays import Array, get_xp
from minicaps.capsules import TINY_MASS, EMIteration
from minicaps.fast.threads import parallel, sample_slices


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


@dataclass
class Terms:
    """The gradient dû = Σ_k weight_k (y_k + z_k (û - μ_k)), with the last μ in the place of every μ_k."""

    mu: Array  # (N, J, E), the last
    weights: list[Array] = field(default_factory=list)  # (N, J, I) each
    vectors: list[Array] = field(default_factory=list)  # (N, J, E) each
    factors: list[Array] = field(default_factory=list)  # (N, J, E) each

    def add(self, weight: Array, y: Any, z: Array, mu: Array) -> None:
        self.weights.append(weight)
        self.vectors.append(y + z * (self.mu - mu))
        self.factors.append(z)

    def replace(self, V: Array, one: Array, other: Array) -> None:
        """Put dû in the place of the votes V (N, J, I, E); the two others, of its shape, are overwritten."""
        xp = get_xp(V)
        weights = xp.stack(self.weights, axis=-1)  # (N, J, I, K)
        xp.matmul(weights, xp.stack(self.vectors, axis=2), out=one)  # (N, J, I, K) @ (N, J, K, E)
        xp.matmul(weights, xp.stack(self.factors, axis=2), out=other)
        V -= self.mu[:, :, None]
        V *= other
        V += one


def fit_backward(
    routing: capsules.EMRouting,
    V: Array,
    a: Array,
    iterations: list[EMIteration],
    dmu: Array,
    da_upper: Array,
) -> tuple[Array, list[Betas]]:
    """Do what EMRouting.backward does: put dû in the place of the votes V, and return the other gradients.

    Parameters
    ----------
    routing, V, a, iterations
        As for ``fit``, which returned the iterations.
    dmu : array (N, J, E)
    da_upper : array (N, J)

    Returns
    -------
    da : array (N, I)
    betas : list of Betas, one for every iteration
    """
    xp, last = get_xp(V), iterations[-1]
    D, squares = xp.empty_like(V), xp.empty_like(V)  # (N, J, I, E)
    da: Any = 0
    dvariance: Any = 0
    db: Any = None
    dz = da_upper * last.a * (1 - last.a)  # (N, J)
    terms, betas = Terms(last.mu), []
    for r in reversed(range(len(iterations))):
        this = iterations[r]
        xp.subtract(V, this.mu[:, :, None], out=D)
        xp.multiply(D, D, out=squares)
        if db is not None:
            dmu, dvariance, dz = e_step_backward(this, db, D, squares)
            terms.add(db, 0, -1 / this.variance, this.mu)
        share, E = routing._share(r), V.shape[-1]
        dcost = -share * routing.inverse_temperature * dz  # (N, J)
        betas.append(Betas((E * this.rho * dcost).sum(axis=0), (share * dz).sum(axis=0)))
        dvariance = dvariance + 0.5 * (this.rho * dcost)[..., None] / this.variance  # (N, J, E)
        nobody = (TINY_MASS / (this.rho + TINY_MASS))[..., None]  # (N, J, 1), 1 - Σ_i w
        dmu = dmu - 2 * dvariance * nobody * this.mu  # (N, J, E)
        terms.add(this.w, dmu, 2 * dvariance, this.mu)
        dmass = m_step_backward(this, dcost, V @ dmu[..., None] + squares @ dvariance[..., None])  # (N, J, I)
        da = da + (dmass * parents_first(this.c, len(V))).sum(axis=1)  # (N, I)
        if r > 0 or routing.coupling.params:
            dc = children_first(dmass * a[:, None], this.c.shape[:-2])  # ([B, P, Q], I, J)
            db = parents_first(routing.coupling.backward(dc, this.coupling), len(V))  # (N, J, I)
    terms.replace(V, D, squares)
    return da, betas


def e_step_backward(this: EMIteration, db: Array, D: Array, squares: Array) -> tuple[Array, Array, Array]:
    """db (N, J, I), D and its squares (N, J, I, E) -> dmu, dvariance (N, J, E), dz (N, J)."""
    p, total, row = 1 / this.variance, db.sum(axis=-1), db[..., None, :]  # (N, J, E), (N, J), (N, J, 1, I)
    dmu = p * (row @ D)[..., 0, :]  # (N, J, 1, I) @ (N, J, I, E) -> (N, J, E)
    dvariance = 0.5 * p * (p * (row @ squares)[..., 0, :] - total[..., None])  # (N, J, E)
    return dmu, dvariance, (1 - this.a) * total


def m_step_backward(this: EMIteration, dcost: Array, dw: Array) -> Array:
    """dcost (N, J), dw (N, J, I, 1) -> the gradient of the mass c a (N, J, I)."""
    dw = dw[..., 0]  # (N, J, I)
    mean = (this.w * dw).sum(axis=-1, keepdims=True)  # (N, J, 1)
    return (dw - mean) / (this.rho + TINY_MASS)[..., None] + (this.price * dcost)[..., None]


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


def add_betas(routing: capsules.EMRouting, found: list[list[Betas]]) -> None:
    """Add up the gradients of slices; in order, so they have the same bits each time."""
    for betas in chain.from_iterable(found):
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

        slices = parallel(work, sample_slices(self, len(a), u_hat[0].size, xp))
        return (mu, active), EMCache(u_hat, a, slices)

    def backward(self, dy: tuple[Array, Array], cache: Any) -> tuple[Array, Array]:
        u_hat, a, (I, J, E) = cache.u_hat, cache.a, cache.u_hat.shape[-3:]
        self._check_gradient(dy, u_hat)
        xp = get_xp(u_hat)
        du_hat, da = xp.array(u_hat), xp.empty_like(a)  # (B, I, J, E), (B, I)

        def work(part: SliceCache) -> list[Betas]:
            k = part.samples
            V = du_hat[k].reshape(-1, I, J, E).swapaxes(1, 2)  # (N, J, I, E), a view of du_hat
            upstream = dy[0][k].reshape(-1, J, E), dy[1][k].reshape(-1, J)
            part_da, betas = fit_backward(self, V, a[k].reshape(-1, I), part.iterations, *upstream)
            da[k] = part_da.reshape(da[k].shape)
            return betas

        each = map if self.coupling.params else parallel  # in order, where slices add to one gradient
        add_betas(self, list(each(work, cache.slices)))
        return du_hat, da
