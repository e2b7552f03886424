# %% [markdown]
# # 1. Why capsules
#
# **You will do:** wreck a face without a large max pool noticing, then build capsules that notice.
#
# **You will learn:** what max pooling throws away, what capsules keep, invariance and equivariance.
#
# **You need:** NumPy, and an idea of what a convolution is (lesson 4 builds one), 3 seconds.
#
# **Figures:** `01_same_features`, `01_equivariance`, `01_votes`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import MaxPool2d, PrimaryCaps, ReLU, figures
from minicaps.layers import Conv2d

rng = np.random.default_rng(0)

# %% [markdown]
# ## What does max pooling throw away?
# A pooling layer looks at a window of 2 × 2 pixels and keeps the largest value. It does not keep which of the
# four pixels had it. How much is lost? Let us count. In an image of 24 × 24 pixels a single bright dot has
# 576 possible positions. Here they all are, as one batch of shape (B, H, W, C): batch, height, width,
# channels. Two positions can be told apart only if their pooled images differ. So we count the different
# ones.

# %%
dots = np.eye(576).reshape(576, 24, 24, 1)  # (B, H, W, C), one dot each
pooled = dots
for times in (1, 2, 3):
    pooled = MaxPool2d(2)(pooled)
    different = len(np.unique(pooled.reshape(576, -1), axis=0))
    print(f"pooled {times} times: {different:3} of 576 positions can be told apart")
    assert different == 576 // 4**times
assert np.array_equal(pooled, MaxPool2d(8)(dots))

# %% [markdown]
# Every pooling divides the number by four. Three windows of 2 in a row do what one of 8 does (the last
# line). We use that one from now on. To it 64 positions look the same.
#
# ## A face, and detectors for its parts
# There are K = 3 kinds of parts, drawn on 5 × 5 pixels. A picture is a list of (kind, row, column), where
# row and column say where the part's centre is.

# %%
SHAPES = {
    "eye": "..... .###. .#.#. .###. .....",
    "nose": "..... ..#.. ..#.. .###. .....",
    "mouth": "..... ..... #...# .###. .....",
}
PARTS = np.array([[[pixel == "#" for pixel in row] for row in text.split()] for text in SHAPES.values()])
PARTS = PARTS.astype(float).transpose(1, 2, 0)  # (5, 5, K)
EYE, NOSE, MOUTH = range(3)


def draw(parts):
    image = np.zeros((1, 24, 24, 1))  # (B, H, W, C)
    for kind, row, column in parts:
        image[0, row - 2 : row + 3, column - 2 : column + 3, 0] += PARTS[:, :, kind]
    return image


face = [(EYE, 5, 6), (EYE, 5, 16), (NOSE, 11, 11), (MOUTH, 17, 11)]
wreck = [(EYE, 2, 2), (EYE, 6, 21), (NOSE, 14, 14), (MOUTH, 21, 8)]

# %% [markdown]
# A detector is a 5 × 5 kernel: +1 where the part is bright, -1 where it is dark. On the part itself it sums
# to n, the number of the part's bright pixels. Anywhere else a bright pixel is missing or one too many is
# there, so the sum is at most n - 1. With the bias 1 - n and a ReLU behind it, 1 says "its centre is here".

# %%
# 1 channel in, 3 kinds out, a frame of 2 zeros so that 24 × 24 pixels stay. The definition (lesson 4)
# sums exactly; the fast Conv2d (lesson 11) may round
detector = Conv2d(1, 3, 5, padding=2, dtype=np.float64)
detector.params["W"][:, :, 0] = 2 * PARTS - 1  # (5, 5, K), for the one input channel
detector.params["bias"][:] = 1 - PARTS.sum(axis=(0, 1))  # (K,)


def find(image):
    return ReLU()(detector(image))  # (B, 24, 24, K), 1 at every part's centre


def pool(image):
    return MaxPool2d(8)(find(image))  # (B, 3, 3, K)


for parts in (face, wreck):
    assert {(kind, row, column) for _, row, column, kind in np.argwhere(find(draw(parts)) > 0)} == set(parts)
    assert find(draw(parts)).max() == 1

# %% [markdown]
# So the convolution knows which parts there are, and where. Now pool. How much is lost depends on the window:
# after pools of 2 × 2 and of 4 × 4 the face and the wreck still differ. After one of 8 × 8, 3 × 3 windows and
# 3 kinds are left: 27 numbers, the same for both.

# %%
for size in (2, 4, 8):
    left = [MaxPool2d(size)(find(draw(parts))) for parts in (face, wreck)]  # each (B, 24/size, 24/size, K)
    print(f"pool of {size} × {size}, {left[0].size:3} numbers: {(left[0] != left[1]).sum():2} of them differ")
    assert np.array_equal(*left) == (size == 8)

# %% [markdown]
# How many more drawings have these 27 numbers? Put each part's centre anywhere on the middle 4 × 4 pixels of
# its window; then no two parts overlap. That alone makes 16⁴ = 65,536 drawings, to which face and wreck come
# on top. We try 100. No classifier behind this pool can tell them apart: it sees one input.
#
# Is a convolutional network blind, then? No. It pools by 2 × 2, and between its pools stand convolutions,
# which see how the parts lie to each other before the next pool drops it. What is lost for good is the
# position within the windows of each pool. Lesson 12 trains such a network beside a capsule network on MNIST,
# and they end within half a percent of each other.

# %%
for _ in range(100):
    corners = 8 * np.array([(0, 0), (0, 2), (1, 1), (2, 1)])  # of the windows in which the face has its parts
    centres = corners + rng.integers(2, 6, size=(4, 2))  # 2 to 5 rows and columns into the window
    moved = [(kind, *centre) for kind, centre in zip((EYE, EYE, NOSE, MOUTH), centres, strict=True)]
    assert np.array_equal(pool(draw(moved)), pool(draw(face)))

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(6.4, 3.6))
    figure.suptitle(
        "A face and a wreck, and what a pool of 8 × 8 leaves: the same 27 numbers", x=0.01, ha="left"
    )
    for row, (name, parts) in zip(figure.subplots(2, 4), {"Face": face, "Wreck": wreck}.items(), strict=True):
        pictures = [draw(parts)[0, :, :, 0], *pool(draw(parts))[0].transpose(2, 0, 1)]
        titles = name, *(f"{kind}, pooled" for kind in SHAPES)
        for axes, picture, title in zip(row, pictures, titles, strict=True):
            axes.imshow(picture, extent=(0, 24, 24, 0))
            axes.set(title=title, xticks=(8, 16), yticks=(8, 16), xticklabels=(), yticklabels=())
            axes.tick_params(length=0)
            axes.grid(color="0.5")
figures.show(figure, "01_same_features")

# %% [markdown]
# ## What does a capsule keep?
# A capsule answers two questions with one vector. Its **length** says whether the part is there. Its
# **direction** says in what state: the part's *pose*. Here that is the position in the window. A part at row
# r and column t of its window, both from 0 to 7, gets the vector
#
#     (r - 3.5, t - 3.5, 4), divided by its length
#
# Why a third number, always 4? Dividing by the length changes all three, but not their quotients. So the
# position can be read back: r = 3.5 + 4 · first / third. For each window and kind the capsule u is the sum of
# the detector's outputs, each times its pixel's vector: D = 3 numbers. One output of 1 makes a length of 1.
#
# One window and kind have one capsule, so there may be one part of a kind in a window. The paper assumes the
# same of every capsule. Two eyes in one window add up to a vector that is too long and points between them.

# %%
r, t = np.mgrid[:8, :8]
poses = np.stack([r - 3.5, t - 3.5, np.full((8, 8), 4.0)], axis=-1)  # (8, 8, D)
poses /= np.linalg.norm(poses, axis=-1, keepdims=True)


def capsules(image):
    windows = find(image).reshape(-1, 3, 8, 3, 8, 3, 1)  # (B, P, 8, Q, 8, K, 1), P × Q windows of 8 × 8
    weighted = windows * poses[:, None, :, None, :]  # each output times its pixel's vector
    return weighted.sum(axis=(2, 4))  # (B, P, Q, K, D), summed over the pixels of each window


def positions(u):
    """Return row and column in the image for every capsule of u (P, Q, K, D) longer than 1/2."""
    p, q, kind = np.nonzero(np.linalg.norm(u, axis=-1) > 0.5)  # one number each for every part found
    first, second, third = u[p, q, kind].T
    return 3.5 + np.stack([8 * p + 4 * first / third, 8 * q + 4 * second / third], axis=-1)  # (parts, 2)


u = capsules(draw(wreck))
print("left eye's capsule:", u[0, 0, 0, EYE].round(2), "says row, column", positions(u[0])[0].round(2))
assert np.allclose(np.linalg.norm(u, axis=-1), pool(draw(wreck)))  # the lengths: what pooling keeps
assert np.allclose(positions(u[0]), [position for _, *position in wreck])  # the directions: what it loses
crowd = capsules(draw([(EYE, 2, 2)]) + draw([(EYE, 7, 7)]))  # two eyes in one window
length, between = np.linalg.norm(crowd[0, 0, 0, EYE]), positions(crowd[0])[0]
print(f"eyes at 2, 2 and 7, 7 of one window: length {length:.2f}, row and column {between.round(2)}")
assert length > 1.5 and np.all((2.5 < between) & (between < 6.5))

# %% [markdown]
# ## Invariant or equivariant?
# Two words for what a function f does when its input x moves. M is a matrix that belongs to the move, the
# same for every x:
#
#     invariant:    f(move(x)) = f(x)             the output stays
#     equivariant:  f(move(x)) = M f(x)           the output moves along
#
# A convolution is equivariant: its M moves the outputs to their new pixels. Our capsules are so in their
# direction only: within a window the *direction* of f(move(x)) is that of M f(x) (exercise 1 finds M). Their
# length is invariant instead, because we divide the poses by their lengths; undivided ones fit the definition
# exactly, but then the length depends on the position (exercise 3). Let an eye travel from left to right,
# pixel by pixel. The pooled values stay, then jump, then stay. So do the capsules' lengths. But the position
# that window and direction tell moves along.

# %%
columns = np.arange(2, 22)
x = np.concatenate([draw([(EYE, 4, column)]) for column in columns])  # (20, 24, 24, 1)
lengths, u = pool(x)[:, 0, :, EYE], capsules(x)  # (20, Q) and (20, P, Q, K, D)
told = np.array([positions(one)[0, 1] for one in u])  # (20,)
assert np.array_equal(lengths.argmax(axis=1), columns // 8)  # invariant, but only within a window
assert np.allclose(told, columns)

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 2.6))
    left, right = figure.subplots(1, 2)
    for q in range(3):
        left.plot(columns, lengths[:, q], label=f"window {q}", **figures.line_style(q))
    left.set(title="Pooled: constant, then a jump", ylabel="Pooled value", ylim=(-0.1, 1.5))
    left.legend(ncols=3, loc="upper left", columnspacing=1, handlelength=1.6)
    right.plot(columns, told, **figures.line_style(1))
    right.set(title="Capsules: moving along with the eye", ylabel="Column they tell (pixels)")
    for axes in (left, right):
        axes.set(xlabel="Column of the eye (pixels)", xticks=range(0, 25, 4))
figures.show(figure, "01_equivariance")

# %% [markdown]
# ## What is the pose good for?
# Every part can predict from its own position where the face is: "I am a left eye, so the middle of the face
# is 6 rows down, 5 columns to the right." In a face the predictions agree, in a wreck they do not. Capsule
# networks look for such agreement (lesson 6), with learned matrices in place of our offsets. Pooling gets it
# wrong again: move the whole face by one pixel, an eye enters another window, and the 27 numbers change.
#
# That is the idea, with poses made by hand. A network has to learn its own, and what it then does has to be
# measured: lesson 10 does, and finds less of all this than the idea promises.

# %%
offsets = [(6, 5), (6, -5), (0, 0), (-6, 0)]  # from eye, eye, nose, mouth to the middle


def predict(parts):
    return positions(capsules(draw(parts))[0]) + offsets  # (4, 2), row and column


aside = [(kind, row + 1, column - 1) for kind, row, column in face]
assert np.allclose(predict(face), (11, 11)) and np.allclose(predict(aside), (12, 10))  # all four agree
assert np.all(np.ptp(predict(wreck), axis=0) > 5)  # in pixels: the largest minus the smallest
assert not np.array_equal(pool(draw(aside)), pool(draw(face)))

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(6.4, 2.6))
    figure.suptitle("From each part to the middle of the face that it predicts", x=0.01, ha="left")
    pictures = {"face: they agree": face, "moved: they still agree": aside, "wreck: they do not": wreck}
    for axes, (title, parts) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        axes.imshow(1 - 0.3 * draw(parts)[0, :, :, 0], vmin=0, vmax=1)
        for (_, row, column), end in zip(parts, predict(parts), strict=True):
            axes.plot([column, end[1]], [row, end[0]], color=figures.COLOURS[1])
            axes.plot(end[1], end[0], "o", color=figures.COLOURS[2])
        axes.set(title=title, xticks=(), yticks=())
figures.show(figure, "01_votes")

# %% [markdown]
# ## Summary
# - Max pooling keeps whether, and drops where in its window. After one large pool a face and its parts in
#   disorder look the same. Small pools with convolutions between them lose less.
# - A capsule is a vector: its length says whether, its direction says where (in general: how).
# - Invariant: the output stays, as a length within its window. Equivariant: it moves along, as a direction.
# - Poses made by hand predict the whole, and a true whole shows in their agreement.
#
# ## Exercises
# 1. An eye moves one pixel to the right, within its window. Which matrix M makes its new pose from the old
#    one, up to length? (How much does the second of the three numbers grow?) By how much is the length off?
# 2. Our capsules are a convolution. Get them from `PrimaryCaps`: a convolution to types · D channels, each D
#    of them read as a vector, then *squash* (lesson 2), which keeps directions and makes length 1 to 1/2.
#    (`help(PrimaryCaps)` has its arguments. The weights are `params["conv.W"]`, of shape (8, 8, K, types ·
#    D).)
# 3. Break it: do not divide the poses by their lengths. Predict which check fails: lengths, or positions? Is
#    f(move(x)) = M f(x) now?

# %% [markdown]
# ## Solutions

# %% Solution 1
M = np.array([[1, 0, 0], [0, 1, 1 / 4], [0, 0, 1]])  # it grows by 1, a quarter of the third
moved = u[:5, 0, 0, EYE] @ M.T  # (5, D), M f(x) for columns 2 to 6 of window 0
off = np.linalg.norm(moved, axis=1)  # (5,); the true length is 1
print("lengths of M f(x):", off.round(3))
assert np.allclose(moved / off[:, None], u[1:6, 0, 0, EYE])  # the direction moves along ...
assert 0.1 < np.abs(off - 1).max() < 0.15  # ... but the length of M f(x) is up to 13 % off

# %% Solution 2
primary = PrimaryCaps(3, types=3, dimension=3, kernel_size=8, stride=8, dtype=np.float64)
W, bias = primary.params["conv.W"], primary.params["conv.bias"]  # (8, 8, C, types·D), (types·D,)
W[...] = bias[...] = 0
for kind in range(3):
    W[:, :, kind, 3 * kind : 3 * kind + 3] = poses
u = capsules(draw(wreck))  # (1, P, Q, K, D)
assert np.allclose(primary(find(draw(wreck))).reshape(u.shape), u / 2)

# %% Solution 3
poses = poses * np.linalg.norm([r - 3.5, t - 3.5, np.full((8, 8), 4.0)], axis=0)[..., None]  # undivided
broken = capsules(draw(wreck))
assert not np.allclose(np.linalg.norm(broken, axis=-1), pool(draw(wreck)))  # "whether" is wrong: 4 and more
assert np.allclose(positions(broken[0]), [position for _, *position in wreck])  # "where" is right: a quotient
undivided = capsules(x)[:6, 0, 0, EYE]  # (6, D), columns 2 to 7 of window 0
assert np.allclose(undivided[:5] @ M.T, undivided[1:])  # equivariant by the definition, not up to length
