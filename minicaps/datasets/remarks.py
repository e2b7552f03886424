"""What a data set should be told about: classes without images, images that show nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from minicaps.arrays import Array

MAX_RUNS = 6  # of classes that are named in one line
DARK = 64  # of 255: images that are nowhere brighter may be on another scale


def about_classes(class_names: Sequence[str], labels: Array, parts: Mapping[str, Array]) -> Iterator[str]:
    """Yield a line for classes without images, and for those that a part lacks.

    Parameters
    ----------
    class_names : sequence of str, of J classes
    labels : integer array (N,)
        Of all images.
    parts : mapping of str to integer arrays
        What they are used for ("training"), and the labels of each part.
    """
    absent = _missing(labels, len(class_names))  # (J,)
    if absent.any():
        yield f"{name_classes(class_names, absent)} no images"
    for part, of_part in parts.items():
        lacking = _missing(of_part, len(class_names)) & ~absent  # (J,)
        if lacking.any():
            yield f"{name_classes(class_names, lacking)} no {part} images"


def _missing(labels: Array, classes: int) -> Array:
    return np.bincount(labels, minlength=classes) == 0  # (J,)


def name_classes(class_names: Sequence[str], chosen: Array) -> str:
    """Name the chosen classes: "class 0 has", "classes 10 to 254 have", "classes a, c and 7 more have"."""
    members = [class_names[k] for k in np.flatnonzero(chosen).tolist()]
    names: list[str] = []
    for _, run in groupby(enumerate(members), key=lambda pair: _value(pair[1]) - pair[0]):
        row = [name for _, name in run]  # each follows the one before: 3, 4, 5 or C, D, E
        names += [f"{row[0]} to {row[-1]}"] if len(row) > 2 and _value(row[0]) >= 0 else row
    more = len(names) - MAX_RUNS
    shown = names if more <= 0 else [*names[:MAX_RUNS], f"{more} more"]
    listed = " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
    return f"class {listed} has" if len(members) == 1 else f"classes {listed} have"


def _value(name: str) -> int:
    """Return what a name counts as, or a negative number."""
    if len(name) > 1 and not (name.isdecimal() and len(name) < 10):
        return -(10**9)
    return int(name) if name.isdecimal() else ord(name)


def about_images(part: str, images: Array) -> Iterator[str]:
    """Yield a line if images (N, H, W, C) are all equal, of one colour, or all dark."""
    if len(images) < 2:
        return
    darkest, brightest = images.min(axis=(1, 2)), images.max(axis=(1, 2))  # (N, C), (N, C)
    flat = int((darkest == brightest).all(axis=1).sum())
    if flat != len(images) and not (images[1] != images[0]).any() and _all_equal(images):
        yield f"all {len(images):,} {part} images are equal"
    elif flat:
        count = f"all {flat:,}" if flat == len(images) else f"{flat:,} of {len(images):,}"
        yield f"{count} {part} images are of one colour, so they show nothing"
    if flat != len(images) and brightest.max() < DARK:
        yield (
            f"no pixel of the {part} images is brighter than {brightest.max()} of 255; "
            "are they on another scale?"
        )


def _all_equal(images: Array) -> bool:
    return all(np.array_equal(image, images[0]) for image in images)
