"""The decisions in each function of a capsule network, and what is known of their settings.

A `Bank` computes a function of variants.py. Each of its dials is one decision: what the paper does, and
the other settings, which are faults, or choices as good as the paper's. To find out what a code does, the
audit looks for the settings whose results are those of the code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from minicaps.arrays import Array
from minicaps.proof import variants

HOLDS, FAULT, CHOICE, UNKNOWN = "holds", "broken", "choice", "cannot tell"  # the verdicts


class Setting(NamedTuple):
    """One way to do it that is not the paper's."""

    kind: str  # FAULT or CHOICE
    does: str  # what the code does instead
    cost: str = ""  # in accuracy, where an experiment has measured it


class Dial(NamedTuple):
    """One decision, named like the argument in variants.py."""

    name: str
    means: str  # what the paper does
    others: dict[str, Setting]


class Bank(NamedTuple):
    """A function and its dials."""

    compute: Callable[..., Array]
    dials: tuple[Dial, ...]

    def settings(self, most: int = 3) -> Iterator[dict[str, str]]:
        """Yield what may differ from the paper: nothing first, then one dial, then two, up to `most`."""
        for count in range(most + 1):
            for dials in itertools.combinations(self.dials, count):
                for names in itertools.product(*(dial.others for dial in dials)):
                    yield {dial.name: name for dial, name in zip(dials, names, strict=True)}


def fault(does: str, cost: str = "") -> Setting:
    return Setting(FAULT, does, cost)


def choice(does: str) -> Setting:
    return Setting(CHOICE, does)


SQUASH_AXIS = Dial(
    "axis",
    "one length for each capsule's vector, over its last axis",
    {
        "parents": fault("takes the length over the capsules, not over the numbers of a capsule"),
        "number": fault("squashes each number alone, as over an axis of size one"),
    },
)
SQUASH_LENGTH = Dial(
    "length",
    "a vector of length n gets the length n²/(1 + n²) and keeps its direction",
    {
        "half": choice("gives it n²/(0.5 + n²), longer than the paper's"),
        "exponential": choice("gives it 1 - exp(-n), as Efficient-CapsNet does"),
        "undivided": fault("multiplies s by n²/(1 + n²) and does not divide it by n"),
        "unit": fault("gives every vector length 1"),
        "none": fault("returns s as it is"),
    },
)
ROUTING = (
    Dial(
        "softmax_over",
        "the shares of a lower capsule sum to 1 over the parents",
        {
            "children": fault(
                "takes the softmax over the lower capsules, so that no parent competes",
                "-2.76 points of validation accuracy in the experiment ablation",
            ),
            "batch": fault("takes the softmax over the samples of the batch"),
        },
    ),
    Dial(
        "logits",
        "every sample has routing logits of its own",
        {
            "mean": fault("averages the routing logits over the batch"),
            "sum": fault("adds the routing logits up over the batch"),
        },
    ),
    Dial("update", "agreements add up in the logits", {"replace": fault("replaces the logits each time")}),
    Dial(
        "count",
        "as many iterations as asked for, the first with even shares",
        {
            "more": fault("makes one iteration more than asked for"),
            "fewer": fault("makes one iteration fewer than asked for"),
        },
    ),
    Dial(
        "inside",
        "votes are compared with v = squash(s)",
        {
            "relu": fault("compares votes with a ReLU of s in place of squash(s)"),
            "none": fault("compares votes with s, which is not squashed"),
        },
    ),
    Dial(
        "end",
        "the result is squashed",
        {
            "relu": fault("ends with a ReLU of s in place of squash(s)"),
            "none": fault("returns s, which is not squashed"),
        },
    ),
    SQUASH_AXIS,
    SQUASH_LENGTH._replace(  # what is no squash at all shows within the loop and at its end
        others={name: SQUASH_LENGTH.others[name] for name in ("half", "exponential", "undivided")}
    ),
    Dial(
        "bias",
        "no bias",
        {"0.1": choice("adds 0.1 to every s: the authors' code has a bias, the paper none")},
    ),
    Dial("leaky", "every share goes to a parent", {"yes": choice("is leaky: a share may go to no parent")}),
)
CONV = (
    Dial(
        "place",
        "all numbers of a pose belong to one position",
        {
            "children": fault("reads numbers of poses as positions: a reshape that moves no axes"),
            "votes": fault("reads numbers of votes as positions: a reshape that moves no axes"),
        },
    ),
    Dial(
        "samples",
        "each sample has votes of its own",
        {"mixed": fault("reads (types, samples) as (samples, types), so that samples are mixed")},
    ),
    ROUTING[0]._replace(
        others={
            name: other._replace(cost="") for name, other in ROUTING[0].others.items()
        }  # not measured here
        | {"grid": choice("takes the softmax over the parents at all positions, as DeepCaps does")}
    ),
    SQUASH_AXIS._replace(
        others=SQUASH_AXIS.others
        | {"map": choice("takes one length for the whole map of a type, as DeepCaps does")}
    ),
    *(dial for dial in ROUTING if dial.name not in ("softmax_over", "axis")),
)
EM = (
    Dial(
        "activations",
        "a child weighs as much as it is active",
        {"cancel": fault("divides a child's shares by their sum again, so that its activation cancels")},
    ),
    Dial(
        "competition",
        "the shares of a child sum to 1 over the parents",
        {
            "children": fault("takes the softmax over the children, so that no parent competes"),
            "batch": fault("takes the softmax over the samples of the batch"),
        },
    ),
    Dial(
        "prior",
        "a parent's activation is the prior of its votes: its logarithm is added to theirs",
        {
            "none": fault("leaves the parents' activations out of the E-step"),
            "factor": fault("multiplies the logarithms of the votes by the activation"),
        },
    ),
    Dial(
        "mean",
        "a parent's pose is the weighted mean of its votes",
        {"shrunk": fault("mixes a tenth of the pose before into it, so that poses shrink")},
    ),
    Dial(
        "floor",
        "a small number is added to each variance",
        {
            "maximum": choice(
                "takes the maximum of the variance and a small number, with no gradient below it"
            )
        },
    ),
)
BATCH_MEAN = Dial("batch", "the mean over the batch", {"sum": choice("sums over the batch")})
MARGIN = (
    Dial("squares", "the hinges are squared", {"no": fault("does not square the hinges")}),
    Dial(
        "classes",
        "the sum over the classes",
        {"mean": fault("averages over the classes, a loss J times too weak")},
    ),
    Dial("factor", "no factor before the loss", {"0.5": fault("halves the loss")}),
    Dial(
        "absent",
        "absent classes count half",
        {"1": fault("lets absent classes count whole"), "0": fault("leaves absent classes out")},
    ),
    Dial(
        "before",
        "of the lengths as they are: all can be near 1 at once",
        {"softmax": fault("takes a softmax of the lengths first, so that no class is long on its own")},
    ),
    BATCH_MEAN,
)
RECONSTRUCTION = (
    Dial(
        "pixels",
        "the sum of the squared errors of all pixels",
        {
            "mean": fault(
                "averages over the pixels: 784 times too weak for images of 28×28",
                "-0.02 points of validation accuracy in the experiment ablation",
            ),
            "mean · 784": choice("takes 784 times the mean, which is the sum for images of 28×28 only"),
        },
    ),
    Dial(
        "weight",
        "times 0.0005",
        {
            "1": choice("leaves the factor 0.0005 to another place"),
            "0.5": choice("has the factor 0.5, and leaves 0.0005 to another place"),
        },
    ),
    BATCH_MEAN,
)
MASK = (
    Dial(
        "capsule",
        "in training the decoder sees the label's capsule and no other",
        {
            "longest": fault("shows the decoder the longest capsule, whatever the label is"),
            "all": fault("shows the decoder all capsules"),
        },
    ),
    Dial(
        "form",
        "the others are zeros",
        {"picked": choice("hands over the numbers of one capsule, without its place")},
    ),
)
ADAM = (
    Dial("moments", "the moments last from step to step", {"reset": fault("begins anew with every step")}),
    Dial(
        "correction", "the moments are corrected for their start at 0", {"no": fault("does not correct them")}
    ),
    Dial("epsilon", "ε is added to the root", {"inside": choice("has ε under the root")}),
)
ERRORS = (
    Dial(
        "counts",
        "the share of wrong predictions",
        {"correct": fault("returns the accuracy"), "loss": fault("returns a loss, not a rate of errors")},
    ),
)

BANKS = {
    "squash": Bank(variants.squash, (SQUASH_AXIS, SQUASH_LENGTH)),
    "routing": Bank(variants.routing, ROUTING),
    "capsule_layer": Bank(variants.capsule_layer, ROUTING),
    "conv_capsules": Bank(variants.conv_capsules, CONV),
    "em_routing": Bank(variants.em_routing, EM),
    "margin_loss": Bank(variants.margin_loss, MARGIN),
    "reconstruction_loss": Bank(variants.reconstruction_loss, RECONSTRUCTION),
    "mask": Bank(variants.mask, MASK),
    "adam": Bank(variants.adam, ADAM),
    "error_rate": Bank(variants.error_rate, ERRORS),
}


def variants_table() -> str:
    """Return all decisions as a table in Markdown: the paper's setting, the faults and the choices."""
    lines = [
        "| function | check | by the paper | fault: the code … | choice: the code … |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, bank in BANKS.items():
        for dial in bank.dials:
            if name in ("capsule_layer", "conv_capsules") and dial in ROUTING:
                continue
            faults, choices = (
                "; ".join(other.does for other in dial.others.values() if other.kind == kind)
                for kind in (FAULT, CHOICE)
            )
            lines.append(f"| `{name}` | {dial.name} | {dial.means} | {faults} | {choices} |")
    return "\n".join(lines)
