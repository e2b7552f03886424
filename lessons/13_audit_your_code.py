# %% [markdown]
# # 13. Audit your own code
#
# **You will do:** find the faults of two capsule codes, by hand and with the audit, and repair them.
#
# **You will learn:** properties that tell a right code from a wrong one where accuracy does not, and what an
# audit can and cannot say.
#
# **You need:** lessons 2, 5, 6 and 8, 6 seconds.
#
# **Figures:** `13_who_fires`

# %%
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps import figures
from minicaps.proof import audit
from minicaps.proof import variants as known

rng = np.random.default_rng(0)

# %% [markdown]
# ## A code that looks right
# Somebody writes routing. It runs, and its lengths are between 0 and 1. A network with it learns, too: in the
# stored experiment `ablation` the first of its two faults costs 2.76 of 96.27 points, on validation images.
# Read it before you go on. Two lines are not what the paper says.


# %%
def squash(s):
    n = np.sqrt((s**2).sum(axis=-1, keepdims=True))
    return n / (1 + n**2) * s


def routing(u_hat, iterations):  # votes (B, I, J, E) -> v (B, J, E)
    b = np.zeros(u_hat.shape[1:3])  # (I, J)
    for _ in range(iterations):
        c = np.exp(b) / np.exp(b).sum(axis=0)  # (I, J)
        s = (c[None, :, :, None] * u_hat).sum(axis=1)  # (B, J, E)
        v = squash(s)
        b = b + (u_hat * v[:, None]).sum(axis=-1).mean(axis=0)  # (I, J)
    return v


u_hat = rng.normal(size=(3, 5, 4, 6))  # (B, I, J, E)
lengths = np.linalg.norm(routing(u_hat, 3), axis=-1)  # (B, J)
print("lengths of the first sample:", lengths[0].round(3))
assert (lengths > 0).all() and (lengths < 1).all()

# %% [markdown]
# ## Property 1: a sample does not know its batch
# What a network says of one image must not depend on the images beside it. So hand the samples over one by
# one and compare. This needs no knowledge of the code at all.

# %%
together = routing(u_hat, 3)  # (B, J, E)
alone = np.concatenate([routing(one[None], 3) for one in u_hat])  # (B, J, E)
print(f"one by one, results move by up to {np.abs(together - alone).max():.3f}")
assert np.abs(together - alone).max() > 0.01

# %% [markdown]
# The logits `b` have no axis for samples: `.mean(axis=0)` shares them. At a batch size of 1 such a network is
# another one than at 100.
#
# ## Property 2: what a lower capsule gives sums to 1
# c_ij is the share of lower capsule i that parent j gets, so Σ_j c_ij = 1. From outside c cannot be seen. But
# with one iteration all shares are equal, and v = squash(Σ_i û_ij / J). With shares over the lower capsules
# it is squash(Σ_i û_ij / I). With I ≠ J the two differ; a test with I = J would be blind.

# %%
once = routing(u_hat, 1)  # (B, J, E)
over_parents, over_children = (squash(u_hat.sum(axis=1) / count) for count in (4, 5))  # (B, J, E) each
print("off from shares over parents:  ", np.abs(once - over_parents).max().round(3))
print("off from shares over children: ", np.abs(once - over_children).max().round(3))
assert np.allclose(once, over_children) and not np.allclose(once, over_parents)

# %% [markdown]
# ## The audit
# Each fault that is known is a *variant*: the same function with one decision taken otherwise. The audit
# calls your function on small random arrays and looks for the decisions that give the same numbers. So it
# says not only that something is off, but what the code does instead. From the command line it is
# `python -m minicaps audit my_code.py`.


# %%
def show(code):
    for finding in audit(code):
        if finding.verdict != "holds":
            print(f"{finding.function}, {finding.check}: {finding.verdict}. {finding.says}.")
            print(f"    {finding.evidence}")


show({"routing": routing})
broken = {finding.check for finding in audit({"routing": routing}) if finding.verdict == "broken"}
assert broken == {"softmax_over", "logits"}

# %% [markdown]
# Both are found, though they are there at once: it tries all pairs and triples of decisions too. `zero` is
# a *choice*: votes of 1e30 in float32 overflow, which no training meets. Now the repair: an axis for samples,
# and the sum over the parents.


# %%
def repaired(u_hat, iterations):
    b = np.zeros(u_hat.shape[:3])  # (B, I, J)
    for _ in range(iterations):
        c = np.exp(b) / np.exp(b).sum(axis=2, keepdims=True)  # (B, I, J)
        v = squash((c[..., None] * u_hat).sum(axis=1))  # (B, J, E)
        b = b + (u_hat * v[:, None]).sum(axis=-1)  # (B, I, J)
    return v


verdicts = {finding.check: finding.verdict for finding in audit({"routing": repaired})}
print(verdicts)
assert "broken" not in verdicts.values() and "cannot tell" not in verdicts.values()

# %% [markdown]
# ## The second code: around the routing
# Primary capsules, the margin loss and the mask of another code, which keeps channels first. It has three
# faults. Which?


# %%
kernel = rng.normal(size=(5, 5, 1, 24)) / 5  # 24 channels: 3 types of 8 numbers


def primary(x):  # (B, 20, 20, 1) -> (B, I, 8)
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))[
        :, ::2, ::2
    ]  # (B, 8, 8, 1, 5, 5)
    y = np.einsum("bpqcrs,rsck->bkpq", windows, kernel)  # (B, 24, 8, 8)
    return squash(y.reshape(len(x), -1, 8))


def margin_loss(lengths, labels):
    T = np.eye(lengths.shape[1])[labels]  # (B, J)
    present, absent = np.maximum(0, 0.9 - lengths), np.maximum(0, lengths - 0.1)  # (B, J) each
    return (T * present + 0.5 * (1 - T) * absent).sum(axis=1).mean()


def mask(v, labels):
    longest = np.linalg.norm(v, axis=-1).argmax(axis=1)  # (B,)
    return v * np.eye(v.shape[1])[longest][..., None]  # (B, J, E)


code = {"primary": primary, "IMAGE_SHAPE": (20, 20, 1), "margin_loss": margin_loss, "mask": mask}
show(code)
broken = {(f.function, f.check) for f in audit(code) if f.verdict == "broken"}
assert broken == {("primary", "place"), ("margin_loss", "squares"), ("mask", "capsule")}

# %% [markdown]
# How can it see places from outside? A pixel lies in the window of a capsule or it does not. In its window it
# changes all 8 numbers, each in its own way; outside, none. Where a reshape has mixed places, it changes a
# few of the 8, and the others change by one common factor, that of squash. By hand:

# %%
x = rng.uniform(size=(1, 20, 20, 1))  # (B, H, W, C)
moved = x.copy()
moved[0, 10, 12] += 0.5
before, after = primary(x)[0], primary(moved)[0]  # (I, 8) each
changed = np.flatnonzero(np.abs(after - before).max(axis=1) > 1e-9)
print(f"one pixel changes {len(changed)} of {len(before)} capsules; factors of the first of them:")
print((after / before)[changed[0]].round(3))
assert len(np.unique((after / before)[changed[0]].round(9))) < 8

# %% [markdown]
# ## Does each fault fire its own check, and no other?
# An audit that cries at everything is worth nothing. Put each known fault of routing in, alone, and note
# which checks say "broken".

# %%
faults = {
    "softmax over children": {"softmax_over": "children"},
    "logits averaged": {"logits": "mean"},
    "logits replaced": {"update": "replace"},
    "one iteration more": {"count": "more"},
    "ReLU inside": {"inside": "relu"},
    "not squashed at the end": {"end": "none"},
    "squash of each number": {"axis": "number"},
    "not divided by n": {"length": "undivided"},
}
fired = []
for settings in faults.values():
    found = audit({"routing": lambda u_hat, R, s=settings: known.routing(u_hat, R, **s)})
    checks = [finding for finding in found if finding.check not in ("pure", "bias", "leaky", "zero")]
    fired.append([finding.verdict == "broken" for finding in checks])
fired = np.array(fired)  # (faults, checks)
print(fired.astype(int))
assert np.array_equal(fired, np.eye(8))

with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(5.6, 4.2))
    axes = figure.subplots()
    axes.imshow(~fired, cmap="gray", vmin=-0.3, vmax=1)
    axes.grid(False)
    axes.set_yticks(range(len(faults)), list(faults))
    axes.set_xticks(range(len(checks)), [finding.check for finding in checks], rotation=45, ha="right")
    axes.set(
        title="Each fault fires its own check", ylabel="Fault that was put in", xlabel="Check that fired"
    )
figures.show(figure, "13_who_fires")

# %% [markdown]
# ## Summary
# * Accuracy does not show these faults. Properties do: a sample does not know its batch, shares sum to 1 over
#   the parents, a capsule sees one place.
# * A test is worth what its inputs are: axes of different sizes, labels that are not the longest capsule.
# * Comparing with known variants tells what a code does; "cannot tell" means that it does something else.
# * What lies in the use of a network, such as training on the test set, no audit of functions can see.
#
# ## Exercises
# 1. Write a squash that divides by √(Σ s²) and audit it. Which check speaks? Mend it without an epsilon.
# 2. Audit `routing` with `iterations + 1` inside. Find by hand, with R = 1 alone, how one can know.
# 3. Break it: write a margin loss with two faults that hide each other on lengths of 0.5. Does the audit see?
#
# ## Solutions

# %% Solution 1
bare = lambda s: s * np.sqrt((s**2).sum(-1, keepdims=True) ** 2) / (1 + (s**2).sum(-1, keepdims=True))  # noqa: E731
divided = lambda s: bare(s) / np.sqrt((s**2).sum(-1, keepdims=True))  # noqa: E731
print([f"{f.check}: {f.verdict}" for f in audit({"squash": divided})])
assert [f.check for f in audit({"squash": divided}) if f.verdict == "broken"] == ["zero"]
assert not [
    f for f in audit({"squash": squash}) if f.verdict == "broken"
]  # n/(1 + n²) s has no division by n

# %% Solution 2
more = lambda u_hat, R: repaired(u_hat, R + 1)  # noqa: E731
assert [f.check for f in audit({"routing": more}) if f.verdict == "broken"] == ["count"]
assert not np.allclose(more(u_hat, 1), squash(u_hat.mean(axis=2, keepdims=True).sum(axis=1)))
assert np.allclose(repaired(u_hat, 1), squash(u_hat.sum(axis=1) / 4))  # R = 1 must be the even shares

# %% Solution 3
# At 0.5 a hinge is 0.4: its square 0.16, and 0.4 · 0.4. So "no squares" and a factor of 0.4 look right there.
hiding = lambda lengths, labels: 0.4 * margin_loss(lengths, labels)  # noqa: E731
half = np.full((1, 4), 0.5)  # (B, J)
assert np.isclose(hiding(half, [0]), known.margin_loss(half, np.array([0])))
print([f"{f.check}: {f.verdict}" for f in audit({"margin_loss": hiding})])
assert {f.verdict for f in audit({"margin_loss": hiding}) if f.check != "pure"} == {"cannot tell"}
