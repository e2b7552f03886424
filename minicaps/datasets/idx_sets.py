"""Four IDX files that are a data set together: MNIST, and others that are named as MNIST is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

import numpy as np

from minicaps.datasets.assemble import MAX_CLASSES, Part, assemble
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.idx import read_idx
from minicaps.datasets.pixels import turn

NAME = re.compile(
    r"(?P<set>(?:.+-)?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-(?:ubyte|int)(?:\.gz)?"
)
ROLES = ("train-images", "train-labels", "test-images", "test-labels")
MAX_MAPPING = 1 << 16  # bytes of a mapping file of EMNIST; the largest has 0.5 KB

Files: TypeAlias = dict[str, Path]  # the files of a set, by their roles


def find_sets(folder: Path) -> dict[str, Files]:
    """Return the sets of IDX files in a folder, by what stands before "train-images": "", "emnist-letters".

    MNIST's is "". Of two files with one role the name with "-idx" is taken, and then the plain one.
    """
    sets: dict[str, Files] = {}
    if not folder.is_dir():
        return sets
    for path in sorted(
        folder.iterdir(), key=lambda path: (".idx" in path.name, path.suffix == ".gz", path.name)
    ):
        if (found := NAME.fullmatch(path.name)) and path.is_file():
            part = "train" if found["part"] == "train" else "test"
            sets.setdefault(found["set"].removesuffix("-"), {}).setdefault(f"{part}-{found['what']}", path)
    return dict(sorted(sets.items()))


def read_idx_folder(
    folder: str | Path, name: str | None = None, size: tuple[int, int] | None = None
) -> Dataset:
    """Read a set in MNIST's form: four IDX files, plain or gzipped, under MNIST's names or such as these.

    - ``emnist-letters-train-images-idx3-ubyte``, ``emnist-letters-test-...``, and so all six sets of EMNIST
      (balanced, byclass, bymerge, digits, letters, mnist). Their images are stored with rows and columns
      swapped, and are turned. Classes are called by the characters of ``emnist-letters-mapping.txt``
      where it is there; the letters are called A to Z and numbered from 0, though their labels begin with 1.
    - ``qmnist-train-images-idx3-ubyte``, ``qmnist-train-labels-idx2-int``, ``qmnist-test-...``: the
      first of eight numbers for each image is the label.

    Labels may be integers of any type.

    Parameters
    ----------
    folder : path
    name : str, optional
        Which set, if the folder holds several: "emnist-letters". MNIST's names win, otherwise one must
        be chosen.
    size : (int, int), optional
        Height and width to scale the images to.

    Raises
    ------
    FileNotFoundError
        If the folder or one of the files is missing.
    ValueError
        If a file is damaged, images and labels do not belong together, or a set must be chosen.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    sets = find_sets(folder)
    if name is None:
        if len(sets) > 1 and "" not in sets:
            example = folder / next(iter(sets))
            raise ValueError(
                f"{folder}: holds several data sets ({', '.join(sets)}); name one, as in {example}"
            )
        name = "" if "" in sets else next(iter(sets), "")
    files, is_emnist = sets.get(name, {}), name.startswith("emnist")
    for role in ROLES:
        if role not in files:
            raise FileNotFoundError(f"{folder}: holds no {_expected_name(name, role)} (plain or .gz)")
    parts = [read_part(files, part, is_emnist) for part in ("train", "test")]
    class_names = None
    if is_emnist:
        class_names = _read_mapping(folder / f"{name}-mapping.txt")
        if name == "emnist-letters" and min(part.labels.min() for part in parts) > 0:
            parts = [part._replace(labels=part.labels.astype(np.int64) - 1) for part in parts]
            class_names = [chr(ord("A") + k) for k in range(26)]
    source = str(folder / name)  # of MNIST's, the folder
    return assemble(source, parts[0], parts[1], size, class_names)


def _expected_name(name: str, role: str) -> str:
    """Return what a missing file should be called."""
    part, what = role.split("-")
    if name == "":
        part = part.replace("test", "t10k")
    kind = "idx3-ubyte" if what == "images" else "idx2-int" if name == "qmnist" else "idx1-ubyte"
    return "-".join(filter(None, [name, part, what, kind]))


def read_part(files: Files, part: str, is_emnist: bool) -> Part:
    """Read the images and labels of the part "train" or "test" of a set."""
    images_path, labels_path = files[f"{part}-images"], files[f"{part}-labels"]
    images, labels = read_idx(images_path), read_idx(labels_path)
    if labels_path.name.startswith("qmnist") and labels.ndim == 2 and labels.shape[1]:
        labels = labels[:, 0]  # (N,)
    if is_emnist and images.ndim == 3:
        images = turn(images)
    return Part(images, labels, str(images_path), str(labels_path))


def _read_mapping(path: Path) -> list[str] | None:
    """Read the characters of EMNIST's classes: on each line the class and the code of its character.

    Raises
    ------
    ValueError
        If the file is there but something else.
    """
    if not path.is_file():
        return None
    names: dict[int, str] = {}
    try:
        with open(path, encoding="ascii") as file:
            for line in file.read(MAX_MAPPING).splitlines():
                if line.strip():
                    label, code, *_ = map(int, line.split())
                    if not (0 <= label < MAX_CLASSES and chr(code).isprintable()):
                        raise ValueError(f"{label} {code}")
                    names[label] = chr(code)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: not a mapping of EMNIST, a class and a character code on each line ({error})"
        ) from None
    return [names.get(k, str(k)) for k in range(max(names, default=-1) + 1)]
