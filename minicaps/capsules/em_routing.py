"""EM routing of matrix capsules, forward and backward through every iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules.couplings import Coupling, check_coupling
from minicaps.checks import check_array, check_gradient, check_number, check_positive
from minicaps.layers import Layer

TINY = 1e-12  # added to a parent's mass ρ: a parent that nobody chooses has the mean 0, not 0/0


class EMIteration(NamedTuple):
    """One fit of the parents to the votes."""

    c: Array  # (B, I, J), couplings; the paper's R_ij
    coupling: Any  # their cache
    rho: Array  # (B, J), how much of the children a parent has
    w: Array  # (B, I, J), each child's share of it
    mu: Array  # (B, J, E)
    variance: Array  # (B, J, E)
    price: Array  # (B, J), the cost of one child
    z: Array  # (B, J)
    a: Array  # (B, J)


class EMCache(NamedTuple):
    """The course of one routing."""

    u_hat: Array  # (B, I, J, E)
    a: Array  # (B, I)
    iterations: list[EMIteration]

    @property
    def c(self) -> list[Array]:
        return [iteration.c for iteration in self.iterations]  # each (B, I, J)


class EMRouting(Layer):
    r"""EM routing (Hinton et al. 2018, procedure 1): every parent is a Gaussian that is fitted to its votes.

    c¹ is even; for r = 1..R, with children i, parents j and pose numbers e = 1..E:

    M-step: ρ_j = Σ_i c_ij a_i, w_ij = c_ij a_i/ρ_j, μ_j = Σ_i w_ij û_ij, σ²_j = Σ_i w_ij (û_ij - μ_j)² + σ²_min,
    cost_j = ρ_j (E β_u,j + Σ_e ln σ_je), z_j = s_r (β_a,j - λ cost_j), a'_j = logistic z_j.

    E-step, but for the last: b_ij = ln a'_j - Σ_e ln σ_je - Σ_e (û_ije - μ_je)²/2σ²_je, c = softmax_j(b).

    The output is (μ, a') of the last iteration; s_r = (1 - 0.95^r)/(1 - 0.95^R).

    Gradient, through every iteration, with D = û - μ and p = 1/σ². E-step: db = softmax'ᵀ dc,
    dz = (1 - a') Σ_i db, dμ = p Σ_i db D, dσ² = ½ p (p Σ_i db D² - Σ_i db), dû = -db p D. M-step: dcost = -s λ dz,
    dβ_a = s dz, dβ_u = E ρ dcost, dρ = dcost cost/ρ, dσ² += ½ ρ dcost p, dw = ⟨û, dμ⟩ + ⟨D², dσ²⟩,
    dû += w (dμ + 2 dσ² D), d(ca) = (dw - Σ_i w dw)/ρ + dρ.

    Deviation: β_a is the paper's times λ, where one learning rate suits it; λ is the inverse temperature of the
    *last* iteration, so that numbers of iterations can be compared. The paper's λ_r = 0.01 (1 - 0.95^r) ends with
    0.000975 at R = 2 and 0.00143 at R = 3.

    Parameters
    ----------
    parents : int
        J.
    iterations : int
        R, 1 or more.
    inverse_temperature : float
        λ.
    min_variance : float
        σ²_min, which keeps a parent with one child from a variance of 0. It is added, so that there is no kink.
    beta_u_start : float
        First value of every β_u; about -mean ln σ lets the cost start at 0 and half of the parents be active.
        β_a starts at 0.
    coupling : Coupling, optional
        What makes c of b; by default ``Softmax()``, over the parents.
    dtype : float32 or float64

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018:
    procedure 1.
    """

    def __init__(
        self,
        parents: int,
        iterations: int = 3,
        *,
        inverse_temperature: float = 0.001,
        min_variance: float = 5e-4,
        beta_u_start: float = 0.0,
        coupling: Coupling | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("EMRouting", parents=parents, iterations=iterations)
        check_number("EMRouting", inverse_temperature=inverse_temperature, min_variance=min_variance)
        if min_variance == 0:
            raise ValueError("EMRouting: min_variance is 0, expected a number above 0")
        self.parents, self.iterations = parents, iterations
        self.inverse_temperature, self.min_variance = float(inverse_temperature), float(min_variance)
        self.beta_u_start = beta_u_start
        self.coupling = check_coupling("EMRouting", coupling)
        self.add_param("beta_u", np.full(parents, beta_u_start, dtype=dtype))  # (J,)
        self.add_param("beta_a", np.zeros(parents, dtype=dtype))  # (J,)

    def forward(self, u_hat: Array, a: Array) -> tuple[tuple[Array, Array], EMCache]:
        """u_hat (B, I, J, E), a (B, I) from 0 to 1 -> mu (B, J, E), a' (B, J) from 0 to 1.

        Both inputs may have axes of a grid (P, Q) behind B, and both outputs then have them too.
        """
        self._check_input(u_hat, a)
        iterations: list[EMIteration] = []
        b = get_xp(u_hat).zeros(u_hat.shape[:-1], dtype=u_hat.dtype)  # (B, I, J)
        for r in range(self.iterations):
            c, coupling = self.coupling.forward(b)  # (B, I, J)
            iterations.append(self._m_step(r, u_hat, a, c, coupling))
            if r + 1 < self.iterations:
                b = self._e_step(u_hat, iterations[r])  # (B, I, J)
        return (iterations[-1].mu, iterations[-1].a), EMCache(u_hat, a, iterations)

    def _m_step(self, r: int, u_hat: Array, a: Array, c: Array, coupling: Any) -> EMIteration:
        """Fit every parent to the votes that it has."""
        xp = get_xp(u_hat)
        mass = c * a[..., None]  # (B, I, J)
        rho = mass.sum(axis=-2)  # (B, J)
        w = mass / (rho + TINY)[..., None, :]  # (B, I, J)
        mu = (w[..., None] * u_hat).sum(axis=-3)  # Σ_i (B, I, J, 1) (B, I, J, E) -> (B, J, E)
        D = u_hat - mu[..., None, :, :]  # (B, I, J, E)
        variance = (w[..., None] * D**2).sum(axis=-3) + self.min_variance  # (B, J, E)
        price = mu.shape[-1] * self.params["beta_u"] + 0.5 * xp.log(variance).sum(axis=-1)  # (B, J)
        z = self._share(r) * (self.params["beta_a"] - self.inverse_temperature * rho * price)  # (B, J)
        return EMIteration(c, coupling, rho, w, mu, variance, price, z, 0.5 * (1 + xp.tanh(0.5 * z)))

    def _e_step(self, u_hat: Array, fit: EMIteration) -> Array:
        """Return the logarithm of how likely each vote is under each parent, b (B, I, J)."""
        xp, z = get_xp(u_hat), fit.z
        log_a = xp.minimum(z, 0) - xp.log1p(xp.exp(-abs(z)))  # ln logistic z: (B, J)
        squares = ((u_hat - fit.mu[..., None, :, :]) ** 2 / fit.variance[..., None, :, :]).sum(axis=-1)
        return (log_a - 0.5 * xp.log(fit.variance).sum(axis=-1))[..., None, :] - 0.5 * squares  # (B, I, J)

    def backward(self, dy: tuple[Array, Array], cache: EMCache) -> tuple[Array, Array]:
        """(dmu (B, J, E), da' (B, J)) -> du_hat (B, I, J, E), da (B, I)."""
        self._check_gradient(dy, cache)
        u_hat, a, iterations = cache
        last, xp = iterations[-1], get_xp(u_hat)
        dmu, dvariance, dz = dy[0], xp.zeros_like(dy[0]), dy[1] * last.a * (1 - last.a)
        du_hat, da = xp.zeros_like(u_hat), xp.zeros_like(a)  # (B, I, J, E), (B, I)
        for r in reversed(range(len(iterations))):
            dc = self._m_step_backward(r, dmu, dvariance, dz, cache, du_hat, da)  # (B, I, J)
            if r == 0:
                break  # b¹ = 0 is constant
            db = self.coupling.backward(dc, iterations[r].coupling)  # (B, I, J)
            dmu, dvariance, dz = self._e_step_backward(db, u_hat, iterations[r - 1], du_hat)
        return du_hat, da

    def _m_step_backward(
        self, r: int, dmu: Array, dvariance: Array, dz: Array, cache: EMCache, du_hat: Array, da: Array
    ) -> Array:
        """Add to du_hat, da and the gradients of β; return dc (B, I, J)."""
        u_hat, a, fit = cache.u_hat, cache.a, cache.iterations[r]
        J, E = fit.mu.shape[-2:]
        dcost = -self._share(r) * self.inverse_temperature * dz  # of z = s (β_a - λ cost): (B, J)
        self.grads["beta_a"] += (self._share(r) * dz).reshape(-1, J).sum(axis=0)  # (J,)
        self.grads["beta_u"] += (E * fit.rho * dcost).reshape(-1, J).sum(axis=0)  # of cost = ρ (E β_u + …): (J,)
        drho = fit.price * dcost  # of cost: (B, J)
        dvariance = dvariance + 0.5 * (fit.rho * dcost)[..., None] / fit.variance  # of Σ_e ln σ: (B, J, E)
        # Of σ² = Σ_i w (û - μ)², dμ is -2 dσ² Σ_i w D: 0, but for a parent that nobody chooses.
        empty = (TINY / (fit.rho + TINY))[..., None]  # 1 - Σ_i w: (B, J, 1)
        dmu = dmu - 2 * dvariance * empty * fit.mu  # (B, J, E)
        D = u_hat - fit.mu[..., None, :, :]  # (B, I, J, E)
        dmu, dvariance = dmu[..., None, :, :], dvariance[..., None, :, :]  # (B, 1, J, E)
        dw = (u_hat * dmu + D**2 * dvariance).sum(axis=-1)  # of μ and σ²: (B, I, J)
        du_hat += fit.w[..., None] * (dmu + 2 * dvariance * D)  # of μ and σ²: (B, I, J, E)
        mean = (fit.w * dw).sum(axis=-2, keepdims=True)  # (B, 1, J)
        dmass = (dw - mean) / (fit.rho + TINY)[..., None, :] + drho[..., None, :]  # of w and ρ: (B, I, J)
        da += (dmass * fit.c).sum(axis=-1)  # of mass = c a: (B, I)
        return dmass * a[..., None]  # of mass = c a: (B, I, J)

    def _e_step_backward(
        self, db: Array, u_hat: Array, fit: EMIteration, du_hat: Array
    ) -> tuple[Array, Array, Array]:
        """Add to du_hat; return dmu, dvariance (B, J, E) and dz (B, J)."""
        D, p = u_hat - fit.mu[..., None, :, :], 1 / fit.variance  # (B, I, J, E), (B, J, E)
        total = db.sum(axis=-2)  # (B, J)
        dbD = db[..., None] * D  # (B, I, J, E)
        du_hat -= dbD * p[..., None, :, :]  # of -½ D² p: (B, I, J, E)
        dmu = p * dbD.sum(axis=-3)  # of -½ D² p: (B, J, E)
        dvariance = 0.5 * p * (p * (dbD * D).sum(axis=-3) - total[..., None])  # of -½ D² p - ½ ln σ²: (B, J, E)
        return dmu, dvariance, (1 - fit.a) * total  # of ln logistic z

    def _share(self, r: int) -> float:
        """Return s: how close to the last one the inverse temperature of iteration r = 0.. is."""
        return (1 - 0.95 ** (r + 1)) / (1 - 0.95**self.iterations)

    def _check_input(self, u_hat: Array, a: Array) -> None:
        grid = [("rows P", None), ("columns Q", None)] if getattr(u_hat, "ndim", 0) == 6 else []
        axes = [("batch B", None), *grid, ("lower capsules I", None)]
        upper = ("upper capsules J", self.parents), ("capsule dimension E", None)
        beta = self.params["beta_u"]
        check_array("EMRouting.forward", "u_hat", u_hat, *axes, *upper, like=beta)
        sizes = [(meaning, size) for (meaning, _), size in zip(axes, u_hat.shape, strict=False)]
        check_array("EMRouting.forward", "a", a, *sizes, like=beta)

    def _check_gradient(self, dy: tuple[Array, Array], cache: EMCache) -> None:
        last = cache.iterations[-1]
        check_gradient("EMRouting.backward", dy[0], last.mu.shape, last.mu)
        check_gradient("EMRouting.backward", dy[1], last.a.shape, last.a)
