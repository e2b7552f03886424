"""Reading IDX files, one array each."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from minicaps.arrays import Array

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_GZIP_RATIO = 1032  # deflate shrinks nothing by more than about this factor

Bytes: TypeAlias = IO[bytes] | gzip.GzipFile


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


def _parse_idx(path: Path, file: Bytes, maximum: int) -> Array:
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
    content = read_up_to(file, expected + 1)
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


def read_up_to(file: Bytes, count: int) -> bytearray:
    """Read up to `count` bytes in blocks: a header that lies then costs no more than the file holds."""
    content = bytearray()
    while len(content) < count and (block := file.read(min(count - len(content), 1 << 24))):
        content += block
    return content
