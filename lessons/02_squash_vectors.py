# %% [markdown]
# # 2. Squash vectors
#
# **You will do:** derive the Jacobian of squash, check it in three ways, and let a program try to break it.
#
# **You will learn:** how a length gets between 0 and 1, and what gradients do along and across a vector.
#
# **You need:** lesson 1, the chain rule, the package hypothesis (`pip install hypothesis`), 7 seconds.
#
# **Figures:** `02_squash_curve`, `02_jacobian`

# %%
import math

import matplotlib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from minicaps import Squash, figures

rng = np.random.default_rng(0)

# %% [markdown]
# ## How can a vector say how sure it is?
# A capsule says two things with one vector v: its length says how sure it is that something is there, its
# direction is the pose, how that something is. The paper reads the length as a probability. It is a number
# from 0 to 1, which training pushes beyond 0.9 or below 0.1 (lesson 8). Nobody asks that of all lengths of
# 0.8 eight in ten are correct; lesson 9 looks. A network's layer, however, gives a vector s of any length. So
# we need a function that keeps the direction and brings the length between 0 and 1.
#
# Write n = ‖s‖ for the length. Then s/n is the direction, of length 1. Capsule networks take
#
#     v = squash(s) = n²/(1 + n²) · s/n          (Sabour, Frosst and Hinton 2017, equation 1)
#
# The first factor is the new length. Why not stop at s/n? Then every capsule would be sure of itself. Squash
# keeps the order, long stays longer than short, and lets short vectors nearly vanish. (In the code the last
# axis of s holds the D numbers of one vector.)


# %%
def squash(s):
    n = np.linalg.norm(s, axis=-1, keepdims=True)  # (..., 1)
    return n**2 / (1 + n**2) * s / n  # (..., D)


chosen = np.array([0.1, 0.5, 1, 2, 3, 10])  # lengths for which we know the result
s = rng.normal(size=(6, 3))  # (vectors, D)
s *= (chosen / np.linalg.norm(s, axis=-1))[:, None]
v = squash(s)  # (vectors, D)
squashed = np.linalg.norm(v, axis=-1)  # (vectors,)
print("lengths", *chosen, "become", *squashed.round(3))
assert np.allclose(squashed, [1 / 101, 1 / 5, 1 / 2, 4 / 5, 9 / 10, 100 / 101])  # n = 2: 4/(1 + 4)
assert np.allclose(v / squashed[:, None], s / chosen[:, None])  # the directions stay
assert np.allclose(v, Squash()(s))  # minicaps agrees
figures.show(figures.squash_curve(), "02_squash_curve")

# %% [markdown]
# ## The Jacobian, by hand
# Training needs derivatives: how does each number of v change with each number of s? These D × D numbers are
# the Jacobian J, with J[a, k] = ∂v_a/∂s_k. First write squash as one number times s. One n cancels:
#
#     v_a = g s_a         with  g(n) = n/(1 + n²)
#
# Product rule; g depends on s_k through n, and δ_ak is 1 if a = k and else 0:
#
#     ∂v_a/∂s_k = g δ_ak + s_a g' ∂n/∂s_k
#
# The length is n = √(Σ s_k²), so ∂n/∂s_k = 2 s_k / (2n) = s_k/n. Put it in, and use the direction e = s/n:
#
#     ∂v_a/∂s_k = g δ_ak + s_a g' s_k/n = g δ_ak + n g' e_a e_k
#
# The quotient rule gives g' = (1 - n²)/(1 + n²)². With I for the matrix of all δ_ak, e eᵀ for all e_a e_k:
#
#     J = g I + n g' e eᵀ
#
# What does J do to a small step d of s? It makes g d + n g' e (eᵀd), and eᵀd says how much of d lies along e.
# A step across has eᵀd = 0, so J d = g d. A step along, d = e, gives J e = (g + n g') e. Call this ρ:
#
#     ρ = g + n g' = [n(1 + n²) + n(1 - n²)]/(1 + n²)² = 2n/(1 + n²)²
#     J = g (I - e eᵀ) + ρ e eᵀ
#
# So J stretches by g across and by ρ along. And ρ is the slope of the curve above: d/dn of n²/(1 + n²).


# %%
def jacobian(s):
    n = np.linalg.norm(s)
    e = s / n  # (D,)
    g, rho = n / (1 + n**2), 2 * n / (1 + n**2) ** 2
    along = np.outer(e, e)  # (D, D)
    return g * (np.eye(len(s)) - along) + rho * along  # (D, D)


# %% [markdown]
# First check, central differences: move s_k by h to both sides and see how v changes. (Lesson 3 says why
# h = 1e-5.) Second check: J d = g d and J e = ρ e say that g and ρ are J's eigenvalues, so NumPy must find
# them. Third, the backward pass of minicaps. It takes dv, the loss's derivative by v, and returns ds, that by
# s. As s_k changes every v_a, the chain rule sums over a: ds_k = Σ_a dv_a J[a, k], or ds = Jᵀ dv.

# %%
h = 1e-5
for one, n in zip(s, chosen, strict=True):  # lengths from 0.1 to 10
    J = jacobian(one)  # (D, D)
    columns = [(squash(one + h * d) - squash(one - h * d)) / (2 * h) for d in np.eye(3)]
    assert np.allclose(J, np.stack(columns, axis=1), atol=1e-9)
    g, rho = n / (1 + n**2), 2 * n / (1 + n**2) ** 2
    assert np.allclose(np.linalg.eigvalsh(J), sorted([g, g, rho]))  # D = 3: two directions across, one along

layer = Squash()
_, cache = layer.forward(s)
dv = rng.normal(size=s.shape)  # (vectors, D)
ds = layer.backward(dv, cache)  # (vectors, D)
assert np.allclose(ds, [jacobian(one).T @ upstream for one, upstream in zip(s, dv, strict=True)])

# %% [markdown]
# ## What the Jacobian looks like
# Draw small circles around several s and squash them. They become nearly ellipses: ρ times the radius along
# s, g times the radius across. Below n = 1 the length reacts more than the direction, at n = 1 both by 1/2.
# Above, the length hardly moves (ρ ≈ 2/n³), but the direction still does (g ≈ 1/n). So a capsule that is sure
# that something is there can still learn how it is.

# %%
assert np.allclose(jacobian(s[2]), np.eye(3) / 2)  # n = 1: a circle stays a circle
lengths = np.linspace(0, 4, 401)
g, rho = lengths / (1 + lengths**2), 2 * lengths / (1 + lengths**2) ** 2  # (401,) each
print(f"the length reacts most at n = {lengths[rho.argmax()]:.2f}, by {rho.max():.2f}")
assert abs(lengths[rho.argmax()] - 1 / np.sqrt(3)) < 0.01  # where the derivative of ρ is 0
turn = np.linspace(0, 2 * np.pi, 100)
circle = 0.15 * np.stack([np.cos(turn), np.sin(turn)], axis=-1)  # (100, 2)
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 3.3))
    left, right = figure.subplots(1, 2)
    left.plot(lengths, rho, label="ρ, along", **figures.line_style(0) | {"marker": ""})
    left.plot(lengths, g, label="g, across", **figures.line_style(1) | {"marker": ""})
    left.set(title="Short vectors grow, long ones turn", xlabel="Length n of s", ylabel="Stretch")
    left.legend()
    for n, degrees in [(n, degrees) for n in (0.3, 0.6, 1, 1.6, 3) for degrees in (15, 45, 75)]:
        centre = n * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        right.plot(*squash(centre + circle).T, color=figures.COLOURS[1])
        right.text(*(squash(centre) - (0, 0.14)), f"{n:g}" if degrees == 15 else "", ha="center")
    right.plot(np.cos(turn), np.sin(turn), "--", color=figures.COLOURS[0])
    right.set(title="Circles around s of length n, squashed", xlabel="First number of v")
    right.set(xlim=(-0.1, 1.05), ylim=(-0.15, 1.05), aspect="equal", ylabel="Second number of v")
figures.show(figure, "02_jacobian")

# %% [markdown]
# ## What happens at zero?
# The zero vector has no direction: s/n is 0/0, NaN. A capsule without bias that sees a black patch gets such
# an s, and one NaN spreads to the weights. Many codes therefore divide by √(n² + ε), with ε around 1e-7. That
# hides the NaN and changes the function: a vector of length 1e-5 is divided by √(1e-10 + 1e-7) ≈ 3.2e-4
# instead, and comes out about 30 times too short. (At lengths from 0.01 on it is off by less than 0.1 %.)
#
# But look at v = g s with g = n/(1 + n²). There is no division by n. At n = 0 it is 0, without any ε. And J?
# Both g and ρ are 0 at n = 0, so J = 0, whatever e is. This is what minicaps computes. And where n² could
# vanish or overflow, it first divides s by its largest number. (The definition: minicaps/capsules/squash.py.)
#
# We may do so because we write backward by hand. A program that differentiates by itself, given n as the root
# of Σ s², goes back through that root and needs ∂n/∂s = s/n. At zero that is 0/0, and 0 times NaN is NaN:
# forward is right there and backward is not. It needs an ε under the root after all, or a case of its own.

# %%
zero = np.zeros((1, 3))
with np.errstate(invalid="ignore"):
    assert np.isnan(squash(zero)).all()  # our first version
v, cache = layer.forward(zero)
assert np.all(v == 0) and np.all(layer.backward(np.ones((1, 3)), cache) == 0)
with np.errstate(invalid="ignore"):
    slope = zero / np.linalg.norm(zero)  # ∂n/∂s at zero, one step of the chain rule
ds = 0 * np.ones((1, 3)) + (np.ones((1, 3)) * zero).sum() * slope  # g dv + (dv·s) g' ∂n/∂s, with g' = 1
print("ds at zero, by J:", layer.backward(np.ones((1, 3)), cache)[0], "and by way of ∂n/∂s:", ds[0])
assert np.isnan(ds).all()

short = np.array([[1e-5, 0, 0]])
with_epsilon = 1e-10 / (1 + 1e-10) * short / np.sqrt(1e-10 + 1e-7)  # n² = 1e-10, ε = 1e-7
print(f"‖s‖ = 1e-5: squash gives {Squash()(short)[0, 0]:.2e}, with epsilon {with_epsilon[0, 0]:.2e}")
assert np.allclose(Squash()(short), 1e-10 * np.eye(3)[:1], rtol=1e-6, atol=0)
assert 30 < Squash()(short)[0, 0] / with_epsilon[0, 0] < 33
assert 0.999 < 0.01 / np.sqrt(0.01**2 + 1e-7) < 1  # at a length of 0.01

for size, length in (1e-30, 0), (1e30, 1):  # float32 goes from 1e-45 to 3e38: n² is beyond it both times
    extreme = np.full((1, 3), size, dtype=np.float32)
    v, cache = layer.forward(extreme)
    assert np.isclose(np.linalg.norm(v), length, rtol=1e-6, atol=0)
    assert np.isfinite(layer.backward(np.ones_like(v), cache)).all()

# %% [markdown]
# The price: at exactly 0 no gradient comes through. So the weights that make s must not start at 0.
#
# ## Let a program look for trouble
# So far we chose the vectors. A *property test* says what must hold for all of them, and the library
# hypothesis looks for one that breaks it, zeros and huge numbers included. `@given` draws three
# numbers and an angle, `@settings` 200 times, the same in every run. A failure comes with its simplest input.
#
# Which properties? The direction stays, and whoever turns s turns v. But that holds for f(n) s with *any* f,
# even for f = 0. So the length must be asked for as well, and every tolerance must be a share of what it is
# compared with: `np.allclose` alone calls two vectors of length 1e-9 equal, whatever their direction.

# %%
vectors = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3)
TINY = 1e-300  # below it float64 has no full precision


def shape_holds(candidate, numbers, angle):
    """Whether the candidate keeps the direction of s and turns with it."""
    s = np.array([numbers])  # (1, D)
    v, n = candidate(s), math.hypot(*numbers)  # hypot: n² neither vanishes nor overflows
    length = math.hypot(*v[0])
    same_direction = np.allclose(v * n, length * s, rtol=1e-9, atol=TINY)
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    equivariant = np.allclose(candidate(s @ turn), v @ turn, rtol=0, atol=1e-9 * length + TINY)
    return same_direction and equivariant  # false for NaN


def length_holds(candidate, numbers):
    n = math.hypot(*numbers)
    return np.isclose(math.hypot(*candidate(np.array([numbers]))[0]), n**2 / (1 + n**2), rtol=1e-9, atol=TINY)


def passes(candidate, with_length=True):
    """Let hypothesis look for an input that breaks the candidate."""

    @settings(derandomize=True, deadline=None, database=None, max_examples=200)
    @given(vectors, st.floats(0, 2 * np.pi))
    def test(numbers, angle):
        shape = shape_holds(candidate, numbers, angle)
        assert shape and (not with_length or length_holds(candidate, numbers))

    try:
        test()
    except AssertionError:
        return False
    return True


assert passes(Squash())

# %% [markdown]
# It passes. That says little until we know what would *not* pass. Try three functions that are wrong: all
# zeros, the one with ε, and tanh(n) s/n. Without the length the test lets them through.


# %%
def zeros(s):
    return 0 * s


def epsilon(s):
    n_squared = (s**2).sum(axis=-1, keepdims=True)  # (..., 1)
    return n_squared / (1 + n_squared) * s / np.sqrt(n_squared + 1e-7)


def tanh(s):
    n = np.maximum(np.linalg.norm(s, axis=-1, keepdims=True), TINY)  # (..., 1)
    return np.tanh(n) * s / n


for wrong in (zeros, epsilon, tanh):
    seen = passes(wrong, with_length=False), passes(wrong)
    print(f"{wrong.__name__:7} passes without the length: {seen[0]}, with it: {seen[1]}")
    assert seen == (True, False)

# %% [markdown]
# ## Summary
# - squash(s) = n²/(1 + n²) · s/n: the length gets between 0 and 1, the direction stays.
# - Its Jacobian stretches by ρ = 2n/(1 + n²)² along s and by g = n/(1 + n²) across.
# - g s has no division by n, so by hand it needs no epsilon: at 0 value and gradient are 0. Automatic
#   differentiation by way of n gives NaN there.
# - A property test sees only the properties that it asks for. Give it something wrong, to know what it sees.
#
# ## Exercises
# 1. One capsule shall say 0.9, another 0.1. How long must their s be? Solve for n.
# 2. Take tanh(n) · s/n instead. Which two stretches does its Jacobian have? What happens to short vectors?
# 3. Break it: let the Jacobian forget the difference along s (g in the place of ρ). One of our six vectors
#    does not notice in central differences. Which?
# 4. Break it: give the property test our first `squash`, the one with s/n. Which input will it report?
#    (Write the test so that it keeps a list of what it tried; the simplest failure is the last of all.)

# %% [markdown]
# ## Solutions

# %% Solution 1
p = np.array([0.9, 0.1])
assert np.allclose(np.sqrt(p / (1 - p)), [3, 1 / 3])  # p = n²/(1 + n²) gives n² = p/(1 - p)

# %% Solution 2
e, across = s[4] / 3, np.cross(s[4], [1, 0, 0])  # s[4] has n = 3
for d, stretch in ((e, 1 - np.tanh(3) ** 2), (across, np.tanh(3) / 3)):  # tanh'(n) along, tanh(n)/n across
    above, below = (np.tanh(np.linalg.norm(x)) * x / np.linalg.norm(x) for x in (s[4] + h * d, s[4] - h * d))
    assert np.allclose((above - below) / (2 * h), stretch * d, atol=1e-8)
assert np.isclose(np.tanh(0.01), 0.01, rtol=1e-4)  # short vectors stay as they are: noise is not damped

# %% Solution 3
noticed = []
for one, n in zip(s, chosen, strict=True):
    columns = [(squash(one + h * d) - squash(one - h * d)) / (2 * h) for d in np.eye(3)]
    noticed.append(not np.allclose(n / (1 + n**2) * np.eye(3), np.stack(columns, axis=1), atol=1e-9))
assert noticed == [True, True, False, True, True, True]  # at n = 1, ρ = g: one test vector is too few

# %% Solution 4
tried = []


@settings(derandomize=True, deadline=None, database=None)
@given(vectors)
def test_first_squash(numbers):
    tried.append(numbers)
    with np.errstate(invalid="ignore"):
        assert length_holds(squash, numbers)  # false for NaN


try:
    test_first_squash()
except AssertionError:
    print("the first squash fails at", tried[-1])
assert tried[-1] == [0, 0, 0]  # hypothesis ends with the simplest failure: the zero vector
