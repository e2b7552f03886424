"""The format safetensors: arrays in a plain file that other frameworks read, and ours beside a description.

A file is the length of its header, the header in JSON, and the numbers of all arrays one after another.

References
----------
`The format <https://github.com/huggingface/safetensors#format>`_.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.networks import files

SUFFIX = ".safetensors"
TYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
MAX_HEADER = 100_000_000  # bytes, as the format has it


def write(path: str | Path, arrays: Mapping[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write arrays of float32 or float64 and a description, all or nothing."""
    header: dict[str, Any] = {"__metadata__": {"minicaps": json.dumps(description)}}
    content, start = [], 0
    for name, array in arrays.items():
        (kind,) = (kind for kind, dtype in TYPES.items() if dtype == array.dtype)
        numbers = array.astype(TYPES[kind], order="C").tobytes()
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, start + len(numbers)]}
        content.append(numbers)
        start += len(numbers)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that numbers lie at multiples of 8
    files.write_bytes(path, b"".join([struct.pack("<Q", len(text)), text, *content]))


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what ``write`` wrote: the arrays and the description.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or from elsewhere, without a description of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", content)
        if not 2 <= length <= min(MAX_HEADER, len(content) - 8):
            raise ValueError(f"a header of {length:,} bytes in a file of {len(content):,}")
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        if "minicaps" not in metadata:
            raise ValueError("no description of a network of minicaps in its metadata")
        numbers = memoryview(content)[8 + length :]
        arrays = {name: _array(name, numbers, **entry) for name, entry in header.items()}
        return arrays, json.loads(metadata["minicaps"])
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise ValueError(f"{path}: no safetensors that can be read ({error})") from None


def _array(
    name: str, numbers: memoryview, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    start, end = data_offsets
    if not 0 <= start <= end <= len(numbers):
        raise ValueError(f"{name} lies beyond the end of the file")
    array = np.frombuffer(numbers[start:end], TYPES[dtype]).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))
