"""Which files are meant: what a folder holds, less what systems leave there; folders and patterns in full."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from minicaps.datasets.order import natural

LEFTOVERS = {  # what systems and programs leave in folders, in small letters, beside what they hide
    *{"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"},
    *{"system volume information", "found.000", "msdownld.tmp"},  # Windows
    *{"__macosx", "icon\r", "network trash folder", "temporary items"},  # macOS
    *{"lost+found", "aquota.user", "aquota.group"},  # Linux
    *{"@eadir", "#recycle", "#snapshot", "@recycle", "@tmp", "@recently-snapshot"},  # disks in the network
    *{"picasa.ini", "zbthumbnail.info"},  # programs for pictures
}


def list_visible(folder: Path) -> list[Path]:
    """Return what a folder holds in natural order, without what systems hide or leave behind."""
    paths = [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in LEFTOVERS
    ]
    return sorted(paths, key=lambda path: natural(path.name))


def find_files(folder: Path) -> list[Path]:
    """Return all that is visible in a folder and in those within it, in natural order, folders left out.

    A folder that links lead to twice is listed once.
    """
    return list(_walk(folder, set()))


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for path in list_visible(folder):
        if path.is_dir():
            yield from _walk(path, seen)
        else:
            yield path


def expand(text: str) -> list[str]:
    """Return the paths that a text means: one that is there is taken as it is, and else as a pattern.

    In a pattern (``photos/*.jpg``, which some shells leave to the program) ``**`` stands for any
    folders. ``~`` stands for the home folder. What fits comes in natural order.

    Raises
    ------
    FileNotFoundError
        If there is no such path, and nothing that fits the pattern.
    ValueError
        If the text is empty.
    """
    if not text:
        raise ValueError("an empty path, expected that of a file or folder")
    for path in (text, os.path.expanduser(text)):
        if os.path.lexists(path):
            return [path]
    if not glob.has_magic(text):
        raise FileNotFoundError(f"{text}: no such file")
    found = glob.glob(os.path.expanduser(text), recursive=True)
    if not found:
        raise FileNotFoundError(f"{text}: no such file, and nothing fits the pattern")
    return sorted(found, key=natural)
