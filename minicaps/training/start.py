"""First weights that are not random: those of another network, as far as they fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from minicaps.networks import Network, find_pretrained, load_network
from minicaps.training.config import PRETRAINED
from minicaps.training.folder import as_path, find_weights

Shapes = dict[str, dict[str, tuple[int, ...]]]  # layer -> parameter -> shape


class Start(NamedTuple):
    """Where first weights come from, and the layers that have them or begin afresh."""

    path: Path
    taken: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        fresh = f"; afresh: {', '.join(self.fresh)}" if self.fresh else ""
        return f"weights of {self.path}: {', '.join(self.taken)}{fresh}"


def start_from(network: Network, init: str, class_names: tuple[str, ...]) -> Start:
    """Give a network the weights of another one, layer by layer where all shapes fit.

    The layers whose shapes depend on the number of classes stay fresh, if the classes have other names.

    Parameters
    ----------
    network : Network
        Changed in place.
    init : str
        A run, a file of weights, or the word ``pretrained``.
    class_names : tuple of str
        Those of `network`.

    Raises
    ------
    FileNotFoundError
        If there are no such weights.
    ValueError
        If they are damaged, of another kind of network, or if no layer fits.
    """
    path = find_pretrained() if init == PRETRAINED else find_weights(as_path("train: init", init))
    other, its_names = load_network(path)
    if type(other) is not type(network):
        raise ValueError(
            f"{path}: the weights of a {type(other).__name__}, expected those of a {type(network).__name__}"
        )
    own, its_own = shapes_of(network), shapes_of(other)
    of_classes = set() if its_names == class_names else class_layers(network)
    taken = tuple(name for name in own if own[name] == its_own.get(name) and name not in of_classes)
    if not taken:
        raise ValueError(f"{path}: no layer of its network, {other}, fits {network}")
    state, given = network.state(), other.state()
    state |= {name: given[name] for name in state if layer_of(name) in taken}
    network.load_state(state)
    return Start(path, taken, tuple(name for name in own if name not in taken))


def layer_of(param: str) -> str:
    """Return the layer that a parameter is of: "conv" of "conv.W"."""
    return param.rpartition(".")[0]


def shapes_of(network: Network) -> Shapes:
    """Return the shapes of all parameters, layer by layer."""
    shapes: Shapes = {}
    for name, param in network.params.items():
        shapes.setdefault(layer_of(name), {})[name] = param.shape
    return shapes


def class_layers(network: Network) -> set[str]:
    """Return the layers whose shapes depend on the number of classes."""
    config: Any = replace(network.config, classes=network.classes + 1)
    larger = shapes_of(type(network)(config, rng=0))
    return {name for name, shapes in shapes_of(network).items() if shapes != larger[name]}
