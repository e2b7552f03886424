"""A network's weights as a file: save, load, and those of a trained CapsNet that come along."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.checks import check_choice, check_flag
from minicaps.layers import Layer
from minicaps.networks import files, safetensors
from minicaps.networks.network import Network
from minicaps.networks.registry import NETWORKS, configure

PRETRAINED = "capsnet-small.npz"


def save_network(path: str | Path, network: Network, class_names: tuple[str, ...] = ()) -> None:
    """Save a network's weights with what is needed to build it again.

    A name that ends with .safetensors makes such a file, and any other an npz with a checksum. Before
    anything is written, the network is built again from what would be, as ``load_network`` does it.

    Parameters
    ----------
    path : path
    network : Network
    class_names : tuple of str, optional
        By default "0", "1", …

    Raises
    ------
    TypeError
        If path and network are exchanged.
    ValueError
        If the file would not say enough to build the network again: it is no network by name, or a layer
        is not as its configuration says; or if the class names are not one text for each class.
    """
    if isinstance(network, (str, Path)):
        raise TypeError(f"save: got {network!r} for the network; the path comes first, save(path, network)")
    name = next((name for name, kind in NETWORKS.items() if kind is type(network)), None)
    if name is None:
        raise not_built_again(path, f"the class {type(network).__name__}")
    names = list(class_names) or [str(k) for k in range(network.classes)]
    check_class_names(str(path), names, network.classes)
    config = {option: plain(value) for option, value in vars(network.config).items()}
    description, arrays = {"model": name, "network": config, "class_names": names}, network.state()
    try:
        again = _build(json.loads(json.dumps(description)), arrays)
        again.load_state(arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise not_built_again(path, f"what its configuration does not say ({error})") from None
    if differs := first_difference(network, again):
        raise not_built_again(path, f"a {differs} of its own")
    format_of(path).write(path, arrays, description)


def format_of(path: str | Path) -> Any:
    """Return the module that reads and writes files of this name."""
    return safetensors if Path(path).suffix == safetensors.SUFFIX else files


def not_built_again(path: str | Path, what: str) -> ValueError:
    """Return the error for a network that a file could not describe."""
    return ValueError(
        f"{path}: a network with {what} cannot be built again from a file; save its state() yourself"
    )


def first_difference(network: Network, other: Network) -> str:
    """Return the name of the first layer whose class or options differ, or whose dtype; or nothing."""
    for (prefix, one), (where, two) in zip(network.walk(), other.walk(), strict=False):
        if prefix != where or type(one) is not type(two) or options_of(one) != options_of(two):
            return prefix.rstrip(".") or "network"
    for name, param in network.params.items():
        if param.dtype != other.params[name].dtype:
            return f"dtype of {name}"
    return ""


def options_of(layer: Layer) -> dict[str, Any]:
    """Return what was chosen for a layer: numbers, texts and tuples of them, by attribute."""
    return {
        name: plain(value)
        for name, value in vars(layer).items()
        if not name.startswith("_") and isinstance(value, (int, float, str, tuple, np.generic))
    }


def check_class_names(where: str, names: Sequence[str], classes: int) -> None:
    """Raise ValueError unless there is a name for every class."""
    if len(names) != classes or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{where}: class names {tuple(names)} for {classes} classes, expected a text for each"
        )


def plain(value: Any) -> Any:
    """Return a value as JSON takes it: a number of NumPy's becomes Python's."""
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def as_tuples(value: Any) -> Any:
    """Return a list of JSON, and lists in it, as a configuration has them: as tuples."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)


def load_network(path: str | Path) -> tuple[Network, tuple[str, ...]]:
    """Load what ``save_network`` saved, in this format or an older one.

    Returns
    -------
    network : Network
    class_names : tuple of str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not of a network.
    """
    arrays, description = format_of(path).read(path)
    try:
        if not isinstance(description["network"], dict):
            raise ValueError(f"its network is {description['network']!r}, expected a mapping of options")
        if description.get("format", files.FORMAT) < 3:
            arrays, description = upgrade(arrays, description)
        network = _build(description, arrays)
        network.load_state(arrays)
        class_names = tuple(description["class_names"])
        check_class_names("its description", class_names, network.classes)
        return network, class_names
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: no network that this minicaps can build ({error})") from None


def load(path: str | Path) -> Network:
    """Load a network from a file that ``save_network`` or a training run wrote, ``model.npz``.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``load_network``, which returns the names of the classes too.
    """
    return load_network(path)[0]


def _build(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> Network:
    """Build the described network, if it is about as large as what the file holds."""
    fields: dict[str, Any] = {name: as_tuples(value) for name, value in description["network"].items()}
    config = configure(description["model"], "paper", **fields)
    held = sum(array.size for array in arrays.values())
    if config.count_params() > 2 * held:  # a little too many are told by name, by load_state
        raise ValueError("its description asks for more weights than the file holds")
    double = any(array.dtype == np.float64 for array in arrays.values())
    return NETWORKS[description["model"]](config, rng=0, dtype=np.float64 if double else np.float32)


def upgrade(
    arrays: dict[str, np.ndarray], description: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Translate a network's file of format 1 or 2: other names of a CapsNet's parts and options."""
    if description["model"] != "capsnet":
        return arrays, description
    old_names = {"capsules.prediction.": "capsules.votes.", "reconstruct.": "decoder."}
    renamed = {}
    for name, array in arrays.items():
        for old, new in old_names.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        renamed[name] = array
    options = dict(description["network"])
    leaky, coupling = options.pop("leaky", False), options.pop("coupling", "softmax")
    gradient = options.pop("gradient", "full")
    check_flag("CapsNet", leaky=leaky)
    check_choice("CapsNet", "gradient", gradient, ("full", "stopped"))
    words = (["leaky"] if leaky else []) + ([] if leaky and coupling == "softmax" else [coupling])
    options["coupling"] = " ".join(words)
    options["stopped_gradient"] = gradient == "stopped"
    return renamed, {**description, "network": options}


def load_pretrained(path: str | Path | None = None) -> Network:
    """Load the trained CapsNet that comes with minicaps; its classes are the digits 0 to 9.

    Parameters
    ----------
    path : path, optional
        Another file of weights. By default ``capsnet-small.npz`` of the folder that MINICAPS_DATA
        names, if it is there, and otherwise the one within the package.

    Raises
    ------
    FileNotFoundError
        If it is missing; the message says how to make it.
    ValueError
        If the file is damaged or not of a network.
    """
    path = find_pretrained() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; it is part of minicaps. To make it again: "
            f"python -m minicaps train --out RUN, then copy RUN/model.npz to {path}"
        )
    return load_network(path)[0]


def find_pretrained() -> Path:
    """Return where the trained CapsNet is, or where it should be."""
    named = os.path.expanduser(os.environ.get("MINICAPS_DATA", ""))
    if named and (Path(named) / PRETRAINED).is_file():
        return Path(named) / PRETRAINED
    return Path(__file__).with_name(PRETRAINED)
