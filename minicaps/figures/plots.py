"""Every figure, in one style: readable in grey print and for colour-blind eyes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minicaps.checks import check_labels, check_shape

STYLE = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "image.cmap": "gray",
    "savefig.facecolor": "white",
}
# Okabe and Ito's colours, ordered from dark to light so that they also differ in grey
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
HEAT = "Blues"  # of heat maps: light is little, dark is much, in grey print too
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def line_style(k: int) -> dict[str, Any]:
    """Return colour, dash and marker of the k-th curve: three ways to tell it from the others."""
    return {"color": COLOURS[k % 6], "linestyle": LINES[k % 6], "marker": MARKERS[k % 6],
            "markersize": 4}  # fmt: skip


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (or what the path's ending says)."""
    figure.savefig(path)


def show(figure: Figure, name: str) -> Path:
    """Save a figure as ``<folder>/<name>.png``, print the path, and display it in a notebook.

    The folder is that of the variable MINICAPS_FIGURES, or ``figures`` in the current folder; it is
    made if it is missing.

    Returns
    -------
    Path
        Of the file.
    """
    folder = Path(os.environ.get("MINICAPS_FIGURES") or "figures")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    save(figure, path)
    print(path)
    _display(path, figure.get_figwidth())
    return path


def _display(path: Path, inches: float) -> None:
    """Display an image in the notebook that this runs in, if it runs in one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:  # not in IPython, or in a terminal without pictures
        return
    from IPython.display import Image, display

    display(Image(filename=str(path), width=round(100 * inches)))


def learning_curves(epochs: Sequence[dict[str, Any]]) -> Figure:
    """Draw loss and accuracy over the epochs, for training and validation.

    Parameters
    ----------
    epochs : sequence of dict
        As in ``metrics.jsonl``: ``epoch``, ``train_loss``, ``validation_loss``,
        ``train_accuracy`` and ``validation_accuracy`` (0 to 1).
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9))
        x = [row["epoch"] for row in epochs]
        panels = {
            "loss": ("Loss per image", 1, ".4f"),
            "accuracy": ("Images classified right (%)", 100, ".2f"),
        }
        for axes, (name, (label, scale, digits)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            for k, part in enumerate(("train", "validation")):
                y = [scale * row[f"{part}_{name}"] for row in epochs]
                axes.plot(x, y, label=part.replace("train", "training"), **line_style(k))
            axes.set(xlabel="Epoch", ylabel=label)
            unit = " %" if scale == 100 else ""
            axes.set_title(f"{name.capitalize()}: {y[-1]:{digits}}{unit} on validation at the end")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()
        return figure


def reconstructions(
    images: np.ndarray,
    drawn: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Draw images above what the decoder makes of the predicted capsule.

    Parameters
    ----------
    images, drawn : arrays (N, H, W, C), 0 to 1
    labels, predictions : integer arrays (N,)
    class_names : sequence of str
    """
    with matplotlib.rc_context(STYLE):
        count = len(images)
        figure = Figure(figsize=(max(5.6, 0.75 * count + 0.6), 2.1))
        grid = figure.subplots(2, count, squeeze=False)
        for k in range(count):
            draw_image(grid[0, k], images[k], _short(class_names[labels[k]]))
            right = labels[k] == predictions[k]
            name = _short(class_names[predictions[k]])
            draw_image(grid[1, k], drawn[k], name if right else f"{name} ✗")
        for row, text in enumerate(("input", "drawn")):
            grid[row, 0].set_ylabel(text)
        headline(figure, "Inputs with their class, and what the decoder draws for the predicted class")
        return figure


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
    total: int,
    most: int = 40,
) -> Figure:
    """Draw the images that were classified wrongly, with the true and the predicted class.

    Parameters
    ----------
    images : array (N, H, W, C), 0 to 1
        The mistakes only.
    labels, predictions : integer arrays (N,)
    class_names : sequence of str
    total : int
        How many images were classified in all.
    most : int
        How many to draw.
    """
    with matplotlib.rc_context(STYLE):
        shown = min(len(images), most)
        rows = max(1, -(-shown // 8))
        figure = Figure(figsize=(7.2, 1.05 * rows + 0.5))
        grid = figure.subplots(rows, 8, squeeze=False).ravel()
        for k, axes in enumerate(grid):
            if k < shown:
                true, predicted = _short(class_names[labels[k]]), _short(class_names[predictions[k]])
                space = " " if len(true + predicted) < 11 else "\n"
                draw_image(axes, images[k], f"{true}{space}→ {predicted}")
            else:
                axes.axis("off")
        count = "all" if shown == len(images) else f"the first {shown}"
        text = f"{len(images)} of {total:,} images are classified wrongly; {count} of them, true → predicted"
        headline(figure, text)
        return figure


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw how often each class is taken for each other; the colour counts mistakes only.

    Parameters
    ----------
    labels, predictions : integer arrays (N,), 0 to J - 1
    class_names : sequence of J str
    """
    labels, predictions, classes = np.asarray(labels), np.asarray(predictions), len(class_names)
    check_shape("confusion_matrix", "labels", labels, ("images N", None))
    for each in (labels, predictions):
        check_labels("confusion_matrix", each, len(labels), classes)
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (labels, predictions), 1)  # (J, J)
    wrong = np.ma.masked_array(counts, mask=np.eye(classes, dtype=bool))  # (J, J)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.6))
        axes = figure.subplots()
        colours = matplotlib.colormaps[HEAT].with_extremes(bad="0.92")
        drawn = axes.imshow(wrong, cmap=colours, vmin=0, vmax=max(1, wrong.filled(0).max()))
        _name_ticks(axes, class_names, class_names)
        axes.set(xlabel="Predicted class", ylabel="True class")
        if classes <= 20:
            _write_numbers(drawn, counts, lambda count: str(count or ""))
        figure.colorbar(drawn, label="Images taken for another class", shrink=0.8,
                        ticks=MaxNLocator(integer=True))  # fmt: skip
        headline(figure, _most_frequent_mistake(wrong.filled(0), len(labels), class_names))
        return figure


def _most_frequent_mistake(wrong: np.ndarray, total: int, class_names: Sequence[str]) -> str:
    if not wrong.any():
        return f"All {total:,} images are classified right"
    true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
    times = "once" if wrong.max() == 1 else f"{wrong.max():,} times"
    return (f"{total - wrong.sum():,} of {total:,} images are classified right;\n"
            f"most often, {times}, {_short(class_names[true])} is taken for "
            f"{_short(class_names[predicted])}")  # fmt: skip


# -- inside a capsule network -----------------------------------------------------------------


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
            place = (13, 1) if length < 0.5 else (6, -10)
            axes.annotate(f"{length:g} → {squashed:.2f}", (length, squashed), place,
                          textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set(xlim=(0, 5), ylim=(0, 1.08), xlabel="Length n of s", ylabel="Length of v = squash(s)")
        axes.set_title("Squash: short vectors almost vanish, long ones approach length 1")
        axes.legend(loc="lower right")
        return figure


def couplings_per_iteration(
    c: Sequence[np.ndarray],
    lower_names: Sequence[str] | None = None,
    upper_names: Sequence[str] | None = None,
) -> Figure:
    """Draw the couplings of one image as a heat map for every routing iteration.

    Up to 60 couplings are written into their cells, and the colours run from 0 to 1. Of more, the
    largest may be far below 1; then the colours run to the largest in all iterations.

    Parameters
    ----------
    c : sequence over the iterations of arrays (I, J), 0 to 1
        As in ``[c[0] for c in cache.c]``, for the first image of a batch.
    lower_names, upper_names : sequences of I and J str, optional
        Numbers from 0, if they are not given.
    """
    c = _check_couplings("couplings_per_iteration", c, lower_names, upper_names)
    lower, upper = c[0].shape
    few = lower * upper <= 60
    width = max(2.0, 0.42 * upper if few else 0.2 * upper) * len(c) + 1.2
    height = 0.3 * lower + 1.6 if few else min(9.0, max(3.6, lower / 130))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.0, width), height))
        panels = figure.subplots(1, len(c), sharey=True, squeeze=False)[0]
        most = 1 if few else max(each.max() for each in c)
        for r, (axes, each) in enumerate(zip(panels, c, strict=True)):
            drawn = axes.imshow(each, cmap=HEAT, vmin=0, vmax=most, aspect="auto", interpolation="nearest")
            _name_ticks(axes, upper_names, lower_names)
            axes.set(title=f"Iteration {r + 1}", xlabel="Upper capsule j")
            if few:
                _write_numbers(drawn, each, "{:.2f}".format)
        panels[0].set_ylabel("Lower capsule i")
        figure.colorbar(drawn, ax=list(panels), label="Coupling c")
        first, last = (each.max(axis=1).mean() for each in (c[0], c[-1]))
        headline(figure, "The strongest coupling of a lower capsule,\n"
                     f"on average: {first:.2f} at first, {last:.2f} at the end")  # fmt: skip
        return figure


def _check_couplings(place: str, c: Any, lower_names: Any, upper_names: Any) -> list[np.ndarray]:
    """Return the couplings (I, J) of every iteration as arrays, if their shapes and names agree."""
    c = [np.asarray(each) for each in c]
    if not c:
        raise ValueError(f"{place}: c has 0 iterations, expected 1 or more")
    lower, upper = (None if names is None else len(names) for names in (lower_names, upper_names))
    for r, each in enumerate(c):
        check_shape(place, f"c[{r}]", each, ("lower capsules I", lower), ("upper capsules J", upper))
        lower, upper = each.shape
    return c


def couplings_over_image(
    image: np.ndarray, c: np.ndarray, grid: tuple[int, int], class_names: Sequence[str]
) -> Figure:
    """Draw where on the image the couplings to each class come from.

    Parameters
    ----------
    image : array (H, W, C), 0 to 1
    c : array (I, J), 0 to 1
        Couplings of this image, with I = P·Q·types; capsule (p·Q + q)·types + t stands at row p,
        column q. A map shows their mean over the types, from the least of all maps to the most.
    grid : (P, Q)
        A network's ``grid``.
    class_names : sequence of J str
    """
    c, classes, places = np.asarray(c), len(class_names), grid[0] * grid[1]
    check_shape("couplings_over_image", "image", image, *IMAGE)
    check_shape("couplings_over_image", "c", c, ("lower capsules I", None), ("classes J", classes))
    if len(c) % places:
        raise ValueError(f"couplings_over_image: c has {len(c)} lower capsules, expected a multiple of "
                         f"{places}, the places of the grid {grid[0]} × {grid[1]}")  # fmt: skip
    maps = c.reshape(*grid, -1, classes).mean(axis=2)  # (P, Q, J)
    least = maps.min()
    most = max(maps.max(), least + 0.1 / classes)  # so that rounding errors do not look like a pattern
    with matplotlib.rc_context(STYLE):
        figure, panels = _image_and_panels(classes)
        draw_image(panels["image"], image, "image")
        for j, name in enumerate(class_names):
            drawn = panels[j].imshow(maps[..., j], cmap=HEAT, vmin=least, vmax=most)
            _bare(panels[j], f"to {_short(name)}")
        figure.colorbar(drawn, ax=[panels[j] for j in range(classes)], label="Coupling c, mean over types")
        mean = maps.mean(axis=(0, 1))  # (J,)
        best = int(mean.argmax())
        headline(figure, f"Where the couplings go: most to {class_names[best]},\n"
                     f"{mean[best]:.2f} on average (an even share is {1 / classes:.2f})")  # fmt: skip
        return figure


def _image_and_panels(classes: int) -> tuple[Figure, dict[Any, Any]]:
    """Return a figure with a place "image", two columns wide, and beside it one for each class."""
    columns = min(5, max(2, -(-classes // 2)))
    rows = -(-classes // columns)
    cells = [*range(classes), *["."] * (rows * columns - classes)]
    mosaic = [["image", "image", *cells[r * columns : (r + 1) * columns]] for r in range(rows)]
    figure = Figure(figsize=(max(5.9, 0.95 * columns + 3.2), max(2.4, 1.45 * rows + 0.2)))
    return figure, figure.subplot_mosaic(mosaic)


def dimension_grid(drawn: np.ndarray, offsets: Sequence[float]) -> Figure:
    """Draw what each dimension of a capsule does: the paper's figure 4.

    Parameters
    ----------
    drawn : array (D, N, H, W, C), 0 to 1
        What the decoder draws when offset n is added to dimension d.
    offsets : sequence of N floats
    """
    drawn, axes = np.asarray(drawn), (("dimensions D", None), ("offsets N", len(offsets)), *IMAGE)
    check_shape("dimension_grid", "drawn", drawn, *axes)
    dimensions, count, height, width, channels = drawn.shape
    tiles = np.ones((dimensions, count, height + 1, width + 1, channels))  # a white line between images
    tiles[:, :, 1:, 1:] = drawn
    sheet = tiles.swapaxes(1, 2).reshape(dimensions * (height + 1), count * (width + 1), channels)
    change = np.abs(drawn[:, -1] - drawn[:, 0]).mean(axis=(1, 2, 3))  # (D,)
    with matplotlib.rc_context(STYLE):
        size = (max(3.6, 0.5 * count + 0.7), 0.5 * dimensions * height / width + 1.1)
        figure = Figure(figsize=size)
        axes = figure.subplots()
        draw_image(axes, sheet, "")
        axes.set_xticks((width + 1) * (np.arange(count) + 0.5), [f"{x:+.2f}" for x in offsets])
        axes.set_yticks((height + 1) * (np.arange(dimensions) + 0.5), range(dimensions))
        axes.tick_params(length=0)
        axes.set(xlabel="Added to this dimension", ylabel="Dimension")
        headline(figure, "In each row one dimension moves;\n"
                     f"number {change.argmax()} changes the image most")  # fmt: skip
        return figure


# -- what the figures share -------------------------------------------------------------------

IMAGE = (("height H", None), ("width W", None), ("channels C", None))


def headline(figure: Figure, text: str) -> None:
    """Put a sentence above all panels."""
    figure.suptitle(text, fontsize=10, x=0.01, ha="left")


def _short(name: str) -> str:
    """Return a class's name as it fits above a small image."""
    return name if len(name) <= 10 else f"{name[:9]}…"


def _name_ticks(axes: Any, columns: Sequence[str] | None, rows: Sequence[str] | None) -> None:
    """Name the columns and rows of a heat map; without names, or with many, numbers stand there."""
    axes.grid(False)
    for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
        if names is None or len(names) > 20:
            axis.get_major_locator().set_params(integer=True)
        else:
            axis.set_ticks(range(len(names)), names)
    if columns is not None and sum(map(len, columns)) > 30:
        axes.tick_params("x", rotation=90)


def _write_numbers(drawn: Any, values: np.ndarray, text: Callable[[Any], str]) -> None:
    """Write values (rows, columns) into the cells of a heat map, in white where it is dark."""
    dark = drawn.to_rgba(drawn.get_array())[..., :3].mean(axis=-1) < 0.5  # (rows, columns)
    for (row, column), value in np.ndenumerate(values):
        drawn.axes.text(column, row, text(value), ha="center", va="center", fontsize=7,
                        color="white" if dark[row, column] else "black")  # fmt: skip


def draw_image(axes: Any, image: np.ndarray, title: str) -> None:
    """Draw an image (H, W, C), 0 to 1, without ticks."""
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, vmin=0, vmax=1)
    _bare(axes, title)


def _bare(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=8, loc="center", pad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
