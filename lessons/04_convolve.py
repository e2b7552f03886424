# %% [markdown]
# # 4. Convolve images
#
# **You will do:** write a convolution window by window, then as one matrix product; derive its three
# gradients and prove them; look at a real digit through four filters.
#
# **You will learn:** what im2col and col2im do, why a convolution's backward is two more matrix products,
# and where its memory goes.
#
# **You need:** NumPy and the chain rule; lesson 3 says more about checking gradients; 4 seconds.
#
# **Figures:** `04_im2col`, `04_digit_features`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minicaps import fast, figures, gradcheck
from minicaps.datasets import load, to_float
from minicaps.layers import Conv2d, col2im, im2col

rng = np.random.default_rng(0)

# %% [markdown]
# ## One window at a time
# What does a convolution compute? Lay a small window of weights W on the image x. Multiply the numbers that
# lie on each other and add them up: one output. Then move the window by a pixel and do it again.
#
#     y[p, q] = Σ_r Σ_t x[p + r, q + t] W[r, t]
#
# (p, q) is where the window's corner lies; (r, t) walks through the window. (Mathematicians call this a
# *cross-correlation*, and turn the weights round for what they call a convolution. Networks learn their
# weights, so it makes no difference to them, and everybody says convolution.) In the image below a pixel's
# value is 10·row + column, so every number says where it stands. The weights are the right column of the
# window minus its left column: how much brighter does it get to the right? By 1 in each of two rows: 2.

# %%
x = 10 * np.arange(4)[:, None] + np.arange(4)  # (4, 4)
W = np.array([[-1, 1], [-1, 1]])  # (2, 2)
y = np.array([[(x[p : p + 2, q : q + 2] * W).sum() for q in range(3)] for p in range(3)])  # (3, 3)
assert np.all(y == 2), "each step to the right adds 1, in two rows"

# %% [markdown]
# ## All windows at once: im2col
# Python is slow at loops, and a processor is fast at matrix products. So lay every window out as a row of a
# matrix, called cols; window (p, q) becomes row 3p + q. This is *im2col*. Then all outputs are one product,
# y = cols W, with W read as a column.
#
# The price: a pixel is copied into every window that covers it, in the middle four times. Keep these counts
# in mind. They come back in the gradient.

# %%
cols = np.stack([x[p : p + 2, q : q + 2].ravel() for p in range(3) for q in range(3)])  # (9, 4)
assert cols[3 * 1 + 2].tolist() == [12, 13, 22, 23], "window (1, 2), laid out"
assert np.array_equal((cols @ W.ravel()).reshape(3, 3), y)

copies = np.zeros((4, 4), dtype=int)
for p, q in np.ndindex(3, 3):
    copies[p : p + 2, q : q + 2] += 1
assert copies.sum() == cols.size and copies[0, 0] == 1 and copies[1, 1] == 4


# %%
def table(axes, numbers, title):
    axes.imshow(np.ones_like(numbers), cmap="gray", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(numbers):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, color="0.8", lw=0.6))
        axes.text(column, row, f"{number:02d}" if numbers.max() > 9 else number, ha="center", va="center")
    axes.set(xticks=[], yticks=[], title=title)
    axes.grid(False)
    axes.spines[:].set_visible(False)


with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 3.1))
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 4, 4))
    table(left, x, "Image, with three of its windows")
    table(middle, cols, "cols: a row per window")
    table(right, copies, "Copies of each pixel")
    for k, (p, q) in enumerate([(0, 0), (1, 1), (2, 2)], start=1):
        look = {"fill": False, "color": figures.COLOURS[k], "lw": 2.2, "ls": figures.LINES[k - 1]}
        left.add_patch(Rectangle((q - 0.45, p - 0.45), 1.9, 1.9, **look))
        middle.add_patch(Rectangle((-0.44, 3 * p + q - 0.42), 3.88, 0.84, **look))
    middle.set_yticks(range(9), [f"({p}, {q})" for p, q in np.ndindex(3, 3)])
    middle.set_ylabel("Window (p, q)")
figures.show(figure, "04_im2col")

# %% [markdown]
# ## Channels, filters, batch, stride
# A real layer has more: B images, C channels in each pixel, K filters that each give an output, and a stride
# (the window moves by 2 pixels here). None of it changes the idea. A window's row gets longer, and W gets one
# column for every filter:
#
#     y = cols W + bias,    cols (windows, 3·3·C),    W (3·3·C, K),    y (windows, K)
#
# `minicaps.layers` has just this as its definition of `Conv2d` (file minicaps/layers/convolution.py).
# `from minicaps import Conv2d` gives its fast form, with the same results but for rounding; see lesson 11.

# %%
x = rng.normal(size=(2, 7, 5, 2))  # B = 2 images of 7×5 pixels, C = 2
layer = Conv2d(2, 5, kernel_size=3, stride=2, rng=rng, dtype=np.float64)  # K = 5
W, bias = layer.params["W"].reshape(18, 5), layer.params["bias"]  # (3·3·C, K), (K,)
# 3 · 2 windows fit. np.s_ keeps an index for later: x[window] is one window of all images, (2, 3, 3, 2)
windows = [np.s_[:, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3] for p in range(3) for q in range(2)]
cols = np.stack([x[window].reshape(2, 18) for window in windows], axis=1)  # (2, 6, 18), 6 windows an image

y, cache = layer.forward(x)  # (2, 3, 2, 5)
assert np.allclose((cols @ W + bias).reshape(y.shape), y)
assert np.array_equal(im2col(x, kernel=(3, 3), stride=(2, 2)), cols.reshape(2, 3, 2, 18))

# %% [markdown]
# ## Three gradients
# Let L be the loss, and dy = ∂L/∂y, given to us by the layer above. We want dW, dbias and dx. Number the
# windows n, the positions in a row m, the filters k, and write the product out:
#
#     y[n, k] = bias[k] + Σ_m cols[n, m] W[m, k]
#
# Now ask of each letter: in which outputs does it appear, and times what?
#
# - W[m, k] appears in y[n, k] for every window n, times cols[n, m]:  dW[m, k] = Σ_n cols[n, m] dy[n, k].
#   As a product: dW = colsᵀ dy.
# - bias[k] appears in y[n, k] for every window n, times 1:  dbias[k] = Σ_n dy[n, k].
# - cols[n, m] appears in y[n, k] for every filter k, times W[m, k]:
#   dcols[n, m] = Σ_k dy[n, k] W[m, k]. As a product: dcols = dy Wᵀ.
#
# And dx? Every number in cols is a copy of a pixel. A pixel with four copies moves the loss in four ways, and
# they add up. So add every row of dcols back onto its window. This is *col2im*.

# %%
dy = rng.normal(size=y.shape)  # (2, 3, 2, 5), any upstream gradient will do
rows = dy.reshape(12, 5)  # (windows, K), the 6 windows of both images
dW = cols.reshape(12, 18).T @ rows  # (18, 5), like W
dbias = rows.sum(axis=0)  # (5,), like bias
dcols = (rows @ W.T).reshape(2, 6, 18)  # like cols
dx = np.zeros_like(x)
for n, window in enumerate(windows):
    dx[window] += dcols[:, n].reshape(2, 3, 3, 2)  # col2im: window n of all images

layer.zero_grad()  # backward adds to grads, so start from 0
assert np.allclose(layer.backward(dy, cache), dx)
assert np.allclose(layer.grads["W"].reshape(18, 5), dW) and np.allclose(layer.grads["bias"], dbias)
ones = np.ones((1, 3, 3, 4))  # the small image again: add ones back, and every pixel counts its copies
assert np.array_equal(col2im(ones, size=(4, 4), kernel=(2, 2), stride=(1, 1))[0, :, :, 0], copies)

# %% [markdown]
# Hand and package agree. They could still agree on something wrong. A gradient is a slope, so measure one:
# nudge a pixel up and down by h, and see how L = Σ dy y changes (its ∂L/∂y is dy). That is a central
# difference. Here `gradcheck` takes one for every pixel, every weight and every bias.

# %%
h, pixel = 1e-5, (0, 2, 2, 1)  # this pixel lies in four windows
nudge = np.zeros_like(x)
nudge[pixel] = h
slope = ((layer(x + nudge) - layer(x - nudge)) * dy).sum() / (2 * h)
print(f"slope {slope:.8f}, by col2im {dx[pixel]:.8f}")
assert np.isclose(slope, dx[pixel])
print(report := gradcheck(layer, [x]))
assert report.ok

# %% [markdown]
# ## What a filter sees
# Take a real digit and four filters that we understand (Sobel's): brighter to the right, left, down, up.
# They count the middle twice; 1 + 2 + 1 = 4, so divided by 4 a step from black to white gives 1. ReLU drops
# what is negative. A padding of 1, a frame of zeros around the image, keeps the output at 28×28.

# %%
digit = to_float(load().train_images[7:8])  # (1, 28, 28, 1)
to_right = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
edges = Conv2d(1, 4, kernel_size=3, padding=1)  # its W is (3, 3, C, K)
edges.params["W"][:, :, 0] = np.stack([to_right, -to_right, to_right.T, -to_right.T], axis=-1)
edges.params["bias"][...] = 0
features = np.maximum(edges(digit), 0)  # (1, 28, 28, 4)

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 1.9))
    pictures = np.concatenate([digit, features], axis=3)[0]  # (28, 28, 5)
    titles = ("Digit", "Brighter →", "Brighter ←", "Brighter ↓", "Brighter ↑")
    for k, axes in enumerate(figure.subplots(1, 5)):
        axes.imshow(pictures[:, :, k], vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[], title=titles[k])
        axes.grid(False)
    figure.suptitle("Each filter lights up where its edge is", x=0.01, ha="left", fontsize=10)
figures.show(figure, "04_digit_features")

# %% [markdown]
# The same weights stand at every position. So if the digit moves, its features move with it, unchanged: a
# convolution is *equivariant* to moves (lesson 1). That holds for whole strides: with a stride of 2, a move
# by 2 pixels moves the features by one position, and a move by 1 pixel changes them. (The digit has an empty
# frame: nothing falls off the edge.)

# %%
shifted = np.maximum(edges(np.roll(digit, 3, axis=2)), 0)
assert np.allclose(shifted, np.roll(features, 3, axis=2), atol=1e-6)
coarse = Conv2d(1, 4, kernel_size=3, stride=2, padding=1)
coarse.params["W"][...], coarse.params["bias"][...] = edges.params["W"], 0
by_none, by_1, by_2 = (coarse(np.roll(digit, pixels, axis=2)) for pixels in (0, 1, 2))  # (1, 14, 14, 4) each
moved_by_1 = [np.allclose(by_1, np.roll(by_none, positions, axis=2), atol=1e-2) for positions in (0, 1)]
assert np.allclose(by_2, np.roll(by_none, 1, axis=2), atol=1e-6) and moved_by_1 == [False, False]

# %% [markdown]
# ## What it costs
# Take the capsule network of Sabour, Frosst and Hinton (2017). Into its second convolution go images of 20×20
# pixels and 256 channels. At 4 bytes a number (float32) a batch of 128 takes 52 MB. A window of 9×9 with
# stride 2 fits (20 - 9) // 2 + 1 = 6 times in a row (with a padding of p it would be (20 + 2p - 9) // 2 + 1).
# So there are 36 windows; laid out they take 382 MB. The definition keeps them all in its cache, for
# backward. So the fast form, where it works by windows (minicaps/fast/convolution.py), lays out a few images
# at a time, keeps only x for backward, and lays the windows out again there.

# %%
images = 128 * 20 * 20 * 256 * 4 / 1e6
laid_out = 128 * 36 * 9 * 9 * 256 * 4 / 1e6
assert round(images) == 52 and round(laid_out) == 382
assert cache.cols.size == 2 * 6 * 18  # of our small layer: B, windows, 3·3·C
quick = fast.Conv2d(2, 5, kernel_size=3, stride=2, dtype=np.float64)
assert quick.forward(x)[1].x is x and len(quick.forward(x)[1]) == 1

# %% [markdown]
# ## Summary
# - A convolution multiplies a window of weights with every window of the image.
# - im2col lays the windows out as rows; then y = cols W + bias is one matrix product.
# - dW = colsᵀ dy, dbias = Σ dy, dcols = dy Wᵀ. Then col2im adds each row of dcols back onto its window: a
#   pixel in four windows matters four times.
# - The same weights stand everywhere, so features move with the image, by whole strides.
#
# ## Exercises
# 1. Break it: in col2im write `=` instead of `+=`. Predict: in which of dx, dW and dbias does it show?
# 2. The same bug with windows of 3×3 and stride 3. Does `gradcheck` still find it?
# 3. With stride 1, dx is itself a convolution of dy. Which padding, and which weights?

# %% [markdown]
# ## Solutions


# %% Solution 1
class Overwriting(Conv2d):
    def backward(self, dy, cache):
        dx = np.zeros_like(super().backward(dy, cache))  # dW and dbias are added there
        W, s = self.params["W"], self.stride[0]
        for p, q in np.ndindex(dy.shape[1:3]):
            window = np.einsum("bk,rtck->brtc", dy[:, p, q], W)  # dcols = dy Wᵀ: a sum over k
            dx[:, s * p : s * p + 3, s * q : s * q + 3] = window
        return dx


broken = gradcheck(Overwriting(2, 3, 3, stride=2, rng=0, dtype=np.float64), [x])
assert [row.array for row in broken.rows if not row.ok(1e-6)] == ["x"]  # dW and dbias do not use col2im

# %% Solution 2
# No: each pixel has one copy, and `=` does what `+=` does. Test a convolution with windows that overlap.
assert gradcheck(Overwriting(2, 3, 3, stride=3, rng=0, dtype=np.float64), [x[:, :6, :3]]).ok

# %% Solution 3
# Pixel x[i] meets weight W[r] in output y[i - r]: walk through W backwards. At the border i - r may be -1 or
# -2, so pad by kernel - 1 = 2. Channels in and out change places.
forwards = Conv2d(2, 3, 3, rng=rng, dtype=np.float64)
backwards = Conv2d(3, 2, 3, padding=2, dtype=np.float64)
backwards.params["W"][...] = forwards.params["W"][::-1, ::-1].swapaxes(2, 3)
backwards.params["bias"][...] = 0
y, cache = forwards.forward(x)
dy = rng.normal(size=y.shape)
assert np.allclose(backwards(dy), forwards.backward(dy, cache))
