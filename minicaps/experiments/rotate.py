"""Experiment: what a class capsule does while its digit turns. It trains nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.datasets import Dataset, Warps, augment, first, to_float
from minicaps.experiments import figures, pictures
from minicaps.experiments.study import Study
from minicaps.experiments.tables import table
from minicaps.experiments.training import Row
from minicaps.layers import length_and_direction
from minicaps.networks import VectorCapsNet

ANGLES = range(-60, 61, 10)  # degrees
IMAGES = 2_000
BATCH = 100


def turned(images: Array, angle: float) -> Array:
    """Turn all images by `angle` degrees, counter-clockwise."""
    return augment.warp(images, Warps.none(len(images))._replace(angle=np.full(len(images), float(angle))))


def class_capsules(network: VectorCapsNet, images: Array) -> Array:
    """Return the class capsules v (N, J, E) of 8-bit images."""
    some = (network(to_float(images[k : k + BATCH])) for k in range(0, len(images), BATCH))
    return np.concatenate([network.class_capsules(outputs) for outputs in some])  # (N, J, E)


def longest(v: Array) -> Array:
    """Return the longest of the capsules v (N, J, E) of each image: (N,)."""
    return length_and_direction(v)[0][..., 0].argmax(axis=1)  # (N,)


def angles_between(e: Array, f: Array) -> Array:
    """Return the angle in degrees between unit vectors (..., E)."""
    return np.degrees(np.arccos((e * f).sum(axis=-1).clip(-1, 1)))


def rotate(study: Study, network: VectorCapsNet, dataset: Dataset) -> None:
    """Turn test images from -60° to 60° and follow the capsule that won when they stood upright."""
    few = first(dataset.test_labels, IMAGES)
    images, labels = dataset.test_images[few], dataset.test_labels[few]
    network = network.for_inference()
    upright = class_capsules(network, images)  # (N, J, E)
    rows = []
    for angle in ANGLES:
        study.progress(pictures.degrees(angle))
        v = class_capsules(network, turned(images, angle))  # (N, J, E)
        rows.append({"angle": angle, **compare_with(upright, v, labels)})
    study.draw("turning", figures.turning, rows, dataset.class_names)
    study.draw("one_digit", one_digit, network, dataset)
    study.finish(report(rows, len(images)), rows=rows)


def compare_with(upright: Array, v: Array, labels: Array) -> Row:
    """Follow the winning capsules of upright images, and count the classes that are found.

    Parameters
    ----------
    upright, v : arrays (N, J, E)
        The class capsules of the images as they are, and turned.
    labels : integer array (N,)
    """
    each, winner = np.arange(len(v)), longest(upright)  # (N,), (N,)
    _, first = length_and_direction(upright[each, winner])  # (N, E)
    n, e = length_and_direction(v[each, winner])  # (N, 1), (N, E)
    away, predictions = angles_between(e, first), longest(v)  # (N,), (N,)
    of_class = [predictions[labels == k] == k for k in range(v.shape[1])]
    return {
        "length": float(n.mean()),
        "length_spread": float(n.std()),
        "direction": float(away.mean()),
        "direction_spread": float(away.std()),
        "same_class": float((predictions == winner).mean()),
        "accuracy": float((predictions == labels).mean()),
        "accuracy_of_class": [float(correct.mean()) if len(correct) else None for correct in of_class],
    }


def one_digit(network: VectorCapsNet, dataset: Dataset) -> Figure:
    """Draw the first test image at every angle, and the capsule of its label."""
    images = np.concatenate([turned(dataset.test_images[:1], angle) for angle in ANGLES])  # (A, H, W, C)
    v = class_capsules(network, images)  # (A, J, E)
    names = [dataset.class_names[j] for j in longest(v)]
    return pictures.one_turning_digit(to_float(images), ANGLES, v[:, dataset.test_labels[0]], names)


def report(rows: Sequence[Row], count: int) -> str:
    """Return the table with its note."""
    head = ["turned by", "length", "direction from upright", "same class, %", "right, %"]
    note = (
        f"The first {count:,} test images; mean ± standard deviation over them. Length and direction "
        "are those of the capsule that is the longest when the image stands upright."
    )
    return table(head, [table_line(row) for row in rows], note)


def table_line(row: Row) -> list[str]:
    """Return what the table says of an angle."""
    return [
        pictures.degrees(row["angle"]),
        f"{row['length']:.3f} ± {row['length_spread']:.3f}",
        f"{row['direction']:.1f}° ± {row['direction_spread']:.1f}°",
        f"{100 * row['same_class']:.1f}",
        f"{100 * row['accuracy']:.1f}",
    ]
