# %% [markdown]
# # 8. Margin loss and decoder
#
# **You will do:** write the two losses of a capsule network and the decoder, forward and backward.
#
# **You will learn:** what lengths can say that a softmax cannot, what the decoder does to v and what it does
# not, and the 784 trap.
#
# **You need:** lesson 2 (squash), the chain rule, 9 seconds.
#
# **Figures:** `08_hinges`, `08_lengths_or_softmax`, `08_direction_means_slant`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import Decoder, MarginLoss, Mask, ReconstructionLoss, Squash, figures
from minicaps.datasets import load, to_float
from minicaps.networks import build
from minicaps.training import Adam, OneProcess, batches, train_step

rng = np.random.default_rng(0)

# %% [markdown]
# ## Two hinges
# A capsule network ends with one vector v_k, the class capsule, for each class k. Its length n_k = ‖v_k‖,
# from 0 to 1, says how sure the network is of class k. What should a loss ask of the lengths? If class k is
# present, n_k should be at least m⁺ = 0.9. If it is absent, at most m⁻ = 0.1. A length of 0.95 is not better
# than 0.9. So each loss is zero on one side and rises on the other: a hinge. (0.9 and not 1: no finite s is
# squashed to a length of 1, so that a loss would never be content.) T_k is 1 for present and 0 for absent, λ
# = 0.5 holds back the many absent classes, and the paper has
#
#     L = Σ_k  T_k max(0, m⁺ - n_k)²  +  λ (1 - T_k) max(0, n_k - m⁻)²
#
# T_k picks one of the two hinges. The slope dL/dn_k, which we shall need, comes from the same two numbers.


# %%
def margin(n, T):
    too_short, too_long = np.maximum(0, 0.9 - n), np.maximum(0, n - 0.1)
    loss = T * too_short**2 + 0.5 * (1 - T) * too_long**2
    return loss, -2 * T * too_short + 2 * 0.5 * (1 - T) * too_long  # each class's loss, and its slope


assert np.allclose([margin(0.5, 1)[0], margin(0.5, 0)[0]], [0.4**2, 0.4**2 / 2])  # 0.16 and 0.08
assert margin(0.95, 1) == (0, 0) and margin(0.05, 0) == (0, 0)  # past its margin a length costs nothing
with matplotlib.rc_context(figures.STYLE):
    figure, n = Figure(figsize=(5, 2.8)), np.linspace(0, 1, 101)
    axes = figure.subplots()
    for k, (T, name) in enumerate([(1, "present"), (0, "absent")]):
        axes.plot(n, margin(n, T)[0], label=f"class is {name}", **figures.line_style(k), markevery=10)
    axes.set(xlabel="Length n of the class capsule", ylabel="Loss", title="Past its margin a length is free")
    axes.legend()
figures.show(figure, "08_hinges")

# %% [markdown]
# ## Why not a softmax?
# A softmax turns scores x into probabilities that sum to 1: p_k = exp x_k / Σ_j exp x_j. That suits images
# with exactly one digit. But what if two digits lie over each other, or none is there? We let lengths and
# scores learn three images: a 3, a 3 with a 5 over it, and an empty one. There is no network, just gradient
# descent on ten lengths and ten scores. The softmax's loss is -Σ_k T_k log p_k, with
# log p_k = x_k - log Σ_j exp x_j. The last log has the slope p_k, the whole loss (Σ_j T_j) p_k - T_k.
#
# A third runner makes it fair: ten *sigmoids*, p_k = 1/(1 + exp(-x_k)), each class for itself, as the hinges
# are. Their loss, the cross-entropy of each, -Σ_k [T_k log p_k + (1 - T_k) log(1 - p_k)], has the slope p_k -
# T_k.

# %%
T = np.zeros((3, 10))  # (images, classes)
T[0, 3] = T[1, 3] = T[1, 5] = 1
lengths, x = rng.uniform(size=(3, 10)), 2 * rng.normal(size=(3, 10))
start, x_sigmoid = x.copy(), x.copy()
for _ in range(300):
    lengths -= 0.5 * margin(lengths, T)[1]
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)  # softmax
    x -= 0.5 * (T.sum(axis=1, keepdims=True) * p - T)
    q = 1 / (1 + np.exp(-x_sigmoid))  # sigmoids
    x_sigmoid -= 0.5 * (q - T)
for name, output in {"lengths": lengths, "softmax": p, "sigmoids": q}.items():
    print(f"{name:8} for 3 and 5: {output[1, [3, 5]].round(2)}, largest for nothing: {output[2].max():.2f}")
assert margin(lengths, T)[0].max() < 1e-12  # the lengths have learned all three
assert np.abs(q - T).max() < 0.02  # the sigmoids too
assert p[0, 3] > 0.95 and np.allclose(p[1, [3, 5]], 0.5, atol=0.01)  # in a softmax two digits have to share
assert np.array_equal(x[2], start[2])  # and no slope ever asks it to say "nothing"
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 2.2))
    names = "A 3: all say it", "3 and 5: softmax halves", "Nothing: softmax as it began"
    for k, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        outputs = (-0.27, lengths, "length", 0), (0, p, "softmax", 5), (0.27, q, "sigmoid", 2)
        for shift, output, name, colour in outputs:
            look = {"zorder": 2, "color": figures.COLOURS[colour], "label": name}
            axes.bar(np.arange(10) + shift, output[k], 0.27, **look)
        axes.set(xlabel="Class", xticks=range(10), ylabel="" if k else "Length, probability")
        axes.set_title(names[k], fontsize=9)
    axes.legend()
figures.show(figure, "08_lengths_or_softmax")

# %% [markdown]
# (The absent lengths end at 0.1 at most, where their hinge ends.) So it takes no lengths to say two digits or
# none: ten outputs that each answer for themselves do it. What a length has over a sigmoid is the vector
# behind it. Its direction is free to say something else, how the digit looks, and the decoder below draws
# from it.
#
# Nor does a loss that *allows* "nothing" make a network say it. Ours is trained on digits alone, and calls a
# black image a 1, with a length of 0.75 (lesson 10, exercise 3).

# %% [markdown]
# ## The gradient of the margin loss
# How does a length change with its vector? ∂‖v‖/∂v = v/‖v‖: fastest along v, not at all across it. So
# dv_k = dL/dn_k · v_k/n_k, divided by the batch size B, since the loss is the mean over B images. At v = 0
# there is no direction, and we take 0. To check it, move each number a little up and down and watch the loss.


# %%
def differences(loss, v, step=1e-6):
    nudges = step * np.eye(v.size).reshape(-1, *v.shape)  # each moves one number
    return np.reshape([loss(v + e) - loss(v - e) for e in nudges], v.shape) / (2 * step)


labels = np.array([2, 1])
v = Squash()(rng.normal(size=(2, 3, 4)))  # (B, J, E): 2 images, 3 classes, capsules of 4 numbers
T, n = np.eye(3)[labels], np.linalg.norm(v, axis=-1)  # both (B, J)
loss, slope = margin(n, T)
dv_margin = slope[..., None] * v / n[..., None] / 2  # (B, J, E); the 2 is B

package_loss, cache = MarginLoss().forward(v, labels)
assert np.isclose(package_loss, loss.sum() / 2) and np.allclose(MarginLoss().backward(cache), dv_margin)
assert np.allclose(differences(lambda v: MarginLoss()(v, labels), v), dv_margin, atol=1e-8)
assert not MarginLoss().backward(MarginLoss().forward(0 * v, labels)[1]).any()  # at v = 0: 0, not NaN

# %% [markdown]
# ## Mask and decoder
# A decoder will draw the image from the class capsules. It shall learn to read each of them alone, so all
# but one are set to zero. In training that of the label stays. Later nobody gives us a label, so the longest
# stays. Were it the longest in training too, a wrong prediction would teach the capsule of 5 to draw a 3. The
# mask multiplies every capsule by its T_k and lays them in one row. The decoder has two hidden layers,
# h1 = relu(masked W1 + bias1) and h2 = relu(h1 W2 + bias2). Its pixels are x = sigmoid(h2 W3 + bias3).

# %%
masked, mask_cache = Mask().forward(v, labels)  # (B, J·E)
assert np.array_equal(masked, (T[..., None] * v).reshape(2, 12))
assert np.array_equal(Mask()(v), Mask()(v, n.argmax(axis=1)))  # without labels: the longest

images = rng.uniform(size=(2, 5, 4, 1))
decoder = Decoder(12, (5, 4, 1), hidden=(6, 8), rng=0, dtype=np.float64)  # in the paper 512, 1024, 784 pixels
W1, bias1, W2, bias2, W3, bias3 = decoder.params.values()
h1 = np.maximum(0, masked @ W1 + bias1)  # (B, 6)
h2 = np.maximum(0, h1 @ W2 + bias2)  # (B, 8)
x = 1 / (1 + np.exp(-(h2 @ W3 + bias3)))  # (B, 20)
error = x - images.reshape(2, 20)  # (B, 20)

# %% [markdown]
# The loss is 0.0005 times the *sum* of the squared pixel errors, with the gradient 2 · 0.0005 (x - image)/B.
# From there we go back line by line: sigmoid has the slope x (1 - x), relu has 1 or 0, and y = h W gives
# dh = dy Wᵀ and dW = hᵀ dy.

# %%
dx = 2 * 0.0005 * error / 2  # (B, 20); the last 2 is B
dy3 = dx * x * (1 - x)  # (B, 20), before the sigmoid
dy2 = (dy3 @ W3.T) * (h2 > 0)  # (B, 8), before the second relu
dy1 = (dy2 @ W2.T) * (h1 > 0)  # (B, 6), before the first
dv_drawing = T[..., None] * (dy1 @ W1.T).reshape(v.shape)  # (B, J, E), through the mask
dW = masked.T @ dy1, h1.T @ dy2, h2.T @ dy3

# %% [markdown]
# Is it right? First compare with minicaps, whose definitions are in the files minicaps/layers/losses.py and
# minicaps/capsules/decoder.py. Then move v and measure both losses together: the gradients add.

# %%
reconstruction_loss = ReconstructionLoss(scale=0.0005)
reconstructions, decoder_cache = decoder.forward(masked)  # (B, 5, 4, 1)
loss, loss_cache = reconstruction_loss.forward(reconstructions, images)
dmasked = decoder.backward(reconstruction_loss.backward(loss_cache), decoder_cache)  # (B, J·E)
dv, _ = Mask().backward(dmasked, mask_cache)  # (B, J, E), and None for the labels
assert np.isclose(loss, 0.0005 * (error**2).sum() / 2) and np.allclose(dv, dv_drawing, rtol=1e-9, atol=0)
assert all(np.allclose(decoder.grads[f"fc{k + 1}.W"], dW[k], rtol=1e-9, atol=1e-15) for k in range(3))


def both_losses(v):
    return MarginLoss()(v, labels) + reconstruction_loss(decoder(Mask()(v, labels)), images)


both = differences(both_losses, v)
assert np.allclose(both, dv_margin + dv_drawing, rtol=1e-5, atol=1e-9)
assert np.array_equal(np.abs(dv).sum(axis=-1) > 0, T == 1)  # only the label's capsule is taught to draw

# %% [markdown]
# ## The 784 trap
# 0.0005 is meant for a sum over 784 pixels. Many public codes take the mean, as the loss functions of
# libraries do. Then the drawing counts 784 times less. How much is left? Compare some digits with a sheet of
# grey, about what an untrained decoder draws. The margin loss starts at 0.9² = 0.81, if all capsules have
# length 0. With the sum the drawing costs a tenth to a fifth of that. With the mean it is nearly nothing.
# (The accuracy does not tell: with the mean a small network was as good, ablation: -0.02 ± 0.00.) One check
# tells sum from mean: an image twice as wide, with twice the errors, must cost twice as much.

# %%
mnist = load()
ones = to_float(mnist.train_images[mnist.train_labels == 1][:24])  # (24, 28, 28, 1)
grey = np.full_like(ones, 0.5)
as_sum, as_mean = reconstruction_loss(grey, ones), 0.0005 * np.mean((grey - ones) ** 2)
print(f"grey sheet: 0.0005 times the sum {as_sum:.3f}, times the mean {as_mean:.6f}")
assert np.isclose(as_sum / as_mean, 784, rtol=1e-4) and 0.1 < as_sum / 0.81 < 0.2
two = [np.concatenate([pixels, pixels], axis=2) for pixels in (grey, ones)]  # each (24, 28, 56, 1)
assert np.isclose(reconstruction_loss(*two), 2 * as_sum)

# %% [markdown]
# ## What the drawing does to v
# The margin gradient points along v. It makes v longer or shorter, and never turns it. To draw the image, the
# decoder must find in v how the digit was written, and its gradient does turn v. First we watch both on
# vectors that are free: no network makes them.
#
# Give each of 24 ones a capsule of two numbers, so that its direction is one angle, near 45° at first.
# Gradient descent moves it while a decoder learns to draw (with Adam, see lesson 9). Will the
# angle come to mean something? We compare it with the slant of each digit: by how many pixels its upper half
# stands to the right of its lower half. Correlation 1 or -1: the two go together; 0: they do not.


# %%
def slant(digits):  # (B, 28, 28, 1) -> (B,)
    halves = digits[:, :14, :, 0], digits[:, 14:, :, 0]  # upper and lower, both (B, 14, 28)
    upper, lower = [(half * np.arange(28)).sum(axis=(1, 2)) / half.sum(axis=(1, 2)) for half in halves]
    return upper - lower  # of their centres


def learn_angles(scale):
    s = 0.5 + 0.1 * np.random.default_rng(0).normal(size=(24, 1, 2)).astype(np.float32)  # v = squash(s)
    decoder, loss = Decoder(2, (28, 28, 1), hidden=(32, 64), rng=0), ReconstructionLoss(scale=scale)
    adam = Adam(decoder, 5e-3)
    for _ in range(250):
        v, squash_cache = Squash().forward(s)  # (24, 1, 2); there is one class, so nothing to mask
        reconstructions, decoder_cache = decoder.forward(v[:, 0])
        _, loss_cache = loss.forward(reconstructions, ones)
        _, margin_cache = MarginLoss().forward(v, np.zeros(24, dtype=int))  # all are of class 0
        decoder.zero_grad()
        dv = decoder.backward(loss.backward(loss_cache), decoder_cache)[:, None]  # (24, 1, 2)
        dv = dv + MarginLoss().backward(margin_cache)
        s -= 40 * Squash().backward(dv, squash_cache)  # a large step, since the loss is a mean over 24
        adam.step()  # moves the decoder's weights
    return np.degrees(np.arctan2(v[:, 0, 1], v[:, 0, 0]))  # (24,)


angles = [learn_angles(scale) for scale in (0, 0.0005, 0.0005 / 784)]
alone, with_sum, with_mean = [np.corrcoef(angle, slant(ones))[0, 1] for angle in angles]
assert abs(with_sum) > 0.75 and abs(alone) < 0.3
assert np.allclose(angles[0], angles[2], atol=0.5)  # degrees: the mean has moved nobody
with matplotlib.rc_context(figures.STYLE):
    figure, names = Figure(figsize=(7.2, 2.6)), ["Margin alone", "0.0005 × sum", "0.0005 × mean"]
    figure.suptitle(
        "Free vectors: the decoder turns them, the margin does not", x=0.01, ha="left", fontsize=10
    )
    for k, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        axes.plot(slant(ones), angles[k], **figures.line_style(k) | {"linestyle": ""})
        axes.set(xlabel="Slant of the digit (pixels)", ylabel="" if k else "Direction of v (°)")
        axes.set_title(f"{names[k]}: correlation {[alone, with_sum, with_mean][k]:.2f}", fontsize=8)
figures.show(figure, "08_direction_means_slant")

# %% [markdown]
# ## In a network v is not free
# So does a network without a decoder learn *that* there is a 1, but not *what* 1? That would be a wrong
# conclusion. In a network v is computed from the image, and different ones get different v, trained or not.
# Measure it: train the smallest network for one epoch on 4,000 images, with a decoder and without. Then read
# the slant of ones that it has never seen from the class capsule of the 1. Reading is a linear fit, made on
# the ones it was trained on.


# %%
def class_capsules(network, digits):
    output = network(digits)
    return (output[0] if network.config.decoder else output)[:, 1]  # (B, E), the capsule of the 1


def read_slant(network):
    """Return the correlation of slants with what a linear fit reads from v, on unseen ones."""
    seen, unseen = (np.c_[class_capsules(network, digits), np.ones(len(digits))] for digits in (known, new))
    fit = np.linalg.lstsq(seen, slant(known), rcond=None)[0]  # (E + 1,)
    return np.corrcoef(unseen @ fit, slant(new))[0, 1]


known_images, known_labels, new_images, new_labels = mnist.split()
known_images, known_labels = known_images[:4000], known_labels[:4000]
known, new = (
    to_float(known_images[known_labels == 1]),
    to_float(new_images[new_labels == 1]),
)  # 444 and 530 ones
read = {"untrained": read_slant(build("capsnet", "tiny", rng=0))}
for name, decoder in {"trained with a decoder": True, "trained without": False}.items():
    network = build("capsnet", "tiny", rng=0, decoder=decoder)
    adam, source = Adam(network, 5e-3), OneProcess(network)
    for chosen in batches(4000, 50, np.random.default_rng(1)):
        train_step(source, adam, to_float(known_images[chosen]), known_labels[chosen])
    read[name] = read_slant(network)
print("correlation of the slant read from v:", {name: round(float(value), 3) for name, value in read.items()})
assert min(read.values()) > 0.75 and read["trained without"] > 0.95
assert abs(read["trained without"] - read["trained with a decoder"]) < 0.01

# %% [markdown]
# The slant is in v without any decoder, as well as with one, and to a good part before any training. So the
# decoder is not what brings the pose into v. Does it regularise, as the paper says, which reports fewer
# errors with it? In our experiments it changes nothing: without it a small network was as good (ablation:
# -0.02 ± 0.00). What it is good for here is to look: lesson 10 draws what a capsule holds.
#
# ## Summary
# - A present class should be longer than 0.9, an absent one shorter than 0.1. Each class answers for itself.
# - Ten sigmoids can say two digits or none as well. A length has a direction beside it.
# - The margin gradient points along v, the decoder's turns v too. In a network the slant is in v without it:
#   v is computed from the image.
# - The decoder sees one capsule: the label's in training, the longest otherwise.
# - The reconstruction loss is 0.0005 times the *sum* over the pixels.
#
# ## Exercises
# 1. Break it: leave the squares out of the margin loss. Predict which check fails.
# 2. Break it: let the decoder see the longest capsule in training. Predict which check fails.
# 3. Break it: average over the pixels. Predict which check fails. Would a gradient check?
#
# ## Solutions

# %% Solution 1
# The values at n = 0.5, in the first check of all.
unsquared = [T * max(0, 0.9 - 0.5) + 0.5 * (1 - T) * max(0, 0.5 - 0.1) for T in (1, 0)]
assert np.allclose(unsquared, [0.4, 0.2]) and not np.allclose(unsquared, [0.16, 0.08])

# %% Solution 2
# The one that only the label's capsule is taught to draw: the second image's longest capsule is another one.
dv = Mask().backward(dmasked + 1, Mask().forward(v)[1])  # + 1: any gradient, nowhere 0
taught = np.abs(dv).sum(axis=-1) > 0  # (B, J)
assert np.array_equal(taught, n == n.max(axis=1, keepdims=True)) and not np.array_equal(taught, T == 1)

# %% Solution 3
# Twice the image: the mean stays. A gradient check passes, since forward and backward are both 784 times
# smaller. It proves that a gradient belongs to its loss, not that the loss is the right one.
assert not np.isclose(0.0005 * np.mean((two[0] - two[1]) ** 2), 2 * as_mean)
broken = differences(lambda x: 0.0005 * np.mean((x - images) ** 2), reconstructions)
assert np.allclose(broken, 2 * 0.0005 * (reconstructions - images) / images.size)
