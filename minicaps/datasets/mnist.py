"""MNIST: the names and sums of its four files, and where to download them."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

MNIST_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PARTS = tuple(MNIST_SHA256)  # images and labels to train on, then those of the test
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT, PATIENCE = 30.0, 600.0  # seconds: for the next bytes of a download, and for all of it
MAX_BYTES = 64 << 20  # of a download, packed and unpacked; the largest file of MNIST has 47 MB


def download_mnist(
    folder: Path, mirrors: Sequence[str] = MIRRORS, sums: Mapping[str, str] = MNIST_SHA256
) -> None:
    """Download the four files of MNIST into `folder`; the SHA-256 of each must match.

    Raises
    ------
    RuntimeError
        If no mirror serves a file whose sum matches; the message says what to do.
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
                for block in _fetch(mirror + name):
                    file.write(block)
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
    """Yield what is at a URL, in blocks."""
    start, length = time.monotonic(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            while block := response.read1(1 << 16):
                length += len(block)
                if length > MAX_BYTES:
                    raise _BadMirror(f"sends more than {MAX_BYTES:,} bytes")
                if time.monotonic() - start > PATIENCE:
                    raise _BadMirror(f"sent {length:,} bytes in {PATIENCE:.0f} seconds")
                yield block
    except (OSError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise _BadMirror(str(error) or type(error).__name__) from None


def _sum_of_unpacked(file: BinaryIO) -> str:
    """Return the SHA-256 of what a gzip file unpacks to."""
    file.seek(0)
    total, length = hashlib.sha256(), 0
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while block := unpacked.read(1 << 20):
                length += len(block)
                if length > MAX_BYTES:
                    raise _BadMirror(f"its file unpacks to more than {MAX_BYTES:,} bytes")
                total.update(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _BadMirror(f"its file is damaged ({error})") from None
    return total.hexdigest()
