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
    numbers = np.flatnonzero(chosen).tolist()
    names: list[str] = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):  # consecutive ones
        members = [class_names[number] for _, number in run]
        is_range = len(members) > 2 and (members[0].isdecimal() or len(members[0]) == 1)
        names += [f"{members[0]} to {members[-1]}"] if is_range else members
    more = len(names) - MAX_RUNS
    shown = names if more <= 0 else [*names[:MAX_RUNS], f"{more} more"]
    listed = " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
    return f"class {listed} has" if len(numbers) == 1 else f"classes {listed} have"


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
