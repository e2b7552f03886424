"""Reading images to test a trained network on: all that is there, as the network takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.assemble import check_part, with_channels
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.idx_sets import find_sets, read_part
from minicaps.datasets.listing import expand, list_visible
from minicaps.datasets.load import load
from minicaps.datasets.pictures import fit_picture, read_picture, to_channels
from minicaps.datasets.pixels import scale
from minicaps.datasets.tables import is_train_table

TABLES = (".csv", ".npz")
MAX_NAMED = 10  # class names, or paths, in one line

ImageShape: TypeAlias = tuple[int, int, int]
Fit: TypeAlias = Callable[[Array, ImageShape], Array]  # from pixels in their own size to an image


class LabelledImages(NamedTuple):
    """Images to test on.

    Attributes
    ----------
    images : uint8 array (N, H, W, C)
    labels : int64 array (N,)
        Class numbers of the network.
    names : list of str
        What each image is called: its path, or ``data#17`` for the one with number 17, from 0.
    source : str
        Where they come from.
    """

    images: Array
    labels: Array
    names: list[str]
    source: str


def read_test_images(
    paths: str | Path | Sequence[str | Path],
    image_shape: ImageShape,
    class_names: Sequence[str],
    fit: Fit = fit_picture,
) -> LabelledImages:
    """Read all images that paths lead to, with their labels, as images of a network.

    Nothing is kept back for training: any number of images and classes will do. A path is one of these:

    - a folder with one subfolder of pictures for every class; of one with ``test/`` in it, as of one for
      training with ``train/`` and ``test/``, only ``test/`` is read;
    - a folder of pictures, or a single picture: of the class that the folder is called after;
    - a data set in other form, as for ``load``: its test part, or all of it if it has none (of IDX files
      two are enough, the images and labels of the test);
    - a pattern such as ``new/*/*.png``.

    Pictures come in natural order. They, and the images of other data sets, are brought to the size and
    the channels of the network.

    Parameters
    ----------
    paths : path, or sequence of paths
    image_shape : (int, int, int)
        (H, W, C) of the network.
    class_names : sequence of str
        Of the network; what is read is matched with them by name.
    fit : callable
        Makes an image (H, W, C) of the pixels (height, width, C) of a picture.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ValueError
        If a file cannot be read, a class is not one of the network's, or there are no images.
    """
    given = [str(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    parts, numbers = [], {name: number for number, name in enumerate(class_names)}
    for text in given:
        for path in map(Path, [text] if _is_named_set(Path(text)) else expand(text)):
            if _is_data_set(path):
                parts.append(_read_data_set(path, image_shape, numbers))
            else:
                parts.append(_read_pictures(path, image_shape, numbers, fit))
    shown = given[:MAX_NAMED] if len(parts) > 1 or not parts else [parts[0].source]
    more = f" and {len(given) - MAX_NAMED} more" if len(given) > MAX_NAMED else ""
    if not sum(len(part.images) for part in parts):
        raise ValueError(f"{', '.join(shown)}{more}: holds no images to test on")
    images, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))  # (N, H, W, C), (N,)
    names = [name for part in parts for name in part.names]
    return LabelledImages(images, labels, names, ", ".join(shown) + more)


# -- pictures ---------------------------------------------------------------------------------


def _read_pictures(path: Path, image_shape: ImageShape, numbers: dict[str, int], fit: Fit) -> LabelledImages:
    folder = path
    if path.is_dir() and (path / "test").is_dir() and ("test" not in numbers or (path / "train").is_dir()):
        folder = path / "test"
    labelled = list(_label_files(folder, numbers))
    images = np.empty((len(labelled), *image_shape), dtype=np.uint8)  # (N, H, W, C)
    for image, (file, _) in zip(images, labelled, strict=True):
        image[:] = fit(read_picture(file, image_shape[2]), image_shape)
    labels = np.array([label for _, label in labelled], dtype=np.int64)  # (N,)
    source = str(path) if folder == path else f"{path} (test/ only)"
    return LabelledImages(images, labels, [str(file) for file, _ in labelled], source)


def _label_files(path: Path, numbers: dict[str, int]) -> Iterable[tuple[Path, int]]:
    """Yield the pictures of a file, a folder of pictures, or one of classes, with their labels."""
    if not path.is_dir():
        yield path, _number_of(path.parent, numbers)
        return
    visible = list_visible(path)
    folders = [inner for inner in visible if inner.is_dir()]
    for folder in folders or [path]:
        for file in list_visible(folder) if folders else visible:
            if file.is_dir():
                raise ValueError(
                    f"{file}: a folder within the class {folder.name}, expected pictures only; to test on "
                    "what is in it, name it itself"
                )
            yield file, _number_of(folder, numbers)


def _number_of(folder: Path, numbers: dict[str, int]) -> int:
    """Return the number of the class that a folder is called after."""
    name = Path(os.path.abspath(folder)).name
    if name not in numbers:
        raise ValueError(f"{folder}: {_unknown(name, numbers)}; leave it out, or rename the folder")
    return numbers[name]


def _unknown(name: str, numbers: dict[str, int]) -> str:
    known = list(numbers)
    more = f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else ""
    return f"the network has no class {name}, only {', '.join(known[:MAX_NAMED])}{more}"


# -- other data sets --------------------------------------------------------------------------


def _is_named_set(path: Path) -> bool:
    """Whether a path means one of several sets in a folder, as ``load`` takes it."""
    return not path.exists() and path.name in find_sets(path.parent)


def _is_data_set(path: Path) -> bool:
    if not path.is_dir():
        return _is_named_set(path) or path.suffix.lower() in TABLES
    visible = list_visible(path)
    only_tables = bool(visible) and all(file.suffix.lower() in TABLES for file in visible)
    return bool(find_sets(path)) or any(map(is_train_table, visible)) or only_tables


def _read_data_set(path: Path, image_shape: ImageShape, numbers: dict[str, int]) -> LabelledImages:
    dataset = _load_test_only(path) or load(path, image_shape[:2])
    images, labels = dataset.test_images, dataset.test_labels
    if not dataset.has_test_part:
        images = np.concatenate([dataset.train_images, images])  # (N, H, W, C)
        labels = np.concatenate([dataset.train_labels, labels])  # (N,)
    for label in np.unique(labels):
        if (name := dataset.class_names[label]) not in numbers:
            raise ValueError(f"{dataset.source}: {_unknown(name, numbers)}")
    by_number = np.array([numbers.get(name, -1) for name in dataset.class_names])  # (J,)
    try:
        images = to_channels(scale(images, image_shape[:2]), image_shape[2])
    except ValueError as error:
        raise ValueError(f"{dataset.source}: {error}") from None
    names = [f"{dataset.source}#{k}" for k in range(len(images))]
    return LabelledImages(images, by_number[labels].astype(np.int64), names, dataset.source)


def _load_test_only(folder: Path) -> Dataset | None:
    """Read the test part of MNIST's form, numbered classes, where the files for training are missing."""
    files = find_sets(folder).get("", {})
    if not {"test-images", "test-labels"} <= files.keys() or "train-images" in files:
        return None
    part = read_part(files, "test", is_emnist=False)
    check_part(part)
    images, labels = with_channels(part.images), part.labels.astype(np.int64)  # (N, H, W, C), (N,)
    class_names = tuple(map(str, range(int(labels.max()) + 1)))
    return Dataset(images[:0], labels[:0], images, labels, class_names, str(folder))
