"""Saving and loading: one npz file holds arrays beside a JSON description."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minicaps import datasets
from minicaps.models import NETWORKS, Network

FORMAT = 1  # raised when older code could not read what newer code writes
PRETRAINED = "capsnet-small.npz"


def write(path: str | Path, arrays: Mapping[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write arrays and a description, all or nothing: into a temporary file, then rename."""
    text = json.dumps({"format": FORMAT, **description})
    write_file(path, lambda file: np.savez(file, description=np.array(text), **arrays))


def write_file(path: str | Path, fill: Any) -> None:
    """Call fill(file) on a temporary file in the same folder, then rename it to `path`."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, all or nothing."""
    write_file(path, lambda file: file.write(text.encode()))


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what ``write`` wrote: the arrays and the description.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, of another program, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays.pop("description")[()]))
        version = int(description["format"])
    except KeyError:
        raise ValueError(f"{path}: not a file of minicaps") from None
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error,
            NotImplementedError, RuntimeError) as error:  # fmt: skip
        raise ValueError(f"{path}: damaged, or not a file of minicaps ({error})") from None
    if version > FORMAT:
        raise ValueError(f"{path}: written by a newer minicaps (format {version}, this one reads "
                         f"up to {FORMAT}); update minicaps")  # fmt: skip
    return arrays, description


def save_network(path: str | Path, network: Network, name: str, class_names: tuple) -> None:
    """Save a network's weights with what is needed to build it again.

    Parameters
    ----------
    name : {"capsnet", "cnn", "mlp"}
    class_names : tuple of str
    """
    description = {"model": name, "network": network.config(), "class_names": list(class_names)}
    write(path, network.state(), description)


def load_network(path: str | Path) -> tuple[Network, tuple[str, ...]]:
    """Load what ``save_network`` saved: the network and the names of its classes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not of a network.
    """
    arrays, description = read(path)
    try:
        network = NETWORKS[description["model"]](**description["network"])
        network.load_state(arrays)
        class_names = tuple(description["class_names"])
        if len(class_names) != network.classes:
            raise ValueError(f"{len(class_names)} class names for {network.classes} classes")
        return network, class_names
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no network that this minicaps can build ({error})") from None


def load_pretrained(path: str | Path | None = None) -> Network:
    """Load the trained CapsNet that comes with the repository; its classes are the digits 0 to 9.

    Parameters
    ----------
    path : path, optional
        By default ``capsnet-small.npz`` in the first of these folders that has it: the one named by
        MINICAPS_DATA, the repository's ``data/``, the user's cache.

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
            f"{path}: no such file; it is in the repository's data/, which MINICAPS_DATA can name. To make "
            f"it again: python -m minicaps train --out RUN, then copy RUN/model.npz to {path}"
        )
    return load_network(path)[0]


def find_pretrained() -> Path:
    """Return where the trained CapsNet is, or where it should be."""
    named = os.environ.get("MINICAPS_DATA")
    folders = [*([Path(named)] if named else []), datasets.REPOSITORY_DATA, datasets.cache_folder()]
    paths = [folder / PRETRAINED for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])
