"""Every figure, in one style: readable in grey print and for colour-blind eyes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

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
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def line_style(k: int) -> dict[str, Any]:
    """Return colour, dash and marker of the k-th curve: three ways to tell it from the others."""
    return {"color": COLOURS[k % 6], "linestyle": LINES[k % 6], "marker": MARKERS[k % 6],
            "markersize": 4}  # fmt: skip


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (or what the path's ending says)."""
    figure.savefig(path)


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
        figure = Figure(figsize=(0.75 * count + 0.6, 2.1))
        grid = figure.subplots(2, count, squeeze=False)
        for k in range(count):
            _show(grid[0, k], images[k], class_names[labels[k]])
            right = labels[k] == predictions[k]
            name = class_names[predictions[k]]
            _show(grid[1, k], drawn[k], name if right else f"{name} ✗")
        for row, text in enumerate(("input", "drawn")):
            grid[row, 0].set_ylabel(text)
        figure.suptitle("Inputs with their class, and what the decoder draws for the predicted class",
                        fontsize=10, x=0.01, ha="left")  # fmt: skip
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
                text = f"{class_names[labels[k]]} → {class_names[predictions[k]]}"
                _show(axes, images[k], text)
            else:
                axes.axis("off")
        count = "all" if shown == len(images) else f"the first {shown}"
        figure.suptitle(
            f"{len(images)} of {total:,} images are classified wrongly; {count} of them, "
            "true → predicted", fontsize=10, x=0.01, ha="left",
        )  # fmt: skip
        return figure


def _show(axes: Any, image: np.ndarray, title: str) -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, vmin=0, vmax=1)
    axes.set_title(title, fontsize=8, loc="center", pad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
