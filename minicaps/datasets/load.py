"""Loading a data set: which kind a folder holds, and where MNIST is looked for."""

from __future__ import annotations

import os
from pathlib import Path

from minicaps.datasets.dataset import Dataset
from minicaps.datasets.folders import list_visible, read_image_folder
from minicaps.datasets.idx import find_part, read_idx_folder
from minicaps.datasets.mnist import PARTS, download_mnist

REPOSITORY_DATA = Path(__file__).resolve().parents[2] / "data"


def load(
    data: str | Path | None = None, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    data : path, optional
        A folder of four IDX files, or of pictures in one subfolder for every class
        (``read_image_folder`` says how it is read); its content tells which. Without it MNIST comes
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
    if any(find_part(folder, part) for part in PARTS):
        dataset = read_idx_folder(folder)
        height, width, _ = dataset.image_shape
        if size is not None and size != (height, width):
            raise ValueError(
                f"{folder}: IDX files of {height}×{width} pixels, expected {size[0]}×{size[1]}; "
                "only pictures are scaled"
            )
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
        if all(find_part(folder, part) for part in PARTS):
            return folder
    download_mnist(cache)
    return cache


def cache_folder() -> Path:
    """Return the user's cache for minicaps: ``$XDG_CACHE_HOME/minicaps`` or ``~/.cache/minicaps``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "minicaps"
