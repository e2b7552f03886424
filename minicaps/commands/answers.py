"""What ``evaluate`` and ``predict`` share: how they look at pictures, and what they print for programs."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from minicaps.arrays import Array
from minicaps.commands.common import complain
from minicaps.datasets import border_is_light, fit_picture, like_mnist, remark_on
from minicaps.networks import Network, find_pretrained
from minicaps.training import run_of, trained_on

MNIST = "3e40acb8391f0db71eb5ce8f43a61208ad32eec96bd662902e2a01d63b423fa5"  # its fingerprint
DIGITS = tuple("0123456789")
MNIST_SHAPE = (28, 28, 1)


def add_views(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how pictures are looked at."""
    parser.add_argument(
        "--invert",
        action="store_true",
        help="for pictures that are dark on light; MNIST is light on dark (with its form, see --mnist-like, "
        "it is seen without)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--mnist-like",
        action="store_true",
        help="bring pictures of handwriting into MNIST's form: cropped to the ink, on an even ground, light "
        "on black, 20 of 28 pixels long, centred by mass; the default for networks trained on MNIST",
    )
    form.add_argument(
        "--as-is", action="store_true", help="only scale pictures to fit, whatever the network was trained on"
    )


def add_forms(parser: argparse.ArgumentParser) -> None:
    """Add the options that say in what form the answer is printed."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document with all scores")
    form.add_argument(
        "--csv", action="store_true", help="print a head, then a line for each image with all its scores"
    )


# -- how pictures are looked at ---------------------------------------------------------------


class View:
    """Makes images for a network of pictures: scales them to fit, or brings them into MNIST's form.

    Call it with pixels (height, width, C) and the shape (H, W, C) of an image.

    Attributes
    ----------
    mnist_like : bool
    changed : int
        How many pictures were brought into MNIST's form.
    """

    def __init__(
        self, options: argparse.Namespace, run: Path, network: Network, class_names: Sequence[str]
    ) -> None:
        self.invert, self.was_told = options.invert, options.mnist_like
        self.numbered = tuple(class_names) == tuple(map(str, range(len(class_names))))
        fits = network.image_shape == MNIST_SHAPE and tuple(class_names) == DIGITS
        self.mnist_like = options.mnist_like or (not options.as_is and fits and learnt_mnist(run))
        self.changed = 0

    def __call__(self, pixels: Array, image_shape: tuple[int, int, int]) -> Array:
        if self.invert:
            pixels = 255 - pixels  # (height, width, C)
        if not self.mnist_like:
            return fit_picture(pixels, image_shape)
        image = like_mnist(pixels, image_shape, light=True if self.invert else None)  # (H, W, C)
        self.changed += image is not pixels
        return image

    def warning(self, pixels: Array, image: Array) -> str | None:
        """Say why a picture (height, width, C) may not be answered well; `image` (H, W, C) was made of it."""
        if remark := remark_on(image if self.mnist_like else pixels):
            return remark
        if self.mnist_like or not self.numbered or border_is_light(pixels) is self.invert:
            return None
        cure = "try without --invert" if self.invert else "try --invert"
        if pixels.shape != MNIST_SHAPE and not self.invert:
            cure += ", or --mnist-like for handwriting"
        return f"its border is light; MNIST is light on dark, {cure}"

    def tell(self) -> None:
        """Say that pictures were changed, if nobody asked for it."""
        if self.changed and not self.was_told:
            complain(
                f"{self.changed:,} {'picture was' if self.changed == 1 else 'pictures were'} brought into "
                "MNIST's form, which this network was trained on; --as-is leaves them as they are"
            )


def learnt_mnist(run: Path) -> bool:
    """Whether a network was trained on MNIST: it is the one that comes along, or its run says so."""
    if run == find_pretrained():
        return True
    folder = run_of(run)
    origin = None if folder is None else trained_on(folder)
    return origin is not None and origin.fingerprint == MNIST


# -- what is printed --------------------------------------------------------------------------


def print_json(document: dict[str, Any]) -> None:
    """Print a document, with every number in full precision."""
    print(json.dumps(document, indent=1))


def by_name(scores: Array, class_names: Sequence[str]) -> dict[str, float]:
    """Return the scores (J,) of one image by the names of the classes."""
    return {name: float(score) for name, score in zip(class_names, scores, strict=True)}


class CsvLines:
    """Prints a line for each image: what is given for it, then all its scores in full precision."""

    def __init__(self, columns: Sequence[str], class_names: Sequence[str]) -> None:
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.writer.writerow([*columns, *(f"score {name}" for name in class_names)])

    def add(self, values: Iterable[Any], scores: Array) -> None:
        """Print the line of one image, with its scores (J,)."""
        self.writer.writerow([*values, *(repr(float(score)) for score in scores)])
