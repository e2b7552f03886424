# %% [markdown]
# # 11. Convolve faster
#
# **You will do:** build a convolution that multiplies frequencies instead of pixels: in one dimension with
# six numbers, then in two; count its multiplications; run it backwards; time it.
#
# **You will learn:** what a bilinear algorithm y = A [(G w) ⊙ (D x)] is, and when it multiplies less than
# lesson 4.
#
# **You need:** lesson 4 (convolution), and complex numbers: e^(iφ) = cos φ + i sin φ, 7 seconds.
#
# **Figures:** `11_count_products`, `11_time`

# %%
import timeit

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import Conv2d, figures, gradcheck, layers
from minicaps.fast import bilinear, spectral

rng = np.random.default_rng(0)

# %% [markdown]
# ## The direct way
# Six pixels x, three weights w, four positions p for the window: y[p] = Σ_r x[p + r] w[r]. That is 4·3 = 12
# times a pixel times a weight. Can we do with fewer?

# %%
x, w = np.array([1.0, 2, 0, 3, 1, 2]), np.array([2.0, -1, 1])
y = np.array([x[p : p + 3] @ w for p in range(4)])
assert y.tolist() == [0, 7, -2, 7]

# %% [markdown]
# ## Waves do not mix
# A wave over n = 6 pixels is e^(2πi f j/n) at pixel j; f, 0 to 5, is its frequency. Move it to the left by r
# pixels: what leaves at one end comes in at the other. Pixel j now shows what stood at j + r, which is
# e^(2πi f (j + r)/n). It is the same wave, times a number: e^(2πi f r/n). And y[p] = Σ_r x[p + r] w[r] adds
# up images moved to the left by r, times w[r]. So it only multiplies wave f, by Σ_r w[r] e^(2πi f r/n).
#
# A Fourier transform writes x as a sum of waves: X(f) = Σ_j x[j] e^(-2πi f j/n) says how much of wave f is in
# it. W(f) is the same for w. The number above has i in place of -i. As w is real, it is conj W(f).
# So Y(f) = X(f) · conj W(f): one product per frequency. This is the *convolution theorem*. Then add the waves
# up again (and divide by n).

# %%
F = np.exp(-2j * np.pi * np.outer(np.arange(6), np.arange(6)) / 6)  # (6, 6), row f, column j
wave = F[2].conj()
assert np.allclose(np.roll(wave, -1), np.exp(2j * np.pi * 2 * 1 / 6) * wave), "moved by 1: times a number"
X, W = F @ x, F[:, :3] @ w  # (6,), (6,)
circle = (F.conj().T @ (X * W.conj())).real / 6  # (6,)
assert np.allclose(circle[:4], y)
assert np.isclose(circle[4], x[4] * w[0] + x[5] * w[1] + x[0] * w[2]), "the window goes round the end"

# %% [markdown]
# The last two of the six outputs go round the end of the image. We did not ask for them: drop them.
#
# ## Half of the frequencies
# A complex product is four real ones, so six of them are 24. Worse than 12! But x is real. Then X(-f) =
# conj X(f), where -f means 6 - f, so the product at -f is known from that at f. Only f = 0, 1, 2, 3 are left.
# And 0 and 3 are their own negative, so X is real there: one product each.
#
# ## Gauss: three products instead of four
# With X = a + ib and conj W = c + id the product is (ac - bd) + i(ad + bc). Gauss found that three do:
#
#     k1 = c (a + b),   k2 = a (d - c),   k3 = b (c + d),   real part k1 - k3,   imaginary part k1 + k2

# %%
assert np.allclose(X[[5, 4]], X[[1, 2]].conj()) and np.allclose(X[[0, 3]].imag, 0)
(a, b), (c, d) = (1, 2), (3, 4)
k1, k2, k3 = c * (a + b), a * (d - c), b * (c + d)
assert (k1 - k3) + 1j * (k1 + k2) == (1 + 2j) * (3 + 4j) == -5 + 10j

# %% [markdown]
# ## Three matrices
# All but the products is linear. a = Σ_j x[j] cos(2π f j/n) and b = -Σ_j x[j] sin(2π f j/n). So these cosines
# are a row of a matrix D that makes a from x; b and a + b have rows too. In the same way c, d - c and c + d
# give a matrix G for w. (d has a plus before its sines: the conjugate.) Adding the waves up is a matrix A:
#
#     y = A [(G w) ⊙ (D x)]          ⊙ multiplies number by number
#
# This is a *bilinear algorithm*, and nothing complex is left: G transforms the weights, D the image, A
# transforms back. G and D have T rows, and T counts the products: here 2·1 + 2·3 = 8. And A? At output p,
# φ = 2π f p/n, waves f and -f give Y e^(iφ) plus its conjugate:
#
#     2 Re(Y e^(iφ)) = 2 (k1 - k3) cos φ - 2 (k1 + k2) sin φ
#                    = k1 · 2 (cos φ - sin φ) - k2 · 2 sin φ - k3 · 2 cos φ
#
# What stands beside k1, k2 and k3 are three columns of A. At the end divide by n, as before. (minicaps makes
# these matrices in the file minicaps/fast/bilinear.py, and applies them in minicaps/fast/spectral.py.)


# %%
def assemble(frequencies):
    """Return G, D, A. A frequency is (its own negative?, angles 2π f j/n at the weights, pixels, outputs)."""
    G, D, A = [], [], []  # rows of G and D, columns of A
    for own_negative, at_w, at_x, at_y in frequencies:
        if own_negative:
            G, D, A = G + [np.cos(at_w)], D + [np.cos(at_x)], A + [np.cos(at_y)]
        else:
            a, b, c, d = np.cos(at_x), -np.sin(at_x), np.cos(at_w), np.sin(at_w)  # as rows
            G, D = G + [c, d - c, c + d], D + [a + b, a, b]
            A = A + [2 * (np.cos(at_y) - np.sin(at_y)), -2 * np.sin(at_y), -2 * np.cos(at_y)]
    return np.array(G), np.array(D), np.array(A).T / len(at_x)


angles = [[2 * np.pi * f * np.arange(size) / 6 for size in (3, 6, 4)] for f in range(4)]
G, D, A = assemble([(f in (0, 3), *angles[f]) for f in range(4)])
print("G, which makes 8 sums of the 3 weights:", np.round(G, 2) + 0.0, sep="\n")
assert len(G) == len(D) == 8 and np.allclose(A @ ((G @ w) * (D @ x)), y)
assert all(map(np.allclose, (G, D, A), bilinear.by_frequencies(grid=(1, 6), taps=(1, 3), outputs=(1, 4))))

# %% [markdown]
# ## Two dimensions
# A wave now has two frequencies (f1, f2), and its angle at row r and column s is 2π (f1 r + f2 s)/n. All else
# stays. Take a grid of 10×10 pixels and a kernel of 5×5: 6×6 outputs, 36·25 = 900 products directly.
# 100 complex products are 400 real ones. But (0, 0), (0, 5), (5, 0), (5, 5) are their own negative, and the
# other 96 frequencies are 48 pairs. That leaves 4 + 48·4 = 196, and with Gauss T = 4·1 + 48·3 = 148.

# %%
role = np.zeros((10, 10), dtype=int)  # products for each frequency; 0 where its negative has them
frequencies = []
for f1, f2 in np.ndindex(10, 10):
    negative = (-f1 % 10, -f2 % 10)
    if (f1, f2) <= negative:  # one of each pair
        role[f1, f2] = 1 if (f1, f2) == negative else 3
        positions = [np.indices((size, size)) for size in (5, 10, 6)]  # (r, s) of weights, pixels, outputs
        turns = [2 * np.pi * (f1 * r + f2 * s).ravel() / 10 for r, s in positions]  # the angles
        frequencies.append(((f1, f2) == negative, *turns))
G2, D2, A2 = assemble(frequencies)
assert len(G2) == role.sum() == bilinear.products((10, 10)) == 148
image, kernel = rng.normal(size=(10, 10)), rng.normal(size=(5, 5))
direct = np.lib.stride_tricks.sliding_window_view(image, (5, 5)) * kernel  # (6, 6, 5, 5), 900 products
fast = A2 @ ((G2 @ kernel.ravel()) * (D2 @ image.ravel()))  # (36,)
assert direct.size == 900 and np.allclose(fast, direct.sum(axis=(2, 3)).ravel())
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(4.2, 3.6))
    axes = figure.subplots()
    axes.imshow(role, cmap="Greys", vmax=6)
    for (row, column), number in np.ndenumerate(role):
        axes.text(column, row, number, ha="center", va="center")
    axes.set(title="Products per frequency: 148 in all", xlabel="Frequency f2", ylabel="Frequency f1")
    axes.grid(False)
figures.show(figure, "11_count_products")

# %% [markdown]
# ## Stride: split the image into phases
# With stride 2 only every second output is wanted. Are the others computed in vain? No: even pixels meet only
# even weights, odd pixels only odd weights. So there are two convolutions of stride 1, on half of the pixels
# with half of the weights, whose outputs are added. Such parts are called phases.
#
# In two dimensions stride 2 gives four phases: even or odd rows, with even or odd columns. The paper's second
# convolution has 20×20 pixels, a kernel of 9×9, stride 2, and 6×6 outputs. Of 9 weights 5 are even and 4 odd;
# a 0 makes them 5 and 5. So it is four times what we had: a grid of 10×10 with a kernel of 5×5. For every
# channel and filter that is 4·148 = 592 products instead of 36·81 = 2916.

# %%
pixels, weights = rng.normal(size=12), np.append(rng.normal(size=5), 0)  # a 0, for 3 even and 3 odd weights
strided = np.array([pixels[2 * p : 2 * p + 6] @ weights for p in range(4)])
phases = [(pixels[start::2], weights[start::2]) for start in (0, 1)]
assert np.allclose(sum(np.correlate(part, taps, mode="valid") for part, taps in phases), strided)

# %% [markdown]
# ## Channels pay for the transforms
# But G, D and A multiply too, by their constants. With one channel nothing would be gained. With many, D x is
# made once for a channel and serves every filter; A is applied once for a filter, to the sum over all
# channels; G w is made once for all images. Each of the T products becomes a matrix product,
# (images × channels)·(channels × filters), which is what a processor does best. With n channels and filters
# an image costs n²·592 for the products, n·592·100 for D (100 pixels a phase) and n·36·148 for A.

# %%
paper = bilinear.Geometry(size=(20, 20), kernel=(9, 9), stride=(2, 2), padding=(0, 0))
assert (paper.outputs, paper.grid, paper.taps) == ((6, 6), (10, 10), (5, 5))
for channels in (1, 16, 256):  # and as many filters; multiplications for one image
    plain, fast = bilinear.multiplications(paper, channels, filters=channels)
    print(f"{channels:3} channels: {plain:11,} directly, {fast:10,} by frequencies")
    assert plain == 2916 * channels**2 and fast == 592 * channels**2 + (592 * 100 + 36 * 148) * channels
    assert (fast < plain) == (channels == 256)

# %% [markdown]
# ## Backward is the same, transposed
# y = A [(G w) ⊙ (D x)] has three linear steps and a product between them. Backward goes through a matrix by
# its transpose, and through a product by the other factor:
#
#     dY = Aᵀ dy,    dx = Dᵀ (dY ⊙ G w),    dw = Gᵀ (dY ⊙ D x)
#
# At the end `gradcheck` proves minicaps' backward, on enough channels and images for frequencies to pay.

# %%
dy = rng.normal(size=4)
dY = A.T @ dy  # (8,)
dx, dw = D.T @ (dY * (G @ w)), G.T @ (dY * (D @ x))
assert np.allclose(dx, np.convolve(dy, w)), "pixel j meets w[r] in output j - r"
assert np.allclose(dw, [dy @ x[r : r + 4] for r in range(3)]), "weight r meets pixel p + r in output p"
layer, images = Conv2d(48, 40, (9, 10), stride=2, rng=rng, dtype=np.float64), rng.normal(size=(8, 20, 21, 48))
assert isinstance(layer.forward(images)[1], spectral.SpectralCache)
assert gradcheck(layer, [images]).ok

# %% [markdown]
# ## Both ways, timed
# Counting is not timing: memory has to move too, and small products run slower than large ones. With 128
# channels and filters the frequencies take 2.7 times fewer multiplications. How much of that is left? Here is
# the definition, `minicaps.layers.Conv2d`, which lays the windows out as in lesson 4. Beside it, with the
# same weights, is the fast `Conv2d` that `from minicaps import Conv2d` gives. It takes whatever multiplies
# less often, and here that is frequencies. They agree to the rounding of float32.

# %%
images = rng.normal(size=(32, 20, 20, 128)).astype(np.float32)
results, seconds = [], {}
for name, kind in {"windows": layers.Conv2d, "frequencies": Conv2d}.items():
    layer = kind(128, 128, 9, stride=2, rng=0)
    y, cache = layer.forward(images)  # (32, 6, 6, 128)
    assert isinstance(cache, spectral.SpectralCache) == (name == "frequencies")
    results.append([y, layer.backward(y, cache), layer.grads["W"].copy()])
    for part, code in {"forward": "layer.forward(images)", "backward": "layer.backward(y, cache)"}.items():
        seconds[f"{part}, {name}"] = min(timeit.repeat(code, globals=globals(), number=1, repeat=3))
for one, other in zip(*results, strict=True):
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 2.2))
    axes = figure.subplots()
    for name in sorted(seconds, reverse=True):
        bar = axes.barh(name, 1000 * seconds[name], color=figures.COLOURS[2 if "windows" in name else 1])
        axes.bar_label(bar, fmt="%.0f", padding=3)
    axes.set(title="32 images, best of three runs", xlabel="Milliseconds", xmargin=0.1, axisbelow=True)
figures.show(figure, "11_time")

plain, fast = bilinear.multiplications(paper, 128, filters=128)
print(f"{plain / fast:.2f} times fewer multiplications")
for part in ("forward", "backward"):
    ratio = seconds[f"{part}, windows"] / seconds[f"{part}, frequencies"]
    print(f"{part}: {ratio:.2f} times as fast by frequencies, in this run on this machine")
assert round(plain / fast, 1) == 2.7

# %% [markdown]
# We assert the count and not the time. The time belongs to your machine and to what else runs on it: run the
# cell again, and see how far it moves. On busy machines both came out on either side of 1. What was
# measured with care is a whole training step of the paper's network, alone on two cores: 865 ms, where the
# direct method could not do it in less than 1165 ms
# ([data/experiments](../data/experiments/README.md#beside-pytorch)). So of the saved products a factor of at
# least 1.35 is left there, in a step that does more than convolve.
#
# ## Summary
# - A convolution multiplies each wave by one number. Half of the waves do, with three products each (Gauss).
# - So y = A [(G w) ⊙ (D x)] with constant matrices: T = 148 products instead of 900 on a 10×10 grid.
# - Channels and filters share the transforms; with few of them, the direct way multiplies less.
# - Fewer multiplications are not less time by the same factor: measure.
# - Stride 2: four phases, as more channels with smaller kernels. Backward: the same matrices transposed.
#
# ## Exercises
# 1. How many products does a grid of 9×9 take? Which frequencies are their own negative?
# 2. Break it: forget the conjugate of W. Predict: does the check against y notice? What comes out instead?
# 3. Winograd found matrices (in the solution) for 2 outputs and 3 weights. How many products? How many here?
#
# ## Solutions

# %% Solution 1
# -f = f needs 2f = 0 or 9, and 9 is odd: only (0, 0). The other 80 are 40 pairs.
assert bilinear.products((9, 9)) == 1 + 3 * 40 == 121

# %% Solution 2
# X(f) W(f) belongs to Σ_r x[p - r] w[r]: the weights turned round, what mathematicians call a convolution.
broken = (F.conj().T @ (X * W)).real / 6
assert not np.allclose(broken[:4], [0, 7, -2, 7])
assert np.allclose(broken[2:], np.convolve(x, w, mode="valid")), "0 and 1 go round the start now"

# %% Solution 3
# 4, by waves 2 + 3 = 5, directly 6. minicaps takes such matrices too, on grids up to 6×6: beyond, rounding
# grows. (`by_points`, in the file minicaps/fast/bilinear.py.)
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
D = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
assert np.allclose(A @ ((G @ w) * (D @ x[:4])), [0, 7]) and len(G) == bilinear.products((1, 4)) == 4
G, D, A = bilinear.by_points(grid=(1, 4), taps=(1, 3), outputs=(1, 2))  # others, by other points
assert np.allclose(A @ ((G @ w) * (D @ x[:4])), [0, 7]) and len(G) == 4
