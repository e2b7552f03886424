# %% [markdown]
# # 5. Build primary capsules
#
# **You will do:** read the channels of a convolution as vectors, fall into the trap that several public codes
# fell into, and draw what a capsule sees when the reshape is wrong.
#
# **You will learn:** what a primary capsule is, which number it has, and which test finds a wrong reshape.
#
# **You need:** lessons 2 (squash) and 4 (convolution), 5 seconds.
#
# **Figures:** `05_edge_capsules`, `05_what_a_capsule_sees`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minicaps import PrimaryCaps, ReLU, Squash, figures, gradcheck
from minicaps.datasets import load, to_float
from minicaps.layers import Conv2d
from minicaps.networks import build
from minicaps.training import Adam, OneProcess, batches, evaluate, train_step

rng = np.random.default_rng(0)
digit = to_float(load().train_images[7:8]).astype(np.float64)  # (1, 28, 28, 1)

# %% [markdown]
# ## Channels become a vector
# What is a capsule? A few numbers that belong together, read as a vector u. Its *length* is meant to say how
# sure we are that something is there, its *direction* how it looks there: its pose. (Meant: nobody tells a
# primary capsule so in training. Only the class capsules at the end get a loss for their lengths, see lesson
# 8. The ones below we choose ourselves.) Where do the first ones come from? A convolution gives several
# numbers at each position, its channels. Read them as a vector s, and squash:
#
#     u = squash(s) = n/(1 + n²) · s,    n = ‖s‖
#
# Here is one that we understand without training. D = 2 channels: how much more ink is there on the right
# than on the left, and how much more below than above? Then s points into the stroke, across its edge. The
# weights are Sobel's, known from lesson 4; the second kernel is the first one transposed.

# %%
frame = digit[:, 1:, 1:]  # (1, 27, 27, 1), so that windows at stride 2 fit exactly
edges = PrimaryCaps(1, types=1, dimension=2, kernel_size=3, stride=2, dtype=np.float64)
to_right = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
edges.conv.params["W"][:, :, 0] = np.stack([to_right, to_right.T], axis=-1)  # (3, 3, 1, 2)
edges.conv.params["bias"][...] = 0

s = edges.conv(frame)[0]  # (13, 13, 2), the grid of positions and the channels
n = np.linalg.norm(s, axis=-1, keepdims=True)  # (13, 13, 1)
u = n / (1 + n**2) * s  # (13, 13, 2)
assert np.allclose(edges(frame).reshape(13, 13, 2), u)

# %% [markdown]
# Turn the image by a quarter to the left: what happens to the capsules? They move to their new positions,
# their lengths stay, and their directions turn along: right becomes up, down becomes right.

# %%
frame_turned = np.rot90(frame, axes=(1, 2))
turned = edges(frame_turned).reshape(13, 13, 2)
assert np.allclose(turned[..., 0], np.rot90(u)[..., 1])  # to the right now: what was downwards
assert np.allclose(turned[..., 1], -np.rot90(u)[..., 0])  # downwards now: minus what was to the right

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 3.7))
    left, right = figure.subplots(1, 2)
    p, q = np.indices((13, 13))
    for axes, image, arrows in (left, frame, u), (right, frame_turned, turned):
        axes.imshow(image[0, :, :, 0], cmap="gray_r", vmax=2.5)
        look = {"scale": 0.45, "width": 0.007, "color": figures.COLOURS[1]}
        right_and_down = np.moveaxis(arrows, -1, 0)  # (2, 13, 13)
        axes.quiver(2 * q + 1, 2 * p + 1, *right_and_down, angles="xy", scale_units="xy", **look)
        axes.set(xticks=[], yticks=[], xlabel="Length: is there an edge? Direction: which one")
        axes.grid(False)
        axes.spines[:].set_visible(True)
    left.set_title("An arrow for every capsule")
    right.set_title("The image turned, and the arrows with it")
figures.show(figure, "05_edge_capsules")

# %% [markdown]
# ## Several types at each position, and their numbers
# One kind of capsule is not enough. With `types` kinds of dimension D the convolution gives types·D channels:
# channels 0 to D - 1 are the first capsule, the next D the second. One reshape cuts them. To see what it
# does, let every number say where it comes from: 100·row + 10·column + channel.
#
# The capsules come out in one long list. Where in it is a given one? Say the grid has P rows of Q positions.
# The reshape counts row by row, in a row position by position, at a position type by type. So p·Q + q
# positions come before the one at row p and column q, each with `types` capsules. The capsule of type t there
# is number
#
#     i = (p·Q + q)·types + t

# %%
P, Q, types, D = 2, 3, 2, 4  # a grid of 2×3 positions
p, q, channel = np.indices((P, Q, types * D))
y = 100 * p + 10 * q + channel  # (P, Q, types·D), channels last
capsules = y.reshape(-1, D)  # (12, D)
print(capsules[:4])
assert capsules[3].tolist() == [14, 15, 16, 17], "row 0, column 1, channels 4 to 7: the second type"
for p, q, t in np.ndindex(P, Q, types):
    first = 100 * p + 10 * q + D * t
    assert capsules[(p * Q + q) * types + t].tolist() == [first, first + 1, first + 2, first + 3]

# %% [markdown]
# ## The trap
# Many libraries keep channels first: (channels, P, Q). A reshape cuts neighbours in memory, and there the
# neighbours are the *positions* of one channel. So a "capsule" gets one channel at D positions, instead of D
# channels at one position. The shape that comes out is the same: no error, no warning. Several public capsule
# codes carry this bug. Their accuracy on MNIST hardly shows it (solution 3 trains both).

# %%
first = y.transpose(2, 0, 1)  # (types·D, P, Q), channels first
wrong = first.reshape(-1, D)  # (12, D)
right = first.transpose(1, 2, 0).reshape(-1, D)  # (12, D), channels moved to the end before
assert wrong.shape == capsules.shape and wrong[0].tolist() == [0, 10, 20, 100], "channel 0 at four positions"
assert np.array_equal(right, capsules)

# %% [markdown]
# ## What does a capsule see?
# Four positions sound close together. Are they? Ask the gradient: a pixel that a capsule cannot see has
# gradient zero. Take a network: a convolution 5×5, ReLU, a convolution 5×5 of stride 2 with 2 types, D = 4. A
# position sees 5 × 5 values of h, the ReLU's output, and their windows span 9 pixels each way, from row 2p
# and column 2q on. Send any gradient du back from one capsule to the image, once with each reshape: squash,
# reshape undone, two convolutions, backwards. Random weights will do: they do not change what sees what.
# (`Conv2d` is the definition of lesson 4, in which zeros stay exact. The fast one may round.)

# %%
options = {"rng": rng, "dtype": np.float64}
conv1, relu, squash = Conv2d(1, 8, 5, **options), ReLU(), Squash()
conv2 = Conv2d(8, types * D, 5, stride=2, **options)
h, conv1_cache = conv1.forward(digit)  # (1, 24, 24, 8)
h, relu_cache = relu.forward(h)
y, conv2_cache = conv2.forward(h)  # (1, 10, 10, 8)
P, Q = y.shape[1:3]


def to_capsules(y, channels_first):  # (B, P, Q, types·D) -> (B, I, D)
    return (y.transpose(0, 3, 1, 2) if channels_first else y).reshape(len(y), -1, D)


def seen_by(i, channels_first):
    """Say of every pixel whether capsule i has a gradient there."""
    u, cache = squash.forward(to_capsules(y, channels_first))
    du = np.zeros_like(u)
    du[0, i] = rng.normal(size=D)
    ds = squash.backward(du, cache)  # (1, I, D), next cut back into positions and channels
    dy = ds.reshape(1, -1, P, Q).transpose(0, 2, 3, 1) if channels_first else ds.reshape(y.shape)
    dx = conv1.backward(relu.backward(conv2.backward(dy, conv2_cache), relu_cache), conv1_cache)
    return dx[0, :, :, 0] != 0


seen = {"right": seen_by(87, channels_first=False), "wrong": seen_by(87, channels_first=True)}

# %% [markdown]
# Capsule 87 = (4·10 + 3)·2 + 1 is the second type at row 4, column 3: it must see the pixels of rows 8 to 16
# and columns 6 to 14. The wrong capsule 87 takes four numbers from number 87·4 = 348 on. A channel has 100 of
# them, so these are channel 3, positions 48 to 51: row 4, columns 8 and 9, and then row 5, columns 0 and 1.
# In the figure each position has a dot, with its 9×9 pixels around it.

# %%
positions = {"right": [(4, 3)], "wrong": [(4, 8), (4, 9), (5, 0), (5, 1)]}  # (p, q)
for name in seen:
    expected = np.zeros((28, 28), dtype=bool)
    for p, q in positions[name]:
        expected[2 * p : 2 * p + 9, 2 * q : 2 * q + 9] = True
    assert np.array_equal(seen[name], expected)

titles = {"right": "Right: one position, one square", "wrong": "Wrong: four positions, at both ends"}
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 3.9))
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        axes.imshow(digit[0, :, :, 0], cmap="gray_r", vmax=1.6)
        axes.imshow(np.where(seen[name], 1.0, np.nan), cmap="Wistia", alpha=0.5)
        for p, q in positions[name]:
            axes.add_patch(Rectangle((2 * q - 0.5, 2 * p - 0.5), 9, 9, fill=False, color=figures.COLOURS[2]))
            axes.plot(2 * q + 4, 2 * p + 4, "o", color=figures.COLOURS[1], markersize=5)
        axes.set(title=title, xticks=[], yticks=[], xlabel=f"{seen[name].sum()} pixels with a gradient")
        axes.grid(False)
        axes.spines[:].set_visible(True)
figures.show(figure, "05_what_a_capsule_sees")

# %% [markdown]
# ## Why it matters
# Move the digit by 2 pixels to the right, one position of the grid. Right capsules move along: their vectors
# come back, one position further. (Only the first column of the grid may see something new.) Wrong ones hold
# neighbouring positions side by side. There every number slips on by one: to the next component, or out of
# its capsule into the next. Does any vector come back? Compare each vector after with all vectors before.

# %%
moved = conv2(relu(conv1(np.roll(digit, 2, axis=2))))  # (1, 10, 10, 8)
for channels_first, least, most in (False, 0.9, 1), (True, 0, 0.1):
    before, after = (squash(to_capsules(a, channels_first))[0] for a in (y, moved))  # (200, D)
    same = np.isclose(after[:, None], before, atol=1e-9).all(axis=2)  # (200, 200): which equals which
    back = same.any(axis=1).mean()  # the part that equals at least one
    print(f"channels first {channels_first!s:>5}: {back:4.0%} of the vectors come back")
    assert least <= back <= most

# %% [markdown]
# ## From the package
# `PrimaryCaps` holds a convolution and squash. Images in minicaps are channels last: the reshape is right.
# Its definition, in the file minicaps/capsules/primary.py, has the lines that we wrote here.

# %%
primary = PrimaryCaps(8, types, D, kernel_size=5, stride=2, dtype=np.float64)
primary.conv.params["W"][...], primary.conv.params["bias"][...] = conv2.params["W"], conv2.params["bias"]
assert np.allclose(primary(h), squash(to_capsules(y, channels_first=False)))

# %% [markdown]
# ## Summary
# - A primary capsule is D neighbouring channels at one position, squashed. Its length says whether something
#   is there, its direction how it looks.
# - Capsule i = (p·Q + q)·types + t stands at row p, column q and is of type t.
# - Reshaped with channels first, a capsule mixes positions. The shape does not show that; what it sees does.

# %% [markdown]
# ## Exercises
# 1. The paper has a grid of 6×6 and 32 types of D = 8. Where is capsule 1000, and of which type is it?
# 2. There both convolutions are 9×9, the second of stride 2. How many of 784 pixels does capsule 0 see? And
#    with the wrong reshape?
# 3. Break it: `PrimaryCaps` with the wrong reshape in forward and in backward. Does `gradcheck` find it? And
#    the accuracy of a small network that is trained with it?

# %% [markdown]
# ## Solutions

# %% Solution 1
i, (p, q, t) = 1000, np.unravel_index(1000, (6, 6, 32))
assert (p, q, t) == (5, 1, 8) and (p * 6 + q) * 32 + t == i

# %% Solution 2
# A position sees 9 + 9 - 1 = 17 pixels each way, 289 in all. The wrong capsule 0 is channel 0 at positions 0
# to 7: the whole first row of the grid, and two positions of the second.
sees = np.zeros((28, 28), dtype=bool)
for p, q in [divmod(position, 6) for position in range(8)]:
    sees[2 * p : 2 * p + 17, 2 * q : 2 * q + 17] = True
assert sees.sum() == 497


# %% Solution 3
# No: it is the right gradient of a wrong function. `gradcheck` compares backward with forward, and both are
# wrong together. What fails is the test of what a capsule sees: nudge a pixel far away.
class Mixing(PrimaryCaps):
    def forward(self, x):
        y, conv_cache = self.conv.forward(x)
        s = np.ascontiguousarray(y.transpose(0, 3, 1, 2)).reshape(len(y), -1, self.dimension)
        u, squash_cache = self.squash.forward(s)
        return u, (conv_cache, squash_cache, y.shape)

    def backward(self, du, cache):
        B, P, Q, K = cache[2]
        ds = self.squash.backward(du, cache[1]).reshape(B, K, P, Q)
        return self.conv.backward(np.ascontiguousarray(ds.transpose(0, 2, 3, 1)), cache[0])


x = rng.normal(size=(1, 5, 4, 3))
far = x.copy()
far[0, 0, 3] += 1  # the window of capsule 0 is rows 0 to 2 and columns 0 to 2
for kind, stays in (PrimaryCaps, True), (Mixing, False):
    layer = kind(3, types, D, kernel_size=3, rng=rng, dtype=np.float64)
    assert gradcheck(layer, [x]).ok
    assert np.allclose(layer(far)[0, 0], layer(x)[0, 0]) == stays

# How little the accuracy shows: one epoch of the smallest network (lesson 9 does this step by step), one
# seed. What comes above learns to live with the mixture. (After four epochs, for seeds 0 to 2: 95.2, 94.6,
# 95.3 % with the right reshape, 94.3, 94.6, 94.6 % with the wrong one.)
mnist = load()
images, labels, validation_images, validation_labels = mnist.split()
accuracies = {}
for kind in (PrimaryCaps, Mixing):
    network = build("capsnet", "tiny", rng=0)
    network.primary = kind(8, 4, 4, kernel_size=5, stride=2, rng=0)  # channels in, types, dimension
    adam, source = Adam(network, 5e-3), OneProcess(network)
    for chosen in batches(4000, 50, np.random.default_rng(1)):
        train_step(source, adam, to_float(images[chosen]), labels[chosen])
    accuracies[kind.__name__] = 100 * evaluate(network, validation_images, validation_labels).accuracy
print("validation accuracy in %:", {name: round(accuracy, 1) for name, accuracy in accuracies.items()})
assert min(accuracies.values()) > 75 and abs(accuracies["PrimaryCaps"] - accuracies["Mixing"]) < 3
