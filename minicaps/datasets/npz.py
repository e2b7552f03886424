"""Reading a data set from one .npz file of NumPy's, such as Keras's mnist.npz."""

from __future__ import annotations

import math
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.assemble import Part, assemble
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.idx import read_up_to
from minicaps.datasets.pixels import to_8_bit, unfold

KEYS = {  # what the arrays of a data set are called in files that are about
    "training images": ("x_train", "train_images", "train_x", "images", "x", "data"),
    "training labels": ("y_train", "train_labels", "train_y", "labels", "y", "target"),
    "test images": ("x_test", "test_images", "test_x"),
    "test labels": ("y_test", "test_labels", "test_y"),
}
END_LENGTH = 22  # bytes of the record with which a zip archive ends
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: str | Path, size: tuple[int, int] | None = None) -> Dataset:
    """Read an .npz file with the arrays x_train, y_train, x_test and y_test.

    They may also be called train_images, train_labels, test_images and test_labels; or images and
    labels, x and y, data and target, without a test part: then every fifth image of a class is for the
    test. Images are (N, H, W), (N, H, W, C) or (N, S·S), whole numbers from 0 to 255 or floats from 0 to
    1; labels are integers or text, (N,) or (N, 1). Objects are not read, and nothing is run.

    Parameters
    ----------
    path : path
    size : (int, int), optional
        Height and width to scale the images to.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no .npz file, is damaged, lacks the arrays, or they do not belong together.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as file:
            _check_count(path, file)
            members = {info.filename.removesuffix(".npy").lower(): info for info in file.infolist()}
            train, test = _choose(path, members, "training"), _choose(path, members, "test")
            if train is None:
                held = ", ".join(members) or "nothing"
                raise ValueError(f"holds {held}, expected the arrays x_train, y_train, x_test, y_test")
            arrays = {key: _read_array(file, members[key]) for key in (*train, *(test or ()))}
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # NumPy reads the header with Python's parser, which has errors of its own
        raise ValueError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    parts = [_part(path, arrays, keys) for keys in (train, test) if keys]
    dataset = assemble(str(path), parts[0], parts[1] if test else None, size)
    if unread := sorted(members.keys() - arrays.keys()):
        dataset = replace(dataset, notes=(*dataset.notes, f"{path}: not read: {', '.join(unread)}"))
    return dataset


def _check_count(path: Path, file: zipfile.ZipFile) -> None:
    """Check that the list of members is as long as the archive's end says; zipfile does not look."""
    with open(path, "rb") as raw:
        raw.seek(-END_LENGTH - len(file.comment), 2)
        end = raw.read(END_LENGTH)
    if int.from_bytes(end[10:12], "little") != len(file.infolist()):
        raise zipfile.BadZipFile("damaged, its list of arrays is not whole")


def _choose(path: Path, members: dict[str, zipfile.ZipInfo], part: str) -> tuple[str, str] | None:
    """Return the keys of a part's images and labels, or None if the file has none of both."""
    found = [
        next((key for key in KEYS[f"{part} {what}"] if key in members), None) for what in ("images", "labels")
    ]
    images, labels = found
    if images and labels:
        return images, labels
    if images or labels:
        raise ValueError(f"holds {images or labels}, but no {part} {'labels' if images else 'images'}")
    return None


def _read_array(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """Read one array; no more is allocated than the file holds, whatever its header promises."""
    if info.compress_type not in PACKINGS:  # zipfile would unpack others as a whole
        raise ValueError(f"{info.filename} is packed in a way that NumPy does not use; save it with NumPy")
    with file.open(info) as member:
        shape, in_columns, dtype = _read_header(member)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects, expected numbers or text")
        expected = math.prod(shape) * dtype.itemsize
        content = read_up_to(member, expected + 1)
    if len(content) != expected:
        raise ValueError(f"{info.filename} is damaged, {expected:,} bytes expected for the shape {shape}")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if in_columns else "C")


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version not in READ_HEADER:
        raise ValueError(f"an array of format {version}, expected 1.0 or 2.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers written by Python 2
        return READ_HEADER[version](member)


def _part(path: Path, arrays: dict[str, Array], keys: tuple[str, str]) -> Part:
    images, labels = (arrays[key] for key in keys)
    images_from, labels_from = (f"{path} ({key})" for key in keys)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]  # (N,)
    if labels.dtype.kind == "S":
        labels = labels.astype(str)
    if images.ndim == 2:
        images = unfold(images_from, images)
    return Part(to_8_bit(images_from, images), labels, images_from, labels_from)
