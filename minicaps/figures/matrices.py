"""Figures of matrix capsules: how active the class capsules are, and the pose of each."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from minicaps.arrays import Array
from minicaps.checks import check_shape
from minicaps.figures.capsules import IMAGE
from minicaps.figures.style import (
    COLOURS,
    STYLE,
    draw_image,
    foremost,
    headline,
    name_ticks,
    room_for_names,
    short_name,
    shown_of,
    title_only,
    write_numbers,
)
from minicaps.figures.text import as_text

SIGNS = "PuOr"  # of numbers of both signs: brown is below 0, violet above
SIDE = 4  # of a pose
COLUMNS = 5  # of poses beside each other
AT_COORDINATES = "\nUpper right, two numbers also hold the mean row and column of the votes"


def activations(image: Array, a: Array, class_names: Sequence[str]) -> Figure:
    """Draw an image, and how active the capsule of each class is.

    Of more than 30 classes the 20 most active are drawn.

    Parameters
    ----------
    image : array (H, W, C), 0 to 1
    a : array (J,), 0 to 1
    class_names : sequence of J str

    Raises
    ------
    ValueError
        If a shape is another.
    """
    a, shown, names, note = _most_active("activations", a, class_names)
    check_shape("activations", "image", image, *IMAGE)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.4, 0.3 * len(shown) + 2.4), 2.4 + room_for_names(names)))
        left, right = figure.subplots(1, 2, width_ratios=(1, 2.6))
        draw_image(left, image, "image")
        colours = [COLOURS[1] if j == a.argmax() else "0.7" for j in shown]
        right.bar(range(len(shown)), a[shown], color=colours)
        name_ticks(right, names, None)
        right.yaxis.set_major_locator(MultipleLocator(0.25))
        right.set(xlabel="Class", ylabel="Activation a", ylim=(0, 1))
        headline(figure, f"{_winner(a, class_names)}{note}")
        return figure


def poses(mu: Array, a: Array, class_names: Sequence[str], coordinates: bool = False) -> Figure:
    """Draw the pose of every class capsule, a matrix of 4×4 numbers.

    Of more than 30 classes the 20 most active are drawn.

    Parameters
    ----------
    mu : array (J, 16)
        Row by row.
    a : array (J,), 0 to 1
    class_names : sequence of J str
    coordinates : bool
        Whether row and column were added to the votes, as ClassMatrixCaps does; then the title says so.

    Raises
    ------
    ValueError
        If a shape is another.
    """
    a, shown, _, note = _most_active("poses", a, class_names)
    mu = np.asarray(mu)
    check_shape("poses", "mu", mu, ("classes J", len(class_names)), ("numbers of a pose E", SIDE**2))
    largest = max(abs(mu[shown]).max(), 1e-9)
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.0, 1.5 * columns + 0.8), 1.45 * rows + 0.7))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.axis("off")
        for axes, j in zip(panels, shown, strict=False):
            pose = mu[j].reshape(SIDE, SIDE)  # (4, 4)
            heat_map = axes.imshow(pose, cmap=SIGNS, vmin=-largest, vmax=largest)
            write_numbers(heat_map, pose, "{:.2f}".format)
            title_only(axes, f"{short_name(class_names[j])}: a = {a[j]:.2f}")
        figure.colorbar(heat_map, ax=list(panels), label="Number of the pose", fraction=0.04)
        note = f"{AT_COORDINATES if coordinates else ''}{note}"
        headline(figure, f"The poses of the class capsules. {_winner(a, class_names)}{note}")
        return figure


def _winner(a: Array, class_names: Sequence[str]) -> str:
    best = int(a.argmax())
    return f"The most active is {as_text(class_names[best])}: {a[best]:.2f}"


def _most_active(where: str, a: Array, class_names: Sequence[str]) -> tuple[Array, Array, list[str], str]:
    """Return activations (J,), the classes to show (j,), their names, and a line on what is left out."""
    a = np.asarray(a)
    check_shape(where, "a", a, ("classes J", len(class_names)))
    shown = foremost(a)  # (j,)
    names = [class_names[j] for j in shown]
    return a, shown, names, shown_of(shown, len(a), "most active classes")
