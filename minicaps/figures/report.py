"""The report of a run: one page of HTML, with the sections of a model card (Mitchell et al. 2019)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets import Dataset
from minicaps.figures.machine import versions_and_machine
from minicaps.figures.markup import Markup, document, element, picture, table
from minicaps.figures.scores import calibration, interval
from minicaps.figures.style import foremost, write_or_warn
from minicaps.figures.text import with_article
from minicaps.networks import Network, files
from minicaps.training import REPORT, RunRecord, commands_of, read_record

if TYPE_CHECKING:
    from minicaps.training import Evaluation

MAX_ROWS = 100  # classes in a table; of more, those with the most mistakes
FEW_IMAGES = 30  # in the test of a class: its accuracy is hardly known
FILES = {
    "config.json": "the options",
    "metrics.jsonl": "the numbers of every epoch, one line each",
    "summary.json": "the result",
    "model.npz": "the weights of the last epoch, which were tested",
    "best.npz": "the weights of the epoch that validated best, which were not tested",
    "checkpoint.npz": "what goes on with the training: weights, optimizer and place in the epochs",
    "learning_curves.png": "loss and accuracy over the epochs",
    "confusion_matrix.png": "which classes are taken for which",
    "mistakes.png": "test images that are classified wrongly",
    "scores.png": "the scores of the true class and of the others, class by class",
    "reconstructions.png": "test images, and what the decoder makes of them",
}


class Facts(NamedTuple):
    """What a report is made of."""

    record: RunRecord
    network: Network
    dataset: Dataset
    test: Evaluation

    @property
    def correct(self) -> Array:
        """Which test images are classified correctly: boolean (N,)."""
        return self.test.predictions == self.dataset.test_labels


def write_report(
    folder: str | Path,
    *,
    network: Network,
    dataset: Dataset,
    test: Evaluation,
    say: Callable[[str], None] = print,
) -> None:
    """Write report.html into the folder of a complete run, with those of its figures that are there.

    The page needs no other file, no network and no script. If it cannot be written, that is one warning,
    and no old one stays.

    Parameters
    ----------
    folder : path
        Of the run, with its configuration, metrics and summary.
    network : Network
        On the host.
    dataset : Dataset
        That the run was trained and tested on.
    test : Evaluation
        Of all test images.
    say : callable
        Receives the warning.
    """
    path = Path(folder) / REPORT
    write_or_warn(path, partial(_write, path, network, dataset, test), say)


def _write(path: Path, network: Network, dataset: Dataset, test: Evaluation) -> None:
    page = report(Facts(read_record(path.parent), network, dataset, test))
    files.write_bytes(path, page.encode("utf-8", "replace"))


def report(facts: Facts) -> str:
    """Return the page."""
    record, wrong = facts.record, int((~facts.correct).sum())
    name, total = record.folder.resolve().name, len(facts.correct)
    headline = f"{name}: {_percent(facts.test.accuracy)} of {total:,} test images are classified correctly"
    now = datetime.now().astimezone().isoformat(" ", "minutes")
    sections: dict[str, Callable[[Facts], Iterable[object]]] = {
        "What it is": what_it_is,
        "Intended use and limits": use_and_limits,
        "Data": data,
        "How it was trained": training,
        "Results": results,
        f"{_scores(network=facts.network)} by class": scores,
        "Reconstructions": reconstructions,
        "Files": its_files,
    }
    return document(
        f"{name}, a run of minicaps",
        element("h1", headline),
        element("p", f"{wrong:,} wrong. Written {now}.", class_="faint"),
        *(part for title, make in sections.items() for part in (element("h2", title), *make(facts))),
    )


# -- the sections ------------------------------------------------------------------------------


def what_it_is(facts: Facts) -> Iterable[object]:
    network = facts.network
    height, width, channels = network.image_shape
    about = (inspect.getdoc(type(network)) or type(network).__name__).partition("\n")[0]
    yield element("p", f"{type(network).__name__}: {about}")
    yield element(
        "p",
        f"It takes images of {height} × {width} pixels with {channels} "
        f"{'channel' if channels == 1 else 'channels'} and gives each of {network.classes} classes "
        f"{with_article(network.score_name)} from 0 to 1; the highest is its prediction. It has "
        f"{network.count_params():,} parameters.",
    )
    rows = [(name, kind, shape, f"{count:,}") for name, kind, shape, count in network.rows()]
    yield table(("layer", "class", "output", "parameters"), rows, numbers=(3,))


def use_and_limits(facts: Facts) -> Iterable[object]:
    network, dataset = facts.network, facts.dataset
    low, high = interval(int(facts.correct.sum()), len(facts.correct))
    counts = np.bincount(dataset.test_labels, minlength=dataset.classes)  # (J,)
    few = int((counts < FEW_IMAGES).sum())
    yield element("p", "For learning and research: to classify images like those that it was trained on.")
    limits = [
        f"It knows its {network.classes} classes and nothing else: whatever an image shows, it names one of "
        "them, and no score says that an image is of another kind.",
        "Its accuracy is that of test images of the same origin as the training images. How it does on "
        "others (another camera, hand, scale or light) was not tested.",
        f"{len(facts.correct):,} test images tell the accuracy on such images no closer than "
        f"{_percent(low)} to {_percent(high)} (95 % interval, Wilson 1927); and it is that of one "
        "training with one seed.",
        f"{with_article(network.score_name).capitalize()} does not say how sure an answer is; how the two go "
        "together stands below, under “Calibration”.",
        "No groups of people were compared, and nothing was tested on images that were changed to deceive "
        "it: it is not made for decisions about people.",
    ]
    if few:
        limits.append(
            f"{few} of {dataset.classes} classes have fewer than {FEW_IMAGES} test images; of them little "
            "is known."
        )
    yield element("ul", *(element("li", limit) for limit in limits))


def data(facts: Facts) -> Iterable[object]:
    dataset, summary, config = facts.dataset, facts.record.summary, facts.record.config
    _, labels, _, held_out = dataset.split(config.limit, config.validate)
    rows = [
        ("where it lay", dataset.source),
        ("training images", f"{len(labels):,}"),
        *([("validation images", f"{len(held_out):,}")] if config.validate else []),
        ("test images", f"{len(dataset.test_labels):,}"),
        ("classes", f"{dataset.classes:,}"),
        ("SHA-256 of its content", summary.get("data_sha256", "unknown")),
    ]
    yield table((), rows)
    if not dataset.has_test_part:
        yield element("p", "The data have no test part: every fifth image of a class is for the test.")
    if remarks := dataset.remarks(config.limit, config.validate):
        yield element("p", "What was found odd about the data:")
        yield element("ul", *(element("li", remark) for remark in remarks))


def training(facts: Facts) -> Iterable[object]:
    record, summary = facts.record, facts.record.summary
    yield element("p", "The command that repeats it, to the bit with the same versions and processor:")
    yield element("pre", "\n".join(commands_of(record.config, record.epochs)))
    learning = "training and validation" if record.config.validate else "training"
    best = f"{summary['best_epoch']} of {len(record.epochs)}" if summary.get("best_epoch") else "unknown"
    rows = [
        ("time", f"{record.seconds:,.1f} s of {learning}, {len(record.epochs)} epochs"),
        *([("epoch that validated best", best)] if record.config.validate else []),
        ("seed", f"{record.config.seed}, of the first weights, the order of the images and the shifts"),
        *versions_and_machine().items(),
    ]
    yield table((), rows)
    yield _picture(facts, "learning_curves", f"Loss and accuracy in {learning}, by epoch")
    yield element("h3", "Configuration")
    yield table((), [(name, str(value)) for name, value in record.options().items()])


def results(facts: Facts) -> Iterable[object]:
    record, total = facts.record, len(facts.correct)
    low, high = interval(int(facts.correct.sum()), total)
    validated = record.validation_accuracy
    accuracy = f"{_percent(facts.test.accuracy)} (95 % interval: {_percent(low)} to {_percent(high)})"
    without = ("test accuracy without shifted copies", _percent(facts.test.unshifted_accuracy))
    rows = [
        ("test accuracy", accuracy),
        *([without] if record.config.test_shift else []),
        ("test images classified wrongly", f"{(~facts.correct).sum():,} of {total:,}"),
        ("test loss", f"{facts.test.loss:.5f}"),
        *([] if validated is None else [("validation accuracy of the last epoch", _percent(validated))]),
        ("training accuracy of the last epoch", _percent(record.epochs[-1]["train_accuracy"])),
    ]
    yield table((), rows)
    yield element("h3", "Class by class")
    yield from _classes(facts)
    yield _picture(facts, "confusion_matrix", "How often each class is taken for each other")
    yield _picture(facts, "mistakes", "Test images that are classified wrongly, true and predicted class")


def scores(facts: Facts) -> Iterable[object]:
    name = facts.network.score_name
    if name == "probability":
        yield element(
            "p", "This network has no capsule whose length or activation is read; its scores are a softmax."
        )
    yield _picture(facts, "scores", f"The {name} of the true class and of the highest other, by class")
    bins, error = calibration(facts.test.scores, facts.dataset.test_labels)
    yield element("h3", "Calibration")
    yield element(
        "p",
        f"If the highest {name} were the probability of being right, both columns would agree in each line. "
        f"They are {100 * error:.2f} points apart in the mean of all images (expected calibration error).",
    )
    rows = [
        (
            f"{each.low:.1f} to {each.high:.1f}",
            f"{each.images:,}",
            f"{100 * each.score:.1f} %",
            _percent(each.accuracy),
        )
        for each in bins
    ]
    head = (f"highest {name}", "test images", "its mean, × 100", "classified correctly")
    yield table(head, rows, numbers=(1, 2, 3))


def reconstructions(facts: Facts) -> Iterable[object]:
    if getattr(facts.network, "decoder", None):
        yield _picture(facts, "reconstructions", "Test images above what the decoder makes of them")
    else:
        yield element("p", "None: this network has no decoder.")


def its_files(facts: Facts) -> Iterable[object]:
    folder = facts.record.folder
    yield element("p", f"In {folder.resolve()}; this page needs none of them.")
    rows = [(name, text, f"{(folder / name).stat().st_size:,}") for name, text in FILES.items()
            if (folder / name).exists()]  # fmt: skip
    yield table(("file", "what it holds", "bytes"), rows, numbers=(2,))


# -- what they are made of -------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _scores(network: Network) -> str:
    """Return what the scores are, as a title."""
    names = {"length": "Capsule lengths", "activation": "Capsule activations"}
    return names.get(network.score_name, "Probabilities")


def _picture(facts: Facts, name: str, text: str) -> Markup:
    path = facts.record.folder / f"{name}.png"
    if not path.exists():
        return element("p", f"{path.name} could not be drawn.", class_="faint")
    return picture(path, text)


def _classes(facts: Facts) -> Iterable[object]:
    """Return the table of all classes, or of those with the most mistakes."""
    dataset, predictions, config = facts.dataset, facts.test.predictions, facts.record.config
    labels, names, count = dataset.test_labels, dataset.class_names, dataset.classes
    _, trained, *_ = dataset.split(config.limit, config.validate)
    in_training, in_test = (np.bincount(each, minlength=count) for each in (trained, labels))  # (J,), (J,)
    right = np.bincount(labels[facts.correct], minlength=count)  # (J,)
    shown = foremost(in_test - right, MAX_ROWS)  # (j,)
    rows = []
    for k in shown:
        mistaken = np.bincount(predictions[(labels == k) & ~facts.correct], minlength=count)  # (J,)
        taken = f"{names[mistaken.argmax()]} ({mistaken.max():,})" if mistaken.any() else ""
        share = _percent(right[k] / in_test[k]) if in_test[k] else "none"
        rows.append((names[k], f"{in_training[k]:,}", f"{in_test[k]:,}", f"{right[k]:,}", share, taken))
    if len(shown) < count:
        yield element("p", f"The {len(shown)} of {count:,} classes with the most mistakes.")
    head = ("class", "training images", "test images", "correct", "accuracy", "most often taken for")
    yield table(head, rows, numbers=(1, 2, 3, 4))
