"""Figures of what is inside a capsule network: squash, couplings, the dimensions of a capsule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.checks import check_shape
from minicaps.figures.style import (
    COLOURS,
    HEAT,
    MAX_INCHES,
    STYLE,
    as_picture,
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

IMAGE = (("height H", None), ("width W", None), ("channels C", None))
MAX_NUMBERS = 60  # couplings that are written into their cells
MAX_ITERATIONS = 8  # of routing, beside each other


def squash_curve() -> Figure:
    """Draw the length of v = squash(s) against the length n of s: n²/(1 + n²)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.2))
        axes = figure.subplots()
        n, short = np.linspace(0, 5, 251), np.linspace(0, 1, 51)
        axes.plot(n, n**2 / (1 + n**2), color=COLOURS[0], label="n²/(1 + n²)")
        axes.axhline(1, color=COLOURS[1], linestyle="--", label="1, which no length reaches")
        axes.plot(short, short**2, color=COLOURS[2], linestyle=":", label="n², close for short vectors")
        for length in (0.1, 0.5, 1, 2, 3, 4):
            squashed = length**2 / (1 + length**2)
            axes.plot(length, squashed, "o", color=COLOURS[0], markersize=4)
            text, beside = f"{length:g} → {squashed:.2f}", (13, 1) if length < 0.5 else (6, -10)
            axes.annotate(text, (length, squashed), beside, textcoords="offset points", fontsize=8)
        axes.set(xlim=(0, 5), ylim=(0, 1.08), xlabel="Length n of s", ylabel="Length of v = squash(s)")
        axes.set_title("Squash: short vectors almost vanish, long ones approach length 1")
        axes.legend(loc="lower right")
        return figure


def couplings_per_iteration(
    c: Sequence[Array],
    lower_names: Sequence[str] | None = None,
    upper_names: Sequence[str] | None = None,
    *,
    layer: str = "",
) -> Figure:
    """Draw the couplings of one image as a heat map for every routing iteration.

    Up to 60 couplings are written into their cells, and the colours run from 0 to 1. Of more, the
    largest may be far below 1; then the colours run to the largest in all iterations. Of more than 30
    upper capsules the 20 with the most couplings at the end are drawn, and of more than 8 iterations 8.

    Parameters
    ----------
    c : sequence over the iterations of arrays (I, J), 0 to 1
        As in ``[c[0] for c in cache.c]``, for the first image of a batch.
    lower_names, upper_names : sequences of I and J str, optional
        Numbers from 0, if they are not given.
    layer : str, optional
        The name of the capsule layer, for the headline, where there are several.

    Raises
    ------
    ValueError
        If the arrays disagree in shape with each other or with the names, or if there is none.
    """
    c = _check_couplings("couplings_per_iteration", c, lower_names, upper_names)
    first, last = (each.max(axis=1).mean() for each in (c[0], c[-1]))
    text = (
        f"on average: {first:.2f} at first, {last:.2f} at the end" if len(c) > 1 else f"{last:.2f} on average"
    )
    shown = foremost(c[-1].mean(axis=0))  # (j,)
    note = shown_of(shown, c[0].shape[1], "upper capsules with the most couplings")
    if note:
        upper_names = [str(j) if upper_names is None else upper_names[j] for j in shown]
    panels_of = np.unique(np.linspace(0, len(c) - 1, min(len(c), MAX_ITERATIONS)).round().astype(int))  # (r,)
    drawn = {r: c[r][:, shown] for r in panels_of}  # (I, j) each
    with matplotlib.rc_context(STYLE):
        figure = _heat_maps(drawn, lower_names, upper_names)
        of_layer = f"\nin the layer {as_text(layer)}" if layer else ""
        headline(figure, f"The strongest coupling of a lower capsule{of_layer},\n{text}{note}")
        return figure


def _heat_maps(
    c: Mapping[int, Array], lower_names: Sequence[str] | None, upper_names: Sequence[str] | None
) -> Figure:
    """Draw couplings (I, J) by iteration, counted from 0, on one scale."""
    lower, upper = next(iter(c.values())).shape
    few = lower * upper <= MAX_NUMBERS and 0.42 * upper * len(c) <= MAX_INCHES
    width = min(MAX_INCHES, max(2.0, 0.42 * upper if few else 0.2 * upper) * len(c)) + 1.2
    height = 0.3 * lower + 1.6 if few else min(9.0, max(3.6, lower / 130))
    height += max(0.0, room_for_names(upper_names) - 0.6)  # there is room for six letters
    largest = 1 if few else max(each.max() for each in c.values())
    figure = Figure(figsize=(max(4.0, width), height))
    panels = figure.subplots(1, len(c), sharey=True, squeeze=False)[0]
    for axes, (r, each) in zip(panels, c.items(), strict=True):
        heat_map = axes.imshow(each, cmap=HEAT, vmin=0, vmax=largest, aspect="auto", interpolation="nearest")
        name_ticks(axes, upper_names, lower_names)
        axes.set(title=f"Iteration {r + 1}" if len(c) > 1 else "", xlabel="Upper capsule j")
        if few:
            write_numbers(heat_map, each, "{:.2f}".format)
    panels[0].set_ylabel("Lower capsule i")
    figure.colorbar(heat_map, ax=list(panels), label="Coupling c")
    return figure


def _check_couplings(
    where: str, c: Sequence[Array], lower_names: Sequence[str] | None, upper_names: Sequence[str] | None
) -> list[Array]:
    """Return the couplings (I, J) of every iteration as arrays, if their shapes and names agree."""
    c = [np.asarray(each) for each in c]
    if not c:
        raise ValueError(f"{where}: c has 0 iterations, expected 1 or more")
    lower, upper = (None if names is None else len(names) for names in (lower_names, upper_names))
    for r, each in enumerate(c):
        check_shape(where, f"c[{r}]", each, ("lower capsules I", lower), ("upper capsules J", upper))
        lower, upper = each.shape
    return c


def couplings_over_image(
    image: Array, c: Array, grid: tuple[int, int], class_names: Sequence[str], *, layer: str = ""
) -> Figure:
    """Draw where on the image the couplings to each class come from.

    Of more than 30 classes the 20 with the most couplings are drawn.

    Parameters
    ----------
    image : array (H, W, C), 0 to 1
    c : array (I, J), 0 to 1
        Couplings of this image, with I = P·Q·types; capsule (p·Q + q)·types + t stands at row p,
        column q. A map shows their mean over the types, from the smallest of all maps to the largest.
    grid : (P, Q)
        A network's ``grid``.
    class_names : sequence of J str
    layer : str, optional
        The name of the capsule layer, for the headline, where these are no couplings to classes.

    Raises
    ------
    ValueError
        If a shape is another, or I is no multiple of P·Q, or the grid has one position only.
    """
    c, classes, positions = np.asarray(c), len(class_names), grid[0] * grid[1]
    check_shape("couplings_over_image", "image", image, *IMAGE)
    check_shape("couplings_over_image", "c", c, ("lower capsules I", None), ("classes J", classes))
    if positions == 1:
        raise ValueError(
            "couplings_over_image: the grid is 1 × 1, expected a larger one: every lower capsule sees the "
            "whole image, so there is no place that a coupling comes from"
        )
    if len(c) % positions:
        raise ValueError(
            f"couplings_over_image: c has {len(c)} lower capsules, expected a multiple of "
            f"{positions}, the positions of the grid {grid[0]} × {grid[1]}"
        )
    maps = c.reshape(*grid, -1, classes).mean(axis=2)  # (P, Q, J)
    mean = maps.mean(axis=(0, 1))  # (J,)
    best, shown = int(mean.argmax()), foremost(mean)  # (j,)
    maps = maps[..., shown]  # (P, Q, j)
    smallest = maps.min()
    largest = max(maps.max(), smallest + 0.1 / classes)  # so that rounding errors are no pattern
    with matplotlib.rc_context(STYLE):
        figure, panels = _image_and_panels(len(shown))
        draw_image(panels["image"], image, "image")
        for k, j in enumerate(shown):
            heat_map = panels[k].imshow(maps[..., k], cmap=HEAT, vmin=smallest, vmax=largest)
            title_only(panels[k], f"to {short_name(class_names[j])}")
        for axes in panels.values():
            axes.set_anchor("N")  # so that their upper edges are in line
        of_classes = [panels[k] for k in range(len(shown))]
        figure.colorbar(heat_map, ax=of_classes, label="Coupling c, mean over types", fraction=0.05)
        digits = ".2f" if classes <= 100 else ".1g"
        text = f"{mean[best]:{digits}} on average (an even share is {1 / classes:{digits}})"
        what = "capsules" if layer else "classes"
        note = shown_of(shown, classes, f"{what} with the most couplings")
        of_layer = f" in the layer {as_text(layer)}" if layer else ""
        most = as_text(class_names[best])
        headline(figure, f"Where the couplings{of_layer} go: most to {most},\n{text}{note}")
        return figure


def _image_and_panels(classes: int) -> tuple[Figure, dict[Any, Any]]:
    """Return a figure with a panel "image", two columns wide, and beside it one for each class."""
    columns = min(5, max(2, -(-classes // 2)))
    rows = -(-classes // columns)
    cells = [*range(classes), *["."] * (rows * columns - classes)]
    mosaic = [["image", "image", *cells[r * columns : (r + 1) * columns]] for r in range(rows)]
    figure = Figure(figsize=(max(5.9, 0.95 * columns + 3.2), max(2.4, 1.15 * rows + 0.5)))
    return figure, figure.subplot_mosaic(mosaic)


def dimension_grid(reconstructions: Array, offsets: Sequence[float] | Array) -> Figure:
    """Draw what each dimension of a capsule does (Sabour et al. 2017, figure 4).

    Of more than 30 dimensions the 20 that change the image most are drawn.

    Parameters
    ----------
    reconstructions : array (D, N, H, W, C), 0 to 1
        Entry (d, n) has offset n added to dimension d.
    offsets : sequence of N floats

    Raises
    ------
    ValueError
        If the shape is another.
    """
    images, axes_of = np.asarray(reconstructions), (("dimensions D", None), ("offsets N", len(offsets)))
    check_shape("dimension_grid", "reconstructions", images, *axes_of, *IMAGE)
    change = np.abs(images[:, -1] - images[:, 0]).mean(axis=(1, 2, 3))  # (D,)
    shown = foremost(change)  # (d,)
    sheet, (height, width) = _sheet(images[shown])
    rows, columns = len(shown), len(offsets)
    note = shown_of(shown, len(images), "dimensions that change it most")
    with matplotlib.rc_context(STYLE):
        wide = min(0.5, MAX_INCHES / columns, MAX_INCHES / rows * width / height)  # of a column, in inches
        upright = wide < 0.4  # the numbers below the columns
        high = max(0.7, wide * rows * height / width) + (1.6 if upright else 1.1)
        figure = Figure(figsize=(max(4.6 if note else 3.6, wide * columns + 0.7), high))
        axes = figure.subplots()
        draw_image(axes, sheet, "")
        axes.set_xticks((width + 1) * (np.arange(columns) + 0.5), [f"{x:+.2f}" for x in offsets])
        axes.set_yticks((height + 1) * (np.arange(rows) + 0.5), map(str, shown))
        axes.tick_params("x", length=0, rotation=90 if upright else 0)
        axes.tick_params("y", length=0)
        axes.set(xlabel="Added to this dimension", ylabel="Dimension")
        text = f"number {change.argmax()} changes the image most{note}"
        headline(figure, f"In each row one dimension moves;\n{text}")
        return figure


def _sheet(images: Array) -> tuple[Array, tuple[int, int]]:
    """Lay images (D, N, H, W, C) out with white lines between; return that, and the size of one as drawn."""
    pictures = as_picture(images)  # (D, N, h, w) or (D, N, h, w, 3)
    rows, columns, height, width, *colours = pictures.shape
    tiles = np.ones((rows, columns, height + 1, width + 1, *(colours or [1])))
    tiles[:, :, 1:, 1:] = pictures.reshape(rows, columns, height, width, -1)
    sheet = tiles.swapaxes(1, 2).reshape(rows * (height + 1), columns * (width + 1), -1)
    return sheet, (height, width)
