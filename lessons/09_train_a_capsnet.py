# %% [markdown]
# # 9. Train a CapsNet
#
# **You will do:** write the training loop by hand, train a small capsule network of the package with it, and
# look at its mistakes.
#
# **You will learn:** what one training step is, and what to check before, during and after training.
#
# **You need:** lessons 6 (routing) and 8 (losses), 25 seconds.
#
# **Figures:** `09_learning_curves`, `09_lengths`, `09_mistakes`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import MarginLoss, ReconstructionLoss, figures
from minicaps.datasets import load, to_float
from minicaps.networks import build
from minicaps.training import Adam, OneProcess, batches, evaluate, train_step

rng = np.random.default_rng(0)

# %% [markdown]
# ## Images to learn from, images to be examined with
#
# `split` parts MNIST's training images in two. Of the first part we train on 4,000 images. Of the second we
# take 1,000 for validation: the network never trains on them, so they show whether it has understood or only
# remembered. The test set stays untouched here. It is looked at once, when everything is decided.

# %%
mnist = load()
images, labels, validation_images, validation_labels = mnist.split()
images, labels = images[:4000], labels[:4000]  # (4000, 28, 28, 1) of 0 to 255, and (4000,) of 0 to 9
validation = validation_images[:1000], validation_labels[:1000]
print("digits of each class to train on:", np.bincount(labels))

# %% [markdown]
# ## The network
#
# `build` makes a network from a preset, here the smallest. `conv` finds strokes, `primary` groups its
# channels into the capsules u, `capsules` routes them to one capsule v for each digit, and `decoder` draws
# the image again. The call below makes the same network, with the same first weights, as often as we like.


# %%
def fresh_network():
    return build("capsnet", "tiny", rng=0)  # the seed of its first weights


network = fresh_network()
print(network.table())

# %% [markdown]
# ## Before training: is the loss what it should be?
#
# The first weights are small, so all ten class capsules are short. What will the loss be? The margin loss
# (lesson 8) wants the true class longer than 0.9 and the others shorter than 0.1. The true class, with a
# length near 0, costs 0.9² = 0.81. The others cost nothing. The decoder ends in a sigmoid, and the sigmoid of
# a number near 0 is about 0.5. So it draws grey, which costs 0.0005 · Σ (0.5 - pixel)² for an image; 0.0005
# is what lesson 8 weighs the drawing by. A first loss far from this sum is most likely a bug, found before
# any time is spent.

# %%
batch = rng.choice(4000, size=50, replace=False)
x, y = to_float(images[batch]), labels[batch]  # pixels from 0 to 1; B = 50
(v, reconstructions), cache = network.forward(x, y)  # (B, 10 classes, 8 numbers), (B, 28, 28, 1)
margin, reconstruction = MarginLoss(), ReconstructionLoss()
margin_loss, margin_cache = margin.forward(v, y)
reconstruction_loss, reconstruction_cache = reconstruction.forward(reconstructions, x)
grey = 0.0005 * ((0.5 - x) ** 2).sum() / 50
print(f"margin loss {margin_loss:.3f}, 0.81 expected")
print(f"reconstruction loss {reconstruction_loss:.3f}, {grey:.3f} expected")
assert abs(margin_loss - 0.81) < 0.02 and abs(reconstruction_loss - grey) < 0.01

# %% [markdown]
# ## One step
#
# `cache` holds what backward needs. Backward turns the two losses into gradients of v and of the drawing, and
# these into a gradient for every weight. They are *added* to `network.grads`, so the old ones have to be set
# to zero first. (`backward_params` leaves out the gradient of the images, which nobody asks for.)
#
# Then Adam moves the weights. Why not by -η · g, with g the gradient and η the learning rate? Because
# g is large for some weights and tiny for others, and these would hardly move. So Adam divides by the size
# of g. For each weight it keeps two running averages, m of g and q of g², and moves it by
# -η · m/(√q + 1e-8). (Both start at 0, so at first they are too small; Adam corrects that.) In the first
# step m = g and √q = |g|. So every weight whose gradient is well above 1e-8 moves by η itself, 0.005.

# %%
network.zero_grad()
network.backward_params((margin.backward(margin_cache), reconstruction.backward(reconstruction_cache)), cache)
before = network.state()  # a copy of all weights
Adam(network, 5e-3).step()
for name, weights in network.params.items():
    g = network.grads[name]
    moved = weights - before[name]
    assert np.allclose(moved, -5e-3 * g / (np.abs(g) + 1e-8), rtol=1e-3, atol=1e-6), name
assert margin(network(x, y)[0], y) < margin_loss  # it helped (network(…) is forward, without cache)

# %% [markdown]
# ## The loop
#
# Training is this step again and again. One pass over all images is an epoch, each time in another order:
# 80 steps of 50 images here. Beside the loss we count the images whose longest capsule is that of the label,
# as they come by. After each epoch `evaluate` does the same for the validation images, without training on
# them. Here is all of it.

# %%
network, order = fresh_network(), np.random.default_rng(1)
adam, epochs = Adam(network, 5e-3), []
for epoch in range(1, 5):
    loss_sum, correct = 0.0, 0
    shuffled = order.permutation(4000)
    for start in range(0, 4000, 50):
        chosen = shuffled[start : start + 50]
        x, y = to_float(images[chosen]), labels[chosen]
        (v, reconstructions), cache = network.forward(x, y)  # with the labels, for the decoder's mask
        margin_loss, margin_cache = margin.forward(v, y)
        reconstruction_loss, reconstruction_cache = reconstruction.forward(reconstructions, x)
        network.zero_grad()
        gradients = margin.backward(margin_cache), reconstruction.backward(reconstruction_cache)
        network.backward_params(gradients, cache)
        adam.step()
        loss_sum += 50 * float(margin_loss + reconstruction_loss)
        correct += (np.linalg.norm(v, axis=-1).argmax(axis=1) == y).sum()
    result = evaluate(network, *validation)
    row = {"epoch": epoch, "train_loss": loss_sum / 4000, "train_accuracy": correct / 4000}
    epochs.append(row | {"validation_loss": result.loss, "validation_accuracy": result.accuracy})
    print(f"epoch {epoch}: loss {loss_sum / 4000:.3f}, validation {100 * result.accuracy:.1f} %")
assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] / 3  # the loss fell
assert result.accuracy > 0.9

# %% [markdown]
# ## Learning curves
#
# Do both losses still fall? Then more epochs would help. Does the training loss fall while that of the
# validation rises? Then the network learns its images by heart. In the first epoch validation is ahead of
# training, and this is no miracle: the training figures are gathered on the way, mostly when the network knew
# less.

# %%
figures.show(figures.learning_curves(epochs), "09_learning_curves")
assert epochs[0]["validation_accuracy"] > epochs[0]["train_accuracy"]

# %% [markdown]
# ## The same by minicaps
#
# `train_step` is one step, `batches` shuffles the images' numbers and hands them out 50 at a time.
# `OneProcess(network)` is where the gradient comes from: the network, with the sum of both losses as its
# objective, in this process. (Several processes can share the work; the step stays the same.) The same
# weights and the same order of images must lead to the same end. How equal can we ask the results to be?
# Fully, bit for bit: the same operations on the same numbers in the same order give the same bits, and
# minicaps sees to it that its threads do not change that order. If our loop did anything else to the weights
# than the package does, this check would fail.


# %%
def train_by_package(network, epochs=4, learning_rate=5e-3):
    order, adam, source = np.random.default_rng(1), Adam(network, learning_rate), OneProcess(network)
    for _ in range(epochs):
        for chosen in batches(4000, 50, order):
            train_step(source, adam, to_float(images[chosen]), labels[chosen])
    return network


packaged = train_by_package(fresh_network())
for name, weights in network.params.items():
    assert np.array_equal(weights, packaged.params[name]), name
assert np.array_equal(evaluate(packaged, *validation).scores, result.scores)

# %% [markdown]
# ## How sure was it?
#
# The lengths of v are the scores. Take the longest for each validation image, and set apart the images where
# it is the wrong one. On average it is shorter there. But some of the wrong ones are long, and some of the
# correct ones short: no threshold parts them.

# %%
correct = result.predictions == validation[1]
longest = result.scores.max(axis=1)  # (1000,)
print(f"mean length: correct {longest[correct].mean():.2f}, wrong {longest[~correct].mean():.2f}")
assert longest[~correct].mean() < longest[correct].mean() - 0.1
assert longest[~correct].max() > longest[correct].min()
with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(5, 2.6))
    axes = figure.subplots()
    parts = {f"correct ({correct.sum()} images)": correct, f"wrong ({(~correct).sum()} images)": ~correct}
    for k, (name, part) in enumerate(parts.items()):
        count, edges = np.histogram(longest[part], bins=20, range=(0, 1))
        look = {"color": figures.COLOURS[k], "linestyle": figures.LINES[k], "linewidth": 1.6, "zorder": 2}
        axes.stairs(100 * count / part.sum(), edges, label=name, **look)
    axes.set(xlabel="Length of the longest capsule", ylabel="Share of the images (%)")
    axes.set_title("Where the network is wrong, v is shorter on average")
    axes.legend(loc="upper left")
figures.show(figure, "09_lengths")

# %% [markdown]
# Is the length a probability? Then of the images with a longest capsule of about 0.75, three in four would be
# correct. Count.

# %%
for low, high in (0.3, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1):
    within = (low <= longest) & (longest < high)
    share = 100 * correct[within].mean()
    print(f"length {low:.1f} to {high:.1f}: {within.sum():3} images, {share:5.1f} % correct")
print(f"all: mean length {longest.mean():.2f}, {100 * result.accuracy:.1f} % correct")
assert correct[(0.7 <= longest) & (longest < 0.8)].mean() > 0.9
assert result.accuracy > longest.mean() + 0.05

# %% [markdown]
# It is not: the longer, the more are correct, but this network is more often correct than its lengths say.
# The margin loss is content with 0.9 and never compares lengths with frequencies.

# %% [markdown]
# ## Look at the mistakes
#
# "95 % correct" hides what the other 5 % are. So look, and judge for yourself: which are hard for us too?

# %%
wrong = np.flatnonzero(~correct)
assert len(wrong) == round(1000 * (1 - result.accuracy))
pictures, answers = to_float(validation[0][wrong]), result.predictions[wrong]
figure = figures.mistakes(pictures, validation[1][wrong], answers, mnist.class_names, total=1000)
figures.show(figure, "09_mistakes")

# %% [markdown]
# ## Summary
#
# - A step is: forward, losses, gradients to zero, backward, update.
# - Work out the first loss beforehand. A wrong one is the cheapest bug to find.
# - Training accuracy is gathered on the way, validation accuracy afterwards and on other images.
# - A longer capsule is more often correct, but its length is no probability.
# - One seed, the same bits: two programs can be held against each other exactly.
#
# ## Exercises
#
# 1. Break it: leave `zero_grad` out. Predict which check fails first, and what the accuracy does.
# 2. Break it: do not shuffle, and sort the images by class. Predict the validation accuracy after one epoch.
# 3. `evaluate` hands the labels to the network, for the decoder. Could it cheat? Prove that it does not.
# 4. Set the learning rate to 0.1 and to 5e-5. Predict what one epoch does.
#
# ## Solutions

# %% Solution 1
# The gradients of all batches pile up, and Adam walks on in the direction of the oldest. In the loop above
# "the loss fell" fails first: it rises. The bound on the accuracy and the comparison bit for bit would fail
# too.
broken = fresh_network()
broken.zero_grad = lambda: None
train_by_package(broken, epochs=1)
piled_up = evaluate(broken, *validation)
print(f"without zero_grad: loss {piled_up.loss:.2f}, accuracy {100 * piled_up.accuracy:.1f} %")
assert piled_up.accuracy < 0.3 and piled_up.loss > epochs[0]["validation_loss"]

# %% Solution 2
# The network knows only what it saw last: sevens and eights (the nines have come too late to be learned).
unshuffled = fresh_network()
adam, source = Adam(unshuffled, 5e-3), OneProcess(unshuffled)
for chosen in np.argsort(labels, kind="stable").reshape(80, 50):
    train_step(source, adam, to_float(images[chosen]), labels[chosen])
sorted_result = evaluate(unshuffled, *validation)
answers = np.bincount(sorted_result.predictions, minlength=10)
print(f"accuracy {100 * sorted_result.accuracy:.1f} %, predictions by class:", answers)
assert answers[[7, 8]].sum() > 800 and sorted_result.accuracy < 0.3

# %% Solution 3
# With wrong labels the lengths are the same, bit for bit. Only the loss is another one: it needs the labels.
cheated = evaluate(network, validation[0], (validation[1] + 1) % 10)
assert np.array_equal(cheated.scores, result.scores) and cheated.loss > result.loss
assert cheated.accuracy < 0.1

# %% Solution 4
# Too large: every weight jumps by 0.1 at a time, far past what it should be. Too small: 80 steps of about
# 5e-5 move no weight further than 0.006, so the network stays nearly what it was. Both are right about one
# time in ten, as by chance.
first = fresh_network().state()
for learning_rate in (0.1, 5e-5):
    trained = train_by_package(fresh_network(), epochs=1, learning_rate=learning_rate)
    moved = max(np.abs(weights - first[name]).max() for name, weights in trained.params.items())
    accuracy = evaluate(trained, *validation).accuracy
    print(f"learning rate {learning_rate}: farthest move {moved:.4f}, accuracy {100 * accuracy:.1f} %")
    assert accuracy < 0.2 and (learning_rate == 0.1 or moved < 0.01)
