"""The experiments' figures of numbers against numbers, in the style of ``minicaps.figures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minicaps.arrays import Array
from minicaps.experiments.tables import mean_and_spread
from minicaps.experiments.training import Row
from minicaps.figures import COLOURS, HEAT, STYLE, headline, line_style, name_ticks

RANGES = {"angle": (-20, 20), "shear": (-0.2, 0.2), "scale": (0.8, 1.2)}  # of affNIST
MAX_BELOW = 0.05  # the base: the accuracy of a variant that is worse is written, not drawn
AXES = {"angle": "Turned by (degrees)", "shear": "Shear", "scale": "Scale of both axes"}


def curves(
    runs: Mapping[str, Sequence[Sequence[Row]]],
    *,
    x: str,
    y: str,
    xlabel: str,
    ylabel: str,
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Draw learning curves in percent: the mean over the seeds, and a band from the lowest to the highest.

    Parameters
    ----------
    runs : mapping of str to sequence of curves
        For every network the curve of each seed, as ``study.learn`` returns it.
    x, y : str
        What to take of the curves.
    published : mapping of str to float, optional
        Percentages to mark by thin lines, of some or all networks.
    """
    published = published or {}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6))
        axes = figure.subplots()
        finals: dict[str, float] = {}
        for k, (name, seeds) in enumerate(runs.items()):
            values = 100 * np.array([[point[y] for point in curve] for curve in seeds])  # (seeds, points)
            finals[name] = values[:, -1].mean()
            label = f"{name}: {finals[name]:.2f} %"
            if name in published:
                label += f", published {published[name]:.2f} %"
                line = line_style(k) | {"marker": "", "linewidth": 0.6}
                axes.axhline(published[name], **line)
            _mean_and_band(axes, k, [point[x] for point in seeds[0]], values, label)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        _look_at_the_end(axes, runs, y)
        axes.legend(fontsize=8, loc="lower right")
        best = max(finals, key=lambda name: finals[name])
        title = f"{best} is highest at the end" if len(runs) > 1 else f"{best} ends at {finals[best]:.2f} %"
        axes.set_title(title + (" (thin lines: published)" if published else ""))
        return figure


def _mean_and_band(axes: Axes, k: int, x: Sequence[float], values: Array, label: str) -> None:
    """Draw the mean of values (seeds, points) as the k-th curve, and a band over all of them."""
    axes.plot(x, values.mean(axis=0), label=label, **line_style(k))
    _band(axes, k, x, values.min(axis=0), values.max(axis=0))


def _band(axes: Axes, k: int, x: Sequence[float] | Array, low: Array, high: Array) -> None:
    """Fill what lies between two curves in the colour of the k-th."""
    axes.fill_between(x, low, high, color=line_style(k)["color"], alpha=0.15, linewidth=0)


def _look_at_the_end(axes: Axes, runs: Mapping[str, Sequence[Sequence[Row]]], y: str) -> None:
    """Let a curve's first points fall below the figure where they would press the rest together."""
    points = 100 * np.array([point[y] for seeds in runs.values() for curve in seeds for point in curve[1:]])
    if len(points) and np.ptp(points) > 0:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, points.min() - 0.5 * np.ptp(points)), high)


def spread_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
) -> Figure:
    """Draw shares in percent against numbers: the mean, with the standard deviation as a bar.

    Parameters
    ----------
    lines : mapping of str to (x, values)
        For every x the values of all seeds, 0 to 1.
    logarithmic : bool
        The axis of x.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.4))
        axes = figure.subplots()
        for k, (name, (x, values)) in enumerate(lines.items()):
            means, spreads = 100 * np.array([mean_and_spread(each) for each in values]).T
            axes.errorbar(x, means, spreads, label=name, capsize=3, **line_style(k))
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xticks(x, [f"{value:,}" for value in x])
        axes.minorticks_off()
        axes.set(xlabel=xlabel, ylabel=ylabel, title=f"{title} (bars: standard deviation)")
        axes.legend(fontsize=8)
        return figure


def variants(groups: Mapping[str, Mapping[str, Sequence[float]]], base: float) -> Figure:
    """Draw the accuracy of every variant and seed, group by group, beside that of the base.

    Parameters
    ----------
    groups : mapping of str to mapping of str to values
        By what is varied and by its value, the accuracies of all seeds, 0 to 1.
    base : float
        The mean accuracy that all are compared with.
    """
    with matplotlib.rc_context(STYLE):
        count = sum(map(len, groups.values()))
        figure = Figure(figsize=(7.2, 0.17 * count + 0.2 * len(groups) + 1))
        axes = figure.subplots()
        axes.axvline(100 * base, color=COLOURS[1], linewidth=0.8)
        lowest = 100 * (base - MAX_BELOW)
        row, ticks = 0.0, {}
        for group, members in groups.items():
            ticks[row] = f"{group}:"
            for name, values in members.items():
                row += 1
                ticks[row] = name
                _draw_variant(axes, row, values, lowest)
            row += 1.2
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.tick_params("y", length=0)
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text().endswith(":") else "normal")
        axes.grid(False, axis="y")
        axes.set(xlim=(max(lowest, axes.get_xlim()[0]), None), ylim=(row, -1))
        axes.set_xlabel("Validation images classified correctly (%)")
        marks = "Dots: mean over the seeds, with standard deviation; ticks: each seed"
        headline(figure, f"{marks}; blue line: the base")
        return figure


def _draw_variant(axes: Axes, row: float, values: Sequence[float], lowest: float) -> None:
    """Draw accuracies 0 to 1 in percent, or write their mean where it is below the `lowest` percentage."""
    mean, spread = (100 * value for value in mean_and_spread(values))
    if mean < lowest:
        side = axes.get_yaxis_transform()
        axes.text(0.01, row, f"◂ {mean:.2f} %", va="center", fontsize=8, transform=side)
        return
    axes.plot(100 * np.asarray(values), np.full(len(values), row), "|", color="0.4", markersize=8)
    axes.errorbar(mean, row, xerr=spread, fmt="o", color=COLOURS[0], markersize=4, capsize=3)


def folds(found: Mapping[int, Sequence[float]]) -> Figure:
    """Draw the accuracy on every fold that was held out, and the mean of each seed.

    Parameters
    ----------
    found : mapping of int to sequence of K floats
        By seed, the accuracies on the folds, 0 to 1.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.2))
        axes = figure.subplots()
        for k, (seed, accuracies) in enumerate(found.items()):
            mean, spread = (100 * value for value in mean_and_spread(accuracies))
            style, x = line_style(k), np.arange(1, len(accuracies) + 1)  # (K,)
            label = f"seed {seed}: {mean:.2f} ± {spread:.2f} %"
            axes.plot(x, 100 * np.asarray(accuracies), label=label, **style | {"linestyle": ""})
            axes.axhline(mean, color=style["color"], linestyle=style["linestyle"], linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set(xlabel="Fold held out", ylabel="Images classified correctly (%)")
        axes.set_title("Accuracy on images held out (lines: mean over the folds)")
        axes.legend(fontsize=8)
        return figure


# -- affine -----------------------------------------------------------------------------------


def sweeps(
    runs: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], values: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw the accuracy against the angle, the shear and the scale, each alone.

    Parameters
    ----------
    runs : mapping of str to sequence of mappings
        For every network and seed the accuracies (0 to 1) by "angle", "shear" and "scale".
    values : mapping of str to numbers
        The angles, shears and scales.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.5))
        panels = figure.subplots(1, len(values), sharey=True)
        for axes, (kind, x) in zip(panels, values.items(), strict=True):
            axes.axvspan(*RANGES[kind], color="0.93", linewidth=0)
            for k, (name, seeds) in enumerate(runs.items()):
                y = 100 * np.array([each[kind] for each in seeds])  # (seeds, values)
                _mean_and_band(axes, k, x, y, name)
            axes.set(xlabel=AXES[kind])
        panels[0].set_ylabel("Test images classified correctly (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
        headline(figure, "One kind of warp at a time (shaded: the range of the test with all warps at once)")
        return figure


# -- rotate -----------------------------------------------------------------------------------


def turning(rows: Sequence[Row], class_names: Sequence[str]) -> Figure:
    """Draw length and direction of the winning capsule, and the accuracy, against the angle.

    Parameters
    ----------
    rows : sequence of dict
        As in the experiment's ``result.json``.
    class_names : sequence of J str
    """
    angles = np.array([row["angle"] for row in rows])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.5))
        length, direction, classes = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
        for k, (axes, name) in enumerate(((length, "length"), (direction, "direction"))):
            mean, spread = (np.array([row[key] for row in rows]) for key in (name, f"{name}_spread"))
            axes.plot(angles, mean, **line_style(k))
            _band(axes, k, angles, mean - spread, mean + spread)
            axes.set(xlabel="Turned by (degrees)", xticks=angles[::3])
        length.set(ylabel="Length", ylim=(0, 1.05))
        length.set_title("Its length")
        direction.set_ylabel("Angle to the upright vector (degrees)")
        direction.set_title("Its direction")
        accuracy = np.array([row["accuracy_of_class"] for row in rows], dtype=float).T  # (J, angles)
        half = (angles[1] - angles[0]) / 2
        edges = angles[0] - half, angles[-1] + half, len(class_names) - 0.5, -0.5
        heat_map = classes.imshow(100 * accuracy, cmap=HEAT, vmin=0, vmax=100, aspect="auto", extent=edges)
        name_ticks(classes, None, class_names)
        classes.set(xlabel="Turned by (degrees)", ylabel="Class", xticks=angles[::3])
        classes.set_title("Classified correctly (%)")
        figure.colorbar(heat_map, ax=classes)
        headline(figure, "The capsule that is the longest of an upright image (band: standard deviation)")
        return figure
