"""What the experiments ask of a data set: it is told before anything is trained."""

import numpy as np
import pytest
from helpers import small_dataset, write_idx

from minicaps.datasets import PARTS, Dataset
from minicaps.experiments import few, overlap, training
from minicaps.experiments.needs import Needs, check_needs


def a_dataset(train=60, test=20, shape=(28, 28, 1), classes=3, **changes):
    rng = np.random.default_rng(0)
    parts = {
        "train_images": rng.integers(0, 256, (train, *shape)).astype(np.uint8),
        "train_labels": np.arange(train) % classes,
        "test_images": rng.integers(0, 256, (test, *shape)).astype(np.uint8),
        "test_labels": np.arange(test) % classes,
    }
    return Dataset(**{**parts, **changes}, class_names=tuple("abcdefghij"[:classes]), source="mine")


ONE_CLASS_HELD_OUT = {"train": 12}  # of so few images one is kept to validate
ONE_IMAGE_OF_C = np.r_[np.arange(59) % 2, 2]


GREY = "expected 1: it takes grey images only"


@pytest.mark.parametrize(
    "needs, dataset, message",
    [
        (
            Needs(images=55),
            a_dataset(),
            "54 images to train on, after those kept to validate, expected at least 55",
        ),
        (Needs(frame=36), a_dataset(shape=(40, 20, 1)), "images of 40×20 pixels, expected at most 36×36"),
        (Needs(frame=36), a_dataset(shape=(20, 37, 1)), "images of 20×37 pixels, expected at most 36×36"),
        (Needs(grey=True), a_dataset(shape=(8, 8, 3)), f"images of 3 channels, {GREY}"),
        (Needs(grey=True), a_dataset(shape=(8, 8, 2)), f"images of 2 channels, {GREY}"),
        (
            Needs(classes=2),
            a_dataset(**ONE_CLASS_HELD_OUT),
            "to validate are of 1 class, expected at",
        ),
        (Needs(classes=2), a_dataset(test_labels=np.zeros(20, int)), "to test are of 1 class, expected at"),
        (Needs(classes=4), a_dataset(), "the images to train are of 3 classes, expected at least 4"),
        (
            Needs(of_each=2),
            a_dataset(train_labels=ONE_IMAGE_OF_C),
            "1 of the training images show class 'c', exp",
        ),
    ],
)
def test_what_is_missing_is_named(needs, dataset, message):
    with pytest.raises(ValueError, match=f"^experiment few: mine: .*{message}"):
        check_needs("few", dataset, needs)


def test_a_data_set_that_will_do_is_taken():
    check_needs("few", a_dataset(), Needs(images=54, frame=28, grey=True, classes=3, of_each=20))
    without_c = a_dataset(train_labels=np.arange(60) % 2)  # a class that no image shows needs no image
    check_needs("folds", without_c, Needs(of_each=30))


def write(folder, dataset):
    for name, array in zip(
        PARTS,
        (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels),
        strict=True,
    ):
        write_idx(folder / name, array.astype(np.uint8))
    return folder


def arguments(name, data, out):
    options = ["--steps", 1, "--seeds", 1, "--preset", "tiny", "--data", data, "--out", out]
    return ["experiment", name, *options]


REFUSED = [
    ("few", a_dataset(), "54 images to train on"),
    ("few", a_dataset(300, shape=(60, 20, 1)), "CNN: conv3: a window of width 4 does not fit"),
    ("compare", a_dataset(shape=(60, 20, 1)), "CNN: conv3: a window of width 4 does not fit"),
    ("compare", a_dataset(shape=(5, 5, 1)), "does not fit an image"),
    (
        "ablation",
        a_dataset(shape=(5, 5, 1)),
        "CapsNet: the primary capsules: a window of height 5 does not fit",
    ),
    ("folds", a_dataset(shape=(5, 5, 1)), "CapsNet: the primary capsules: a window of height 5 does not fit"),
    ("folds", a_dataset(train_labels=ONE_IMAGE_OF_C), "expected at least 5 of every class"),
    ("affine", a_dataset(shape=(60, 20, 1)), "expected at most 40×40"),
    ("overlap", a_dataset(shape=(37, 20, 1)), "expected at most 36×36"),
    ("overlap", a_dataset(shape=(28, 28, 3)), "it takes grey images only"),
    ("overlap", a_dataset(**ONE_CLASS_HELD_OUT), "the images to validate are of 1 class"),
]


@pytest.mark.parametrize("name, dataset, message", REFUSED)
def test_an_experiment_trains_nothing_on_a_data_set_that_will_not_do(
    name, dataset, message, tmp_path, monkeypatch, complaint
):
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained"))
    data = write(tmp_path, dataset)
    line = complaint(*arguments(name, data, tmp_path / "x"), code=1)
    assert f"experiment {name}: {data}: " in line and message in line


TAKEN = {
    "colour": a_dataset(shape=(28, 28, 3)),
    "two channels": a_dataset(shape=(28, 28, 2)),
    "a class that no image shows": a_dataset(
        train_labels=np.arange(60) % 2 * 2, test_labels=np.arange(20) % 2 * 2
    ),
    "tall": a_dataset(shape=(40, 32, 1)),
}
CASES = [(name, kind) for name in ("compare", "few", "folds", "affine") for kind in TAKEN]
CASES.append(("overlap", "a class that no image shows"))


@pytest.mark.parametrize("name, kind", CASES)
def test_other_data_sets_than_mnist_are_taken(name, kind, tmp_path, monkeypatch, call):
    monkeypatch.setattr(few, "COUNTS", (20,))
    for size, value in {"BATCH": 10, "VALIDATION_PAIRS": 20, "TEST_PAIRS": 20}.items():
        monkeypatch.setattr(overlap, size, value)
    code, out, errors = call(*arguments(name, write(tmp_path, TAKEN[kind]), tmp_path / "x"))
    assert code == 0 and "warning" not in out, (out, errors)
    assert (tmp_path / "x" / "table.md").read_text()


def test_mnist_has_what_every_experiment_needs():
    for needs in (Needs(images=100), Needs(frame=36, grey=True, classes=2), Needs(of_each=5)):
        check_needs("any", small_dataset(300, 100), needs)
