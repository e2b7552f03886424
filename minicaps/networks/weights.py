"""Saving and loading: one npz file holds arrays beside a JSON description and a checksum."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minicaps import datasets
from minicaps.datasets import Dataset
from minicaps.networks.capsnet import NETWORKS
from minicaps.networks.network import Network

FORMAT = 2  # raised when older code could not read what newer code writes; 1 had no checksum
PRETRAINED = "capsnet-small.npz"
ZIP_START = b"PK\x03\x04"
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_PIXELS, MOST_ITERATIONS = 1 << 26, 1000  # of a network that a file describes


# -- writing ----------------------------------------------------------------------------------


def write(path: str | Path, arrays: Mapping[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write arrays and a description, all or nothing, with the checksum of both."""
    text = json.dumps({"format": FORMAT, **description})
    content = io.BytesIO()
    np.savez(content, description=np.array(text), checksum=np.array(digest(arrays, text)), **arrays)
    write_bytes(path, content.getbuffer())


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, all or nothing."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file, all or nothing: into a temporary file in the same folder, which is then renamed.

    Whatever ends the process, and if the power fails, `path` holds what it held before or all of
    the new content.

    Raises
    ------
    OSError
        If the disk is full, say, or the folder not writable; the old file stays.
    """
    path = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:  # its own file name would be the temporary one
        raise OSError(error.errno, f"could not be written ({error.strerror or error})", str(path)) from None
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the folder's entries, so the new name of a file, onto the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote `path`."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink()


def digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """Return the SHA-256 of a text and of arrays: their names, dtypes, shapes and numbers."""
    total = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape}".encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()


def fingerprint(dataset: Dataset) -> str:
    """Return a SHA-256 that tells data sets apart, by every pixel, label and class name."""
    arrays = {name: array for name, array in vars(dataset).items() if isinstance(array, np.ndarray)}
    return digest(arrays, json.dumps(dataset.class_names))


# -- reading ----------------------------------------------------------------------------------


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what ``write`` wrote: the arrays and the description.

    No more memory is taken than the file is long, whatever its headers promise.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, damaged, of another program, or of a newer format; the message
        says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, "rb") as file:
        _check_kind(path, file)
        try:
            arrays = _read_arrays(file)
        except Exception as error:  # zipfile and NumPy raise errors of a dozen types on damaged bytes
            raise ValueError(f"{path}: damaged ({error}); use a copy, or make it again") from None
    return arrays, _check_content(path, arrays)


def _check_kind(path: Path, file: BinaryIO) -> None:
    """Raise ValueError unless the file is a complete zip archive."""
    start = file.read(len(ZIP_START))
    if not ZIP_START.startswith(start):
        raise ValueError(f"{path}: not a file of minicaps (starts with {start.hex(' ')}, not as an npz does)")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{path}: truncated, after {file.seek(0, os.SEEK_END):,} bytes; "
                         "use a copy, or make it again")  # fmt: skip


def _read_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    length = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > length:
            raise ValueError("its parts are longer than the file")
        return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read one array, after a look at whether its header agrees with its length."""
    with archive.open(member) as file:
        shape, _, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
        held = member.file_size - file.tell()
    is_text = dtype.kind == "U" and shape == ()
    if not (is_text or dtype.kind in "?biuf") or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{member.filename} has {held} bytes for {dtype} of shape {shape}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_content(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Take the description and the checksum out of `arrays`, check both, and return the first."""
    foreign = ValueError(f"{path}: not a file of minicaps (an npz without its description)")
    if "description" not in arrays:
        raise foreign
    try:
        text = str(arrays.pop("description")[()])
        description = json.loads(text)
        version = description["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise foreign from None
    if type(version) is not int or version < 1:
        raise foreign
    if version > FORMAT:
        raise ValueError(f"{path}: written by a newer minicaps (format {version}, this one reads "
                         f"up to {FORMAT}); update minicaps")  # fmt: skip
    if version > 1 and str(arrays.pop("checksum", None)) != digest(arrays, text):
        raise ValueError(f"{path}: damaged (its content has another checksum than was written); "
                         "use a copy, or make it again")  # fmt: skip
    return description


# -- networks ---------------------------------------------------------------------------------


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
        held = sum(array.size for array in arrays.values())
        network = _build(description, most=2 * held)  # a little too many are told by name, below
        network.load_state(arrays)
        class_names = tuple(description["class_names"])
        if len(class_names) != network.classes or not all(isinstance(name, str) for name in class_names):
            raise ValueError(f"class names {class_names} for {network.classes} classes")
        return network, class_names
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: no network that this minicaps can build ({error})") from None


def _build(description: dict[str, Any], most: int) -> Network:
    """Build the described network, of at most so many weights, with zeros for weights."""
    network = NETWORKS[description["model"]](**description["network"], rng=_Zeros(most), dtype=np.float32)
    pixels, iterations = math.prod(network.image_shape), getattr(network, "iterations", 1)
    if pixels > MOST_PIXELS or iterations > MOST_ITERATIONS:
        raise ValueError(
            f"images of {pixels:,} numbers and {iterations:,} routing iterations, expected at most "
            f"{MOST_PIXELS:,} and {MOST_ITERATIONS:,}"
        )
    return network


class _Zeros(np.random.Generator):
    """Draws zeros, and at most so many: a file may not ask for more weights than it brings."""

    def __init__(self, most: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.left = most

    def normal(self, loc: float, scale: float, size: tuple[int, ...]) -> np.ndarray:
        self.left -= math.prod(size)
        if self.left < 0:
            raise ValueError("its description asks for more weights than the file holds")
        return np.zeros(size)

    uniform = normal


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
