# %% [markdown]
# # 14. EM routing by hand
#
# **You will do:** fit Gaussians to votes that you can see and share the votes out, in turns; write the lines
# for the second half yourself; break two things and let a gradient check find them.
#
# **You will learn:** what μ, σ, cost, a' and λ are, what a parent without votes does, and where the gradient
# goes.
#
# **You need:** lessons 3 (gradients), 6 and 7 (routing and its gradient), 6 seconds.
#
# **Figures:** `14_votes`, `14_iterations`, `14_lambda`, `14_frozen`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import Leaky, Stopped, build, figures, gradcheck
from minicaps.capsules import EMRouting  # the definition; from minicaps, the fast one
from minicaps.layers import softmax
from minicaps.proof import audit, cmp
from minicaps.proof import variants as known

rng = np.random.default_rng(139)

# %% [markdown]
# ## Votes that one can see
# In dynamic routing one vector says two things: its length how sure a capsule is, its direction how the part
# is turned. A *matrix capsule* (Hinton, Sabour and Frosst 2018) keeps them apart: an activation a from 0 to
# 1, and a pose, which is a matrix of 4×4 numbers. Its vote for parent j is again a pose, û_ij. Here a pose
# has E = 2 numbers, so that a vote is a point in the plane.
#
# The scene: 13 parts i, the children, vote for three wholes j, the parents. Six parts agree on what the house
# is like, five on the boat, two are strays. Nobody agrees about the tree. Mind that every part votes for
# every whole: the six have an opinion about the boat too, only not the same one.

# %%
wholes = ["house", "boat", "tree"]  # J = 3 parents j
groups = np.repeat([0, 1, 2], [6, 5, 2])  # (I,), I = 13: parts of a house, of a boat, strays
kinds = ["parts of the house", "parts of the boat", "strays"]
u_hat = rng.uniform(-2, 2, size=(13, 3, 2))  # (I, J, E)
u_hat[groups == 0, 0] = [1, 0.8] + 0.15 * rng.normal(size=(6, 2))
u_hat[groups == 1, 1] = [-1, 0.5] + 0.15 * rng.normal(size=(5, 2))
a = np.full(13, 0.9)  # (I,), each child is there with some certainty
spreads = np.array([[u_hat[groups == k, j].std(axis=0).mean() for j in range(3)] for k in range(2)])
print("standard deviation of the votes, rows: who votes, columns: for whom\n", spreads.round(2))
assert spreads[0, 0] < 0.3 and spreads[1, 1] < 0.3 and spreads[0, 1:].min() > 0.8


def draw_votes(axes, j, shares, mu=None, variance=None):
    """Draw the votes for parent j, each as large as its share, and the Gaussian: μ and a line at 2σ."""
    for k, kind in enumerate(kinds):
        of_kind = groups == k
        look = {"color": figures.COLOURS[k + 1], "marker": "o^s"[k], "label": kind, "alpha": 0.8}
        axes.scatter(*u_hat[of_kind, j].T, s=45 * shares[of_kind] + 1, linewidths=0, **look)
    if mu is not None:
        turn = np.linspace(0, 2 * np.pi, 100)
        ring = mu[j] + 2 * np.sqrt(variance[j]) * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        axes.plot(*ring.T, color="black", linewidth=1)
        axes.plot(*mu[j], "k+")
    axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=(-2, 0, 2), yticks=(-2, 0, 2), aspect="equal", axisbelow=True)


with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 2.9))
    for j, axes in enumerate(figure.subplots(1, 3)):
        draw_votes(axes, j, np.ones(13))
        axes.set_title(f"Votes for the {wholes[j]}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
figures.show(figure, "14_votes")

# %% [markdown]
# ## M-step: fit a Gaussian to the votes
# Every parent is a Gaussian: a mean μ_j, its pose, and a standard deviation σ_je for each number e of it. To
# fit it, each child gives the share c_ij of itself (the paper writes R_ij), at first an even one. How much of
# child i parent j has is the *mass* c_ij a_i: a child that is hardly there hardly counts.
#
#     ρ_j = Σ_i c_ij a_i               all the mass of parent j
#     w_ij = c_ij a_i/ρ_j              child i's part in it; they sum to 1 over the children
#     μ_j = Σ_i w_ij û_ij              the weighted mean of the votes
#     σ²_j = Σ_i w_ij (û_ij - μ_j)²    their weighted variance, number by number
#
# A little σ²_min is added to every variance. Without it a parent with a single child would have σ = 0.
#
# **Predict:** in the first iteration all shares are 1/3. Which whole has the smallest σ, if any?

# %%
min_variance = 0.01


def m_step(c, a):  # (I, J), (I,) -> (J,), (I, J), (J, E), (J, E)
    mass = c * a[:, None]  # (I, J)
    rho = mass.sum(axis=0)  # (J,)
    w = mass / rho  # (I, J)
    mu = np.einsum("ij,ije->je", w, u_hat)  # (J, E)
    variance = np.einsum("ij,ije->je", w, (u_hat - mu) ** 2) + min_variance  # (J, E)
    return rho, w, mu, variance


c1 = np.full((13, 3), 1 / 3)  # (I, J)
rho1, w1, mu1, variance1 = m_step(c1, a)
print("ρ:", rho1.round(2))
print("μ, one line for each whole:\n", mu1.round(2))
print("σ, one line for each whole:\n", np.sqrt(variance1).round(2))
assert np.allclose(rho1, 13 * 0.9 / 3) and np.allclose(w1.sum(axis=0), 1)
assert (np.sqrt(variance1) > 1).all()  # all wide: each parent looks at all votes, most of which are scattered

# %% [markdown]
# ## Cost and activation: is the whole there?
# Is it worth saying that there is a house? With it, votes need not be told one by one: they are close to μ.
# The narrower the Gaussian, the less is left to be told: Σ_e ln σ_je for each child. A child that is told
# without a parent costs a fixed price, -E β_u, which is learned. The difference is what the parent costs:
#
#     cost_j = ρ_j (E β_u + Σ_e ln σ_je)          negative: the whole pays off
#     z_j = s (β_a - λ cost_j)                    β_a: a bonus for being there, learned too
#     a'_j = 1/(1 + exp(-z_j))                    the activation of parent j
#
# λ, the *inverse temperature*, says how sharply to decide. It grows from one iteration to the next, by the
# factor s = (1 - 0.95^r)/(1 - 0.95^R), which is 1 in the last. (The paper has λ on both terms. In minicaps
# β_a stands outside, since it would otherwise have to become thousands.)
#
# **Predict:** β_u = 0.5. How small must the two σ of a parent be, for its cost to be 0?

# %%
E, R, beta_u = 2, 4, 0.5


def activate(r, rho, variance, beta_a=0.0, inverse_temperature=1.0):  # r = 1, 2, ...
    cost = rho * (E * beta_u + np.log(np.sqrt(variance)).sum(axis=1))  # (J,)
    s = (1 - 0.95**r) / (1 - 0.95**R)
    z = s * (beta_a - inverse_temperature * cost)  # (J,)
    return cost, z, 1 / (1 + np.exp(-z))


cost1, z1, active1 = activate(1, rho1, variance1)
print(f"cost is 0 at σ = {np.exp(-beta_u):.2f} on both axes")
print("cost:", cost1.round(2), " a':", active1.round(2))
assert (cost1 > 0).all() and (active1 < 0.5).all()  # nothing pays off yet
assert active1.argmax() == 0  # but the house, with six of 13 votes in one spot, is ahead by a little

# %% [markdown]
# ## E-step: your lines
# Now every child asks: whose Gaussian does my vote lie in? The density of parent j's Gaussian at û_ij is
#
#     p_ij = Π_e 1/(√(2π) σ_je) · exp(-(û_ije - μ_je)²/(2 σ²_je))
#
# and the child shares itself out in proportion to a'_j p_ij: by how much the parent is there, times how well
# it fits. So c is a softmax over the parents of b_ij = ln(a'_j p_ij). Logarithms, since 16 numbers of a pose
# that are a little off make a p that no float can hold.
#
# Write b. What is the same for all parents of a child changes no softmax, so √(2π) may stay away. `cmp` says
# whether the shares that follow are those of minicaps: exact, close (other rounding), or wrong and where.


# %%
def my_e_step(mu, variance, active):  # (J, E), (J, E), (J,) -> (I, J)
    b = None  # your lines
    return b


def em_routing(iterations=R, **options):
    return EMRouting(
        3,
        iterations,
        inverse_temperature=1.0,
        min_variance=min_variance,
        beta_u_start=beta_u,
        dtype=np.float64,
        **options,
    )


routing = em_routing()
(mu, active), cache = routing.forward(u_hat[None], a[None])  # minicaps has a batch axis in front
mine = my_e_step(mu1, variance1, active1)
cmp("c of iteration 2", None if mine is None else softmax(mine), cache.c[1][0])

# %% [markdown]
# Go on when it says exact or close. What to change meanwhile: leave ln σ out, and see at which child it is
# wrong most.
#
# One way to write it, and its numbers for the first part of the house, the first of the boat and a stray.


# %%
def e_step(mu, variance, active):  # (J, E), (J, E), (J,) -> (I, J)
    squares = ((u_hat - mu) ** 2 / variance).sum(axis=-1)  # (I, J), (û - μ)²/σ², added up over e
    return np.log(active) - np.log(np.sqrt(variance)).sum(axis=-1) - squares / 2


b2 = e_step(mu1, variance1, active1)  # (I, J)
c2 = softmax(b2)  # (I, J)
for i in (0, 6, 11):
    print(f"{kinds[groups[i]]:<19} b {b2[i].round(2)}  c {c2[i].round(2)}")
assert cmp("c of iteration 2", c2, cache.c[1][0])
assert (c2[groups == 0, 0] > 1 / 3).all()  # each part of the house leans to it

# %% [markdown]
# ## In turns
# That is all: *expectation maximisation*, as it fits a mixture of Gaussians, with two changes. A child votes
# with another point for every Gaussian. And a Gaussian that does not pay off fades, by a'.
#
# **Predict:** which σ will shrink, which will not? And what becomes of a' of the tree?


# %%
def route(**options):
    c, course = np.full((13, 3), 1 / 3), []
    for r in range(1, R + 1):
        rho, _, mu, variance = m_step(c, a)
        cost, _, active = activate(r, rho, variance, **options)
        course.append((c, rho, mu, variance, cost, active))
        c = softmax(e_step(mu, variance, active))  # (I, J), for the next iteration
    return course


course = route()
print("iteration   ρ                  mean σ             cost                  a'")
for r, (_, rho, _, variance, cost, active) in enumerate(course, start=1):
    sigma = np.sqrt(variance).mean(axis=1)  # (J,)
    print(
        r, *(f"{np.array2string(x, precision=2, floatmode='fixed'):>20}" for x in (rho, sigma, cost, active))
    )
for (c, _, mu, variance, _, active), fit in zip(course, cache.iterations, strict=True):
    for mine, theirs in ((c, fit.c), (mu, fit.mu), (variance, fit.variance), (active, fit.a)):
        assert np.allclose(mine, theirs[0])
c4, rho4, mu4, variance4, cost4, active4 = course[-1]
assert np.array_equal(c4.argmax(axis=1)[:11], groups[:11])  # the parts of both have found each other
assert (active4[:2] > 0.99).all() and (cost4[:2] < 0).all()

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 5.8))
    for j, row in enumerate(figure.subplots(3, 4, sharex=True, sharey=True)):
        for r, (axes, (c, _, mu, variance, _, active)) in enumerate(zip(row, course, strict=True)):
            draw_votes(axes, j, c[:, j], mu, variance)
            axes.set_title(f"{wholes[j]}, {r + 1}: a' = {active[j]:.2f}", fontsize=9)
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for handle in legend.legend_handles:
        handle.set_sizes([30])
    figures.headline(figure, "Two Gaussians close in on votes that agree; the third loses its votes")
figures.show(figure, "14_iterations")

# %% [markdown]
# A dot is as large as its share c, a ring lies at 2σ. From the second iteration on each fit sharpens the
# next: a narrower Gaussian fits its own better and all others worse.
#
# And the strays? They go to the house, which they fit least badly, and make it wide: its σ stays above the
# boat's. A child must spend its share somewhere, as the disc of lesson 6. The coupling `Leaky()` offers it
# one more parent, "nobody", with the logit 0.

# %%
print("shares of the strays:\n", c4[groups == 2].round(2))
assert (c4[groups == 2].argmax(axis=1) == 0).all() and (variance4[0] > variance4[1]).all()
_, leaky_cache = em_routing(coupling=Leaky()).forward(u_hat[None], a[None])
nobody = 1 - leaky_cache.c[-1][0].sum(axis=1)  # (I,)
print(
    "to nobody, with Leaky():", *(f"{kind} {nobody[groups == k].mean():.2f}" for k, kind in enumerate(kinds))
)
assert nobody[groups == 2].mean() > 0.6 > 0.4 > nobody[groups == 1].mean()

# %% [markdown]
# ## A parent without votes
# The tree is left with little mass. Yet its a' is 0.43, higher than at first! Look at the formula: where ρ
# goes to 0, so does the cost, and a' becomes 1/(1 + exp(-β_a)): what the parent is by itself, before it has
# heard anybody. With β_a = 0 this is ½. So β_a has to be learned: below 0, who is not there is told so.
#
# **Predict:** with β_a = -2, what becomes of house and boat?

# %%
print(f"tree: ρ = {rho4[2]:.2f}, cost = {cost4[2]:.2f}, a' = {active4[2]:.2f}")
assert course[0][5][2] < active4[2] < 0.5
quiet = route(beta_a=-2.0)[-1][5]  # (J,)
print("a' with β_a = -2:", quiet.round(2))
assert quiet[2] < 0.2 and (quiet[:2] > 0.9).all()

# %% [markdown]
# ## λ: how sharply to decide
# λ stands before the cost. Where it is tiny, a' is ½ for all, whatever the votes say. Where it is large, the
# smallest difference decides. **Predict:** with λ = 0.001 no a' differs from ½ by more than a hundredth. Are
# house and boat found all the same?

# %%
lambdas = np.logspace(-3, 1, 25)
found = []
for each in lambdas:
    *_, (c, _, _, _, _, active) = route(inverse_temperature=each)
    found.append((active, (c.argmax(axis=1)[:11] == groups[:11]).mean()))
actives, correct = (
    np.array([active for active, _ in found]),
    np.array([share for _, share in found]),
)  # (25, J)
for k in (0, 6, 12, 18):
    print(f"λ = {lambdas[k]:.3f}: a' = {actives[k].round(3)}, {correct[k]:.0%} of the parts with their whole")
assert np.abs(actives[0] - 0.5).max() < 0.01 and correct[0] == 1

with matplotlib.rc_context(figures.STYLE):
    axes = (figure := Figure(figsize=(5.6, 3.0))).subplots()
    for j, whole in enumerate(wholes):
        axes.plot(lambdas, actives[:, j], label=whole, **(figures.line_style(j) | {"marker": ""}))
    axes.set(xscale="log", ylim=(0, 1), xlabel="Inverse temperature λ", ylabel="Activation a'")
    axes.set_title("The larger λ is, the more sharply it is decided who is there")
    axes.legend(loc="lower left")
figures.show(figure, "14_lambda")

# %% [markdown]
# They are: σ and μ alone find the clusters, a' is only their judge. But a network learns from a', and where
# that is flat there is hardly a slope. The paper ends with λ near 0.001, and a pose there has 16 numbers and
# a parent hundreds of children, so that costs are larger. The presets `tiny` and `small` of minicaps end with
# 0.01.
#
# ## The gradient
# As in lesson 7, û is used again and again: by R M-steps and R - 1 E-steps. Backward walks through them in
# reverse. Take one M-step, and of it the mean: μ_j = Σ_i w_ij û_ij gives dû_ij = w_ij dμ_j and
# dw_ij = ⟨û_ij, dμ_j⟩. From w it goes on to the mass, and there it splits, for mass = c_ij a_i:
# da_i = Σ_j c_ij dmass_ij, and dc_ij = a_i dmass_ij, which the E-step before takes on. Exercise 1 asks for
# that E-step. All of it stands beside its forward in the file minicaps/capsules/em_routing.py.
#
# `gradcheck` compares it with central differences, through all iterations.

# %%
inputs = [u_hat[None], a[None]]  # (B, I, J, E), (B, I)
report = gradcheck(routing, inputs)
print(report)
assert report.ok

# %% [markdown]
# ## Break it: frozen shares
# Some codes take c for constants in backward. `Stopped()` does so here. The forward pass stays as it is.
# **Predict:** which of the arrays û, a, β_u, β_a will have a wrong gradient?

# %%
frozen = em_routing(coupling=Stopped())
assert np.array_equal(frozen(*inputs)[0], routing(*inputs)[0])
report = gradcheck(frozen, inputs, check_forward=routing.forward)
for row in report.rows:
    print(f"{row.array:<12} relative error {row.error:.2f}")
assert not report.ok and all(row.error > 0.1 for row in report.rows)

dmu, da = rng.normal(size=(1, 3, 2)), rng.normal(size=(1, 3))  # upstream, (B, J, E), (B, J)


def measure(loss, x, h=1e-5):
    steps = h * np.eye(x.size).reshape(-1, *x.shape)  # each changes one number
    return np.reshape([(loss(x + step) - loss(x - step)) / (2 * h) for step in steps], x.shape)


def loss_of(u_hat):
    mu, active = routing(u_hat, a[None])
    return (dmu * mu).sum() + (da * active).sum()


measured = measure(loss_of, u_hat[None])  # (B, I, J, E)
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 3.4))
    each = {"Through the shares": routing, "Shares frozen": frozen}
    for axes, (title, layer) in zip(
        figure.subplots(1, 2, sharex=True, sharey=True), each.items(), strict=True
    ):
        du_hat, _ = layer.backward((dmu, da), layer.forward(*inputs)[1])
        for k, kind in enumerate(kinds):
            of_kind = {"color": figures.COLOURS[k + 1], "label": kind, "linestyle": "", "markersize": 4}
            axes.plot(measured[0, groups == k].ravel(), du_hat[0, groups == k].ravel(), "o^s"[k], **of_kind)
        axes.axline((0, 0), slope=1, color="0.7", linewidth=1, zorder=0)
        axes.set(title=title, xlabel="dû by finite differences", ylabel="dû by backward")
    axes.legend()
figures.show(figure, "14_frozen")

# %% [markdown]
# All four are wrong: β_u and β_a act on a' of the early iterations too, and that on the shares of the later
# ones. Relative errors near 1 say that here most of the gradient goes this way. In the figure no kind of
# votes is spared.
#
# ## Break it: an activation that cancels
# Some public codes divide the masses of a child by their sum again: c_ij a_i / Σ_k c_ik a_i. Read it twice:
# a_i cancels. A child that is not there votes like any other. The numbers look fine. **Predict:** backward is
# right, by the chain rule, for what is computed. Does the gradient check pass?


# %%
class Cancelled(EMRouting):
    """EM routing whose children's activations cancel, so that their gradient is 0."""

    def forward(self, u_hat, a):
        return super().forward(u_hat, np.ones_like(a))

    def backward(self, dy, cache):
        du_hat, da = super().backward(dy, cache)
        return du_hat, np.zeros_like(da)


cancelled = Cancelled(3, 4, inverse_temperature=1.0, min_variance=0.01, beta_u_start=0.5, dtype=np.float64)
report = gradcheck(cancelled, inputs)
print("\n".join(report.failures()))
assert not report.ok and len(report.failures()) == 1
absent = a * (np.arange(13) != 0)  # (I,), the first part of the house is not there
moved = {"right": routing, "cancelled": cancelled}
moved = {name: layer(inputs[0], absent[None])[0] - layer(*inputs)[0] for name, layer in moved.items()}
print("without that part μ of the house moves by", {k: float(x[0, 0, 0].round(3)) for k, x in moved.items()})
assert np.abs(moved["right"]).max() > 0.01 and not moved["cancelled"].any()

# %% [markdown]
# Two zeros agree, but they prove nothing, so `gradcheck` fails an array that has no influence at all. The
# audit of lesson 13 knows this bug too, by its numbers alone.


# %%
def cancelling(votes, a, beta_u, beta_a, inverse_temperatures):
    c = np.full(votes.shape[:3], 1 / votes.shape[2])  # (B, I, J)
    for inverse_temperature in inverse_temperatures:
        mass = c * a[..., None]  # (B, I, J)
        mass = mass / mass.sum(axis=2, keepdims=True)  # the bug
        rho = mass.sum(axis=1)  # (B, J)
        w = (mass / rho[:, None])[..., None]  # (B, I, J, 1)
        mu = (w * votes).sum(axis=1)  # (B, J, E)
        variance = (w * (votes - mu[:, None]) ** 2).sum(axis=1) + 5e-4  # (B, J, E)
        log_sigma = np.log(variance).sum(axis=2) / 2  # (B, J)
        cost = rho * (votes.shape[3] * beta_u + log_sigma)  # (B, J)
        active = 1 / (1 + np.exp(-inverse_temperature * (beta_a - cost)))  # (B, J)
        squares = ((votes - mu[:, None]) ** 2 / variance[:, None]).sum(axis=3)  # (B, I, J)
        c = softmax((np.log(active) - log_sigma)[:, None] - squares / 2)  # (B, I, J)
    return mu, active


broken = [finding for finding in audit({"em_routing": cancelling}) if finding.verdict == "broken"]
print([f"{finding.check}: {finding.says}" for finding in broken])
assert [finding.check for finding in broken] == ["activations"]

# %% [markdown]
# ## In a network
# `python -m minicaps train --model matrix --preset tiny` trains the network of the paper with few types of
# capsules: a convolution, primary capsules, two layers of convolutional capsules, and a capsule for each
# class. Everywhere the poses are matrices, the votes are M_i W_ij, and the routing is this one, with R = 2.
# Its first run got 98.97 % of MNIST's test images, with 16,728 parameters
# ([data/experiments](../data/experiments/README.md#other-routings-first-runs); one seed, so the last digits
# say little). `python -m minicaps explore RUN` then draws its activations, couplings and poses.

# %%
network = build("matrix", "tiny")
print(network)
assert network.count_params() == 16_728

# %% [markdown]
# ## Summary
# - M-step: each parent is a Gaussian that is fitted to the votes, weighted by c_ij a_i. E-step: each child
#   shares itself out in proportion to a'_j p_ij, a softmax over the parents.
# - The narrower a Gaussian and the larger its mass, the lower its cost and the higher its a'. λ says how
#   sharply, β_u how narrow it must be, and β_a what a parent is that nobody votes for.
# - Dynamic routing adds agreements up. EM routing keeps nothing but c: each fit starts anew.
# - The gradient goes through every M- and E-step. Frozen shares give a wrong one, and an array without
#   influence proves nothing.
#
# ## Exercises
# 1. Write the gradient of the E-step: from db to dμ, dσ² and dz (a' = 1/(1 + exp(-z)), so d ln a'/dz is
#    1 - a'). Each is a sum over the children. `cmp` below compares it with finite differences.
# 2. What is a' of a parent with a single child, at these settings? And without σ²_min? Work it out by hand
#    first.
# 3. Does EM always find both? Make 100 other scenes, count those in which all 11 parts end up with their
#    whole, and look at one where they do not.
# 4. Break it: leave ln a' out of the E-step. Which of the asserts of this lesson fail? Does a gradient check
#    of such a layer, with its own backward, notice? Does the audit?


# %%
def my_e_step_backward(db, mu, variance, active):  # (I, J), (J, E), (J, E), (J,)
    dmu = dvariance = dz = None  # your lines: (J, E), (J, E), (J,)
    return dmu, dvariance, dz


db = rng.normal(size=(13, 3))  # (I, J), upstream


def e_step_of(mu=mu1, variance=variance1, z=z1):
    return (db * e_step(mu, variance, 1 / (1 + np.exp(-z)))).sum()


expected = {
    "dmu": measure(lambda mu: e_step_of(mu=mu), mu1),
    "dvariance": measure(lambda variance: e_step_of(variance=variance), variance1),
    "dz": measure(lambda z: e_step_of(z=z), z1),
}
for (name, right), mine in zip(
    expected.items(), my_e_step_backward(db, mu1, variance1, active1), strict=True
):
    cmp(name, mine, right)

# %% [markdown]
# ## Solutions


# %% Solution 1
# b = ln a' - ½ Σ ln σ² - ½ Σ D²/σ² with D = û - μ. Its slopes: D/σ² by μ, ½ (D²/σ² - 1)/σ² by σ².
def e_step_backward(db, mu, variance, active):
    D, p = u_hat - mu, 1 / variance  # (I, J, E), (J, E)
    dmu = (db[..., None] * D * p).sum(axis=0)  # (J, E)
    dvariance = 0.5 * (db[..., None] * (D**2 * p - 1) * p).sum(axis=0)  # (J, E)
    return dmu, dvariance, (1 - active) * db.sum(axis=0)


for (name, right), mine in zip(expected.items(), e_step_backward(db, mu1, variance1, active1), strict=True):
    assert cmp(name, mine, right)

# %% Solution 2
# One child: σ² = σ²_min = 0.01, so Σ ln σ = 2 ln 0.1. With ρ = 0.9: cost = 0.9 (1 - 4.6) = -3.2, a' = 0.96:
# "there", on the word of one. Without σ²_min, ln 0 = -∞, so a' = 1 and the E-step divides by 0.
(_, alone), _ = em_routing(1).forward(u_hat[None, :1], 3 * a[None, :1])  # c = 1/3, so that ρ = 0.9
print("a' with one child:", alone[0].round(2))
assert np.allclose(alone, 1 / (1 + np.exp(0.9 * (1 + 2 * np.log(0.1)))))


# %% Solution 3
def scene(seed):
    rng = np.random.default_rng(seed)
    votes = rng.uniform(-2, 2, size=(13, 3, 2))  # (I, J, E)
    votes[groups == 0, 0] = [1, 0.8] + 0.15 * rng.normal(size=(6, 2))
    votes[groups == 1, 1] = [-1, 0.5] + 0.15 * rng.normal(size=(5, 2))
    return votes


scenes = np.stack([scene(seed) for seed in range(100)])  # (B, I, J, E)
_, scenes_cache = routing.forward(scenes, np.tile(a, (100, 1)))
whole = (scenes_cache.c[-1].argmax(axis=2)[:, :11] == groups[:11]).all(axis=1)  # (B,)
print(f"{whole.sum()} of 100 scenes; the first that fails: {np.flatnonzero(~whole)[0]}")
assert 40 < whole.sum() < 80  # EM climbs to the nearest top: it depends on the first, even look

# %% Solution 4
# The comparisons of c with minicaps fail, and those of the course. A gradient check does not: it compares
# backward with its own forward, and a wrong formula has a right gradient. The audit knows the right formula.
without = softmax(b2 - np.log(active1))  # (I, J)
assert not cmp("c without ln a'", without, cache.c[1][0])


def without_prior(votes, a, beta_u, beta_a, inverse_temperatures):
    y = known.em_routing(votes, a, beta_u, beta_a, inverse_temperatures, prior="none")  # (B, J, E + 1)
    return y[..., :-1], y[..., -1]


broken = [finding for finding in audit({"em_routing": without_prior}) if finding.verdict == "broken"]
print([f"{finding.check}: {finding.says}" for finding in broken])
assert [finding.check for finding in broken] == ["prior"]
