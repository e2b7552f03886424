"""What several test files use."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from minicaps.datasets import PARTS, load


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as an IDX file, gzipped if the name says so."""
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A folder in MNIST's form with its first 300 training and 100 test images."""
    folder, mnist = tmp_path_factory.mktemp("small"), load()
    arrays = (
        mnist.train_images[:300, ..., 0],
        mnist.train_labels[:300].astype(np.uint8),
        mnist.test_images[:100, ..., 0],
        mnist.test_labels[:100].astype(np.uint8),
    )
    for name, array in zip(PARTS, arrays, strict=True):
        write_idx(folder / name, array)
    return folder
