# %% [markdown]
# # 16. Float16 and loss scaling
#
# **You will do:** round to float16 by hand, look at which gradients of a capsule network it loses, and write
# the rule that keeps them.
#
# **You will learn:** why products may have 16 bits and squares may not, what a loss scale repairs, and what
# it cannot.
#
# **You need:** lessons 3 (relative errors), 7 (routing and its gradient) and 9 (training), 30 seconds.
#
# **Figures:** `16_squash`, `16_where_gradients_lie`, `16_valley`, `16_course`

# %%
import copy
from itertools import islice

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import figures
from minicaps.capsules import CapsuleLayer  # the definition; from minicaps, the fast one
from minicaps.datasets import load, to_float
from minicaps.fast import half
from minicaps.layers import ScaledLoss
from minicaps.networks import build, load_pretrained
from minicaps.proof import cmp
from minicaps.training import SGD, Adam, LossScale, OneProcess, backpropagate, batches, evaluate, train_step

rng = np.random.default_rng(0)

# %% [markdown]
# ## Sixteen bits
# A float16 takes half the memory of a float32, and GPUs multiply matrices of it much faster. It has one bit
# for the sign, 5 for an exponent e from -14 to 15, and 10 for what stands behind the point:
#
#     |x| = 1.dddddddddd · 2^e        in binary, eleven digits with the 1 in front
#
# So neighbours are 2^(e - 10) apart. Where e cannot fall any more, below 2⁻¹⁴, their distance stays 2⁻²⁴, and
# digits get lost one by one: these numbers are *subnormal*. The smallest one is 2⁻²⁴, the largest of all
# is 65,504.
#
# Write the rounding, as numbers of float32: to the nearest whole multiple of the distance. `np.frexp(x)`
# gives m and k of x = m · 2^k with ½ ≤ |m| < 1, so e = k - 1; `np.rint` takes halves to the even neighbour,
# as float16 does. What is too large may wait.


# %%
def my_half(x):
    rounded = None  # your lines
    return rounded


drawn = rng.normal(size=1000).astype(np.float32)  # (1000,)
samples = {"of eleven digits": 2 + np.abs(drawn), "subnormal": drawn * 2.0**-17, "smallest": drawn * 2.0**-25}


def to_float16(x):
    return x.astype(np.float16).astype(np.float32)


for name, numbers in samples.items():
    cmp(name, my_half(numbers), to_float16(numbers))

# %% [markdown]
# Go on when all are exact. One way to write it, and what becomes of a few numbers:


# %%
def round_to_float16(x):
    e = np.frexp(x)[1] - 1
    distance = 2.0 ** (np.maximum(e, -14) - 10)  # between neighbours
    return np.rint(x / distance) * distance


for name, numbers in samples.items():
    assert cmp(name, round_to_float16(numbers), to_float16(numbers))
    assert np.array_equal(half(numbers), to_float16(numbers))  # that of minicaps
for number in (1 / 3, 1e-3, 1e-5, 1e-6, 1e-7, 2e-8):
    rounded = float(round_to_float16(number))
    print(f"{number:8.3g} -> {rounded:<14.8g} relative error {abs(rounded - number) / number:.0e}")
beyond = half(np.array([65504, 65519, 65520], dtype=np.float32))  # (3,)
print("65504, 65519, 65520 ->", beyond)
limits = np.finfo(np.float16)
assert (limits.max, limits.tiny, limits.smallest_subnormal) == (65504, 2.0**-14, 2.0**-24)
assert round_to_float16(2e-8) == 0 and list(beyond) == [65504, 65504, np.inf]

# %% [markdown]
# ## Squares, sums
# Eleven digits are enough for much. The range is the trouble: 40 powers of 2, where float32 has 277. A square
# uses up twice as much of it. Below 2⁻¹² = 2.4e-4 it is smaller than the smallest number (rounding up saves
# those down to 1.7e-4), and above 255 it is infinite. And a sum stops growing where what is added is less
# than half of the distance. **Predict:** add ones in float16. How far does it count?

# %%
for number in (1e-4, 2.4e-4, 255, 256):
    with np.errstate(over="ignore"):
        print(f"{number:g}² = {np.float16(number) * np.float16(number):g}")
counted = np.cumsum(np.ones(5000, dtype=np.float16), dtype=np.float16)  # (5000,)
print(f"five thousand ones: {counted[-1]:.0f}")
small, large = np.float16(1e-4), np.float16(255)
assert small * small == 0 and large * large < np.inf
assert counted[-1] == 2048  # 2049 has twelve digits

# %% [markdown]
# Squash has both, a sum of squares. Here it is on vectors of 16 numbers, from very short to very long.


# %%
def squash(s):
    n = np.sqrt((s * s).sum(axis=-1, keepdims=True))
    return n / (1 + n * n) * s


n = np.logspace(-5, 5, 200)  # (200,), lengths of s
direction = rng.normal(size=16)
s = n[:, None] * direction / np.linalg.norm(direction)  # (200, 16)
with np.errstate(over="ignore", invalid="ignore"):
    of_half = squash(s.astype(np.float16)).astype(float)  # (200, 16)
lengths = {"exact": n**2 / (1 + n**2), "float16": np.linalg.norm(of_half, axis=-1)}  # (200,) each
short, long = n[lengths["float16"] == 0].max(), n[np.isnan(lengths["float16"])].min()
print(f"in float16 v is 0 up to ‖s‖ = {short:.1g}, and NaN from {long:.0f} on (inf/inf)")
assert 1e-4 < short < 1e-3 and 200 < long < 300

# %%
with matplotlib.rc_context(figures.STYLE):
    axes = (figure := Figure(figsize=(6.4, 3.0))).subplots()
    axes.loglog(n, lengths["exact"], color="0.75", linewidth=5, label="exact", solid_capstyle="butt")
    seen = np.where(lengths["float16"] > 0, lengths["float16"], np.nan)  # (200,)
    axes.loglog(n, seen, color=figures.COLOURS[2], label="all in float16")
    for left, right, what in ((n[0], short, "v is 0"), (long, n[-1], "v is NaN")):
        axes.axvspan(left, right, color="0.93", zorder=0)
        axes.text(np.sqrt(left * right), 1e-2, what, ha="center")
    axes.set(xlabel="Length of s", ylabel="Length of v", xlim=(n[0], n[-1]), ylim=(1e-10, 10))
    axes.set_title("All in float16, squash loses both ends")
    axes.legend(loc="lower right", bbox_to_anchor=(0.75, 0.05))
figures.show(figure, "16_squash")

# %% [markdown]
# Are there such capsules? We look at the network that `python -m minicaps train` makes, on 100 images, at
# three moments: with its first weights, after 20 steps, and trained (these weights come with the package).
# **Predict:** at which moment is the length ‖v‖ of a class capsule 0 in float16?

# %%
images, labels, validation_images, validation_labels = load().split()
order = np.random.default_rng(2)
chosen = order.choice(len(images), 100, replace=False)
x, y = to_float(images[chosen]), labels[chosen]  # (100, 28, 28, 1), (100,)


def after(steps):
    network = build("capsnet", "small", rng=0)
    adam, source = Adam(network, 2e-3), OneProcess(network)
    for chosen in islice(batches(len(images), 100, order), steps):
        train_step(source, adam, to_float(images[chosen]), labels[chosen])
    return network


moments = {"first weights": after(0), "after 20 steps": after(20), "trained": load_pretrained()}
zero = {}
for moment, network in moments.items():
    v, _ = network(x)  # (100, 10, 16)
    exact_lengths = np.linalg.norm(v, axis=-1)  # (100, 10)
    squares = (v.astype(np.float16) ** 2).sum(axis=-1)  # (100, 10), in float16
    zero[moment] = (squares == 0).mean()
    print(f"{moment:<15} ‖v‖ from {exact_lengths.min():.1e} to {exact_lengths.max():.1e},", end=" ")
    print(f"in float16 {zero[moment]:.0%} of them are 0")
assert zero["first weights"] > 0.3 and zero["trained"] == 0

# %% [markdown]
# At the start, when everything is still to be learned, so many lengths would be 0, and their gradient v/‖v‖
# would be 0/0. That is why *mixed precision* gives float16 to those products only that are most of the
# arithmetic: inputs times weights, in dense layers, convolutions and votes, and the two products of their
# backward. Operands and results are rounded, sums within a product are made in float32. All else stays
# float32: squash, softmax, sums over capsules, losses, and the weights themselves, to which an update may be
# too small to be added.
#
# NumPy has no fast products of float16, so minicaps rounds to it and multiplies in float32: the numbers are
# those of float16, the speed is not. `set_precision("mixed")` asks for it. Here is one product by hand.

# %%
dense = moments["first weights"].decoder.fc2
given = rng.normal(size=(4, 128)).astype(np.float32)  # (B, N)
W, bias = dense.params["W"], dense.params["bias"]  # (N, M), (M,)
by_hand = half(half(given) @ half(W)) + bias  # (B, M)
full = dense.forward(given)[0]  # (B, M)
dense.set_precision("mixed")
assert cmp("one product", by_hand, dense.forward(given)[0])
dense.set_precision("float32")
print(f"rounding changes it by {abs(by_hand - full).max() / abs(full).max():.0e} of the largest number")
assert 1e-5 < abs(by_hand - full).max() / abs(full).max() < 1e-2

# %% [markdown]
# ## Where gradients lie
# Backward multiplies, in every layer, the gradient dy that comes from above by weights and by inputs, so dy
# is rounded to float16 too. What is at most 2⁻²⁵ becomes 0. How small is dy? We listen to what every layer's
# `backward` is handed (other libraries call this a *hook*). In the capsule layer it is dû, the gradient of
# the votes. The fast layer never builds it, so its definition takes its place, with the same weights.


# %%
def listen(layer, name, heard):
    backward = layer.backward

    def noting(dy, cache):
        heard[name] = dy
        return backward(dy, cache)

    layer.backward = noting


# %%
def upstream_gradients(network, x, y):
    network, heard = copy.deepcopy(network), {}
    plain = CapsuleLayer(128, 8, 10, 16)
    plain.load_state(network.capsules.state())
    network.capsules = plain
    for name in ("fc3", "fc2", "fc1"):
        listen(getattr(network.decoder, name), f"decoder.{name}", heard)
    listen(plain.votes, "capsules", heard)
    listen(network.primary.conv, "primary", heard)
    listen(network.conv, "conv", heard)
    outputs, cache = network.forward(x, y)
    objective = network.objective()
    _, loss_cache = objective.forward(outputs, network.targets(x, y))
    network.backward(objective.backward(loss_cache), cache)
    return heard


# %%
upstream = {moment: upstream_gradients(network, x, y) for moment, network in moments.items()}
for name, dy in upstream["first weights"].items():
    size = np.log2(np.abs(dy[dy != 0]))
    print(f"{name:<12}{dy.shape!s:<20} |dy| from 2^{size.min():.0f} to 2^{size.max():.0f}")
assert all(np.abs(dy).max() < 2.0**-12 for dy in upstream["first weights"].values())

# %% [markdown]
# All of it is small. The loss is a mean over 100 images, so each has a hundredth of the gradient. The
# decoder's is times 0.0005, as its loss is weighed. And at first routing gives each vote a tenth.
#
# **Predict:** for which layer does float16 lose most? And does it lose more at the start, or at the end?


# %%
def print_table(title, columns, digits):
    """Print {moment: {layer: number}}."""
    print(f"{title:<28}" + "".join(f"{moment:>16}" for moment in columns))
    for name in columns["trained"]:
        print(f"{name:<28}" + "".join(f"{column[name]:>16{digits}}" for column in columns.values()))


lost = {
    moment: {name: (half(dy[dy != 0]) == 0).mean() for name, dy in heard.items()}
    for moment, heard in upstream.items()
}
print_table("of dy ≠ 0 becomes 0", lost, ".1%")
assert lost["first weights"]["capsules"] > 0.8 > 0.1 > lost["after 20 steps"]["capsules"]
assert lost["trained"]["decoder.fc3"] > 0.5 and lost["trained"]["capsules"] > 0.5


# %%
def draw_ridges(axes, heard):
    """Draw the histograms of log2 |dy|, a layer above the other, as they are and 65,536 times as large."""
    edges = np.arange(-80.0, 20.5)
    for k, dy in enumerate(reversed(heard.values())):
        counts, _ = np.histogram(np.log2(np.abs(dy[dy != 0])), edges)
        heights = np.where(counts > 0, 0.85 * counts / counts.max() + k, np.nan)
        axes.stairs(heights, edges, baseline=k, fill=True, color=figures.COLOURS[1], alpha=0.85, zorder=3)
        axes.stairs(heights, edges + 16, baseline=k, color=figures.COLOURS[2], linewidth=1.2, zorder=4)
        axes.axhline(k, color="0.6", linewidth=0.6, zorder=2)
    axes.set_yticks(np.arange(len(heard)) + 0.3, reversed(heard))
    axes.tick_params("y", length=0)


def draw_zones(axes):
    """Say what becomes of numbers in float16, by their size."""
    zones = {"becomes 0": (-58, -25, "0.84"), "fewer\ndigits": (-25, -14, "0.93"), "inf": (16, 22, "0.84")}
    for name, (left, right, grey) in zones.items():
        axes.axvspan(left, right, color=grey, zorder=0)
        axes.text((left + right) / 2, 6.15, name, ha="center", va="center", fontsize=7)
    axes.text(1, 6.15, "eleven digits", ha="center", va="center", fontsize=7)
    axes.set(xlim=(-58, 22), ylim=(0, 6.5), xticks=(-48, -24, -14, 0, 16), xlabel="log₂ |dy|")
    axes.grid(False)


# %%
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(8.4, 4.2))
    for axes, (moment, heard) in zip(figure.subplots(1, 3, sharey=True), upstream.items(), strict=True):
        draw_ridges(axes, heard)
        draw_zones(axes)
        for k, share in enumerate(reversed(lost[moment].values())):
            axes.text(-57, k + 0.55, f"{share:.0%}", fontsize=8, zorder=5)
        axes.set_title(moment.capitalize())
    title = "What float16 makes of gradients as they are (filled), and times 65,536 (outlined)"
    figures.headline(figure, title)
figures.show(figure, "16_where_gradients_lie")

# %% [markdown]
# The percentages say how much of the filled histogram becomes 0. Times 65,536 = 2¹⁶ all of it moves 16 to the
# right, and nothing comes near the end.
#
# Which are lost? At the start, dû of the nine classes that the image does not show: their capsules are short
# already, so the margin loss asks nothing of them, and only routing hands some on. At the end, of the
# decoder, the pixels that are black, as they should be.

# %%
shown = np.arange(10) == y[:, None]  # (B, J)
vanished = half(upstream["first weights"]["capsules"]).swapaxes(1, 2) == 0  # (B, J, I, E)
of_shown, of_others = vanished[shown].mean(), vanished[~shown].mean()
print(f"first weights, dû: of the class that is shown {of_shown:.1%} is lost, of the others {of_others:.1%}")
black = x.reshape(100, -1) == 0  # (100, 784)
vanished = half(upstream["trained"]["decoder.fc3"]) == 0  # (100, 784)
of_black, of_bright = vanished[black].mean(), vanished[~black].mean()
print(f"trained, decoder.fc3: of black pixels {of_black:.1%} is lost, of the others {of_bright:.1%}")
assert of_shown < 0.01 and of_others > 0.99 and of_black > 0.8 > 0.1 > of_bright

# %% [markdown]
# ## What is lost, and what it costs
# So float16 loses what says little. How wrong are the gradients of the weights? As in lesson 3, the relative
# error of an array is its largest difference, from that in float32, divided by its largest number.
# **Predict** by the histograms: which layer's gradient suffers most at the start?


# %%
WEIGHTS = {name: f"{name}.W" for name in ("decoder.fc3", "decoder.fc2", "decoder.fc1")}
WEIGHTS |= {"capsules": "capsules.votes.W", "primary": "primary.conv.W", "conv": "conv.W"}


def gradients(network, scale=1.0):
    """Return the gradient of every W, in the network's precision, of the loss times `scale`."""
    with np.errstate(over="ignore", invalid="ignore"):  # where the scale is too large
        backpropagate(network, ScaledLoss(network.objective(), scale), x, y)
    return {name: network.grads[W] / np.float32(scale) for name, W in WEIGHTS.items()}


def errors(found, exact):
    return {name: np.abs(found[name] - exact[name]).max() / np.abs(exact[name]).max() for name in exact}


exact = {moment: gradients(network) for moment, network in moments.items()}
for network in moments.values():
    network.set_precision("mixed")
unscaled = {moment: errors(gradients(network), exact[moment]) for moment, network in moments.items()}
print_table("relative error of dW", unscaled, ".1e")
assert not gradients(moments["first weights"])["decoder.fc1"].any()
assert unscaled["first weights"].pop("decoder.fc1") == 1 and max(unscaled["first weights"].values()) < 0.1

# %% [markdown]
# Did you expect `decoder.fc1`? Only 3 % of its dy was lost. But its gradient is a product of two small
# things, dW = xᵀ dy: at the start v is short too, and v is its x. The *result* is rounded as well, and all of
# it is below 2⁻²⁵. Nothing is left: without a scale this W would not learn at first.
#
# And would it in float32? Adam divides by the size of a gradient g, plus 1e-8, about 2⁻²⁷. So a weight
# moves by |g|/(|g| + 1e-8) of the learning rate.

# %%
g = np.abs(exact["first weights"]["decoder.fc1"])
g = g[g > 0]
moves = g / (g + 1e-8)  # by Adam, of the learning rate
print(f"|g| of decoder.fc1 from 2^{np.log2(g.min()):.0f} to 2^{np.log2(g.max()):.1f}")
print(f"Adam moves by {np.median(moves):.0%} of the learning rate (median), {moves.max():.0%} at most")
assert g.max() < 2.0**-25 and np.median(moves) < 0.1 < moves.max() < 0.5

# %% [markdown]
# It would hardly learn in float32 either. But nobody should have to work that out for every layer and every
# moment.
#
# ## A loss scale
# The cure (Micikevicius et al. 2018, [arXiv](https://arxiv.org/abs/1710.03740)) is one number. Multiply the
# loss by a scale S. By the chain rule every gradient is S times as large, so fewer fall below 2⁻²⁵. Divide
# those of the weights by S, in float32, before the update. A power of two costs no digits.
#
# **Predict:** the error as a function of S, on logarithmic axes. What slope does it have, where does that
# end, and what comes then?

# %%
exponents = np.arange(0, 33, 2)  # (17,)
valleys, walls = {}, {}
for moment, network in moments.items():
    each = [errors(gradients(network, 2.0**k), exact[moment]) for k in exponents]
    valleys[moment] = {name: np.array([error[name] for error in each]) for name in WEIGHTS}
    finite = np.isfinite([list(error.values()) for error in each]).all(axis=1)  # (17,)
    walls[moment] = exponents[finite].max()
    some = ", ".join(f"2^{2 * k}: {each[k]['decoder.fc1']:.0e}" for k in (0, 2, 4, 6, 8, 10))
    print(f"{moment:<15} decoder.fc1 {some}; all layers finite up to 2^{walls[moment]}")
steep = valleys["first weights"]["decoder.fc1"]  # (17,)
assert np.allclose(steep[3:6] / steep[4:7], 4, rtol=0.3)  # four times the scale, a quarter of the error
assert all(20 <= wall < 32 for wall in walls.values())

# %%
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(8.4, 3.4))
    for axes, (moment, rows) in zip(figure.subplots(1, 3, sharey=True), valleys.items(), strict=True):
        for k, (name, row) in enumerate(rows.items()):
            finite = np.where(np.isfinite(row), row, np.nan)
            axes.plot(exponents, finite, label=name, **figures.line_style(k) | {"markersize": 3})
        axes.axvspan(walls[moment] + 1, 33, color="0.84", zorder=0)
        axes.text((walls[moment] + 34) / 2, 0.3, "inf", ha="center")
        axes.axvline(16, color="0.5", linewidth=0.8, zorder=1)
        axes.text(16.5, 1.1, "65,536", fontsize=7)
        axes.set(yscale="log", xlim=(-1, 33), ylim=(1e-4, 2), xticks=(0, 8, 16, 24, 32))
        axes.set_xlabel("log₂ of the scale")
        axes.set_title(moment.capitalize())
    figure.axes[0].set_ylabel("Relative error of dW")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    title = "A valley: with a small scale small gradients vanish, with a large one large gradients overflow"
    figures.headline(figure, title)
figures.show(figure, "16_valley")

# %% [markdown]
# First a slope: for `decoder.fc1` at the start four times the scale makes a quarter of the error, since the
# distance of 2⁻²⁴ is S times as fine when all is divided again. Then a floor, so wide that anything from 2¹⁶
# to 2²² does at all three moments. Then a wall, where the first number is infinite. It moves with the largest
# gradients. At `conv` these grow from moment to moment, while the median goes up and down again.

# %%
for rows in valleys.values():
    assert all(np.allclose(row[8:12], row[8], rtol=0.1) for row in rows.values())  # from 2^16 to 2^22
for moment, heard in upstream.items():
    size = np.log2(np.abs(heard["conv"][heard["conv"] != 0]))
    print(f"{moment:<15} conv, |dy|: median 2^{np.median(size):.0f}, largest 2^{size.max():.0f}")
largest = [np.abs(heard["conv"]).max() for heard in upstream.values()]
assert largest[2] > 4 * largest[1] > 16 * largest[0]

# %% [markdown]
# ## What a scale does not repair
# The floor of some layers is far above 2⁻¹² = 2.4e-4, the error of a single rounding. **Predict:** does it
# come from the forward or from the backward pass? Let one of the two run in float32.

# %%
network, S = moments["trained"], 65_536.0


def errors_of(forward, backward):
    objective = ScaledLoss(network.objective(), S)
    network.zero_grad()
    network.set_precision(forward)
    outputs, cache = network.forward(x, y)
    _, loss_cache = objective.forward(outputs, network.targets(x, y))
    network.set_precision(backward)
    network.backward_params(objective.backward(loss_cache), cache)
    return errors({name: network.grads[W] / S for name, W in WEIGHTS.items()}, exact["trained"])


passes = {
    "forward only": errors_of("mixed", "float32"),
    "backward only": errors_of("float32", "mixed"),
    "both": errors_of("mixed", "mixed"),
}
for name, found in passes.items():
    each = ", ".join(f"{layer} {found[layer]:.0e}" for layer in ("decoder.fc1", "capsules", "conv"))
    print(f"rounded {name:<14} {each}")
assert max(passes["backward only"].values()) < 1e-3 < 2e-3 < passes["forward only"]["conv"]

# %% [markdown]
# From the forward pass: it arrives at slightly other numbers, and their gradient is another one. No scale
# helps against that, for it is digits that are missing, not range.
#
# ## A scale that finds its size
# Between slope and wall there is room, but the wall moves, and who knows it for another network? So let the
# scale be found (Micikevicius et al. 2018, section 3.2, and the rule of PyTorch's `GradScaler`):
#
# - Is a gradient not finite? Leave this step out, weights and Adam's averages stay as they are. Halve S.
# - Were so many steps in a row good, say 2,000? Double S, and count from 0 again.
#
# Write the rule. `good` counts good steps since S changed last. What comes back holds for the next step.


# %%
def my_rule(scale, good, finite, grow_after):
    scale, good = None, None  # your lines
    return scale, good


def scales_by(rule, finite, scale=1024.0, grow_after=3):
    good, scales = 0, []
    for each in finite:
        scale, good = rule(scale, good, each, grow_after)
        if scale is None:
            return None
        scales.append(scale)
    return np.array(scales)


finite = rng.random(300) < 0.8  # (300,), which steps are good
loss_scale, expected = LossScale(1024.0, grow_after=3), []
for each in finite:
    loss_scale.note(each)
    expected.append(loss_scale.scale)
cmp("scales", scales_by(my_rule, finite), expected)

# %% [markdown]
# One way to write it:


# %%
def rule(scale, good, finite, grow_after):
    if not finite:
        return scale / 2, 0
    if good + 1 == grow_after:
        return 2 * scale, 0
    return scale, good + 1


print("bad, then good ones:", scales_by(rule, [False] + 7 * [True]))
assert cmp("scales", scales_by(rule, finite), expected)

# %% [markdown]
# Now train with it: the smallest network, and a scale of 2⁴⁰, far beyond the wall. **Predict:** how many of
# the first 60 steps are left out, and which?


# %%
def train_mixed(scale, steps=60, grow_after=2000):
    network, order = build("capsnet", "tiny", rng=0).set_precision("mixed"), np.random.default_rng(1)
    adam, good, course = Adam(network, 5e-3), 0, []
    for chosen in islice(batches(len(images), 50, order), steps):
        loss = ScaledLoss(network.objective(), scale)
        with np.errstate(over="ignore", invalid="ignore"):
            result = backpropagate(network, loss, to_float(images[chosen]), labels[chosen])
        finite = all(np.isfinite(grad).all() for grad in network.grads.values())
        course.append((scale, float(result.loss) / scale, finite))
        if finite:
            for grad in network.grads.values():
                grad /= scale
            adam.step()
        scale, good = rule(scale, good, finite, grow_after)
    scales, losses, finite = map(np.array, zip(*course, strict=True))  # (steps,) each
    return network, scales, losses, finite


network, scales, losses, finite = train_mixed(2.0**40)
print("left out:", np.flatnonzero(~finite), f"\nscale at the end: 2^{np.log2(scales[-1]):.0f}")
assert not finite[:13].any() and finite[30:].all() and 15 < (~finite).sum() < 25

# %% [markdown]
# At the start only: first one step for each power of two that is too much, then a few more while the
# capsules grow and the wall comes down. minicaps does the same, bit for bit, and `train --precision mixed`
# begins with 2¹⁶.

# %%
packaged = build("capsnet", "tiny", rng=0).set_precision("mixed")
source, adam, loss_scale = OneProcess(packaged), Adam(packaged, 5e-3), LossScale(2.0**40)
for chosen in islice(batches(len(images), 50, np.random.default_rng(1)), 60):
    train_step(source, adam, to_float(images[chosen]), labels[chosen], loss_scale)
print(loss_scale.metrics(), "Adam's steps:", adam.steps)
assert loss_scale.skipped_steps == (~finite).sum() == 60 - adam.steps
assert all(np.array_equal(weights, packaged.params[name]) for name, weights in network.params.items())

# %% [markdown]
# With 2,000 good steps the rule looks up rarely. With 10 one sees what it does: it knocks at the wall, and
# pays a step each time. And what the skipped steps cost: the loss falls as without them, later.

# %%
runs = {
    "from 2⁴⁰, up after 2,000": train_mixed(2.0**40, 120),
    "from 2⁴⁰, up after 10": train_mixed(2.0**40, 120, grow_after=10),
    "from 2¹⁶, up after 2,000": train_mixed(2.0**16, 120),
}
for name, (_, _, losses, finite) in runs.items():
    last = losses[-20:].mean()
    print(f"{name:<26} {(~finite).sum():>2} of 120 steps left out, mean loss of the last 20: {last:.3f}")
rarely, often, low = (finite for _, _, _, finite in runs.values())  # (120,) each
assert low.all() and rarely[30:].all() and not often[30:].all()

# %%
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(7.2, 4.6))
    above, below = figure.subplots(2, 1, sharex=True)
    for k, (name, (_, scales, losses, finite)) in enumerate(runs.items()):
        look = figures.line_style(k) | {"marker": ""}
        above.step(np.arange(120), np.log2(scales), where="post", label=name, **look)
        out = np.flatnonzero(~finite)
        above.plot(out, np.log2(scales[out]), "x", color=figures.COLOURS[k], markersize=5)
        smooth = np.convolve(losses, np.ones(10) / 10, mode="valid")  # (111,)
        below.plot(np.arange(9, 120), smooth, **look)
    above.plot([], [], "x", color="0.4", label="a step that is left out")
    above.set(ylabel="log₂ of the scale", ylim=(14, 41))
    above.set_title("The scale comes down to where all is finite, and knocks at the wall")
    above.legend(loc="upper right")
    below.set(xlabel="Step", ylabel="Loss (mean of 10 steps)", ylim=(0, None))
figures.show(figure, "16_course")

# %% [markdown]
# ## Does it learn as well?
# A minute is too short to say. The page of the experiments has what was measured, in float32 and with
# float16, with and without a scale:
# [mixed precision](../data/experiments/README.md#mixed-precision).
#
# ## Summary
# - A float16 has eleven digits and 40 powers of 2. Squares vanish below 2.4e-4 and overflow above 255, sums
#   stop growing early. So only products with weights get it, and they add up in float32.
# - Gradients of a capsule network lie at its lower end. What is lost is mostly what says little; but a whole
#   array may vanish, where a gradient is a product of two small things.
# - A loss scale moves all gradients up together. Error against scale is a valley: slope, floor, wall.
# - The floor comes from rounding in the forward pass. There a scale repairs nothing.
# - Halve and leave out, double after many good steps: the scale finds the wall and stays below it.
#
# ## Exercises
# 1. Lesson 2 divides s by max |s| before it squares. Write the squash so, in float16 throughout. From which
#    length to which does it give v to 1 %?
# 2. Ten images in a batch, or 1,000: by how much does the valley's slope move? Predict, then compare dy of
#    ten images with that of the same ten among the hundred.
# 3. With 2,000 good steps for a doubling, how long does it take from S = 1 to 65,536? From 2⁴⁰ down to it?
#    Why is the rule so uneven?
# 4. Break it: forget to divide the gradients by S. Predict what becomes of a training with SGD, and of one
#    with Adam.
#
# ## Solutions


# %% Solution 1
# n/(1 + n²) is 1/(1/n + n), where nothing is squared but numbers up to 1.
def safe_squash(s):
    largest = np.abs(s).max(axis=-1, keepdims=True)  # (200, 1)
    n = largest * np.sqrt(((s / largest) ** 2).sum(axis=-1, keepdims=True))
    return s / (1 / n + n)


n = np.logspace(-5, 5, 200)  # (200,), lengths of s
s = (n[:, None] * direction / np.linalg.norm(direction)).astype(np.float16)  # (200, 16), the longest overflow
with np.errstate(all="ignore"):
    v = np.linalg.norm(safe_squash(s).astype(float), axis=-1)  # (200,)
close = n[np.abs(v / (n**2 / (1 + n**2)) - 1) < 0.01]
print(f"to 1 % from ‖s‖ = {close.min():.1g} to {close.max():.1g}")
assert close.min() < 2e-3 and close.max() > 1e4

# %% Solution 2
# The mean over B images gives each of them 1/B of the gradient: ten images move it by log2(10) = 3.3 to the
# left, a thousand to the right.
network = moments["first weights"].set_precision("float32")
few = upstream_gradients(network, x[:10], y[:10])
for name, dy in few.items():
    among = upstream["first weights"][name][:10]
    print(f"{name:<12} {np.median(np.abs(dy[among != 0] / among[among != 0])):.3f} times as large")
    assert np.allclose(dy, 10 * among, rtol=1e-3, atol=1e-3 * np.abs(dy).max())

# %% Solution 3
# Up: 16 doublings, 32,000 steps. Down: 24 steps. A scale that is too large costs every step, one that is
# too small only digits of small numbers. So it has to fall at once, and may climb slowly.
up = scales_by(rule, 32_000 * [True], scale=1.0, grow_after=2000)
down = scales_by(rule, 24 * [False], scale=2.0**40)
print("up:", np.flatnonzero(up == 65_536)[0] + 1, "steps; down:", np.flatnonzero(down == 65_536)[0] + 1)
assert up[-2] < up[-1] == 65_536 == down[-1]


# %% Solution 4
# SGD moves the weights 65,536 times too far: after a step or two nothing is finite any more. Adam divides by
# the size of the gradients, so all that it notices is that its 1e-8 has become smaller.
class Forgets(LossScale):
    def unscale(self, grads):
        pass


found = {}
for optimizer, learning_rate in ((SGD, 0.5), (Adam, 5e-3)):
    for each in (LossScale, Forgets):
        network = build("capsnet", "tiny", rng=0).set_precision("mixed")
        source, stepper, kept = OneProcess(network), optimizer(network, learning_rate), each(fixed=True)
        for chosen in islice(batches(len(images), 50, np.random.default_rng(1)), 60):
            last = train_step(source, stepper, to_float(images[chosen]), labels[chosen], kept)
        accuracy = evaluate(network, validation_images[:1000], validation_labels[:1000]).accuracy
        found[optimizer, each] = last.loss, accuracy
        print(f"{optimizer.__name__:<5}{each.__name__:<10} loss {last.loss:.3f}, accuracy {accuracy:.1%}")
assert np.isnan(found[SGD, Forgets][0]) and found[SGD, LossScale][1] > 0.4
assert abs(found[Adam, Forgets][1] - found[Adam, LossScale][1]) < 0.02 and found[Adam, Forgets][1] > 0.7
