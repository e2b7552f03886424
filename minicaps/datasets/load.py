"""Loading a data set: which kind a path holds, and where MNIST is looked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from minicaps.checks import check_whole
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.folders import read_image_folder
from minicaps.datasets.idx_sets import NAME, ROLES, find_sets, read_idx_folder
from minicaps.datasets.listing import list_visible
from minicaps.datasets.mnist import PARTS, download_mnist
from minicaps.datasets.npz import read_npz
from minicaps.datasets.pictures import to_channels
from minicaps.datasets.tables import is_train_table, read_csv

REPOSITORY_DATA = Path(__file__).resolve().parents[2] / "data"
ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
EXPECTED = (
    f"four IDX files ({PARTS[0]}, …), one .npz or .csv file, or one subfolder of pictures for every class"
)


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
        If MNIST has to be downloaded and no mirror serves it.
    """
    size = _as_pair(size)
    if data is None:
        data = os.environ.get("MINICAPS_DATA") or _find_mnist()
    if not str(data):
        raise ValueError("load: data is '', expected the path of a data set, or None for MNIST")
    if channels not in (None, 1, 3):
        raise ValueError(f"load: channels is {channels!r}, expected 1 (grey), 3 (colour) or None")
    dataset = _load_path(_expand(data), size, channels)
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
        raise FileNotFoundError(f"{path}: no such folder")
    if path.suffix.lower() == ".npz":
        return read_npz(path, size)
    if path.suffix.lower() == ".csv":
        return read_csv(path, size)
    raise FileNotFoundError(f"{path}: {_what_is(path)}")


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


def _expand(data: str | Path) -> Path:
    try:
        return Path(data).expanduser()
    except RuntimeError as error:  # no such user, or no home
        raise FileNotFoundError(f"{data}: {error}") from None


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
        raise FileNotFoundError(f"{folder}: holds no data set, which is {EXPECTED}{_hint(visible)}")
    try:
        return Dataset(*read_image_folder(folder, size, channels), source=str(folder))
    except ValueError:
        if inner := _find_inside(visible):
            raise FileNotFoundError(f"{folder}: holds no data set, but {inner} does; name that") from None
        raise


# -- what was meant ----------------------------------------------------------------------------


def _what_is(path: Path) -> str:
    """Say what a file is that is no data set, and what to name instead."""
    if NAME.fullmatch(path.name):
        return f"an IDX file, one of four; name the folder that holds them, {path.parent}"
    if path.suffix.lower() in ARCHIVES:
        return "an archive; unpack it, and name the folder that comes out"
    if path.suffix.lower() in PICTURES:
        return "a single picture; a data set is a folder with one subfolder of pictures for every class"
    return f"a file that is no data set, which is {EXPECTED}"


def _hint(visible: list[Path]) -> str:
    """Say what a folder without a data set holds, if that is a common case."""
    for path in visible:
        if path.suffix.lower() in ARCHIVES:
            return f"; unpack {path.name} first"
        if path.suffix.lower() in PICTURES:
            return f"; {path.name} lies beside the subfolders, expected within one"
    return ""


def _find_inside(visible: list[Path]) -> Path | None:
    """Return a set of IDX files, an .npz or a table that lies up to two folders deeper, or None."""
    folders = [path for path in visible if path.is_dir()]
    for path in visible:
        if path.suffix.lower() == ".npz":
            return path
    deeper = [inner for folder in folders for inner in list_visible(folder)]
    for path in [*folders, *(path for path in deeper if path.is_dir())]:
        if find_sets(path):
            return path
    for path in deeper:
        if path.suffix.lower() == ".npz" or is_train_table(path):
            return path
    if (
        len(folders) == 1
        and folders[0].name not in ("train", "test")
        and sum(path.is_dir() for path in deeper) > 1
    ):
        return folders[0]  # classes within one folder more
    return None


# -- MNIST -------------------------------------------------------------------------------------


def _find_mnist() -> Path:
    cache = cache_folder()
    for folder in (REPOSITORY_DATA, cache):
        if all(role in find_sets(folder).get("", {}) for role in ROLES):
            return folder
    download_mnist(cache)
    return cache


def cache_folder() -> Path:
    """Return the user's cache for minicaps: ``$XDG_CACHE_HOME/minicaps`` or ``~/.cache/minicaps``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "minicaps"
