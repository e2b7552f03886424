"""The figures of the experiments, in the style of ``plots``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps.experiments.tables import mean_and_spread
from minicaps.experiments.training import Row
from minicaps.figures.plots import COLOURS, HEAT, LINES, STYLE, draw_image, headline, line_style

RANGES = {"angle": (-20, 20), "shear": (-0.2, 0.2), "scale": (0.8, 1.2)}  # of affNIST
FAR = 0.05  # below the base: a variant's accuracy is written instead of drawn
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
    """Draw learning curves in percent: the mean over the seeds, and a band from the least to the most.

    Parameters
    ----------
    runs : mapping of str to sequence of curves
        For every network the curve of each seed, as ``study.learn`` returns it.
    x, y : str
        What to take of the curves.
    published : mapping of str to float, optional
        Percentages to mark by thin lines, of some or all networks.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6))
        axes = figure.subplots()
        finals = {}
        for k, (name, seeds) in enumerate(runs.items()):
            values = 100 * np.array([[point[y] for point in curve] for curve in seeds])  # (seeds, points)
            at, style = [point[x] for point in seeds[0]], line_style(k)
            finals[name] = values[:, -1].mean()
            label = f"{name}: {finals[name]:.2f} %"
            if published and name in published:
                label += f", published {published[name]:.2f} %"
                axes.axhline(
                    published[name], color=style["color"], linestyle=style["linestyle"], linewidth=0.6
                )
            axes.plot(at, values.mean(axis=0), label=label, **style)
            axes.fill_between(at, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.15,
                              linewidth=0)  # fmt: skip
        axes.set(xlabel=xlabel, ylabel=ylabel)
        _look_at_the_end(axes, runs, y)
        axes.legend(fontsize=8, loc="lower right")
        best = max(finals, key=finals.get)
        title = f"{best} is highest at the end" if len(runs) > 1 else f"{best} ends at {finals[best]:.2f} %"
        axes.set_title(title + (" (thin lines: published)" if published else ""))
        return figure


def _look_at_the_end(axes: Any, runs: Mapping[str, Sequence[Sequence[Row]]], y: str) -> None:
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
            means, spreads = zip(*(mean_and_spread(each) for each in values), strict=True)
            axes.errorbar(x, 100 * np.array(means), 100 * np.array(spreads), label=name, capsize=3,
                          **line_style(k))  # fmt: skip
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
        least = 100 * (base - FAR)
        row, ticks = 0.0, {}
        for group, members in groups.items():
            ticks[row] = f"{group}:"
            for name, values in members.items():
                row += 1
                ticks[row] = name
                mean, spread = mean_and_spread(values)
                if 100 * mean < least:
                    axes.text(0.01, row, f"◂ {100 * mean:.2f} %", va="center", fontsize=8,
                              transform=axes.get_yaxis_transform())  # fmt: skip
                    continue
                axes.plot(100 * np.asarray(values), np.full(len(values), row), "|", color="0.4", markersize=8)
                axes.errorbar(100 * mean, row, xerr=100 * spread, fmt="o", color=COLOURS[0], markersize=4,
                              capsize=3)  # fmt: skip
            row += 1.2
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.tick_params("y", length=0)
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text().endswith(":") else "normal")
        axes.grid(False, axis="y")
        axes.set(xlim=(max(least, axes.get_xlim()[0]), None), ylim=(row, -1))
        axes.set_xlabel("Validation images classified right (%)")
        headline(figure, "Dots: mean over the seeds, with standard deviation; ticks: each seed; "
                 "blue line: the base")  # fmt: skip
        return figure


# -- affine -----------------------------------------------------------------------------------


def samples(placed: np.ndarray, warped: np.ndarray, columns: int = 12) -> Figure:
    """Draw 8-bit images (N, H, W, C) and below each the same image warped."""
    with matplotlib.rc_context(STYLE):
        count = min(columns, len(placed))
        figure = Figure(figsize=(0.72 * count + 0.6, 2.0))
        grid = figure.subplots(2, count, squeeze=False)
        for row, (name, images) in enumerate({"placed": placed, "warped": warped}.items()):
            for k in range(count):
                draw_image(grid[row, k], images[k] / 255, "")
            grid[row, 0].set_ylabel(name)
        headline(figure, "Trained on digits as above, tested on digits as below")
        return figure


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
        figure = Figure(figsize=(8.4, 3.2))
        panels = figure.subplots(1, len(values), sharey=True)
        for axes, (kind, x) in zip(panels, values.items(), strict=True):
            axes.axvspan(*RANGES[kind], color="0.93", linewidth=0)
            for k, (name, seeds) in enumerate(runs.items()):
                y = 100 * np.array([each[kind] for each in seeds])  # (seeds, values)
                style = line_style(k)
                axes.plot(x, y.mean(axis=0), label=name, **style)
                axes.fill_between(
                    x, y.min(axis=0), y.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
                )
            axes.set(xlabel=AXES[kind])
        panels[0].set_ylabel("Test images classified right (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
        headline(figure, "One kind of warp at a time (shaded: the range of the test with all warps at once)")
        return figure


# -- overlap ----------------------------------------------------------------------------------


def pairs(
    images: np.ndarray,
    parts: np.ndarray,
    drawn: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    right: np.ndarray,
    columns: int = 6,
) -> Figure:
    """Draw overlapping digits, their parts and both drawings in two colours: the paper's figure 5.

    Parameters
    ----------
    images : array (N, H, W, 1), 0 to 1
    parts, drawn : arrays (N, 2, H, W, 1), 0 to 1
        In orange the first, in blue the second of each.
    labels, predictions : integer arrays (N, 2)
    right : boolean array (N,)
    columns : int
        How many right and how many wrong pairs to draw, at most.
    """
    chosen = [*np.flatnonzero(right)[:columns], *np.flatnonzero(~right)[:columns]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.95 * len(chosen) + 0.6, 3.9))
        grid = figure.subplots(3, len(chosen), squeeze=False)
        for column, k in enumerate(chosen):
            first, second = predictions[k]
            if first == labels[k, 1] or second == labels[k, 0]:  # one digit keeps one colour
                order, said = [1, 0], (second, first)
            else:
                order, said = [0, 1], (first, second)
            draw_image(grid[0, column], images[k], "right" if right[k] else "wrong")
            draw_image(grid[1, column], two_colours(parts[k]), f"{labels[k, 0]} + {labels[k, 1]}")
            draw_image(grid[2, column], two_colours(drawn[k, order]), f"{said[0]} + {said[1]}")
        for row, text in enumerate(("input", "true parts", "drawn")):
            grid[row, 0].set_ylabel(text)
        headline(
            figure, "Two digits over each other, and what the decoder draws for the two longest capsules"
        )
        return figure


def two_colours(parts: np.ndarray) -> np.ndarray:
    """Lay two grey images (2, H, W, 1) over each other, in orange and in blue: (H, W, 3)."""
    colours = np.array([matplotlib.colors.to_rgb(COLOURS[k]) for k in (4, 5)])  # (2, 3)
    return (parts * colours[:, None, None]).sum(axis=0).clip(0, 1)


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
        figure = Figure(figsize=(8.6, 3.3))
        length, direction, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
        for k, (axes, name) in enumerate(((length, "length"), (direction, "direction"))):
            mean, spread = (np.array([row[key] for row in rows]) for key in (name, f"{name}_spread"))
            axes.plot(angles, mean, **line_style(k))
            axes.fill_between(angles, mean - spread, mean + spread, color=COLOURS[k], alpha=0.15, linewidth=0)
            axes.set(xlabel="Turned by (degrees)", xticks=angles[::3])
        length.set(ylabel="Length", ylim=(0, 1.05))
        length.set_title("Its length")
        direction.set_ylabel("Angle to the upright vector (degrees)")
        direction.set_title("Its direction")
        accuracy = np.array([row["accuracy_of_class"] for row in rows], dtype=float).T  # (J, angles)
        drawn = right.imshow(100 * accuracy, cmap=HEAT, vmin=0, vmax=100, aspect="auto")
        right.set_xticks(range(0, len(angles), 3), angles[::3])
        right.set_yticks(range(len(class_names)), class_names)
        right.grid(False)
        right.set(xlabel="Turned by (degrees)", ylabel="Class")
        right.set_title("Classified right (%)")
        figure.colorbar(drawn, ax=right)
        headline(figure, "The capsule that is the longest of an upright image (band: standard deviation)")
        return figure


def degrees(angle: int) -> str:
    """Write an angle with its sign: -10°, 0°, +10°."""
    return f"{angle:+d}°" if angle else "0°"


def one_turning_digit(
    images: np.ndarray, angles: Sequence[int], capsule: np.ndarray, names: Sequence[str]
) -> Figure:
    """Draw an image at every angle, with its class, above the numbers of one capsule.

    Parameters
    ----------
    images : array (A, H, W, C), 0 to 1
    angles : sequence of A numbers, in degrees
    capsule : array (A, E)
    names : sequence of A str
        The class found at every angle.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.62 * len(images) + 0.8, 4.2))
        above, below = figure.subfigures(2, 1, height_ratios=(1, 3))
        for k, axes in enumerate(above.subplots(1, len(images), squeeze=False)[0]):
            draw_image(axes, images[k], f"{degrees(angles[k])}: {names[k]}")
        axes = below.subplots()
        strongest = np.argsort(np.ptp(capsule, axis=0))[: -len(LINES) - 1 : -1]
        for d in range(capsule.shape[1]):
            if d not in strongest:
                axes.plot(angles, capsule[:, d], color="0.8", linewidth=0.8)
        for k, d in enumerate(strongest):
            axes.plot(angles, capsule[:, d], label=f"dimension {d}", **line_style(k))
        axes.set(xlabel="Turned by (degrees)", ylabel="Number in the capsule", xticks=angles)
        axes.set_title("The numbers of the capsule of its class (grey: those that move less)")
        axes.legend(fontsize=7, ncols=3)
        return figure
