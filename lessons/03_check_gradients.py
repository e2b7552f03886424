# %% [markdown]
# # 3. Check gradients
#
# **You will do:** measure derivatives, see a wrong one pass a popular check, write a layer and prove it.
#
# **You will learn:** how to know, rather than hope, that a backward pass is right.
#
# **You need:** NumPy and derivatives, 4 seconds.
#
# **Figures:** `03_step_size`, `03_blind_ones`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import Layer, ReLU, figures, gradcheck

rng = np.random.default_rng(0)

# %% [markdown]
# ## How can we know that a derivative is right?
# A wrong backward pass rarely crashes. Often the network still learns, a little worse (lesson 7 has an
# example), and nobody sees why. So we measure. Move x by a small step h and see how far f moves:
#
#     one-sided:  [f(x + h) - f(x)] / h           = f'(x) + h/2 f''(x) + ...
#     central:    [f(x + h) - f(x - h)] / (2h)    = f'(x) + h²/6 f'''(x) + ...
#
# The right sides are Taylor series. In the central one the terms with f'' cancel. So a step ten times
# smaller makes the first error 10 times smaller, and the second one 100 times. Take f = sin, f' = cos.


# %%
def errors(h, x):
    above, here, below = np.sin(x + h), np.sin(x), np.sin(x - h)
    estimates = (above - here) / h, (above - below) / (2 * h)  # one-sided, central
    return np.array([np.abs(estimate - np.cos(x)).max() for estimate in estimates])


x = np.linspace(0.1, 1.5, 50)
for h in (1e-1, 1e-2, 1e-3):
    print(f"h = {h}: one-sided error {errors(h, x)[0]:.1e}, central {errors(h, x)[1]:.1e}")
assert np.allclose(errors(1e-2, x) / errors(1e-3, x), [10, 100], rtol=0.01)

# %% [markdown]
# ## How small should the step be?
# Then why not h = 1e-15? Because a computer rounds. After 1 the next number in float64 is 1 + eps, with
# eps = 2.2e-16. So f(x + h) and f(x - h) are off by up to eps/2 of themselves, eps |f| together. Their
# difference shrinks with h, that mistake does not, and then it is divided by 2h. For central differences:
#
#     error ≈ h²/6 |f'''|  (truncation)  +  eps/(2h) |f|  (round-off)
#
# Where f and f''' are about 1, the derivative by h is h/3 - eps/(2h²). It is 0 at h³ = 3/2 eps: the best
# step is about 7e-6. Let us look at all steps from 1 to 1e-15, also in float32, whose eps is 1.2e-7.

# %%
steps = 10.0 ** np.arange(0, -15.1, -0.25)  # (61,)
one_sided, central = np.array([errors(h, x) for h in steps]).T  # (61,) each
central32 = np.array([errors(h, x.astype(np.float32))[1] for h in steps.astype(np.float32)])  # (61,)
print(f"best steps: {steps[one_sided.argmin()]:.0e} one-sided, {steps[central.argmin()]:.0e} central")
assert 1e-6 < steps[central.argmin()] < 1e-4 and central.min() < 1e-10 and one_sided.min() > 1e-9
assert central32.min() > 1e-6  # a check in float32 cannot ask for six digits

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    curves = {"one-sided": one_sided, "central": central, "central, float32": central32}
    for k, (name, values) in enumerate(curves.items()):
        axes.loglog(steps, values, label=name, **figures.line_style(k))
    axes.loglog(steps, steps**2 / 6, ":", color="0.5", label="truncation, h²/6")
    axes.loglog(steps, np.finfo(float).eps / (2 * steps), "-", color="0.7", label="round-off, eps/(2h)")
    axes.set(title="Too large a step is inexact, too small a step drowns in rounding")
    axes.set(ylim=(1e-13, 10), xlabel="Step h", ylabel="Largest error of the derivative")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
figures.show(figure, "03_step_size")

# %% [markdown]
# Why is the float32 curve flat at the left end, at 1? There x + h is rounded to x itself: both sides are the
# same number, their difference is 0, and the error is all of cos x.

# %%
x32 = x.astype(np.float32)
assert np.array_equal(x32 + np.float32(1e-9), x32) and np.isclose(central32[-1], np.cos(x).max(), atol=1e-6)

# %% [markdown]
# So: central differences, in float64, with h = 1e-5, close to 7e-6. That is what `minicaps.gradcheck` does.
#
# ## From one number to arrays
# A layer y = f(x) has many numbers at both ends. Its derivatives form the Jacobian J[a, k] = ∂y_a/∂x_k.
# Central differences give a *column*: move x_k, see every y. A backward pass gets an upstream gradient dy,
# the derivative of the loss by y, and returns dx, the derivative by x. As x_k moves every y_a, the chain rule
# sums over a: dx_k = Σ_a dy_a J[a, k], or dx = Jᵀ dy. It mixes J's *rows*, and never needs J itself.
#
# Our example is the softmax, which turns any numbers into positive ones with sum 1. The quotient rule, with
# δ_ak = 1 if a = k and else 0, gives its J, and J gives its backward pass:
#
#     y_a = exp(x_a) / Σ_k exp(x_k)             J[a, k] = y_a (δ_ak - y_k)
#     dx_k = Σ_a dy_a J[a, k] = y_k (dy_k - Σ_a dy_a y_a)


# %%
def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # the maximum cancels, and exp cannot overflow
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(dy, y):
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


h, x = 1e-5, rng.normal(size=5)
y = softmax(x)
J = np.stack([(softmax(x + h * d) - softmax(x - h * d)) / (2 * h) for d in np.eye(5)], axis=1)  # (5, 5)
dy = rng.normal(size=5)
assert np.allclose(J, np.diag(y) - np.outer(y, y), atol=1e-10)
assert np.allclose(softmax_backward(dy, y), J.T @ dy, atol=1e-10)

# %% [markdown]
# ## Why a check with ones is blind
# Many gradient checks take Σ y as the loss, because it is easy. Its upstream gradient dy is all ones. Suppose
# that somebody's softmax backward returns zeros. Does such a check notice?

# %%
ones, zeros = np.ones(5), np.zeros(5)
assert np.allclose(zeros, ones @ J, atol=1e-10)  # no: zeros are the right gradient of Σ y
assert not np.allclose(zeros, dy @ J, atol=1e-2)  # a random dy notices

seen = np.vstack([J, ones @ J, dy @ J])  # (7, 5)
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(5.4, 3.4))
    axes = figure.subplots()
    axes.imshow(seen, cmap="PuOr", vmin=-0.5, vmax=0.5, aspect="auto")
    for (row, column), value in np.ndenumerate(seen):
        axes.text(column, row, f"{value:.2f}".replace("-0.00", "0.00"), ha="center", va="center")
    axes.axhline(4.5, color="black", linewidth=3)
    axes.set_xticks(range(5), [f"x{k}" for k in range(5)])
    axes.set_yticks(range(7), [*(f"J: y{a}" for a in range(5)), "dx, dy = ones", "dx, random dy"])
    axes.set_title("The columns of J sum to 0, so ones see nothing")
    axes.grid(False)
figures.show(figure, "03_blind_ones")

# %% [markdown]
# Σ y is 1, whatever x is. So the gradient of Σ y is 0, and the check compares 0 with 0. In general, ones see
# only the column sums of J. It matters here: routing between capsules (lesson 6) contains a softmax. A
# random dy weighs every output differently.
#
# ## Random projections: one number for a large array
# Two forward passes for each entry are too many where an array has a million. So move all entries at once,
# along a random direction d: each x_k by h d_k. Take the loss L = Σ dy y, whose derivative by y is dy. Then
# x_k alone moves L by about h dx_k d_k, and all together by the sum. Both sides are single numbers:
#
#     [L(x + h d) - L(x - h d)] / (2h)  ≈  Σ dx d
#
# Suppose that dx is wrong by w. Then the right side is wrong by Σ w d. For normal d this number is normal
# too, with standard deviation ‖w‖: it is hardly ever near 0. A fixed d gives no such promise. Along ones, for
# example, a dx with its entries in the wrong order has the right sum. Try both, for y = sin x with 40 × 50
# numbers.

# %%
x, dy = rng.normal(size=(40, 50)), rng.normal(size=(40, 50))
dx = dy * np.cos(x)  # (40, 50)
wrong = dx[:, ::-1]  # the right values in the wrong order
for name, d in {"ones": np.ones_like(x), "random": rng.normal(size=x.shape)}.items():
    measured = (dy * (np.sin(x + h * d) - np.sin(x - h * d)) / (2 * h)).sum()
    print(f"{name:6}: measured {measured:.5f}, dx {(dx * d).sum():.5f}, wrong {(wrong * d).sum():.5f}")
    assert np.isclose(measured, (dx * d).sum(), rtol=1e-6)
    assert np.isclose(measured, (wrong * d).sum(), rtol=1e-6) == (name == "ones")  # only ones let it pass

w = (wrong - dx).ravel() / np.linalg.norm(wrong - dx)  # of length 1
misses = rng.normal(size=(1000, x.size)) @ w  # Σ w d for 1000 directions
assert abs(misses.std() - 1) < 0.1 and np.abs(misses).min() > 1e-5  # not one of them is blind

# %% [markdown]
# ## A layer of your own, and its proof
# A layer in minicaps keeps to a contract. `add_param` makes an entry in `self.params` and one of zeros in
# `self.grads`. `forward(x)` returns y and a cache with what backward will need; it stores nothing on the
# layer. `backward(dy, cache)` returns dx and *adds* to `self.grads`: a layer used twice needs the sum.
#
# Here is a softmax with a learned factor a_k for each number: y = softmax(z) with z_k = a_k x_k. The first
# axis of x is the batch, all samples share a. The code has a bug. Do you see it?


# %%
class ScaledSoftmax(Layer):
    def __init__(self, a):
        super().__init__()
        self.add_param("a", a)

    def forward(self, x):
        y = softmax(self.params["a"] * x)  # (B, K)
        return y, (x, y)

    def backward(self, dy, cache):
        x, y = cache
        dz = softmax_backward(dy, y)  # (B, K)
        self.grads["a"] += (dz * x).sum(axis=0)  # (K,)
        return dz  # (B, K)


a, x = np.array([0.5, 1.5, -1.0, 2.0]), rng.normal(size=(3, 4))
print(report := gradcheck(ScaledSoftmax(a), [x]))
assert not report.ok
assert {row.array: row.ok(1e-6) for row in report.rows} == {"x": False, "a": True}

# %% [markdown]
# A line for every array. The gradient of a is right, that of x is not: dx_k = a_k dz_k, and backward forgot
# a_k. The *relative error* of an array is the largest difference between backward and central differences,
# divided by the largest number of either. It may be 1e-6 here. (Others divide entry by entry, by the larger
# or by the sum of both, and get other numbers for the same mistake.) "13×12" counts upstream gradients and
# directions: y and x have 12 numbers, few enough to take them one by one, and a random dy comes on top. For
# large arrays gradcheck takes random ones, as we did.


# %%
class FixedSoftmax(ScaledSoftmax):
    def backward(self, dy, cache):
        return self.params["a"] * super().backward(dy, cache)  # (B, K)


print(report := gradcheck(FixedSoftmax(a), [x]))
assert report.ok and report.worst < 1e-8

# %% [markdown]
# ## Summary
# - Central differences in float64 with h = 1e-5 give about ten digits. Other steps truncate or round more.
# - An upstream gradient of ones sees column sums only. Draw it at random.
# - A random direction checks an array of any size with two forward passes.
# - `gradcheck(layer, [inputs])` does all this for every input and every parameter.
#
# ## Exercises
# 1. One-sided differences have the error h/2 |f''| + eps/h |f|. What is the best step? Find it in the figure.
# 2. Break it: overwrite `self.grads["a"]` instead of adding. Which line of the report fails, that of x or
#    that of a? (gradcheck leaves random numbers in the gradients before it calls backward.) When would nobody
#    notice?
# 3. ReLU has a kink at 0. What does gradcheck say about x = 1e-8? (Its report counts steps that cross a kink
#    and measures them again with a tenth and a hundredth of the step: `report.rows[0].crossings`.)

# %% [markdown]
# ## Solutions

# %% Solution 1
best = np.sqrt(2 * np.finfo(float).eps)  # the derivative by h, 1/2 - eps/h², is 0; 2e-8
assert 0.1 < steps[one_sided.argmin()] / best < 10


# %% Solution 2
class Overwriting(FixedSoftmax):
    def backward(self, dy, cache):
        self.grads["a"][...] = 0  # what was there is lost, as with "="
        return super().backward(dy, cache)


report = gradcheck(Overwriting(a), [x])  # it leaves random numbers in grads before it calls backward
assert {row.array: row.ok(1e-6) for row in report.rows} == {"x": True, "a": False}
dy, right, broken = rng.normal(size=x.shape), FixedSoftmax(a), Overwriting(a)
for call in (1, 2):  # from zero, one call gives the right gradient, and only the second does not
    for layer in (right, broken):
        layer.backward(dy, layer.forward(x)[1])
    assert np.allclose(right.grads["a"], broken.grads["a"]) == (call == 1)


# %% Solution 3
report = gradcheck(ReLU(), [np.array([[1e-8, 0.5]])])
assert not report.ok and report.rows[0].crossings == 1  # the steps of 1e-8, not of 0.5, cross the kink
assert gradcheck(ReLU(), [np.array([[1e-3, 0.5]])]).ok
