"""The experiments' figures that are made of images, in the style of ``minicaps.figures``."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.figures import COLOURS, LINES, STYLE, as_text, draw_image, headline, line_style, name_row

# -- affine -----------------------------------------------------------------------------------


def samples(placed: Array, warped: Array, columns: int = 12) -> Figure:
    """Draw 8-bit images (N, H, W, C) and below each the same image warped."""
    with matplotlib.rc_context(STYLE):
        count = min(columns, len(placed))
        figure = Figure(figsize=(0.72 * count + 0.6, 2.0))
        grid = figure.subplots(2, count, squeeze=False)
        for row, (name, images) in enumerate({"placed": placed, "warped": warped}.items()):
            for k in range(count):
                draw_image(grid[row, k], images[k] / 255, "")
            name_row(grid[row, 0], name)
        headline(figure, "Trained on digits as above, tested on digits as below")
        return figure


# -- overlap ----------------------------------------------------------------------------------


def pairs(
    images: Array,
    parts: Array,
    reconstructions: Array,
    labels: Array,
    predictions: Array,
    correct: Array,
    columns: int = 6,
) -> Figure:
    """Draw overlapping digits, their parts and both reconstructions (Sabour et al. 2017, figure 5).

    Parameters
    ----------
    images : array (N, H, W, 1), 0 to 1
    parts, reconstructions : arrays (N, 2, H, W, 1), 0 to 1
        In orange the first, in blue the second of each.
    labels, predictions : integer arrays (N, 2)
    correct : boolean array (N,)
    columns : int
        How many correct and how many wrong pairs to draw, at most.
    """
    chosen = [*np.flatnonzero(correct)[:columns], *np.flatnonzero(~correct)[:columns]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.95 * len(chosen) + 1.1, 3.6))
        grid = figure.subplots(3, len(chosen), squeeze=False)
        for column, k in enumerate(chosen):
            first, second = predictions[k]
            swapped = first == labels[k, 1] or second == labels[k, 0]  # one digit keeps one colour
            order = [1, 0] if swapped else [0, 1]
            draw_image(grid[0, column], images[k], "correct" if correct[k] else "wrong")
            draw_image(grid[1, column], two_colours(parts[k]), " + ".join(map(str, labels[k])))
            made, said = two_colours(reconstructions[k, order]), " + ".join(map(str, predictions[k, order]))
            draw_image(grid[2, column], made, said)
        for row, text in enumerate(("input", "true parts", "reconstructions")):
            name_row(grid[row, 0], text)
        headline(
            figure, "Two digits over each other, and their reconstructions from the two longest capsules"
        )
        return figure


def two_colours(parts: Array) -> Array:
    """Lay two grey images (2, H, W, 1) over each other, in orange and in blue: (H, W, 3)."""
    colours = np.array([matplotlib.colors.to_rgb(COLOURS[k]) for k in (4, 5)])  # (2, 3)
    return (parts * colours[:, None, None]).sum(axis=0).clip(0, 1)


# -- rotate -----------------------------------------------------------------------------------


def degrees(angle: int) -> str:
    """Write an angle with its sign: -10°, 0°, +10°."""
    return f"{angle:+d}°" if angle else "0°"


def one_turning_digit(
    images: Array, angles: Sequence[int] | Array, capsule: Array, names: Sequence[str] | Array
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
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 3)).ravel()
        for k, axes in enumerate(above.subplots(1, len(images), squeeze=False)[0]):
            name = as_text(names[k], 8)
            space = " " if len(name) < 4 else "\n"
            draw_image(axes, images[k], f"{degrees(angles[k])}:{space}{name}")
        axes = below.subplots()
        strongest = np.argsort(np.ptp(capsule, axis=0))[: -len(LINES) - 1 : -1]
        for d in range(capsule.shape[1]):
            if d not in strongest:
                axes.plot(angles, capsule[:, d], color="0.8", linewidth=0.8)
        for k, d in enumerate(strongest):
            axes.plot(angles, capsule[:, d], label=f"dimension {d}", **line_style(k))
        axes.set(xlabel="Turned by (degrees)", ylabel="Number in the capsule", xticks=angles)
        axes.set_title("The numbers of the capsule of its class (grey: those that move less)")
        below.legend(fontsize=7, ncols=len(LINES), loc="outside lower center")
        return figure
