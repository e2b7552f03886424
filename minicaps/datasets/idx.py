"""Reading IDX files: one array each, MNIST's four of them together a data set."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.mnist import PARTS

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_GZIP_RATIO = 1032  # deflate shrinks nothing by more than about this factor


def read_idx(path: str | Path) -> Array:
    """Read an IDX file, plain or gzipped (told by its content, not its name).

    The header is checked against the file's length before anything is allocated.

    Returns
    -------
    array of the file's type and shape

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no IDX file, truncated, too long, or damaged.
    """
    path = Path(path)
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        length = os.fstat(file.fileno()).st_size
        file.seek(0)
        if not packed:
            return _parse_idx(path, file, maximum=length)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _parse_idx(path, unpacked, maximum=MAX_GZIP_RATIO * length)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error}); get it again") from None


def _parse_idx(path: Path, file: io.BufferedIOBase, maximum: int) -> Array:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or magic[3] == 0:
        raise ValueError(
            f"{path}: not an IDX file (starts with {magic.hex(' ') or 'nothing'}, expected two zero "
            "bytes, a type from 08 to 0e and the number of axes)"
        )
    axes = magic[3]
    header = file.read(4 * axes)
    if len(header) < 4 * axes:
        raise ValueError(f"{path}: truncated, it ends within the header of {axes} axes")
    shape = struct.unpack(f">{axes}I", header)
    dtype = np.dtype(IDX_TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if expected > maximum:
        raise ValueError(
            f"{path}: truncated, its header promises {expected:,} bytes for the shape {shape}, more "
            "than the file can hold"
        )
    content = _read_up_to(file, expected + 1)
    if len(content) != expected:
        held = f"{len(content):,}" if len(content) < expected else "more"
        raise ValueError(
            f"{path}: {'truncated' if len(content) < expected else 'too long'}, its header promises "
            f"{expected:,} bytes for the shape {shape}, the file holds {held}"
        )
    try:
        array = np.frombuffer(content, dtype).reshape(shape)  # writable, since a bytearray is
    except ValueError as error:  # more axes, or longer ones, than NumPy knows
        raise ValueError(f"{path}: no array can have the {axes} axes of its header ({error})") from None
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(file: io.BufferedIOBase, count: int) -> bytearray:
    """Read up to `count` bytes in blocks: a header that lies then costs no more than the file holds."""
    content = bytearray()
    while len(content) < count and (block := file.read(min(count - len(content), 1 << 24))):
        content += block
    return content


def read_idx_folder(folder: str | Path) -> Dataset:
    """Read a set in MNIST's form: four IDX files, plain or gzipped, under MNIST's names.

    Raises
    ------
    FileNotFoundError
        If the folder or one of the files is missing.
    ValueError
        If a file is damaged, or images and labels do not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    paths = [_path_of(folder, part) for part in PARTS]
    train_images, train_labels, test_images, test_labels = map(read_idx, paths)
    _check_pair(train_images, train_labels, *paths[:2])
    _check_pair(test_images, test_labels, *paths[2:])
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"{folder}: training images are {train_images.shape[1:]} pixels, test "
            f"images {test_images.shape[1:]}; expected one size"
        )
    if len(train_images) < 2:
        raise ValueError(f"{folder}: one training image; at least one more is needed to validate")
    classes = int(train_labels.max()) + 1
    if classes < 2 or test_labels.max() >= classes:
        raise ValueError(
            f"{folder}: training labels run from 0 to {classes - 1}, test labels to "
            f"{test_labels.max()}; expected at least two classes, and no class that only the test has"
        )
    return Dataset(
        _with_channels(train_images),
        train_labels.astype(np.int64),
        _with_channels(test_images),
        test_labels.astype(np.int64),
        class_names=tuple(map(str, range(classes))),
        source=str(folder),
    )


def _path_of(folder: Path, part: str) -> Path:
    path = find_part(folder, part)
    if path is None:
        raise FileNotFoundError(f"{folder}: holds no {part} (plain or .gz)")
    return path


def find_part(folder: Path, part: str) -> Path | None:
    """Return the file in `folder` that is MNIST's `part`, one of PARTS, or None."""
    names = [part, part.replace("-idx", ".idx")]  # both spellings are about
    paths = [folder / (name + ending) for name in names for ending in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _check_pair(images: Array, labels: Array, images_path: Path, labels_path: Path) -> None:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(
            f"{images_path}: holds {images.dtype} of shape {images.shape}, expected "
            "uint8 images (N, height, width) or (N, height, width, channels)"
        )
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise ValueError(
            f"{labels_path}: holds {labels.dtype} of shape {labels.shape}, expected uint8 labels (N,)"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_path}: {len(labels):,} labels for {len(images):,} images in {images_path.name}"
        )


def _with_channels(images: Array) -> Array:
    """Give images (N, H, W) the axis of channels that others (N, H, W, C) have."""
    return images if images.ndim == 4 else images[..., None]  # (N, H, W, C)
