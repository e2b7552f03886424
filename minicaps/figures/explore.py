"""A look inside a trained capsule network: reconstructions, and the figures that ``explore`` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure

from minicaps.arrays import Array
from minicaps.datasets import Dataset, to_float
from minicaps.figures.capsules import couplings_over_image, couplings_per_iteration, dimension_grid
from minicaps.figures.matrices import activations, poses
from minicaps.figures.runs import learning_curves, of_test_images
from minicaps.figures.style import save_or_warn
from minicaps.networks import MatrixCapsNet, Network, VectorCapsNet

Figures: TypeAlias = dict[str, Callable[[], Figure]]  # what draws each, by name

EXPLORABLE = VectorCapsNet, MatrixCapsNet
OFFSETS = np.linspace(-0.25, 0.25, 11)  # Sabour et al. 2017, figure 4


def check_capsnet(network: Network) -> VectorCapsNet:
    """Return the network; raise ValueError unless it has a vector for every class."""
    if not isinstance(network, VectorCapsNet):
        raise ValueError(
            f"explore: the network is of class {type(network).__name__}, expected CapsNet or "
            "EfficientCapsNet: only a vector has dimensions that a slider can move"
        )
    return network


def check_explorable(where: str, network: Network) -> None:
    """Raise ValueError unless there is something inside the network that ``explore`` can draw."""
    if not isinstance(network, EXPLORABLE):
        raise ValueError(
            f"{where}: the network is of class {type(network).__name__}, expected CapsNet, EfficientCapsNet "
            "or MatrixCapsNet: only capsules and their couplings are drawn"
        )


# -- what the decoder makes --------------------------------------------------------------------


def reconstruct_capsules(network: VectorCapsNet, chosen: int, capsules: Array) -> Array:
    """Return the reconstructions from several values of one class's capsule.

    Parameters
    ----------
    network : VectorCapsNet
        With a decoder.
    chosen : int
        The class, 0 to J - 1.
    capsules : array (N, E), of the network's dtype

    Returns
    -------
    array (N, H, W, C), 0 to 1
    """
    v = np.zeros((len(capsules), network.classes, capsules.shape[1]), dtype=capsules.dtype)  # (N, J, E)
    v[:, chosen] = capsules
    return network.decode(v, np.full(len(v), chosen))[0]


def reconstruct_moved(
    network: VectorCapsNet, chosen: int, capsule: Array, offsets: Sequence[float] | Array = OFFSETS
) -> Array:
    """Return the reconstructions with every offset added to every dimension of a capsule in turn.

    Parameters
    ----------
    network : VectorCapsNet
        With a decoder.
    chosen : int
        The class, 0 to J - 1.
    capsule : array (E,)
    offsets : sequence of N floats
        By default those of Sabour et al. 2017, figure 4.

    Returns
    -------
    array (E, N, H, W, C), 0 to 1
    """
    moves = np.eye(len(capsule))[:, None] * np.asarray(offsets)[:, None]  # (E, N, E)
    moved = (capsule + moves).reshape(-1, len(capsule)).astype(capsule.dtype)  # (E·N, E)
    return reconstruct_capsules(network, chosen, moved).reshape(*moves.shape[:2], *network.image_shape)


# -- the files -------------------------------------------------------------------------------


def write_figures(
    network: Network,
    dataset: Dataset,
    class_names: Sequence[str],
    folder: str | Path,
    number: int = 0,
    metrics: Path | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Path]:
    """Write the figures as PNG files into `folder`, and yield the path of each.

    Without a decoder there are no reconstructions.png and dimensions.png; of matrix capsules there are
    activations.png and poses.png. A figure that cannot be drawn is one warning; the others are drawn.

    Parameters
    ----------
    network : CapsNet, EfficientCapsNet or MatrixCapsNet
    dataset : Dataset
    class_names : sequence of str
    folder : path
        Made if it is missing.
    number : int
        The test image whose couplings and capsules are shown.
    metrics : path, optional
        A run's ``metrics.jsonl``, for the learning curves; none are drawn if it is missing.
    say : callable
        Receives the warnings.

    Raises
    ------
    ValueError
        If it is another network, or the file of metrics is damaged.
    """
    check_explorable("write_figures", network)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for look in (
        lambda: _of_the_run(metrics),
        lambda: _of_one_image(network, dataset, class_names, number),
        lambda: of_test_images(network, dataset, class_names, network.predict(dataset.test_images), number),
    ):
        for name, draw in look().items():
            path = folder / f"{name}.png"
            if save_or_warn(path, draw, say):
                yield path


def _of_the_run(metrics: Path | None) -> Figures:
    if metrics is None or not metrics.is_file():
        return {}
    try:
        epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
        figure = learning_curves(epochs) if epochs else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{metrics}: damaged ({error})") from None
    return {} if figure is None else {"learning_curves": lambda: figure}


def _of_capsule_layers(
    network: VectorCapsNet, image: Array, cache: Any, class_names: Sequence[str]
) -> Figures:
    """Return the figures of the couplings of an image (H, W, C).

    With hidden layers there is one of each capsule layer, which says whose it is; only the lower capsules of
    the first stand somewhere on the image.
    """
    layers = {
        name: [each[0] for each in kept.c] for name, kept in cache.capsule_layers().items()
    }  # (I, J) each
    if len(layers) == 1:
        c = layers["capsules"]
        return {
            "couplings": lambda: couplings_per_iteration(c, upper_names=class_names),
            "couplings_over_image": lambda: couplings_over_image(image, c[-1], network.grid, class_names),
        }
    figures: Figures = {
        "couplings" if name == "capsules" else f"couplings_{name.replace('.', '_')}": partial(
            couplings_per_iteration, c, None, class_names if name == "capsules" else None, layer=name
        )
        for name, c in layers.items()
    }
    c = layers["hidden.0"]
    names = list(map(str, range(c[-1].shape[1])))
    figures["couplings_over_image"] = partial(
        couplings_over_image, image, c[-1], network.grid, names, layer="hidden.0"
    )
    return figures


def _of_one_image(network: Network, dataset: Dataset, class_names: Sequence[str], number: int) -> Figures:
    image = to_float(dataset.test_images[number : number + 1])  # (1, H, W, C)
    if isinstance(network, MatrixCapsNet):
        return _of_matrices(network, image, class_names)
    return _of_vectors(check_capsnet(network), image, class_names)


def _of_vectors(network: VectorCapsNet, image: Array, class_names: Sequence[str]) -> Figures:
    outputs, cache = network.for_inference().forward(image)
    figures = _of_capsule_layers(network, image[0], cache, class_names)
    if network.decoder is not None:
        chosen = int(network.scores(outputs)[0].argmax())
        capsule = cache.v[0, chosen]  # (E,)
        figures["dimensions"] = lambda: dimension_grid(reconstruct_moved(network, chosen, capsule), OFFSETS)
    return figures


def _of_matrices(network: MatrixCapsNet, image: Array, class_names: Sequence[str]) -> Figures:
    a, cache = network.forward(image)  # (1, J)
    c = [each[0] for each in cache.capsules.c]  # (I, J) each
    return {
        "activations": lambda: activations(image[0], a[0], class_names),
        "couplings": lambda: couplings_per_iteration(c, upper_names=class_names),
        "couplings_over_image": lambda: couplings_over_image(
            image[0], c[-1], network.config.grid, class_names
        ),
        "poses": lambda: poses(cache.mu[0], a[0], class_names, network.config.coordinates),
    }
