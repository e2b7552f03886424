"""The figures of the experiment ``routing``, in the style of ``minicaps.figures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.experiments.tables import mean_and_spread
from minicaps.figures import COLOURS, STYLE, headline, line_style


def tests(found: Mapping[str, Mapping[tuple[str, str], Sequence[float]]]) -> Figure:
    """Draw the accuracy of every arm and seed, a panel for each test, a colour for each loss.

    Parameters
    ----------
    found : mapping of str to mapping of (arm, loss) to values
        By test, the accuracies of all seeds, 0 to 1. An arm may be missing from a test.
    """
    keys = list(dict.fromkeys(key for by_arm in found.values() for key in by_arm))
    arms, losses = (list(dict.fromkeys(key[k] for key in keys)) for k in (0, 1))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.32 * len(arms) + 1.4))
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, (test, by_arm) in zip(panels, found.items(), strict=True):
            for (arm, loss), values in by_arm.items():
                k = losses.index(loss)
                row = arms.index(arm) + 0.24 * (k - (len(losses) - 1) / 2)
                _draw_seeds(axes, row, values, COLOURS[k + 1])
            axes.set_title(test[0].upper() + test[1:])
            axes.set_xlabel("Correct (%)")
        panels[0].set_yticks(range(len(arms)), arms)
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        for k, loss in enumerate(losses):
            panels[0].plot([], [], "o", color=COLOURS[k + 1], markersize=4, label=loss)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(losses))
        headline(
            figure, "Test accuracy (dots: mean over the seeds, with standard deviation; ticks: each seed)"
        )
        return figure


def _draw_seeds(axes: Axes, row: float, values: Sequence[float], colour: str) -> None:
    """Draw accuracies 0 to 1 in percent: each, their mean, and their standard deviation."""
    mean, spread = (100 * value for value in mean_and_spread(values))
    axes.plot(100 * np.asarray(values), np.full(len(values), row), "|", color=colour, alpha=0.5, markersize=6)
    axes.errorbar(mean, row, xerr=spread, fmt="o", markersize=4, capsize=2, color=colour)


def turned(found: Mapping[str, Mapping[str, Array]], angles: Sequence[float], goal: float) -> Figure:
    """Draw by how much each arm is better than the mean of all, against the angle, a panel for each loss.

    Parameters
    ----------
    found : mapping of str to mapping of str to array (seeds, angles)
        By loss and arm, the accuracies 0 to 1.
    angles : sequence of numbers
        Degrees.
    goal : float
        The accuracy, 0 to 1, at which all are equal on images as they were trained on.
    """
    arms = list(dict.fromkeys(arm for by_arm in found.values() for arm in by_arm))
    means = [values.mean(axis=0) for by_arm in found.values() for values in by_arm.values()]  # (angles,) each
    middle = np.mean(means, axis=0) if means else np.zeros(len(angles))  # (angles,)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.8))
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, (loss, by_arm) in zip(panels, found.items(), strict=True):
            for k, arm in enumerate(arms):
                better = 100 * (by_arm[arm].mean(axis=0) - middle) if arm in by_arm else []  # (angles,)
                axes.plot(angles if arm in by_arm else [], better, label=arm, **line_style(k))
            labels = [f"{angle}°\n{100 * mean:.0f} %" for angle, mean in zip(angles, middle, strict=True)]
            axes.set_xticks(angles, labels if means else map(str, angles))
            axes.set_title(loss[0].upper() + loss[1:])
            axes.set_xlabel("Turned by, and the mean accuracy")
        panels[0].set_ylabel("Above the mean (points)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
        headline(
            figure,
            f"Turned further than in training, all at {100 * goal:g} % of images turned as in training",
        )
        return figure
