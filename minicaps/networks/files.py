"""Files: all or nothing, and an npz that holds arrays beside a JSON description and a checksum."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 4  # raised when older code could not read what newer code writes
# 1 had no checksum; 2 named a CapsNet's parts and options otherwise (weights.py); 3 knew one routing only
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
ZIP_START = b"PK\x03\x04"
NPY_HEADERS: dict[Any, Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


# -- writing ----------------------------------------------------------------------------------


def write(path: str | Path, arrays: Mapping[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write arrays and a description, all or nothing, with the checksum of both."""
    text = json.dumps({"format": FORMAT, **description})
    content = io.BytesIO()
    whole = {"description": np.array(text), "checksum": np.array(digest(arrays, text)), **arrays}
    np.savez(content, **whole)  # type: ignore[arg-type]  # numpy's stub takes every name for allow_pickle
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, CREATE, 0o666)  # less the umask
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                _sync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # Ctrl-C may come when it has its name already
                os.unlink(temporary)
            raise
    except OSError as error:  # its own file name would be the temporary one
        raise OSError(error.errno, f"could not be written ({error.strerror or error})", str(path)) from None
    _sync_folder(path.parent)


def _sync(descriptor: int) -> None:
    """Bring a file onto the disk, where its file system knows how."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise


def _sync_folder(folder: Path) -> None:
    """Bring the folder's entries, so the new name of a file, onto the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    with contextlib.suppress(OSError):  # some network file systems cannot, and a folder may not be readable
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
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
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


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
        length = file.seek(0, os.SEEK_END)
        raise ValueError(f"{path}: truncated, after {length:,} bytes; use a copy, or make it again")


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
        raise ValueError(
            f"{path}: written by a newer minicaps (format {version}, this one reads up to {FORMAT}); "
            "update minicaps"
        )
    if version > 1 and str(arrays.pop("checksum", None)) != digest(arrays, text):
        raise ValueError(
            f"{path}: damaged (its content has another checksum than was written); "
            "use a copy, or make it again"
        )
    return description
