# %% [markdown]
# # 7. Backpropagate through routing
#
# **You will do:** unroll three iterations, send a gradient back through them by hand, and measure every step.
#
# **You will learn:** four rules are enough, the gradient of û is a sum of five outer products, and those of W
# and u follow from it.
#
# **You need:** lessons 2 (squash), 3 (softmax) and 6 (routing), 4 seconds.
#
# **Figures:** `07_graph`, `07_full_and_stopped`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import CapsuleLayer, DynamicRouting, Frozen, Squash, Stopped, figures, gradcheck
from minicaps.fast import factored
from minicaps.layers import softmax

rng = np.random.default_rng(0)
squash = Squash()

# %% [markdown]
# ## Forward, written out
# Routing finds its couplings c with the predictions û, then weighs the same û with them. So û acts on the
# output in several ways at once. How does the output change with û, all ways together?
#
# First the forward pass of lesson 6, for one sample and without a loop. The digit in a name is the iteration.
# (`softmax` runs over the last axis, here that of the parents. With the loop, the definition of forward and
# backward stands in the file minicaps/capsules/dynamic_routing.py.)

# %%
u, W = rng.normal(size=(6, 4)), 0.5 * rng.normal(size=(6, 4, 3, 8))  # (I, D), (I, D, J, E): 6 lower, 3 upper
u_hat = np.einsum("id,idje->ije", u, W)  # (I, J, E), û_ij = u_i W_ij


def combine(c):  # Σ_i c_ij û_ij: (I, J) -> (J, E)
    return np.einsum("ij,ije->je", c, u_hat)


def agree(v):  # ⟨û_ij, v_j⟩: (J, E) -> (I, J)
    return np.einsum("ije,je->ij", u_hat, v)


c1 = np.full((6, 3), 1 / 3)  # softmax of b1 = 0
s1 = combine(c1)
v1 = squash(s1)
b2 = agree(v1)
c2 = softmax(b2)
s2 = combine(c2)
v2 = squash(s2)
b3 = b2 + agree(v2)
c3 = softmax(b3)
s3 = combine(c3)
v3 = squash(s3)
routing = DynamicRouting(iterations=3)
v, cache = routing.forward(u_hat[None])  # minicaps has a batch axis in front
assert np.allclose(v[0], v3) and np.allclose(cache.b[2][0], b3)

# %% [markdown]
# ## The graph
# The same as boxes and arrows. The gradient goes against the arrows. û enters each s, and each b but the
# first, so R iterations use it R + (R - 1) = 2R - 1 times: here five. Do not read the labels at û yet: they
# say what each use adds to the gradient of û, and rules 2 and 4 will derive them. The cut comes last.

# %%
uses = ("c¹ ⊗ ds¹", "db² ⊗ v¹", "c² ⊗ ds²", "db³ ⊗ v²", "c³ ⊗ ds³")
with matplotlib.rc_context(figures.STYLE):
    axes = (figure := Figure(figsize=(7.2, 2.6))).subplots()
    arrow, box = {"arrowstyle": "-|>", "color": "black"}, {"boxstyle": "round,pad=0.4", "facecolor": "white"}
    for x, name in enumerate("c¹ s¹ v¹ b² c² s² v² b³ c³ s³ v³".split()):
        axes.text(x, 1, name, ha="center", va="center", bbox=box)
        axes.annotate("", (x + 0.75, 1), (x + 0.25, 1), arrowprops=arrow)
    axes.text(11, 1, "loss", ha="center", va="center")
    for x, label in zip(range(1, 10, 2), uses, strict=True):
        axes.annotate("", (x, 0.82), (x, 0.2), arrowprops={**arrow, "color": figures.COLOURS[1]})
        axes.text(x + 0.1, 0.45, label, color=figures.COLOURS[1], fontsize=8)
    bar = axes.barh(0.06, 9, 0.24, left=0.5, color="white", edgecolor="black")
    axes.bar_label(bar, ["û"], label_type="center")
    axes.annotate("", (7, 1.2), (3, 1.2), arrowprops={**arrow, "connectionstyle": "arc3,rad=-0.15"})
    axes.text(5, 1.52, "b³ = b² + agreement", ha="center")
    axes.plot([8.5, 8.5], [0.7, 1.3], color=figures.COLOURS[2], linestyle="--")
    axes.text(8.5, 1.35, "stopped: cut here", color=figures.COLOURS[2], ha="center")
    for r, (first, last) in enumerate(((-0.45, 2.45), (2.55, 6.45), (6.55, 10.35)), start=1):
        axes.axvspan(first, last, color="0.93", zorder=0)
        axes.text(first + 0.1, 1.8, f"Iteration {r}", color="0.3")
    axes.set(xlim=(-0.5, 11.3), ylim=(-0.1, 2), title="Three iterations unrolled: û is used five times")
    axes.axis("off")
figures.show(figure, "07_graph")

# %% [markdown]
# ## A ruler
# The layers above end in a loss L. They hand us dv³ = ∂L/∂v³, which we make up. L = Σ dv³ v³ has just this
# gradient, so it can stand for the loss. We write dx for ∂L/∂x, which has the shape of x. Finite differences
# measure it: change one number of x a little both ways, and see what L does.

# %%
dv3 = rng.normal(size=(3, 8))  # (J, E)


def measure(loss, x, h=1e-5):
    steps = h * np.eye(x.size).reshape(-1, *x.shape)  # each changes one number
    return np.reshape([(loss(x + step) - loss(x - step)) / (2 * h) for step in steps], x.shape)


# %% [markdown]
# ## Rule 1: squash
# v = g s, where g = n/(1 + n²) has the slope g' = (1 - n²)/(1 + n²)² (lesson 2). Change s by a little δs:
#
#     n changes by   δn = s·δs/n
#     v changes by   δv = g δs + (g' δn) s                         (product rule)
#     L changes by   dv·δv = g dv·δs + (g'/n)(s·δs)(s·dv) = [g dv + (g'/n)(s·dv) s]·δs
#
# And L changes by ds·δs: this is what ds means. So the bracket is ds.


# %%
def squash_backward(dv, s):  # (J, E), (J, E) -> (J, E)
    n = np.linalg.norm(s, axis=1, keepdims=True)  # (J, 1)
    g, slope = n / (1 + n**2), (1 - n**2) / (1 + n**2) ** 2
    return g * dv + slope / n * (s * dv).sum(axis=1, keepdims=True) * s


ds3 = squash_backward(dv3, s3)
assert np.allclose(ds3, measure(lambda s: (dv3 * squash(s)).sum(), s3))

# %% [markdown]
# ## Rule 2: the sum
# s_j = Σ_i c_ij û_ij, so δs_j = Σ_i (δc_ij û_ij + c_ij δû_ij). Multiply by ds_j, and read off two gradients:
# dc_ij = ⟨û_ij, ds_j⟩, which is `agree` again, and dû_ij = c_ij ds_j, written dû = c ⊗ ds. For one parent j
# it is an outer product: a column with all c_ij, times the row ds_j.

# %%
dc3 = agree(ds3)
assert np.allclose(dc3, measure(lambda c: (dv3 * squash(combine(c))).sum(), c3))

# %% [markdown]
# ## Rule 3: the softmax
# c_ik = exp b_ik / Σ_j exp b_ij. Lesson 3 has its derivatives: ∂c_ik/∂b_ik = c_ik - c_ik c_ik, and for
# another parent j, ∂c_ij/∂b_ik = -c_ij c_ik. Add up what b_ik does to all couplings of capsule i:
# db_ik = Σ_j dc_ij ∂c_ij/∂b_ik = c_ik (dc_ik - Σ_j c_ij dc_ij).


# %%
def softmax_backward(dc, c):  # (I, J), (I, J) -> (I, J)
    return c * (dc - (c * dc).sum(axis=1, keepdims=True))


def loss_from_b3(b):
    return (dv3 * squash(combine(softmax(b)))).sum()


db3 = softmax_backward(dc3, c3)
assert np.allclose(db3, measure(loss_from_b3, b3))

# %% [markdown]
# ## Rule 4: the agreement
# b³_ij = b²_ij + ⟨û_ij, v²_j⟩ passes db³ on to three places. b² gets db³ as it is. û gets db³ ⊗ v². And v²
# gets dv²_j = Σ_i db³_ij û_ij, which is `combine` again. Now dv² is known, and the rules repeat one
# iteration earlier, until c¹, which is constant.
#
# One thing is easily missed. Two arrows leave b²: to c², and straight to b³. So db² is a sum of two.

# %%
dv2 = combine(db3)  # rule 4
ds2 = squash_backward(dv2, s2)  # rule 1
dc2 = agree(ds2)  # rule 2
db2 = db3 + softmax_backward(dc2, c2)  # straight from b3, and by way of c2 (rule 3)
ds1 = squash_backward(combine(db2), s1)  # rules 4 and 1, since b2 = agree(v1)
assert np.allclose(db2, measure(lambda b: loss_from_b3(b + agree(squash(combine(softmax(b))))), b2))

# %% [markdown]
# ## Five outer products
# Now read the labels in the figure: each is a weight for every pair ij, times a vector for every parent j.
# Their sum is the gradient of û. To check it, change û itself, which moves all five uses at once. An outer
# product has rank 1. So for each parent the gradient, a 6 × 8 matrix, has rank 5 at most; here just that.
#
# Why care? It saves memory. In the paper û has I·J·E = 1152·10·16 numbers for each image, and so has its
# gradient. The weights and vectors are 5·J·(I + E) = 5·10·(1152 + 16), not a third. `DynamicRouting` adds the
# five products up, as its definition says. The `CapsuleLayer` that `from minicaps import CapsuleLayer` gives,
# the fast one, keeps weights and vectors instead (file minicaps/fast/factored.py).

# %%
weights = np.stack([c3, db3, c2, db2, c1])  # (5, I, J)
vectors = np.stack([ds3, v2, ds2, v1, ds1])  # (5, J, E)
du_hat = np.einsum("kij,kje->ije", weights, vectors)  # (I, J, E)
assert np.allclose(du_hat, measure(lambda x: (dv3 * routing(x[None])[0]).sum(), u_hat))
assert np.allclose(du_hat, routing.backward(dv3[None], cache)[0])
assert (np.linalg.matrix_rank(du_hat.swapaxes(0, 1)) == 5).all()  # J matrices (I, E)
# Not even û is needed: Σ_i c_ij (u_i W_ij) = Σ_i (c_ij u_i) W_ij, and ⟨u_i W_ij, v_j⟩ = ⟨u_i, W_ij v_j⟩.
# In the fast CapsuleLayer `FactoredVotes` moves the brackets so. Its u and W have their axes in another
# order.
factors = factored.FactoredVotes(u.T[:, None], W.transpose(2, 1, 3, 0))  # (D, B, I), (J, D, E, I)
assert np.allclose(factors.combine(c3[None])[0], s3) and np.allclose(factors.agree(v1[None])[0], b2)

# %% [markdown]
# ## On to W and u
# Routing has no weights. What the layer learns is W, and what it passes on is du. Both are one step away:
# û_ij = u_i W_ij is a row times a matrix, so
#
#     dW_ij = u_iᵀ dû_ij             (over a batch, the sum of them)
#     du_i  = Σ_j dû_ij W_ijᵀ        (u_i makes a prediction for each j)
#
# Again we measure, now the whole layer from u and W to the loss, and compare with `CapsuleLayer`: votes and
# routing.

# %%
dW = np.einsum("id,ije->idje", u, du_hat)  # (I, D, J, E)
du = np.einsum("ije,idje->id", du_hat, W)  # (I, D)


def loss_of(u, W):
    return (dv3 * routing(np.einsum("id,idje->ije", u, W)[None])[0]).sum()


assert np.allclose(du, measure(lambda x: loss_of(x, W), u))
measured = measure(lambda x: loss_of(u, x), W)  # (I, D, J, E)
print(f"dW[0, 0, 0, 0] by hand {dW[0, 0, 0, 0]:.8f}, measured {measured[0, 0, 0, 0]:.8f}")
assert np.allclose(dW, measured)
layer = CapsuleLayer(6, 4, 3, 8, dtype=np.float64)  # I, D, J, E
layer.params["votes.W"][...] = W
_, layer_cache = layer.forward(u[None])
assert np.allclose(layer.backward(dv3[None], layer_cache)[0], du) and np.allclose(layer.grads["votes.W"], dW)

# %% [markdown]
# ## Full or stopped
# Some codes stop the gradient at c³, as if the last couplings were constants. Only c³ ⊗ ds³ is left. Is this
# wrong? Finite differences say yes, if routing runs anew for every small change of û. They say no, if the
# forward pass keeps c³ frozen. A stopped gradient is the exact gradient of another function. For both there
# is a coupling (lesson 6) that `DynamicRouting` takes: `Stopped()` makes the shares of a softmax and has the
# gradient 0, `Frozen(c)` gives the shares c whatever the logits.
#
# And what does stopping cost? Less than the figure below suggests. A small network that was trained with it
# still learns, and ends half a point lower (ablation: -0.45 ± 0.15).

# %%
stopped = DynamicRouting(iterations=3, coupling=Stopped())  # its forward is that of routing
with_c3 = DynamicRouting(iterations=3, coupling=Frozen(c3))
du_hat_stopped = c3[..., None] * ds3  # (I, J, E)
assert np.allclose(du_hat_stopped, stopped.backward(dv3[None], cache)[0])
forwards = {
    "Routing runs anew: full is right": routing.forward,
    "Couplings frozen: stopped is right": with_c3.forward,
}
# gradcheck compares backward with finite differences of check_forward
anew, frozen = (gradcheck(stopped, [u_hat[None]], check_forward=f) for f in forwards.values())
print(f"relative error of stopped: {anew.worst:.2f} anew, {frozen.worst:.0e} frozen")
assert gradcheck(routing, [u_hat[None]]).ok and not anew.ok and frozen.ok

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 3.6))
    for axes, title in zip(figure.subplots(1, 2, sharex=True, sharey=True), forwards, strict=True):
        x = measure(lambda x, title=title: (dv3 * forwards[title](x[None])[0]).sum(), u_hat)
        for k, (name, y) in enumerate({"full": du_hat, "stopped": du_hat_stopped}.items()):
            axes.plot(x.ravel(), y.ravel(), **{**figures.line_style(2 * k), "linestyle": "", "label": name})
        axes.axline((0, 0), slope=1, color="0.7", linewidth=1, zorder=0)
        axes.set(title=title, xlabel="dû by finite differences", ylabel="dû by backward")
        axes.legend()
figures.show(figure, "07_full_and_stopped")

# %% [markdown]
# ## Summary
# - Unrolled, routing is a plain graph. Four rules lead back through it: squash, sum, softmax, agreement.
# - û is used 2R - 1 times, and each use adds one outer product to its gradient.
# - Two arrows leave every logit but the last: to its coupling, and to the next logit. Its gradient adds both.
# - dW_ij = u_iᵀ dû_ij, and du_i = Σ_j dû_ij W_ijᵀ.
# - A stopped gradient is exact only for a forward pass whose couplings are frozen. Networks learn with it, a
#   little worse.
#
# ## Exercises
# 1. Break it: forget that b² goes straight to b³. Predict which asserts fail. Would R = 2 have shown the bug?
# 2. Add up db³ over the parents. What comes out, and why?
# 3. Break it: let the softmax's gradient be 0. Measure it with the loss Σ c, so dc = 1. Does this notice?
#
# ## Solutions

# %% Solution 1
# Rules 1 to 3 pass. db² fails, and dû with it. With R = 2 there is no b³, and nothing would be missing.
ds1_broken = squash_backward(combine(db2 - db3), s1)
du_hat_broken = du_hat - db3[..., None] * v1 + c1[..., None] * (ds1_broken - ds1)
assert not np.allclose(du_hat_broken, measure(lambda x: (dv3 * routing(x[None])[0]).sum(), u_hat))

# %% Solution 2
# Nothing. The same number added to all logits of a capsule leaves its couplings as they are.
assert np.allclose(db3.sum(axis=1), 0) and not np.allclose(db3, 0)

# %% Solution 3
# No. The couplings of a capsule always sum to 1, so the true gradient is 0 too. A random dc does notice.
ones, random = np.ones((6, 3)), rng.normal(size=(6, 3))  # (I, J)
assert np.allclose(measure(lambda b: (ones * softmax(b)).sum(), b3), 0)
assert not np.allclose(measure(lambda b: (random * softmax(b)).sum(), b3), 0)
