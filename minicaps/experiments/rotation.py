"""Experiment: what a class capsule does while its digit turns. It trains nothing."""

from __future__ import annotations

import numpy as np

from minicaps.datasets import Dataset, Warps, augment, to_float
from minicaps.experiments import figures as experiment_figures
from minicaps.experiments import pictures
from minicaps.experiments.study import Study, table
from minicaps.layers import length_and_direction
from minicaps.networks import CapsNet

ANGLES = np.arange(-60, 61, 10)  # degrees
IMAGES = 2_000
BATCH = 100


def turned(images: np.ndarray, angle: float) -> np.ndarray:
    """Turn all images by `angle` degrees, counter-clockwise."""
    return augment.warp(images, Warps.none(len(images))._replace(angle=np.full(len(images), float(angle))))


def class_capsules(network: CapsNet, images: np.ndarray) -> np.ndarray:
    """Return the class capsules v (N, J, E) of 8-bit images."""
    outputs = (network(to_float(images[k : k + BATCH])) for k in range(0, len(images), BATCH))
    return np.concatenate([out[0] if network.decoder else out for out in outputs])


def angles_between(e: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return the angle in degrees between unit vectors (..., E)."""
    return np.degrees(np.arccos((e * f).sum(axis=-1).clip(-1, 1)))


def rotate(study: Study, network: CapsNet, dataset: Dataset) -> None:
    """Turn test images from -60° to 60° and follow the capsule that won when they stood upright."""
    images, labels = dataset.test_images[:IMAGES], dataset.test_labels[:IMAGES]
    network = network.for_inference()
    each = np.arange(len(images))
    upright = class_capsules(network, images)  # (N, J, E)
    winner = (upright**2).sum(axis=-1).argmax(axis=-1)  # (N,)
    _, first = length_and_direction(upright[each, winner])  # (N, E)
    rows = study.result["rows"] = []
    for angle in ANGLES:
        study.progress(pictures.degrees(angle))
        v = class_capsules(network, turned(images, angle))  # (N, J, E)
        n, e = length_and_direction(v[each, winner])  # (N, 1), (N, E)
        away = angles_between(e, first)  # (N,)
        found = (v**2).sum(axis=-1).argmax(axis=-1)  # (N,)
        of_class = [found[labels == k] == k for k in range(dataset.classes)]
        rows.append({
            "angle": int(angle),
            "length": float(n.mean()),
            "length_spread": float(n.std()),
            "direction": float(away.mean()),
            "direction_spread": float(away.std()),
            "same_class": float((found == winner).mean()),
            "accuracy": float((found == labels).mean()),
            "accuracy_of_class": [float(right.mean()) if len(right) else None for right in of_class],
        })  # fmt: skip
    _report(study, network, dataset, len(images))


def _report(study: Study, network: CapsNet, dataset: Dataset, count: int) -> None:
    rows = study.result["rows"]
    head = ["turned by", "length", "direction from upright", "same class, %", "right, %"]
    lines = [[pictures.degrees(row["angle"]), f"{row['length']:.3f} ± {row['length_spread']:.3f}",
              f"{row['direction']:.1f}° ± {row['direction_spread']:.1f}°", f"{100 * row['same_class']:.1f}",
              f"{100 * row['accuracy']:.1f}"] for row in rows]  # fmt: skip
    note = (f"The first {count:,} test images; mean ± standard deviation over them. Length and direction "
            "are those of the capsule that is the longest when the image stands upright.")  # fmt: skip
    study.draw("turning", experiment_figures.turning(rows, dataset.class_names))
    one = np.concatenate([turned(dataset.test_images[:1], angle) for angle in ANGLES])  # (A, H, W, C)
    v = class_capsules(network, one)  # (A, J, E)
    names = np.array(dataset.class_names)[(v**2).sum(axis=-1).argmax(axis=-1)]
    label = dataset.test_labels[0]
    study.draw("one_digit", pictures.one_turning_digit(to_float(one), ANGLES, v[:, label], names))
    study.finish(table(head, lines) + "\n\n" + note)
