"""What the scores of a network are worth: how they lie in each class, and whether they are probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.checks import check_labels
from minicaps.figures.style import COLOURS, LINES, MARKERS, STYLE, foremost, headline, shown_of
from minicaps.figures.text import as_text

BINS = 10  # of the highest score, for the calibration
SERIES = ("of the true class", "highest of the others")
Z = 1.959964  # standard deviations of a 95 % interval


def scores_by_class(scores: Array, labels: Array, class_names: Sequence[str], name: str) -> Figure:
    """Draw for each class the score of the true class, and the highest of the others: median, 5 to 95 %.

    Of more than 30 classes the 20 whose images are classified wrongly most often are drawn.

    Parameters
    ----------
    scores : array (N, J), 0 to 1
    labels : integer array (N,), 0 to J - 1
    class_names : sequence of J str
    name : str
        What a score is: "length", say.
    """
    check_labels("scores_by_class", labels, len(scores), len(class_names))
    own = scores[np.arange(len(labels)), labels]  # (N,)
    others = np.where(np.arange(scores.shape[1]) == labels[:, None], -np.inf, scores).max(axis=1)  # (N,)
    wrong = np.bincount(labels[scores.argmax(axis=1) != labels], minlength=len(class_names))  # (J,)
    shown = foremost(wrong)  # (j,)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.5 + 0.28 * len(shown)))
        axes = figure.subplots()
        for k, values in enumerate((own, others) if len(class_names) > 1 else (own,)):
            spread = np.array([_percentiles(values[labels == j]) for j in shown])  # (j, 3)
            y = np.arange(len(shown)) + 0.3 * k - 0.15  # (j,)
            axes.hlines(y, spread[:, 0], spread[:, 2], color=COLOURS[k + 1], linestyle=LINES[k])
            axes.plot(spread[:, 1], y, MARKERS[k], color=COLOURS[k + 1], markersize=4, label=SERIES[k])
        axes.set_yticks(range(len(shown)), [as_text(class_names[j]) for j in shown])
        axes.set(xlabel=name.capitalize(), ylabel="True class", xlim=(-0.02, 1.02))
        axes.invert_yaxis()
        figure.legend(loc="outside lower right", ncols=2)
        note = shown_of(shown, len(class_names), "classes with the most mistakes")
        headline(figure, f"The {name} of the true class and the highest other one: median, 5 to 95 %{note}")
        return figure


def _percentiles(values: Array) -> tuple[float, float, float]:
    """Return the 5th, 50th and 95th percentile; NaN, which is not drawn, of nothing."""
    if not len(values):
        return math.nan, math.nan, math.nan
    low, middle, high = np.percentile(values, (5, 50, 95))
    return float(low), float(middle), float(high)


class Bin(NamedTuple):
    """The images whose highest score lies between two numbers."""

    low: float
    high: float
    images: int
    score: float  # mean of the highest
    accuracy: float


def calibration(scores: Array, labels: Array) -> tuple[list[Bin], float]:
    """Compare the highest scores with how often they are right.

    Parameters
    ----------
    scores : array (N, J), 0 to 1
    labels : integer array (N,)

    Returns
    -------
    list of Bin
        Those of ten equal ones that hold images.
    float
        The expected calibration error, 0 to 1: the mean of all images of |mean score - accuracy| of
        their bin (Naeini et al. 2015).
    """
    highest, correct = scores.max(axis=1), scores.argmax(axis=1) == labels  # (N,), (N,)
    number = np.clip((highest * BINS).astype(int), 0, BINS - 1)  # (N,)
    bins = [
        Bin(
            k / BINS,
            (k + 1) / BINS,
            len(inside),
            float(highest[inside].mean()),
            float(correct[inside].mean()),
        )
        for k in range(BINS)
        if len(inside := np.flatnonzero(number == k))
    ]
    return bins, sum(each.images * abs(each.score - each.accuracy) for each in bins) / len(labels)


def interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, 0 to 1, of which `correct` of `total` were seen (Wilson 1927)."""
    share, square = correct / total, Z * Z / total
    middle = (share + square / 2) / (1 + square)
    half = Z * math.sqrt(share * (1 - share) / total + square / total / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
