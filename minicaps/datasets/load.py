"""Loading a data set: which kind a path holds, and where MNIST is looked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from minicaps.checks import check_whole
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.folders import read_image_folder
from minicaps.datasets.hints import EXPECTED, find_inside, hint, what_is
from minicaps.datasets.idx_sets import ROLES, find_sets, read_idx_folder
from minicaps.datasets.listing import list_visible
from minicaps.datasets.mnist import download_mnist
from minicaps.datasets.npz import read_npz
from minicaps.datasets.pictures import to_channels
from minicaps.datasets.tables import is_train_table, read_csv

REPOSITORY_DATA = Path(__file__).resolve().parents[2] / "data"


def load(
    data: str | Path | None = None, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    data : path, optional
        Its content tells which of these it is:

        - a folder of four IDX files, or of several such sets, one of which is named as in
          ``FOLDER/emnist-letters`` (``read_idx_folder`` says which names are known);
        - an .npz file, or a folder with one (``read_npz``);
        - a .csv file, or a folder with one, or with such as ``train.csv`` (``read_csv``);
        - a folder of pictures in one subfolder for every class (``read_image_folder``).

        Without it MNIST comes from the first of these that is there: what MINICAPS_DATA names, the
        repository's ``data/``, the user's cache, a download. ``~`` stands for the home folder.
    size : int or (int, int), optional
        Height and width to which images are scaled, each to fit, and centred. Without it pictures must
        all have one size.
    channels : 1 or 3, optional
        Grey or colour. Without it images stay as they are; of pictures, one in colour makes all so.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path, a part is missing, or what is there is no data set.
    ValueError
        If files are damaged or do not belong together, or an argument is not as above.
    RuntimeError
        If MNIST has to be downloaded, and no mirror serves it or there is no folder for it.
    """
    size = _as_pair(size)
    if data is None:
        data = os.environ.get("MINICAPS_DATA") or _find_mnist()
    if not str(data):
        raise ValueError("load: data is '', expected the path of a data set, or None for MNIST")
    if channels not in (None, 1, 3):
        raise ValueError(f"load: channels is {channels!r}, expected 1 (grey), 3 (colour) or None")
    dataset = _load_path(Path(os.path.expanduser(data)), size, channels)
    if channels is None or channels == dataset.image_shape[2]:
        return dataset
    train, test = (to_channels(images, channels) for images in (dataset.train_images, dataset.test_images))
    return replace(dataset, train_images=train, test_images=test)


def _load_path(path: Path, size: tuple[int, int] | None, channels: int | None) -> Dataset:
    if path.is_dir():
        return _load_folder(path, size, channels)
    if not path.exists() and path.name in find_sets(path.parent):
        return read_idx_folder(path.parent, path.name, size)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or file")
    if path.suffix.lower() == ".npz":
        return read_npz(path, size)
    if path.suffix.lower() == ".csv":
        return read_csv(path, size)
    raise FileNotFoundError(f"{path}: {what_is(path)}")


def _as_pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width, of one number or two."""
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"load: size is {size!r}, expected a number of pixels, or (height, width)")
    for number in pair:
        check_whole("load", 1, size=number)
    return int(pair[0]), int(pair[1])


def _load_folder(folder: Path, size: tuple[int, int] | None, channels: int | None) -> Dataset:
    if find_sets(folder):
        return read_idx_folder(folder, size=size)
    visible = list_visible(folder)
    subfolders = [path for path in visible if path.is_dir()]
    tables = [path for path in visible if is_train_table(path)]
    if not (tables or subfolders):
        tables = [path for path in visible if path.suffix.lower() in (".csv", ".npz")]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise ValueError(f"{folder}: holds several data sets ({names}); name one, as in {tables[0]}")
    if tables:
        return read_npz(tables[0], size) if tables[0].suffix.lower() == ".npz" else read_csv(tables[0], size)
    if not subfolders:
        raise FileNotFoundError(f"{folder}: holds no data set, which is {EXPECTED}{hint(visible)}")
    try:
        return Dataset(*read_image_folder(folder, size, channels), source=str(folder))
    except ValueError:
        if inner := find_inside(visible):
            raise FileNotFoundError(f"{folder}: holds no data set, but {inner} does; name that") from None
        raise


# -- MNIST -------------------------------------------------------------------------------------


def _find_mnist() -> Path:
    if _holds_mnist(REPOSITORY_DATA):
        return REPOSITORY_DATA
    cache = cache_folder()
    if not _holds_mnist(cache):
        try:
            download_mnist(cache)
        except OSError as error:
            raise RuntimeError(
                f"MNIST is not on this machine and cannot be kept in {cache} ({error.strerror or error}); "
                "name another folder with XDG_CACHE_HOME, or that of MNIST with --data or MINICAPS_DATA"
            ) from None
    return cache


def _holds_mnist(folder: Path) -> bool:
    return all(role in find_sets(folder).get("", {}) for role in ROLES)


def cache_folder() -> Path:
    """Return the user's cache for minicaps: ``$XDG_CACHE_HOME/minicaps`` or ``~/.cache/minicaps``.

    Raises
    ------
    RuntimeError
        If there is neither that variable nor a home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(os.path.expanduser(named)) / "minicaps"
    try:
        return Path.home() / ".cache" / "minicaps"
    except RuntimeError as error:
        raise RuntimeError(
            f"there is no folder to keep MNIST in ({str(error).rstrip('.')}); set XDG_CACHE_HOME, or name "
            "the folder of MNIST with --data or MINICAPS_DATA"
        ) from None
