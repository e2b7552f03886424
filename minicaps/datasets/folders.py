"""Reading a folder of pictures: one subfolder for every class, named like the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.listing import list_visible
from minicaps.datasets.order import ORDER_SEED, TEST_EVERY
from minicaps.datasets.pictures import fit_picture, is_in_colour, read_picture

Classes = dict[str, list[Path]]  # the pictures of every class, both in natural order


def read_image_folder(
    folder: str | Path, size: tuple[int, int] | None = None, channels: int | None = None
) -> tuple[Array, Array, Array, Array, tuple[str, ...]]:
    """Read a folder of pictures, PNG or JPEG, grey or colour, in one subfolder for every class.

    Classes and pictures are taken in the natural order of their names: "2" comes before "10". If the
    folder has both ``train/`` and ``test/``, the classes are subfolders of these, and what else lies
    beside them is not read. Otherwise every fifth picture of a class, the 5th, the 10th and so on, is
    for the test. Then the pictures of each part are put into an order that is random but always the
    same.

    Every file in a class must be a picture, for one that is left out without a word may matter; only
    hidden files and the like of Thumbs.db are passed over. Pictures are scaled and centred one by one as
    ``predict`` does it, so that no more than one of them is in memory in its own size.

    Parameters
    ----------
    folder : path
    size : (int, int), optional
        Height and width of the images. Without it the pictures must all have one size, which is taken.
    channels : 1 or 3, optional
        Grey or colour. Without it one file in colour (RGB or a palette, grey though its pixels may be)
        makes all images colour ones.

    Returns
    -------
    train_images, train_labels, test_images, test_labels, class_names
        As in ``Dataset``.

    Raises
    ------
    ValueError
        If there are fewer than two classes, a class without pictures, one with fewer than five and no
        ``train/`` and ``test/``, one that only ``test/`` has, a file that cannot be read, or, without
        `size`, a picture of another size; or if `channels` is neither 1 nor 3.
    """
    train, test = _find_classes(Path(folder))
    class_names = tuple(train)
    train_paths, train_labels = _in_fixed_order(train, class_names)
    test_paths, test_labels = _in_fixed_order(test, class_names)
    images = read_images(train_paths + test_paths, size, channels)
    count = len(train_paths)
    return images[:count], train_labels, images[count:], test_labels, class_names


# -- which pictures ---------------------------------------------------------------------------


def _find_classes(folder: Path) -> tuple[Classes, Classes]:
    """Return the classes for training and for the test."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = _list_classes(folder / "train"), _list_classes(folder / "test")
    else:
        train, test = _split(folder, _list_classes(folder))
    if len(train) < 2:
        raise ValueError(f"{folder}: expected a subfolder for each of at least two classes, got {len(train)}")
    if not test:
        raise ValueError(f"{folder / 'test'}: holds no class, expected the same subfolders as in train/")
    for name in test:
        if name not in train:
            raise ValueError(f"{folder / 'test' / name}: a class that train/ lacks")
    return train, test


def _list_classes(folder: Path) -> Classes:
    classes = {path.name: list_visible(path) for path in list_visible(folder) if path.is_dir()}
    for name, files in classes.items():
        if not files:
            raise ValueError(f"{folder / name}: a class without pictures; fill the folder or remove it")
        for file in files:
            if file.is_dir():
                raise ValueError(
                    f"{file}: a folder within the class {name}, expected pictures only (a split "
                    "of your own needs both train/ and test/)"
                )
    return classes


def _split(folder: Path, classes: Classes) -> tuple[Classes, Classes]:
    for name, files in classes.items():
        if len(files) < TEST_EVERY:
            raise ValueError(
                f"{folder / name}: {len(files)} pictures, expected at least {TEST_EVERY}, since "
                "every fifth is for the test (or make both train/ and test/)"
            )
    test = {name: files[TEST_EVERY - 1 :: TEST_EVERY] for name, files in classes.items()}
    train = {
        name: [file for k, file in enumerate(files, 1) if k % TEST_EVERY] for name, files in classes.items()
    }
    return train, test


def _in_fixed_order(classes: Classes, class_names: tuple[str, ...]) -> tuple[list[Path], Array]:
    """Return all pictures of all classes, mixed, and their labels."""
    labelled = [(path, label) for label, name in enumerate(class_names) for path in classes.get(name, [])]
    order = np.random.default_rng(ORDER_SEED).permutation(len(labelled))
    paths, labels = zip(*(labelled[k] for k in order), strict=True)
    return list(paths), np.array(labels, dtype=np.int64)  # (N,)


# -- their pixels -----------------------------------------------------------------------------


def read_images(paths: list[Path], size: tuple[int, int] | None, channels: int | None = None) -> Array:
    """Read pictures as one uint8 array (N, H, W, C), scaled to `size`; without it they must have one size.

    They are grey or in colour as `channels` says; without it, in colour if one of them is.
    """
    if channels is None:
        channels = 3 if any(map(is_in_colour, paths)) else 1
    height, width = size or read_picture(paths[0], channels).shape[:2]
    images = np.empty((len(paths), height, width, channels), dtype=np.uint8)  # (N, H, W, C)
    for image, path in zip(images, paths, strict=True):
        pixels = read_picture(path, channels)
        if size is None and pixels.shape != image.shape:
            raise ValueError(
                f"{path}: {pixels.shape[0]}×{pixels.shape[1]} pixels, but {paths[0]} has {height}×{width}; "
                "give --size N to scale all pictures to N×N"
            )
        image[:] = fit_picture(pixels, image.shape)
    return images
