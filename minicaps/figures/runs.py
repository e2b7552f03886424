"""The figures of a training run: how it went, and what its network makes of the test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minicaps.arrays import Array
from minicaps.checks import check_labels, check_shape
from minicaps.datasets import Dataset, to_float
from minicaps.figures.scores import scores_by_class
from minicaps.figures.style import (
    HEAT,
    MAX_NAMES,
    STYLE,
    draw_image,
    foremost,
    headline,
    line_style,
    name_row,
    name_ticks,
    save_or_warn,
    short_name,
    shown_of,
    whole_numbers,
    write_numbers,
)
from minicaps.networks import Network

if TYPE_CHECKING:
    from minicaps.training import Evaluation

MAX_RECONSTRUCTIONS = 12
MAX_MISTAKES = 40
MAX_CLASSES = 100  # of a confusion matrix that shows them all


def draw_run(
    folder: str | Path,
    *,
    epochs: Sequence[Mapping[str, Any]],
    network: Network,
    dataset: Dataset,
    test: Evaluation,
    say: Callable[[str], None] = print,
) -> None:
    """Write learning_curves.png, mistakes.png, confusion_matrix.png, scores.png and reconstructions.png.

    The last is left out where the network has no decoder. A figure that cannot be drawn is one warning;
    the others are drawn.

    Parameters
    ----------
    folder : path
        Of the run.
    epochs : sequence of dict
        As for ``learning_curves``.
    network : Network
        On the host.
    dataset : Dataset
    test : Evaluation
        Of all test images.
    say : callable
        Receives the warnings.
    """
    figures: dict[str, Callable[[], Figure]] = {
        "learning_curves": partial(learning_curves, epochs),
        **of_test_images(network, dataset, dataset.class_names, test.predictions),
        "scores": partial(
            scores_by_class, test.scores, dataset.test_labels, dataset.class_names, network.score_name
        ),
    }
    for name, draw in figures.items():
        save_or_warn(Path(folder) / f"{name}.png", draw, say)


def of_test_images(
    network: Network, dataset: Dataset, class_names: Sequence[str], predictions: Array, first: int = 0
) -> dict[str, Callable[[], Figure]]:
    """Return by name what draws the figures of what a network makes of the test images.

    Parameters
    ----------
    class_names : sequence of str
    predictions : integer array (N,)
        Of all test images.
    first : int
        The test image with which the reconstructions begin.
    """
    images, labels = dataset.test_images, dataset.test_labels

    def draw_reconstructions() -> Figure:
        few = (first + np.arange(min(MAX_RECONSTRUCTIONS, len(images)))) % len(images)  # (n,)
        x = to_float(images[few])  # (n, H, W, C)
        return reconstructions(x, network(x)[1], labels[few], predictions[few], class_names)

    def draw_mistakes() -> Figure:
        wrong = np.flatnonzero(predictions != labels)  # (n,)
        x = to_float(images[wrong[:MAX_MISTAKES]])  # (m, H, W, C)
        return mistakes(x, labels[wrong], predictions[wrong], class_names, len(images))

    figures = {"reconstructions": draw_reconstructions} if getattr(network, "decoder", None) else {}
    confusions = partial(confusion_matrix, labels, predictions, class_names)
    return {**figures, "confusion_matrix": confusions, "mistakes": draw_mistakes}


def learning_curves(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw loss and accuracy over the epochs, for training and, where there is one, validation.

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
            "accuracy": ("Images classified correctly (%)", 100, ".2f"),
        }
        for axes, (name, (label, scale, digits)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            validated = all(f"validation_{name}" in row for row in epochs)
            for k, part in enumerate(("train", "validation")[: 1 + validated]):
                y = [scale * row[f"{part}_{name}"] for row in epochs]
                of_part = part.replace("train", "training")
                axes.plot(x, y, label=of_part, markevery=max(1, len(x) // 30), **line_style(k))
            axes.set(xlabel="Epoch", ylabel=label)
            unit = " %" if scale == 100 else ""
            where = "on validation" if validated else "in training"
            axes.set_title(f"{name.capitalize()}: {y[-1]:{digits}}{unit} {where} at the end")
            whole_numbers(axes.xaxis)
            axes.legend()
        return figure


def reconstructions(
    images: Array, reconstructions: Array, labels: Array, predictions: Array, class_names: Sequence[str]
) -> Figure:
    """Draw images above what the decoder makes of the predicted capsule, the first 12 at most.

    Parameters
    ----------
    images, reconstructions : arrays (N, H, W, C), 0 to 1
    labels, predictions : integer arrays (N,)
    class_names : sequence of str
    """
    with matplotlib.rc_context(STYLE):
        count = min(len(images), MAX_RECONSTRUCTIONS)
        figure = Figure(figsize=(max(5.6, 0.75 * count + 1.2), 2.1))
        grid = figure.subplots(2, count, squeeze=False)
        for k in range(count):
            draw_image(grid[0, k], images[k], short_name(class_names[labels[k]]))
            predicted = class_names[predictions[k]]
            text = short_name(predicted) if labels[k] == predictions[k] else f"{short_name(predicted, 8)} ✗"
            draw_image(grid[1, k], reconstructions[k], text)
        for row, text in enumerate(("input", "reconstruction")):
            name_row(grid[row, 0], text)
        headline(figure, "Inputs with their class, and their reconstructions from the predicted class")
        return figure


def mistakes(
    images: Array,
    labels: Array,
    predictions: Array,
    class_names: Sequence[str],
    total: int,
    maximum: int = MAX_MISTAKES,
) -> Figure:
    """Draw the images that were classified wrongly, with the true and the predicted class.

    Parameters
    ----------
    images : array (n, H, W, C), 0 to 1
        The mistakes only; the first ones will do.
    labels, predictions : integer arrays (N,)
        Of all mistakes.
    class_names : sequence of str
    total : int
        How many images were classified in all.
    maximum : int
        How many to draw.
    """
    with matplotlib.rc_context(STYLE):
        shown = min(len(images), maximum)
        rows = max(1, -(-shown // 8))
        figure = Figure(figsize=(7.2, 1.05 * rows + 0.5))
        grid = figure.subplots(rows, 8, squeeze=False).ravel()
        for k, axes in enumerate(grid):
            if k < shown:
                true, predicted = short_name(class_names[labels[k]]), short_name(class_names[predictions[k]])
                space = " " if len(true + predicted) < 11 else "\n"
                draw_image(axes, images[k], f"{true}{space}→ {predicted}")
            else:
                axes.axis("off")
        count = "all" if shown == len(labels) else f"the first {shown}"
        text = f"{len(labels)} of {total:,} images are classified wrongly; {count} of them, true → predicted"
        headline(figure, text)
        return figure


def confusion_matrix(labels: Array, predictions: Array, class_names: Sequence[str]) -> Figure:
    """Draw how often each class is taken for each other; the colour counts mistakes only.

    Of more than 100 classes the 20 with the most mistakes are drawn.

    Parameters
    ----------
    labels, predictions : integer arrays (N,), 0 to J - 1
    class_names : sequence of J str
    """
    labels, predictions, classes = np.asarray(labels), np.asarray(predictions), len(class_names)
    check_shape("confusion_matrix", "labels", labels, ("images N", None))
    for each in (labels, predictions):
        check_labels("confusion_matrix", each, len(labels), classes)
    wrong = labels != predictions  # (N,)
    taken = np.bincount(np.r_[labels[wrong], predictions[wrong]], minlength=classes)  # (J,)
    shown = foremost(taken, MAX_CLASSES)  # (j,)
    names = [class_names[j] for j in shown]
    counts = _count_pairs(labels, predictions, shown, classes)  # (j, j)
    mistaken = np.ma.masked_array(counts, mask=np.eye(len(shown), dtype=bool))  # (j, j)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.6))
        axes = figure.subplots()
        colours = matplotlib.colormaps[HEAT].with_extremes(bad="0.92")
        heat_map = axes.imshow(mistaken, cmap=colours, vmin=0, vmax=max(1, mistaken.filled(0).max()))
        name_ticks(axes, names, names)
        axes.set(xlabel="Predicted class", ylabel="True class")
        if len(names) <= MAX_NAMES:
            write_numbers(heat_map, counts, lambda count: str(count or ""))
        ticks = MaxNLocator(integer=True)
        figure.colorbar(heat_map, label="Images taken for another class", shrink=0.8, ticks=ticks)
        note = shown_of(shown, classes, "classes with the most mistakes")
        text = _most_frequent_mistake(labels[wrong], predictions[wrong], len(labels), class_names)
        headline(figure, text + note)
        return figure


def _count_pairs(labels: Array, predictions: Array, shown: Array, classes: int) -> Array:
    """Return how often each of some classes (j,) is taken for each of them, itself too: (j, j)."""
    position = np.full(classes, -1)
    position[shown] = np.arange(len(shown))  # (J,)
    rows, columns = position[labels], position[predictions]  # (N,), (N,)
    both = (rows >= 0) & (columns >= 0)  # (N,)
    counts = np.zeros((len(shown), len(shown)), dtype=int)
    np.add.at(counts, (rows[both], columns[both]), 1)  # (j, j)
    return counts


def _most_frequent_mistake(labels: Array, predictions: Array, total: int, class_names: Sequence[str]) -> str:
    """Return in words how many of all images are right, and what the mistakes (n,) are most often."""
    if not len(labels):
        return f"All {total:,} images are classified correctly"
    pairs, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)  # (2, m), (m,)
    true, predicted = (class_names[k] for k in pairs[:, counts.argmax()])
    times = "once" if counts.max() == 1 else f"{counts.max():,} times"
    return (
        f"{total - len(labels):,} of {total:,} images are classified correctly;\n"
        f"most often, {times}, {short_name(true)} is taken for {short_name(predicted)}"
    )
