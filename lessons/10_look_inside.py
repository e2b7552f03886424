# %% [markdown]
# # 10. Look inside
#
# **You will do:** ask a trained network what it draws, what its numbers mean, and what a turn changes.
#
# **You will learn:** that a number in a capsule can stand for an angle, though nobody mentioned angles to it.
#
# **You need:** lessons 6 (routing) and 8 (decoder), 10 seconds.
#
# **Figures:** `10_drawings`, `10_ten_capsules`, `10_dimensions`, `10_couplings`, `10_turned`, `10_pose`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import figures
from minicaps.datasets import load, to_float
from minicaps.networks import load_pretrained

rng = np.random.default_rng(0)

# %% [markdown]
# ## A trained network
# The weights come with the package: the network that `python -m minicaps train` makes. `primary` has I = 128
# capsules u of D = 8 numbers. `capsules` routes them to J = 10 capsules v of E = 16 numbers, one for each
# digit; its length is the digit's score. The `decoder` draws the image again from one v.

# %%
network, mnist = load_pretrained(), load()
print(network.table())
images, labels = to_float(mnist.test_images[:200]), mnist.test_labels[:200]  # (200, 28, 28, 1), 0 to 1
(v, reconstructions), cache = network.forward(images)  # v (200, 10, 16), reconstructions (200, 28, 28, 1)
lengths = np.linalg.norm(v, axis=-1)  # (200, 10)
longest = lengths.argmax(axis=1)  # (200,), the answers
print(f"{100 * (longest == labels).mean():.1f} % correct, lengths {lengths.min():.3f} to {lengths.max():.3f}")
assert lengths.max() < 1 and (longest == labels).mean() > 0.95

# %% [markdown]
# ## What does it draw?
# The decoder sees all ten capsules in a row, every one set to 0 except the longest. So 16 numbers must do for
# a whole image. We do this by hand and get what `forward` returned.

# %%
masked = np.zeros_like(v)
every = np.arange(200)
masked[every, longest] = v[every, longest]
assert np.allclose(network.decoder(masked.reshape(200, 160)), reconstructions, atol=1e-5)
first = np.array([np.flatnonzero(labels == digit)[0] for digit in range(10)])  # one image of each digit
shown = images[first], reconstructions[first], labels[first], longest[first]
figures.show(figures.reconstructions(*shown, mnist.class_names), "10_drawings")

# %% [markdown]
# The drawings are smooth, and mostly keep the slant. Now ask the *other* capsules. What does the capsule
# of the 3 draw when the image shows a 7? Given labels, the network draws from the capsules that we name.

# %%
by_capsule = np.stack([network(images, np.full(200, j))[1] for j in range(10)], axis=1)  # (200, 10, …)
errors = ((by_capsule - images[:, None]) ** 2).sum(axis=(2, 3, 4))  # (200, 10), sums over the pixels
right = errors[every, labels]  # (200,)
wrong = (errors.sum(axis=1) - right) / 9  # (200,), the mean over the other nine
print(f"error of the right capsule {right.mean():.1f}, of the wrong ones {wrong.mean():.1f}")
assert right.mean() < 0.9 * wrong.mean() and (right < wrong).mean() > 0.85

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(5.2, 5.2))
    axes = figure.subplots()
    sheet = by_capsule[first, ..., 0].swapaxes(1, 2).reshape(280, 280)  # image, row, capsule, column
    axes.imshow(sheet, vmin=0, vmax=1)
    middle = 14 + 28 * np.arange(10)  # of each drawing
    axes.set(xticks=middle, xticklabels=range(10), yticks=middle, yticklabels=range(10))
    axes.set(xlabel="Digit of the capsule that draws", ylabel="Digit on the image")
    axes.set_title("Only the capsule of the right digit has something to say")
    axes.grid(False)
figures.show(figure, "10_ten_capsules")

# %% [markdown]
# The capsules of the wrong digits are short, so the decoder gets little but zeros, and draws nearly the same
# smudge each time. Where a wrong capsule is a little longer, something else shines through.
#
# ## What does each number of a capsule mean?
# Take the capsule of a 1. Add -0.25, -0.20, … up to 0.25 to one of its 16 numbers, leave the other 15 alone,
# and let the decoder draw. This is the paper's figure 4.

# %%
one = first[1]
capsule, offsets = v[one, 1], np.linspace(-0.25, 0.25, 11)  # (16,), (11,)
moved = np.zeros((16, 11, 10, 16), dtype=np.float32)  # dimension, offset, then v as the decoder takes it
moved[:, :, 1] = capsule
for d in range(16):
    moved[d, :, 1, d] += offsets
sweep = network.decoder(moved.reshape(176, 160)).reshape(16, 11, 28, 28, 1)
assert np.allclose(sweep, figures.reconstruct_moved(network, 1, capsule, offsets), atol=1e-5)
assert np.allclose(sweep[:, 5], reconstructions[one], atol=1e-5)  # in the middle 0 is added
change = np.abs(sweep[:, -1] - sweep[:, 0]).mean(axis=(1, 2, 3))  # (16,), mean over the pixels
print("mean change of a pixel:", *np.round(change, 3))
assert change.min() > 0.001 and change.max() > 3 * change.min()  # all of them do something, some do much more
figures.show(figures.dimension_grid(sweep, offsets), "10_dimensions")

# %% [markdown]
# Some rows slant the stroke, some change its weight or length, some hardly do anything. Nobody chose these
# meanings: training found them. (`python -m minicaps explore RUN` opens a window with a slider for each.)
#
# ## Where do the couplings come from?
# Capsule i of the 128 stands at row p, column q of a 4 × 4 grid (`network.grid`) and is of one of 8 types t:
# i = (p·4 + q)·8 + t, as in lesson 5. Which pixels does it see? In this network `primary` looks at 5 × 5
# positions of `conv`, and each of these at 7 × 7 pixels. Both have stride 2. So neighbouring positions of
# `conv` begin 2 pixels apart, and five of them see 7 + 4·2 = 15 pixels. Neighbouring capsules are 2 positions
# apart, which is 4 pixels: theirs begin at row 4p and column 4q. If that is so, noise in all the other pixels
# leaves u as it was. (`cache`, the second thing that `forward` returns, holds u and c.)

# %%
seven, others = first[7], np.ones((28, 28, 1), dtype=bool)
others[8:23, 4:19] = False  # what the position p = 2, q = 1 sees
noisy = np.where(others, rng.uniform(size=(28, 28, 1)), images[seven]).astype(np.float32)
u = [network.forward(image[None])[1].capsules.u.reshape(4, 4, 8, 8) for image in (images[seven], noisy)]
assert np.allclose(u[0][2, 1], u[1][2, 1], atol=1e-5) and np.abs(u[0] - u[1]).max() > 0.1

# %% [markdown]
# c_ij says which share of capsule i goes to digit j. The shares of one capsule sum to 1, and before any
# agreement each digit has 1/10. For a map over the image, take the mean over the types at each position.

# %%
c = [each[seven] for each in cache.capsules.c]  # one (128, 10) for each of the three iterations
assert np.allclose(c[0], 0.1) and all(np.allclose(each.sum(axis=1), 1, atol=1e-5) for each in c)
maps = c[-1].reshape(4, 4, 8, 10).mean(axis=2)  # (P, Q, 10)
to_seven = [each[:, 7].mean() for each in c]
print("mean coupling to 7 in each iteration:", *np.round(to_seven, 3), "largest:", c[-1].max().round(2))
assert to_seven[0] < to_seven[1] < to_seven[2] and maps.mean(axis=(0, 1)).argmax() == 7
figure = figures.couplings_over_image(images[seven], c[-1], network.grid, mnist.class_names)
assert all(np.allclose(figure.axes[1 + j].images[0].get_array(), maps[..., j]) for j in range(10))
figures.show(figure, "10_couplings")

# %% [markdown]
# Look at the colour bar first. Most couplings hardly leave 0.1. A few capsules decide, for the 7.
#
# ## What happens when the digit turns?
# A slanted 1 is still a 1, so the score should stay. But the slant should not be lost. Capsules promise that
# the length stays and the pose (the 16 numbers) follows. To test it we turn the image. How? Ask of each new
# pixel where it comes from: count its row and column from the centre, which is (13.5, 13.5), and turn that
# position back. It lies between four old pixels; mix them, the nearest most (bilinear). Two angles tell
# whether it is right: 0 degrees, and 90, where NumPy knows the answer.


# %%
def turn(image, degrees, centre=13.5):
    """Turn an image (28, 28) clockwise."""
    sin, cos = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    row, column = np.indices((28, 28)) - centre
    row, column = cos * row - sin * column + centre, sin * row + cos * column + centre  # where it comes from
    framed = np.pad(image, (1, 2))  # a black frame: rows and columns count one more
    row, column = (row + 1).clip(0, 29), (column + 1).clip(0, 29)
    r, k = row.astype(int), column.astype(int)
    a, b = row - r, column - k  # 0 to 1, how far towards the next row and column
    upper = (1 - b) * framed[r, k] + b * framed[r, k + 1]
    lower = (1 - b) * framed[r + 1, k] + b * framed[r + 1, k + 1]
    return ((1 - a) * upper + a * lower).astype(np.float32)


stroke = images[one, ..., 0]
assert np.allclose(turn(stroke, 0), stroke, atol=1e-5)
assert np.allclose(turn(stroke, 90), np.rot90(stroke, -1), atol=1e-5)

# %% [markdown]
# How slanted is a stroke? Begin with a thin line, θ to the right of upright. A point t above its middle is at
# row -t cos θ and column t sin θ, counted from the middle. Take means over the line:
#
#     var(row) - var(column) = mean t² · (cos² θ - sin² θ)  = mean t² · cos 2θ
#     -2 cov(row, column)    = mean t² · 2 sin θ cos θ      = mean t² · sin 2θ
#
# So 2θ is the atan2 of the two. For a real stroke do the same with its ink, as a cloud of points: θ is the
# way in which the cloud is longest. If that is so, turning the image by 5 degrees adds 5 to it.


# %%
def tilt(image):
    ink, (row, column) = image / image.sum(), np.indices((28, 28))  # ink sums to 1, so Σ ink · … is a mean
    row, column = row - (ink * row).sum(), column - (ink * column).sum()
    spread = (ink * row**2).sum() - (ink * column**2).sum()
    return np.degrees(0.5 * np.arctan2(-2 * (ink * row * column).sum(), spread))


angles = np.arange(-20, 21, 5)  # degrees, 9 of them
turned = np.stack([turn(stroke, angle) for angle in angles])[..., None]  # (9, 28, 28, 1)
assert np.allclose(np.diff([tilt(image[..., 0]) for image in turned]), 5, atol=0.5)
v_turned, turned_reconstructions = network(turned)
pose, score, ones = v_turned[:, 1], np.linalg.norm(v_turned, axis=-1), np.full(9, 1)  # (9, 16), (9, 10), (9,)
assert (score.argmax(axis=1) == ones).all() and np.ptp(score[:, 1]) < 0.15
figure = figures.reconstructions(turned, turned_reconstructions, ones, ones, mnist.class_names)
figures.show(figure, "10_turned")

# %% [markdown]
# The drawings turn too, and a drawing knows nothing but the pose. So the angle must be in the pose. Where?
# First ask the encoder, all that comes before the decoder. Fit a line through each of the 16 numbers: by how
# much does it change while the image turns by 40 degrees? Then ask the decoder. When we moved the same number
# by hand, from -0.25 to 0.25, by how many degrees did the drawing turn? These are two separate measurements.
# If a number stands for the angle, both must name it, with the same sign. (Correlation 1: a rising line.)

# %%
encoder = 40 * np.polyfit(angles, pose, 1)[0]  # (16,), change from -20 to 20 degrees
decoder = np.array([tilt(row[-1, ..., 0]) - tilt(row[0, ..., 0]) for row in sweep])  # (16,), degrees
steepest = np.abs(encoder).argmax()
print(f"number {steepest}: {encoder[steepest]:+.2f} in 40 degrees; by hand {decoder[steepest]:+.1f} degrees")
agreement = np.corrcoef(encoder, decoder)[0, 1]
assert agreement > 0.8 and encoder[steepest] * decoder[steepest] > 0
assert abs(np.corrcoef(angles, pose[:, steepest])[0, 1]) > 0.9  # nearly a straight line

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 3))
    left, dots = figure.subplots(1, 2)
    left.plot(angles, np.delete(pose, steepest, axis=1), color="0.8", linewidth=1)
    left.plot(angles, score[:, 1], label="length of v", **figures.line_style(0))
    left.plot(angles, pose[:, steepest], label=f"number {steepest}", **figures.line_style(1))
    left.set(xlabel="The image is turned by (degrees)", ylabel="Value (grey: the other 15)")
    left.set_title("The length stays, the pose follows")
    left.legend(loc="center", bbox_to_anchor=(0.5, 0.7))
    dots.plot(encoder, decoder, "o", color=figures.COLOURS[1])
    dots.set(xlabel="Encoder: change in 40 degrees", ylabel="Decoder: drawing turns by (degrees)")
    dots.set_title(f"They agree (correlation {agreement:.2f})")
figures.show(figure, "10_pose")

# %% [markdown]
# ## Summary
# - The 16 numbers of the longest capsule are enough to draw the image; the other capsules say little.
# - Most couplings stay near an even share. A few capsules decide.
# - When a digit turns, the length stays and the pose follows, by the numbers that also turn the drawing.
#
# ## Exercises
# 1. Break it: turn around the upper left pixel (`centre=0`). Which of the two checks fails?
# 2. Why do so many couplings stay near 0.1? Compare them with the lengths of the predictions û_ij = u_i W_ij.
# 3. Show the network an image without any digit, all black. Predict its answer.
#
# ## Solutions

# %% Solution 1
# By 0 degrees the centre does not matter: that check is content. By 90 the stroke leaves the image.
assert np.allclose(turn(stroke, 0, centre=0), stroke, atol=1e-5)
assert not np.allclose(turn(stroke, 90, centre=0), np.rot90(stroke, -1), atol=1e-5)

# %% Solution 2
# The logit b_ij grows by ⟨û_ij, v_j⟩, which is less than the length of û_ij, since v is shorter than 1. So a
# capsule with short predictions stays near 0.1, however well they agree.
W = network.params["capsules.votes.W"]  # (I, D, J, E)
size = np.linalg.norm(np.einsum("id,idje->ije", cache.capsules.u[seven], W), axis=-1)  # (128, 10)
assert np.corrcoef(size[:, 7], c[-1][:, 7])[0, 1] > 0.5

# %% Solution 3
# No capsule stands for "nothing", so it takes the digit with the least ink, less sure than of a real one.
black = network.scores(network(np.zeros((1, 28, 28, 1), dtype=np.float32)))[0]  # (10,)
print("lengths for a black image:", *black.round(2))
assert black.argmax() == 1 and black.max() < lengths[every, labels].mean()
