"""``predict``: say what images show."""

from __future__ import annotations

import argparse

import numpy as np

from minicaps.arrays import Array
from minicaps.commands.common import FAILED, OK, WRONG_USE, add_run, complain, load_run
from minicaps.datasets import border_is_light, fit_picture, read_picture, to_float
from minicaps.networks import CapsNet, MatrixCapsNet, Network


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="PNG or JPEG, grey or colour, of any size")
    parser.add_argument(
        "--invert", action="store_true", help="for images that are dark on light; MNIST is light on dark"
    )


def command(options: argparse.Namespace) -> int:
    """Print a line for each image; one that cannot be read is complained about, and the rest answered."""
    network, class_names = load_run(options.run)
    numbered = class_names == tuple(map(str, range(len(class_names))))  # as MNIST and other IDX files are
    code = OK
    for path in options.images:
        try:
            picture = read_picture(path, network.image_shape[2], options.invert)
        except FileNotFoundError as error:
            complain(str(error))
            code = WRONG_USE
            continue
        except ValueError as error:
            complain(str(error))
            code = max(code, FAILED)
            continue
        if numbered and border_is_light(picture):
            cure = "try without --invert" if options.invert else "try --invert"
            complain(f"warning: {path}: its border is light; MNIST is light on dark, {cure}")
        print(f"{path}: {answer(network, class_names, fit_picture(picture, network.image_shape))}")
    return code


def answer(network: Network, class_names: tuple[str, ...], image: Array) -> str:
    """Return in words the two classes with the highest scores, for an 8-bit image (H, W, C)."""
    scores = network.scores(network(to_float(image[None])))[0]  # (J,)
    best, second = np.argsort(scores)[::-1][:2]
    words = {CapsNet: "length", MatrixCapsNet: "activation"}
    what = next((word for kind, word in words.items() if isinstance(network, kind)), "probability")
    return (
        f"{class_names[best]} ({what} {scores[best]:.3f}), then {class_names[second]} ({scores[second]:.3f})"
    )
