"""EM routing of matrix capsules, forward and backward through every iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.capsules.couplings import Coupling, check_coupling
from minicaps.capsules.routing import Routing
from minicaps.checks import check_above_zero, check_array, check_number, check_positive, check_two_gradients

TINY_MASS = 1e-12  # added to a parent's mass ρ: a parent that nobody chooses has the mean 0, not 0/0


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


def check_min_variance(where: str, min_variance: float) -> None:
    """Raise ValueError unless σ²_min is a number above 0."""
    try:
        check_above_zero(where, min_variance=min_variance)
    except ValueError as error:
        raise ValueError(f"{error}; the authors' is 5e-4") from None


class EMRouting(Routing):
    r"""EM routing (Hinton et al. 2018, procedure 1): every parent is a Gaussian that is fitted to its votes.

    c¹ is even. For r = 1..R, with children i, parents j, the numbers e = 1..E of a pose, and
    s_r = (1 - 0.95^r)/(1 - 0.95^R):

    M-step: ρ_j = Σ_i c_ij a_i, w_ij = c_ij a_i/ρ_j, μ_j = Σ_i w_ij û_ij,
    σ²_j = Σ_i w_ij (û_ij - μ_j)² + σ²_min, cost_j = ρ_j (E β_u + Σ_e ln σ_je), z_j = s_r (β_a - λ cost_j),
    a'_j = 1/(1 + exp(-z_j)).

    E-step, but for r = R: b_ij = ln a'_j - Σ_e ln σ_je - Σ_e (û_ije - μ_je)²/(2 σ²_je), c = softmax_j(b).

    Gradient, through every iteration, with D = û - μ and p = 1/σ². Of an E-step: db = softmax'ᵀ dc,
    dz = (1 - a') Σ_i db, dμ = p Σ_i db D, dσ² = ½ p (p Σ_i db D² - Σ_i db), dû = -db p D. Of an M-step:
    dcost = -s λ dz, dβ_a = s dz, dβ_u = E ρ dcost, dρ = dcost cost/ρ, dσ² += ½ ρ dcost p,
    dw = ⟨û, dμ⟩ + ⟨D², dσ²⟩, dû += w (dμ + 2 dσ² D), d(c a) = (dw - Σ_i w dw)/ρ + dρ.

    Deviation: λ is the inverse temperature of the *last* iteration, so that numbers of iterations can be
    compared; the paper's 0.01 (1 - 0.95^r) ends with 0.000975 at R = 2, 0.00143 at R = 3. And β_a is the
    paper's times λ, which would have to become thousands, and which no learning rate would reach.

    Parameters
    ----------
    parents : int
        J.
    iterations : int
        R, 1 or more.
    inverse_temperature : float
        λ.
    min_variance : float
        σ²_min, which is added: a parent with one child has no variance of 0, and there is no kink.
    beta_u_start : float
        First value of every β_u, 0 or more; about -mean ln σ, of votes close together, lets the cost start
        at 0 and half of the parents be active. β_a starts at 0.
    coupling : Coupling, optional
        What makes c of b; by default ``Softmax()``, over the parents.
    dtype : float32 or float64

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: procedure 1.
    """

    reads_activations = True

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
        check_number("EMRouting", inverse_temperature=inverse_temperature, beta_u_start=beta_u_start)
        check_min_variance("EMRouting", min_variance)
        self.parents, self.iterations = parents, iterations
        self.inverse_temperature, self.min_variance = float(inverse_temperature), float(min_variance)
        self.beta_u_start = beta_u_start
        self.coupling = check_coupling("EMRouting", coupling)
        self.add_param("beta_u", np.full(parents, beta_u_start, dtype=dtype))  # (J,)
        self.add_param("beta_a", np.zeros(parents, dtype=dtype))  # (J,)

    def forward(self, u_hat: Array, a: Array) -> tuple[tuple[Array, Array], EMCache]:
        """u_hat (B, I, J, E), a (B, I) from 0 to 1 -> mu (B, J, E), a' (B, J) from 0 to 1.

        Both inputs may have axes of a grid (P, Q) behind B, and both outputs then have them too; the coupling
        has to take such logits, as ``WindowSoftmax`` does.
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
        w = mass / (rho + TINY_MASS)[..., None, :]  # (B, I, J)
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
        D = u_hat - fit.mu[..., None, :, :]  # (B, I, J, E)
        squares = (D**2 / fit.variance[..., None, :, :]).sum(axis=-1)  # (B, I, J)
        return (log_a - 0.5 * xp.log(fit.variance).sum(axis=-1))[..., None, :] - 0.5 * squares  # (B, I, J)

    def backward(self, dy: tuple[Array, Array], cache: Any) -> tuple[Array, Array]:
        """(dmu (B, J, E), da' (B, J)) -> du_hat (B, I, J, E), da (B, I)."""
        u_hat, _, iterations = cache
        self._check_gradient(dy, u_hat)
        dmu, da_upper = dy
        last, dvariance = iterations[-1], get_xp(u_hat).zeros_like(dmu)  # (B, J, E)
        dz = da_upper * last.a * (1 - last.a)  # of a' = 1/(1 + e^-z): (B, J)
        du_hat, da, dc = self._m_step_backward(len(iterations) - 1, dmu, dvariance, dz, cache)
        for r in reversed(range(len(iterations) - 1)):
            db = self.coupling.backward(dc, iterations[r + 1].coupling)  # (B, I, J)
            of_b, dmu, dvariance, dz = self._e_step_backward(db, u_hat, iterations[r])
            of_fit, da_r, dc = self._m_step_backward(r, dmu, dvariance, dz, cache)
            du_hat, da = du_hat + of_b + of_fit, da + da_r  # (B, I, J, E), (B, I)
        if self.coupling.params:  # b¹ = 0 is constant, but a coupling may have something to learn of it
            self.coupling.backward(dc, iterations[0].coupling)
        return du_hat, da

    def _m_step_backward(
        self, r: int, dmu: Array, dvariance: Array, dz: Array, cache: EMCache
    ) -> tuple[Array, Array, Array]:
        """Return du_hat (B, I, J, E), da (B, I) and dc (B, I, J), and add to the gradients of β."""
        u_hat, a, fit = cache.u_hat, cache.a, cache.iterations[r]
        J, E = fit.mu.shape[-2:]
        dcost = -self._share(r) * self.inverse_temperature * dz  # of z = s (β_a - λ cost): (B, J)
        self.grads["beta_a"] += (self._share(r) * dz).reshape(-1, J).sum(axis=0)  # (J,)
        self.grads["beta_u"] += (E * fit.rho * dcost).reshape(-1, J).sum(axis=0)  # of cost = ρ price: (J,)
        drho = fit.price * dcost  # of cost = ρ price: (B, J)
        dvariance = dvariance + 0.5 * (fit.rho * dcost)[..., None] / fit.variance  # of Σ_e ln σ: (B, J, E)
        # Of σ² = Σ_i w (û - μ)², dμ is -2 dσ² Σ_i w D: 0, but for a parent that nobody chooses.
        nobody = (TINY_MASS / (fit.rho + TINY_MASS))[..., None]  # (B, J, 1), 1 - Σ_i w
        dmu = (dmu - 2 * dvariance * nobody * fit.mu)[..., None, :, :]  # (B, 1, J, E)
        dvariance = dvariance[..., None, :, :]  # (B, 1, J, E)
        D = u_hat - fit.mu[..., None, :, :]  # (B, I, J, E)
        dw = (u_hat * dmu + D**2 * dvariance).sum(axis=-1)  # of μ and σ²: (B, I, J)
        du_hat = fit.w[..., None] * (dmu + 2 * dvariance * D)  # of μ and σ²: (B, I, J, E)
        mean = (fit.w * dw).sum(axis=-2, keepdims=True)  # (B, 1, J)
        of_w = (dw - mean) / (fit.rho + TINY_MASS)[..., None, :]  # of w = mass/ρ: (B, I, J)
        dmass = of_w + drho[..., None, :]  # of ρ = Σ_i mass: (B, I, J)
        return du_hat, (dmass * fit.c).sum(axis=-1), dmass * a[..., None]  # of mass = c a

    def _e_step_backward(
        self, db: Array, u_hat: Array, fit: EMIteration
    ) -> tuple[Array, Array, Array, Array]:
        """Return du_hat (B, I, J, E), dmu and dvariance (B, J, E), and dz (B, J)."""
        D, p = u_hat - fit.mu[..., None, :, :], 1 / fit.variance  # (B, I, J, E), (B, J, E)
        total = db.sum(axis=-2)  # (B, J)
        dbD = db[..., None] * D  # (B, I, J, E)
        dmu = p * dbD.sum(axis=-3)  # of -½ D² p: (B, J, E)
        squares = (dbD * D).sum(axis=-3)  # (B, J, E)
        dvariance = 0.5 * p * (p * squares - total[..., None])  # of -½ D² p - ½ ln σ²: (B, J, E)
        return -p[..., None, :, :] * dbD, dmu, dvariance, (1 - fit.a) * total  # the last of ln a'

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

    def _check_gradient(self, dy: tuple[Array, Array], u_hat: Array) -> None:
        *grid, _, J, E = u_hat.shape
        check_two_gradients("EMRouting.backward", dy, ((*grid, J, E), (*grid, J)), u_hat)
