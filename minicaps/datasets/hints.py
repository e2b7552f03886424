"""What was meant by a path that is no data set: hints for the messages of ``load``."""

from __future__ import annotations

from pathlib import Path

from minicaps.datasets.idx_sets import NAME, find_sets
from minicaps.datasets.listing import list_visible
from minicaps.datasets.mnist import PARTS
from minicaps.datasets.tables import is_train_table

PACKED = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
EXPECTED = (
    f"four IDX files ({PARTS[0]}, …), one .npz or .csv file, or one subfolder of pictures for every class"
)


def what_is(path: Path) -> str:
    """Say what a file is that is no data set, and what to name instead."""
    if NAME.fullmatch(path.name):
        return f"an IDX file, one of four; name the folder that holds them, {path.parent}"
    if path.suffix.lower() in PACKED:
        return "a packed file; unpack it, and name what comes out"
    if path.suffix.lower() in PICTURES:
        return "a single picture; a data set is a folder with one subfolder of pictures for every class"
    return f"a file that is no data set, which is {EXPECTED}"


def hint(visible: list[Path]) -> str:
    """Say what to do with a folder that holds these files and no data set, if that is a common case."""
    for path in visible:
        if path.suffix.lower() in PACKED:
            return f"; unpack {path.name} first"
        if path.suffix.lower() in PICTURES:
            return f"; {path.name} lies beside the subfolders, expected within one"
    return ""


def find_inside(visible: list[Path]) -> Path | None:
    """Return the data set that lies beside or up to two folders below what a folder holds, or None."""
    folders = [path for path in visible if path.is_dir()]
    try:
        deeper = [inner for folder in folders for inner in list_visible(folder)]
    except OSError:  # a folder that may not be read; this is about another error already
        return None
    for path in [*folders, *(path for path in deeper if path.is_dir())]:
        if find_sets(path):
            return path
    for path in [*visible, *deeper]:
        if path.suffix.lower() == ".npz" or is_train_table(path):
            return path
    is_split = {"train", "test"} & {folder.name for folder in folders}
    if len(folders) == 1 and not is_split and sum(path.is_dir() for path in deeper) > 1:
        return folders[0]  # the classes lie one folder deeper
    return None
