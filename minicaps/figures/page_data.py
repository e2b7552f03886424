"""What the page of ``explore --html`` holds: a network's options and weights, some test images, ranges."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from minicaps import capsules, fast
from minicaps.arrays import Array, to_backend, to_numpy
from minicaps.capsules import DynamicRouting, Leaky, Prior, Squash, Stopped
from minicaps.datasets import Dataset, first, has_form, to_float
from minicaps.layers import Conv2d, Pair
from minicaps.networks import CapsNet, Network

WORDS = {"Softmax": "softmax", "Hard": "hard", "TopK": "top-k", "Sparsemax": "sparsemax", "Entmax": "entmax"}
COUPLINGS: dict[type, str] = {  # definitions and their fast twins, but no subclass of somebody else's
    getattr(room, name): word
    for room in (capsules, fast)
    for name, word in WORDS.items()
    if hasattr(room, name)
}
MAX_SEEN = 1000  # test images that the network classifies, to choose from
MAX_SHOWN = 24  # test images in the page
MAX_WRONG = 8  # of them that the network gets wrong
MAX_PIXELS = 2_000_000  # of all images in the page
QUANTILES = 0.01, 0.99  # of a capsule's numbers: the ends of its sliders
MIN_RANGE = 0.1  # of a slider, where these lie together


# -- the network -------------------------------------------------------------------------------


def describe_network(network: Network) -> dict[str, Any]:
    """Return sizes and options of a network, as the page's JavaScript reads them.

    Raises
    ------
    ValueError
        If the page cannot run it.
    """
    if type(network) is not CapsNet:
        raise ValueError(f"explore --html: {type(network).__name__} is not shown, expected a CapsNet")
    coupling, config = _describe_coupling(network.capsules.routing, network), network.config
    if network.hidden:
        raise ValueError("explore --html: the network has hidden capsule layers, expected none")
    if network.presence is not None:
        raise ValueError(
            f"explore --html: a {type(network.presence).__name__} tells the classes, expected the lengths "
            "of their capsules, which the page shows"
        )
    return {
        "image_shape": config.image_shape,
        "J": config.classes,
        "E": config.class_dimension,
        "D": config.primary_dimension,
        "types": config.primary_types,
        "R": config.iterations,
        "coupling": coupling,
        "conv": _describe_window(network.conv, config.image_shape[:2]),
        "primary": _describe_window(network.primary.conv, config.conv_grid),
        "decoder": network.decoder is not None,
    }


def _describe_coupling(routing: Any, network: CapsNet) -> dict[str, Any]:
    coupling = getattr(routing, "coupling", None)
    for outer in (Stopped, Prior):  # the first matters to gradients alone, and the page adds prior logits
        coupling = coupling.inner if isinstance(coupling, outer) else coupling
    inner = coupling.inner if isinstance(coupling, Leaky) else coupling
    squash = getattr(routing, "squash", None)
    if not isinstance(routing, DynamicRouting) or not isinstance(squash, Squash) or squash.offset != 1:
        raise ValueError(
            f"explore --html: the network has {network.config.routing} routing ({type(routing).__name__}), "
            "expected dynamic routing with the paper's squash, which the page runs"
        )
    if type(inner) not in COUPLINGS:
        raise ValueError(
            f"explore --html: the coupling is {type(inner).__name__}, expected one that the page runs: "
            f"{', '.join(WORDS.values())}, leaky or with learned logits or neither"
        )
    return {"kind": COUPLINGS[type(inner)], "k": getattr(inner, "k", 0), "leaky": isinstance(coupling, Leaky)}


def _describe_window(conv: Conv2d, size: Pair) -> dict[str, Any]:
    return {
        "size": size,
        "channels": conv.in_channels,
        "kernel": conv.kernel_size,
        "stride": conv.stride,
        "grid": conv.output_size(size),
    }


def pack_weights(network: CapsNet) -> dict[str, str]:
    """Return the weights by name, in half precision (float16, little-endian) and base64.

    Raises
    ------
    ValueError
        If half precision cannot hold them.
    """
    packed = {}
    for name, param in network.params.items():
        weights = to_numpy(param)
        with np.errstate(over="ignore"):
            half = weights.astype("<f2")
        if not np.isfinite(half).all():
            raise ValueError(
                f"explore --html: {name} has weights up to {np.abs(weights).max():g}, expected at most "
                f"{np.finfo(np.float16).max:g}, the largest number of half precision, which the page holds"
            )
        packed["prior" if name.endswith(".prior") else name] = base64.b64encode(half.tobytes()).decode()
    return packed


# -- the test images ---------------------------------------------------------------------------


def look_at_test_images(network: CapsNet, dataset: Dataset, number: int) -> dict[str, Any]:
    """Classify some test images; return those for the page, and the ranges of the capsules' numbers."""
    seen = np.arange(len(dataset.test_labels))[first(dataset.test_labels, MAX_SEEN)]  # (N,)
    seen = np.concatenate([[number], seen[seen != number]])  # (N,)
    images, labels = dataset.test_images[seen], dataset.test_labels[seen]  # (N, H, W, C), (N,)
    v = _class_capsules(network, images)  # (N, J, E)
    predictions = np.linalg.norm(v, axis=-1).argmax(axis=1)  # (N,)
    chosen = choose_images(labels, predictions, max(1, min(MAX_SHOWN, MAX_PIXELS // images[0].size)))  # (n,)
    shown = images[chosen]  # (n, H, W, C)
    return {
        "images": {
            "pixels": base64.b64encode(shown.tobytes()).decode(),
            "labels": labels[chosen].tolist(),
            "predictions": predictions[chosen].tolist(),
            "numbers": seen[chosen].tolist(),
        },
        "ranges": ranges_of(v, labels).round(4).tolist(),
        "handwriting": bool(np.mean([has_form(image) for image in shown]) > 0.5),
    }


def _class_capsules(network: CapsNet, images: Array) -> Array:
    """Return v (N, J, E) of 8-bit images (N, H, W, C)."""
    snapshot, found = network.for_inference(), []
    for start in range(0, len(images), 100):
        x = to_float(images[start : start + 100]).astype(network.first_param.dtype)  # (B, H, W, C)
        found.append(to_numpy(network.class_capsules(snapshot(to_backend(x, network.xp)))))  # (B, J, E)
    return np.concatenate(found)  # (N, J, E)


def choose_images(labels: Array, predictions: Array, count: int) -> Array:
    """Return which of N images to show: the first, some that are classified wrongly, and each class in turn.

    Parameters
    ----------
    labels, predictions : integer arrays (N,)
    count : int
        How many at most.

    Returns
    -------
    integer array (n,)
    """
    correct = labels == predictions  # (N,)
    turn = np.zeros(len(labels), dtype=int)  # (N,), how many of its class came before
    for label in np.unique(labels):
        own = (labels == label) & correct  # (N,)
        turn[own] = np.arange(own.sum())
    order = np.lexsort((labels, turn))  # (N,)
    wrong = np.flatnonzero(~correct)[: min(MAX_WRONG, count // 2)]  # (w,)
    order = np.concatenate([[0], wrong, order[correct[order]]])  # (1 + w + N,)
    return order[np.sort(np.unique(order, return_index=True)[1])][:count]  # (n,)


def ranges_of(v: Array, labels: Array) -> Array:
    """Return the 1 % and 99 % quantiles of a class's capsule over its images: v (N, J, E) -> (J, E, 2).

    A class without images is given those of its capsule over all images.
    """
    ranges = np.empty((*v.shape[1:], 2))  # (J, E, 2)
    for j in range(v.shape[1]):
        own = v[labels == j, j] if (labels == j).any() else v[:, j]  # (n, E)
        ranges[j] = np.quantile(own, QUANTILES, axis=0).T  # (E, 2)
    missing = np.maximum(0, MIN_RANGE - np.ptp(ranges, axis=-1, keepdims=True))  # (J, E, 1)
    return ranges + missing * [-0.5, 0.5]  # (J, E, 2)
