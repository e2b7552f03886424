"""``predict``: say what images show."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.commands.answers import (
    CsvLines,
    View,
    add_forms,
    add_views,
    by_name,
    print_json,
)
from minicaps.commands.common import FAILED, OK, WRONG_USE, add_run, complain, load_run, one_line
from minicaps.datasets import expand, find_files, read_picture, to_float


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="PNG or JPEG, grey or colour, of any size; a folder, with all that are in it and in its "
        "folders; or a pattern such as 'photos/*.png'",
    )
    add_views(parser)
    add_forms(parser)


class Answer(NamedTuple):
    """What a network says of one picture, or why it says nothing."""

    name: str
    scores: Array | None  # (J,)
    failure: Exception | None = None
    warning: str | None = None


def command(options: argparse.Namespace) -> int:
    """Answer for each image; one that cannot be read is complained about, and the rest answered."""
    network, class_names = load_run(options.run)
    view = View(options, options.run, network, class_names)
    snapshot, code, told = network.for_inference(), OK, []
    lines = CsvLines(("image", "prediction"), class_names) if options.csv else None
    for answer in _answer_each(options.images, snapshot, view):
        if answer.failure is not None:
            complain(one_line(answer.failure))
            code = max(code, WRONG_USE if isinstance(answer.failure, FileNotFoundError) else FAILED)
        elif answer.warning:
            complain(f"warning: {answer.name}: {answer.warning}")
        if options.json:
            told.append(_as_json(answer, class_names))
        elif answer.scores is not None and lines:
            lines.add((answer.name, class_names[int(answer.scores.argmax())]), answer.scores)
        elif answer.scores is not None:
            print(f"{answer.name}: {_in_words(answer.scores, class_names, network.score_name)}")
    if options.json:
        print_json({"run": str(options.run), "scores": network.score_name, "predictions": told})
    view.tell()
    return code


def _answer_each(texts: list[str], network: Any, view: View) -> Iterator[Answer]:
    """Yield the answer for every picture that the arguments mean."""
    for name, failure in _find_pictures(texts):
        if failure is not None:
            yield Answer(name, None, failure)
            continue
        try:
            pixels = read_picture(name, network.image_shape[2])  # (height, width, C)
        except (OSError, ValueError) as error:
            yield Answer(name, None, error)
            continue
        image = view(pixels, network.image_shape)  # (H, W, C)
        scores = network.scores(network(to_float(image[None])))[0]  # (J,)
        yield Answer(name, scores, warning=view.warning(pixels, image))


def _find_pictures(texts: list[str]) -> Iterator[tuple[str, Exception | None]]:
    """Yield the name of every file that the arguments mean, or what is wrong with an argument."""
    for text in texts:
        try:
            for path in expand(text):
                if not Path(path).is_dir():
                    yield path, None
                    continue
                found = find_files(Path(path))
                if not found:
                    raise ValueError(f"{path}: a folder without pictures")
                yield from ((str(file), None) for file in found)
        except (OSError, ValueError) as error:
            yield text, error


def _in_words(scores: Array, class_names: tuple[str, ...], what: str) -> str:
    """Return the two classes with the highest scores (J,)."""
    best, second = np.argsort(scores)[::-1][:2]
    return (
        f"{class_names[best]} ({what} {scores[best]:.3f}), then {class_names[second]} ({scores[second]:.3f})"
    )


def _as_json(answer: Answer, class_names: tuple[str, ...]) -> dict[str, Any]:
    if answer.scores is None:
        return {"image": answer.name, "error": one_line(answer.failure) if answer.failure else ""}
    told = {
        "image": answer.name,
        "prediction": class_names[int(answer.scores.argmax())],
        "scores": by_name(answer.scores, class_names),
    }
    return told | ({"warning": answer.warning} if answer.warning else {})
