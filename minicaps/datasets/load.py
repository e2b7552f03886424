"""Labelled images: MNIST wherever it is, other sets of IDX files, and folders of pictures."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import struct
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minicaps.datasets.folders import list_visible, read_image_folder

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip
MNIST_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/",
           "https://storage.googleapis.com/cvdf-datasets/mnist/")  # fmt: skip
TIMEOUT, PATIENCE = 30.0, 600.0  # seconds: for the next bytes of a download, and for all of it
MOST_BYTES = 64 << 20  # of a download, packed and unpacked; the largest file of MNIST has 47 MB
REPOSITORY_DATA = Path(__file__).resolve().parents[2] / "data"

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MOST = 1032  # deflate cannot shrink data by more than about this factor


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split into training and test.

    Attributes
    ----------
    train_images, test_images : uint8 arrays (N, H, W, C)
    train_labels, test_labels : int64 arrays (N,)
        Class numbers, from 0.
    class_names : tuple of str
    source : str
        Where they come from.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train_images.shape[1:]

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def split(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Keep the last 5,000 training images (a tenth, if there are fewer than 50,000; one at least)
        apart.

        Returns
        -------
        train_images, train_labels, validation_images, validation_labels
        """
        kept = len(self.train_images) - max(1, min(5000, len(self.train_images) // 10))
        images, labels = self.train_images, self.train_labels
        return images[:kept], labels[:kept], images[kept:], labels[kept:]


def to_float(images: np.ndarray) -> np.ndarray:
    """Turn 8-bit pixels into float32 between 0 and 1."""
    return images.astype(np.float32) / np.float32(255)


# -- IDX files --------------------------------------------------------------------------------


def read_idx(path: str | Path) -> np.ndarray:
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
            return _parse_idx(path, file, most=length)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _parse_idx(path, unpacked, most=GZIP_MOST * length)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error}); get it again") from None


def _parse_idx(path: Path, file: BinaryIO, most: int) -> np.ndarray:
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
    if expected > most:
        raise ValueError(
            f"{path}: truncated, its header promises {expected:,} bytes for the shape {shape}, more "
            "than the file can hold"
        )
    content = _read_at_most(file, expected + 1)
    if len(content) != expected:
        held = f"{len(content):,}" if len(content) < expected else "more"
        raise ValueError(
            f"{path}: {'truncated' if len(content) < expected else 'too long'}, its header promises "
            f"{expected:,} bytes for the shape {shape}, the file holds {held}"
        )
    try:
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # more axes, or longer ones, than NumPy knows
        raise ValueError(f"{path}: no array can have the {axes} axes of its header ({error})") from None


def _read_at_most(file: BinaryIO, count: int) -> bytes:
    """Read up to `count` bytes in pieces: a header that lies then costs no more than the file holds."""
    content = bytearray()
    while len(content) < count and (piece := file.read(min(count - len(content), 1 << 24))):
        content += piece
    return bytes(content)


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
    paths = [_find_part(folder, part) for part in PARTS]
    for part, path in zip(PARTS, paths, strict=True):
        if path is None:
            raise FileNotFoundError(f"{folder}: holds no {part} (plain or .gz)")
    arrays = [read_idx(path) for path in paths]
    for images, labels, images_path, labels_path in (
        (*arrays[:2], *paths[:2]),
        (*arrays[2:], *paths[2:]),
    ):
        _check_pair(images, labels, images_path, labels_path)
    train_images, train_labels, test_images, test_labels = arrays
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(f"{folder}: training images are {train_images.shape[1:]} pixels, test "
                         f"images {test_images.shape[1:]}; expected one size")  # fmt: skip
    if len(train_images) < 2:
        raise ValueError(f"{folder}: one training image; at least one more is needed to validate")
    classes = int(train_labels.max()) + 1
    if classes < 2 or test_labels.max() >= classes:
        raise ValueError(
            f"{folder}: training labels run from 0 to {classes - 1}, test labels to "
            f"{test_labels.max()}; expected at least two classes, and no class that only the test has"
        )
    with_channel = [x if x.ndim == 4 else x[..., None] for x in (train_images, test_images)]
    return Dataset(with_channel[0], train_labels.astype(np.int64), with_channel[1],
                   test_labels.astype(np.int64), tuple(map(str, range(classes))), str(folder))  # fmt: skip


def _find_part(folder: Path, part: str) -> Path | None:
    names = [part, part.replace("-idx", ".idx")]  # both spellings are about
    paths = [folder / (name + ending) for name in names for ending in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _check_pair(images: np.ndarray, labels: np.ndarray, images_path: Path, labels_path: Path) -> None:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(f"{images_path}: holds {images.dtype} of shape {images.shape}, expected "
                         "uint8 images (N, height, width) or (N, height, width, channels)")  # fmt: skip
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise ValueError(f"{labels_path}: holds {labels.dtype} of shape {labels.shape}, expected "
                         "uint8 labels (N,)")  # fmt: skip
    if len(images) != len(labels):
        raise ValueError(f"{labels_path}: {len(labels):,} labels for {len(images):,} images in "
                         f"{images_path.name}")  # fmt: skip


# -- finding a data set -----------------------------------------------------------------------


def load(data: str | Path | None = None, size: int | tuple[int, int] | None = None) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    data : path, optional
        A folder of four IDX files, or of pictures in one subfolder for every class
        (``image_folders.py`` says how it is read); its content tells which. Without it MNIST comes
        from the first of these that is there: the folder named by MINICAPS_DATA, the repository's
        ``data/``, the user's cache, a download.
    size : int or (int, int), optional
        Height and width to which pictures are scaled. Without it they must all have one size.

    Raises
    ------
    FileNotFoundError
        If the folder, or a file in it, is missing.
    ValueError
        If the files are damaged or do not belong together, or if IDX files have another size.
    RuntimeError
        If MNIST has to be downloaded and no mirror serves it.
    """
    if data is None:
        data = os.environ.get("MINICAPS_DATA") or _find_mnist()
    folder = Path(data)
    size = (size, size) if isinstance(size, int) else size
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if any(_find_part(folder, part) for part in PARTS):
        dataset = read_idx_folder(folder)
        height, width, _ = dataset.image_shape
        if size not in (None, (height, width)):
            raise ValueError(f"{folder}: IDX files of {height}×{width} pixels, expected {size[0]}×{size[1]}; "
                             "only pictures are scaled")  # fmt: skip
        return dataset
    if any(path.is_dir() for path in list_visible(folder)):
        return Dataset(*read_image_folder(folder, size), source=str(folder))
    raise FileNotFoundError(
        f"{folder}: holds no data set, which is four IDX files ({PARTS[0]}, …) or one subfolder of "
        "pictures for every class"
    )


def _find_mnist() -> Path:
    cache = cache_folder()
    for folder in (REPOSITORY_DATA, cache):
        if all(_find_part(folder, part) for part in PARTS):
            return folder
    download_mnist(cache)
    return cache


def cache_folder() -> Path:
    """Return the user's cache for minicaps: ``$XDG_CACHE_HOME/minicaps`` or ``~/.cache/minicaps``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "minicaps"


def download_mnist(
    folder: Path, mirrors: Sequence[str] = MIRRORS, sums: dict[str, str] = MNIST_SHA256
) -> None:
    """Download the four files of MNIST into `folder`; the SHA-256 of each must match.

    Raises
    ------
    RuntimeError
        If no mirror serves a file with the right sum; the message says what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, sha256 in sums.items():
        if not (folder / f"{name}.gz").exists():
            _download(f"{name}.gz", folder, mirrors, sha256)


def _download(name: str, folder: Path, mirrors: Sequence[str], sha256: str) -> None:
    reasons = []
    for mirror in mirrors:
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w+b") as file:
                for piece in _fetch(mirror + name):
                    file.write(piece)
                found = _sum_of_unpacked(file)
                os.fsync(file.fileno())
            if found == sha256:
                os.replace(temporary, folder / name)
                return
            reasons.append(f"{mirror}: wrong bytes (SHA-256 {found[:12]}…)")
        except _BadMirror as error:
            reasons.append(f"{mirror}: {error}")
        finally:
            Path(temporary).unlink(missing_ok=True)
    raise RuntimeError(
        f"MNIST is not on this machine and {name} could not be downloaded ({'; '.join(reasons)}); "
        f"put the four files into {folder}, or name their folder with --data or MINICAPS_DATA"
    )


class _BadMirror(Exception):
    """A mirror does not answer, or with what cannot be a file of MNIST. Not so a disk that is full."""


def _fetch(url: str) -> Iterator[bytes]:
    """Yield what is at a URL, in pieces."""
    start, length = time.monotonic(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            while piece := response.read1(1 << 16):
                length += len(piece)
                if length > MOST_BYTES:
                    raise _BadMirror(f"sends more than {MOST_BYTES:,} bytes")
                if time.monotonic() - start > PATIENCE:
                    raise _BadMirror(f"sent {length:,} bytes in {PATIENCE:.0f} seconds")
                yield piece
    except (OSError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise _BadMirror(str(error) or type(error).__name__) from None


def _sum_of_unpacked(file: BinaryIO) -> str:
    """Return the SHA-256 of what a gzip file unpacks to."""
    file.seek(0)
    total, length = hashlib.sha256(), 0
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while piece := unpacked.read(1 << 20):
                length += len(piece)
                if length > MOST_BYTES:
                    raise _BadMirror(f"its file unpacks to more than {MOST_BYTES:,} bytes")
                total.update(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _BadMirror(f"its file is damaged ({error})") from None
    return total.hexdigest()
