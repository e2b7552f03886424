# %% [markdown]
# # 12. MLP, CNN, CapsNet
#
# **You will do:** train three networks on the same images and set the results of a full run beside published
# ones.
#
# **You will learn:** what makes a comparison fair, and how large a difference must be to mean anything.
#
# **You need:** lesson 9 (training), 60 seconds. With `--full` after the file's name, about ten minutes.
#
# **Figures:** `12_validation_curves`, `12_shifted`

# %%
import dataclasses
import json
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import figures
from minicaps.datasets import augment, load, to_float
from minicaps.networks import build
from minicaps.training import Adam, Cosine, OneProcess, batches, evaluate, train_step

rng = np.random.default_rng(0)

# %% [markdown]
# ## The published figures
#
# Shaikh 2018, [Essentials of Deep Learning: Getting to know CapsuleNets (with Python codes)][1], on Analytics
# Vidhya, trains three networks with Keras on 34,300 images of MNIST for 15 epochs. It gives the accuracy on
# its validation images: 96.37 % for a multilayer perceptron (MLP), 97.46 % for a convolutional network (CNN),
# 98.80 % for a capsule network (CapsNet). As 34,300 is 70 % of 49,000, its split was 70 to 30. Of MNIST's
# 60,000 training images we take 6,000, for 5 epochs: a run to look into, which says nothing about the
# published figures. With `--full` we take 49,000, for 15 epochs; only that run stands beside them. Shaikh's
# choice of images, his seeds and his CapsNet are not ours, nor are his batches: 128 images for the MLP and
# 1,000 for the others, where ours have 50. So we make up to 20 times as many updates in an epoch, and being
# ahead of his figures shows no better network. (On his terms, in data/experiments, all three end below them.)
#
# [1]: https://www.analyticsvidhya.com/blog/2018/04/essentials-of-deep-learning-getting-to-know-capsulenets/

# %%
full = "--full" in sys.argv
published = {"MLP": 96.37, "CNN": 97.46, "CapsNet": 98.80}  # %, by Shaikh
count, epochs = (49_000, 15) if full else (6_000, 5)

# %% [markdown]
# ## The same images for all
#
# We shuffle once. All three networks learn from the same 70 % and are examined on the same 30 %. No image may
# be in both parts. MNIST's test images stay out of it, since we shall look at these results more than once.

# %%
mnist = load()
order = rng.permutation(len(mnist.train_images))[:count]
train, held_out = order[: 7 * count // 10], order[7 * count // 10 :]
images, labels = mnist.train_images[train], mnist.train_labels[train]
validation = mnist.train_images[held_out], mnist.train_labels[held_out]
assert not set(train) & set(held_out)
assert np.allclose(np.bincount(labels) / len(labels), 0.1, atol=0.03)  # each digit has its tenth

# %% [markdown]
# ## Three networks
#
# The MLP sees 784 numbers in a row, without knowing which are neighbours: 784 → 50 → 10. The CNN looks
# through windows: three convolutions with 25 filters each, of 5 × 5, 5 × 5 and 4 × 4 pixels, with two max
# pools between them. A window of 5 × 5 takes 4 off the width, a pool halves it: 28 → 24 → 12 → 8 → 4 → 1.
# One position with 25 numbers is left, so 25 → 50 → 10 follows. A pool keeps *whether* something was seen and
# drops *where* within 2 × 2 positions. MLP and CNN are built as those of Shaikh. The size of the CapsNet is
# ours: a very small one in the short run, the preset `small` in the full run.
#
# Count the weights of the first two by hand, with a bias for each output or filter. If you get the right
# number, you know how they are built. And look at the sum: the CapsNet is the largest by far. In what follows
# it has 6 times the weights of the CNN, in the full run 19 times (half of these are its decoder's). So
# whatever it is ahead by, it is not shown *at equal size*: that was not compared here.

# %%
short = {
    "conv_channels": 12,
    "conv_kernel": 9,
    "primary_types": 8,
    "primary_dimension": 8,
    "class_dimension": 16,
}
capsnet = build("capsnet", "small", rng=1) if full else build("capsnet", "tiny", rng=1, **short)
networks = {"MLP": build("mlp", rng=1), "CNN": build("cnn", rng=1), "CapsNet": capsnet}
assert networks["MLP"].count_params() == (784 * 50 + 50) + (50 * 10 + 10)
convolutions = (5 * 5 * 1 * 25 + 25) + (5 * 5 * 25 * 25 + 25) + (4 * 4 * 25 * 25 + 25)
assert networks["CNN"].count_params() == convolutions + (25 * 50 + 50) + (50 * 10 + 10)
counts = {name: network.count_params() for name, network in networks.items()}
print(counts, "parameters")
print(f"CapsNet: {counts['CapsNet'] / counts['CNN']:.1f} times those of the CNN")
assert round(counts["CapsNet"] / counts["CNN"]) == (19 if full else 6)

# %% [markdown]
# ## Train
#
# Each gets the loss it was made for. For the CapsNet this is margin and reconstruction. For the others it is
# cross-entropy: a softmax makes probabilities of the ten outputs, and the loss is minus the logarithm of the
# label's. All get the same batches in the same order, and Adam with a learning rate that falls to
# nearly 0: first slowly, then faster, then slowly again, like a cosine from its top to its bottom.
#
# The first learning rate may differ, since what suits one network does not suit another. For the short run we
# tried two for each and kept the better, judged by these same validation images. So its accuracies are a
# little too kind. The learning rates of the full run are not tuned.

# %%
short_learning_rates = {"MLP": 2e-3, "CNN": 2e-3, "CapsNet": 3e-3}
learning_rates = {"MLP": 1e-3, "CNN": 1e-3, "CapsNet": 2e-3} if full else short_learning_rates


def train_network(network, learning_rate, images, labels):
    adam = Adam(network, Cosine(learning_rate, steps=epochs * len(images) // 50))
    source, order, accuracies = OneProcess(network), np.random.default_rng(2), []
    for _ in range(epochs):
        for chosen in batches(len(images), 50, order):
            train_step(source, adam, to_float(images[chosen]), labels[chosen])
        result = evaluate(network, *validation)
        accuracies.append(100 * result.accuracy)
    return accuracies, result.predictions


results, predictions = {}, {}
for name, network in networks.items():
    start = time.perf_counter()
    accuracies, predictions[name] = train_network(network, learning_rates[name], images, labels)
    results[name] = {"accuracies": accuracies, "seconds": round(time.perf_counter() - start)}
final = {name: result["accuracies"][-1] for name, result in results.items()}  # %
print({name: round(accuracy, 2) for name, accuracy in final.items()}, "%")
assert min(final.values()) > 85 and max(final.values()) < 100
assert final["MLP"] < final["CNN"] and final["MLP"] < final["CapsNet"]

# %% [markdown]
# ## The full run
#
# With `--full` the results are stored in `12_full_result.json`, beside this file, with the command, the sizes
# and the seeds. Without it we read what is stored there, if anything is. In the figure the thin lines are
# Shaikh's figures; they stand beside the full run alone, which has as many images.

# %%
here = Path(__file__).parent if "__file__" in globals() else Path("lessons")  # a notebook has no __file__
result_file = here / "12_full_result.json"
runs = {} if full else {len(images): results}  # what we draw, under the number of training images
if full:
    stored = {
        "command": "python lessons/12_mlp_cnn_capsnet.py --full",
        "train_images": len(images),
        "validation_images": len(validation[1]),
        "epochs": epochs,
        "batch_size": 50,
        "learning_rates": learning_rates,
        "seeds": {"split": 0, "weights": 1, "batches": 2},
        "parameters": {name: network.count_params() for name, network in networks.items()},
        "capsnet": dataclasses.asdict(capsnet.config),
        "results": results,
    }
    result_file.write_text(json.dumps(stored, indent=2) + "\n")
if result_file.exists():
    stored = json.loads(result_file.read_text())
    runs[stored["train_images"]] = stored["results"]
    print(stored["command"])
    for name, result in stored["results"].items():
        print(f"{name:<8} {result['accuracies'][-1]:.2f} %, {result['seconds']} s")
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(1 + 3.1 * len(runs), 3.4))
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (number, run) in zip(panels, runs.items(), strict=True):
        for k, (name, result) in enumerate(run.items()):
            style, accuracies = figures.line_style(k), result["accuracies"]
            label = f"{name} {accuracies[-1]:.2f} %"
            if number == 34_300:  # as many as Shaikh has
                label += f", Shaikh {published[name]:.2f} %"
                axes.axhline(
                    published[name], color=style["color"], linestyle=style["linestyle"], linewidth=0.8
                )
            axes.plot(np.arange(len(accuracies)) + 1, accuracies, label=label, **style)
        axes.set(xlabel="Epoch", ylabel="Validation images classified correctly (%)")
        axes.set_title(f"{number:,} training images" + (" (thin: Shaikh 2018)" if number == 34_300 else ""))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7, loc="lower right")
figures.show(figure, "12_validation_curves")

# %% [markdown]
# ## Is a difference real?
#
# CNN and CapsNet lie close together. Would other images turn the order round? Both saw the same images. Where
# both are correct or both wrong, we learn nothing. So count the others: a images that only the first
# classified correctly, b that only the second did. Were both equally good, each of these a + b would be the
# toss of a coin, +1 or -1, and a - b their sum. It is 0 on average. A toss has variance 1 and variances add
# up, so its standard deviation is √(a + b). Chance goes beyond twice that in only about one case of twenty.
# So we call a difference real if |a - b| > 2 √(a + b). (This is *McNemar's test*.) First we toss coins, to
# see whether this is true.

# %%
tosses = 2 * rng.binomial(100, 0.5, size=20_000) - 100  # a - b, in 20,000 comparisons with a + b = 100
assert np.isclose(tosses.std(), 10, rtol=0.03) and 0.02 < (np.abs(tosses) > 20).mean() < 0.06
correct = {name: predictions[name] == validation[1] for name in networks}
for one, other in [("CNN", "MLP"), ("CapsNet", "MLP"), ("CapsNet", "CNN")]:
    a, b = (correct[one] & ~correct[other]).sum(), (correct[other] & ~correct[one]).sum()
    real = abs(a - b) > 2 * np.sqrt(a + b)
    print(f"only {one} {a}, only {other} {b}: {'real' if real else 'could be chance'}")
    assert np.isclose(final[one] - final[other], 100 * (a - b) / len(validation[1]))
    assert real or other == "CNN"  # the MLP is behind, beyond chance
assert full or not real  # of the last pair, CapsNet and CNN

# %% [markdown]
# These are the predictions of the run above. What of the stored full run, CapsNet 99.07 % and CNN 98.78 %?
# Its predictions are not stored, so this test can only be made by running it. And the test asks about other
# images, not about other first weights: another seed moves an accuracy too. With three seeds, 15 epochs and
# equal learning rates the CapsNet was ahead with each (compare: 99.02 ± 0.08 %, and the CNN, compare: 98.68 ±
# 0.19 %). But a CNN with a better learning rate equals that CapsNet (compare: 99.06 ± 0.04 %), with a
# nineteenth of its weights.

# %% [markdown]
# ## What an accuracy leaves out
#
# MNIST's digits stand in the middle. What if they do not? We move 600 validation images to the right by up to
# 4 pixels, which hardly cuts anything off. No network has been trained on moved images. Which one will suffer
# most? To the MLP a moved digit is 784 other numbers.

# %%
some, some_labels = validation[0][:600], validation[1][:600]
moved = {name: [] for name in networks}  # accuracy in %, for each move
for pixels in range(5):
    pictures = augment.shift_by(some, np.full(600, 0), np.full(600, pixels))  # down, right
    assert pictures.sum() > 0.99 * some.sum()  # the ink is still there
    for name, network in networks.items():
        moved[name].append(100 * evaluate(network, pictures, some_labels).accuracy)
for name, each in moved.items():
    print(f"{name:8} moved by 0 to 4 pixels:", *np.round(each, 1), "%")
assert moved["MLP"][3] < min(moved["CNN"][3], moved["CapsNet"][3]) - 10
assert full or np.max(np.subtract(moved["CapsNet"], moved["CNN"])[1:]) < 3
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(5, 2.9))
    axes = figure.subplots()
    for k, name in enumerate(networks):
        axes.plot(moved[name], label=name, **figures.line_style(k))
    axes.set(xlabel="Moved to the right (pixels)", ylabel="Classified correctly (%)", xticks=range(5))
    axes.set_title("A few pixels undo the MLP first")
    axes.legend()
figures.show(figure, "12_shifted")

# %% [markdown]
# In the short run the CapsNet gains nothing over the CNN here: moved, it does no better, though both lose far
# less than the MLP. The windows of both see a stroke wherever it stands. But what comes above them has
# weights for each position, and has learned digits in the middle only.
#
# ## Summary
#
# - Give all the same images and batches, and each a learning rate that suits it. Say what is not equal: here
#   the number of weights.
# - Compare two networks image by image. In the short run chance could have put the CapsNet before the CNN.
# - An accuracy on images like those of training leaves out what happens on others.
# - A result is worth its command. Stored together, anyone can run it again.
#
# ## Exercises
#
# 1. Break it: take the validation images from the training images. Which check fails, and what do you gain?
# 2. Break it: train the MLP at a learning rate of 1e-4. How many percent does that alone cost?
# 3. How much is luck? Train the MLP from three other seeds. Is the CNN ahead of all of them?
# 4. Train the MLP on images moved by up to 4 pixels. What happens to its curve?
#
# ## Solutions

# %% Solution 1
# "No image may be in both parts". The accuracy rises, for nothing: the MLP has seen these images.
leaked = train[: len(held_out)]
assert set(train) & set(leaked)
seen = evaluate(networks["MLP"], images[: len(leaked)], labels[: len(leaked)])
print(f"MLP on images it has seen: {100 * seen.accuracy:.2f} %")
assert 100 * seen.accuracy > final["MLP"] + 1

# %% Solution 2
# In the short run far more than the CNN was ahead: we would compare learning rates, not networks.
slow = train_network(build("mlp", rng=1), 1e-4, images, labels)[0][-1]
lost, ahead = final["MLP"] - slow, final["CNN"] - final["MLP"]
print(f"MLP at 1e-4: {slow:.2f} %, {lost:.1f} points less; the CNN was {ahead:.1f} ahead")
assert full or lost > 2 * ahead

# %% Solution 3
for seed in (2, 3, 4):
    accuracies, _ = train_network(build("mlp", rng=seed), learning_rates["MLP"], images, labels)
    assert accuracies[-1] < final["CNN"] - 0.5

# %% Solution 4
# It gets far flatter. A network is good at what it was shown. (`pictures` are still those moved by 4 pixels.)
wanderer = build("mlp", rng=1)
train_network(wanderer, learning_rates["MLP"], augment.shift(images, 4, rng), labels)
assert 100 * evaluate(wanderer, pictures, some_labels).accuracy > moved["MLP"][4] + 20
