"""``evaluate``: test a trained network, on the test images of its run or on others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_shift
from minicaps.commands.answers import (
    CsvLines,
    View,
    add_forms,
    add_views,
    by_name,
    print_json,
)
from minicaps.commands.common import (
    OK,
    RUN_HELP,
    UsageError,
    about_copies,
    checking_arguments,
    complain,
    load_data,
    load_run,
    run_path,
)
from minicaps.datasets import LabelledImages, about_images, read_test_images
from minicaps.training import Evaluation, evaluate, read_config


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [-h] RUN [--data PATH [PATH ...]] [options]"
    # RUN may be missing, since --data takes it where it stands behind; then it is the last of them.
    parser.add_argument("run", metavar="RUN", nargs="?", help=RUN_HELP)
    parser.add_argument(
        "--data",
        metavar="PATH",
        nargs="+",
        action="extend",
        default=[],
        help="test on all pictures of these folders, each with a subfolder for every class (of one with "
        "train/ and test/, on test/ only), or called after a class itself; on single pictures, in folders "
        "called after their class; on patterns such as 'new/*'; or on the test part of IDX, .npz or "
        ".csv files (default: the test images of the run)",
    )
    parser.add_argument(
        "--test-shift",
        type=int,
        metavar="N",
        help="test every image by the mean scores of its copies, shifted by up to N pixels, as train does "
        "with the option of this name (default: that of the run; 0 for a file of weights)",
    )
    add_views(parser)
    add_forms(parser)
    parser.set_defaults(refuse=parser.error)


def command(options: argparse.Namespace) -> int:
    """Print the accuracy on the test images, and that of each class; or a line for every image."""
    paths = list(options.data)
    if options.run is None and len(paths) < 2:
        options.refuse("the following arguments are required: RUN")
    if "" in paths:
        raise UsageError("--data is empty, expected the path of a folder or file")
    run = run_path(paths.pop() if options.run is None else options.run)
    network, class_names = load_run(run)
    view = View(options, run, network, class_names)
    if paths:
        test = read_test_images(paths, network.image_shape, class_names, view)
    else:
        dataset = load_data(None, run, network, class_names)
        names = [f"{dataset.source}#{k}" for k in range(len(dataset.test_labels))]
        test = LabelledImages(dataset.test_images, dataset.test_labels, names, dataset.source)
    test_shift = _own_test_shift(run) if options.test_shift is None else options.test_shift
    with checking_arguments():
        check_shift("evaluate", network.image_shape, test_shift=test_shift)
    result = evaluate(network, test.images, test.labels, test_shift=test_shift)
    if options.csv:
        _print_csv(result, test, class_names)
    elif options.json:
        told = {"run": str(run), "scores": network.score_name, "test_shift": test_shift}
        print_json(told | _as_json(result, test, class_names))
    else:
        _print_report(result, test, class_names, test_shift)
    for line in about_images("test", test.images):
        complain(f"warning: {test.source}: {line}")
    view.tell()
    return OK


def _own_test_shift(run: Path) -> int:
    """Return the option of a run; 0 where only its weights are there."""
    try:
        return read_config(run).test_shift
    except FileNotFoundError:
        return 0


def _print_report(
    result: Evaluation, test: LabelledImages, class_names: tuple[str, ...], test_shift: int
) -> None:
    correct = result.predictions == test.labels  # (N,)
    print(
        f"accuracy {100 * result.accuracy:.2f} % (error {100 * (1 - result.accuracy):.2f} %): "
        f"{(~correct).sum():,} of {_count(len(correct), 'image')} wrong"
    )
    classes = len(np.unique(test.labels))
    print(f"data: {test.source}: {_count(len(correct), 'test image')} of {_count(classes, 'class')}")
    if test_shift:
        print(about_copies(test_shift, result.unshifted_accuracy))
    width = max(12, *map(len, class_names))
    for name, of_class in _by_class(correct, test.labels, class_names):
        print(f"  class {name:<{width}} {100 * of_class.mean():6.2f} % of {len(of_class):,}")


def _count(number: int, what: str) -> str:
    """Return a number of things: "1 image", "2 images", "3 classes"."""
    ending = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{ending}"


def _by_class(correct: Array, labels: Array, class_names: tuple[str, ...]) -> list[tuple[str, Array]]:
    """Return for every class that has images its name, and which of its images are correct (n,)."""
    return [(class_names[k], correct[labels == k]) for k in np.unique(labels)]


def _print_csv(result: Evaluation, test: LabelledImages, class_names: tuple[str, ...]) -> None:
    lines = CsvLines(("image", "label", "prediction", "correct"), class_names)
    for name, label, prediction, scores in zip(
        test.names, test.labels, result.predictions, result.scores, strict=True
    ):
        lines.add((name, class_names[label], class_names[prediction], int(label == prediction)), scores)


def _as_json(result: Evaluation, test: LabelledImages, class_names: tuple[str, ...]) -> dict[str, Any]:
    correct = result.predictions == test.labels  # (N,)
    return {
        "data": test.source,
        "images": len(correct),
        "wrong": int((~correct).sum()),
        "accuracy": result.accuracy,
        "unshifted_accuracy": result.unshifted_accuracy,
        "classes": [
            {"name": name, "images": len(of_class), "accuracy": float(of_class.mean())}
            for name, of_class in _by_class(correct, test.labels, class_names)
        ],
        "predictions": [
            {
                "image": test.names[k],
                "label": class_names[test.labels[k]],
                "prediction": class_names[result.predictions[k]],
                "correct": bool(correct[k]),
                "scores": by_name(result.scores[k], class_names),
            }
            for k in range(len(correct))
        ],
    }
