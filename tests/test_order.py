"""What is learnt does not depend on how a data set is sorted, and what a data set lacks is told."""

import ast
import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from helpers import mnist, quiet, read_metrics, tiny_config, write_folder
from hypothesis import given
from hypothesis import strategies as st

import minicaps
from minicaps.datasets import Dataset, cut, first, load
from minicaps.datasets.order import every_fifth, natural
from minicaps.experiments.study import Settings
from minicaps.training import Run

LABELS = st.lists(st.integers(0, 5), min_size=2, max_size=120).map(np.array)


def labelled(train, test=(0, 1), names=None, images=None):
    """Return a data set with these labels, whose image k shows the number k in its first two pixels."""
    train, test = np.asarray(train, np.int64), np.asarray(test, np.int64)
    numbers = np.arange(len(train))
    if images is None:
        images = np.stack([numbers // 256, numbers % 256, 0 * numbers, 0 * numbers + 255], axis=1)
        images = images.astype(np.uint8).reshape(-1, 1, 4, 1)
    shown = np.random.default_rng(0).integers(0, 256, (len(test), 1, 4, 1), dtype=np.uint8)
    names = names or tuple(map(str, range(max(train.max(), test.max()) + 1)))
    return Dataset(images, train, shown, test, names, "labelled")


def numbers_of(images):
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]


def is_kept(index):
    return isinstance(index, slice)


# -- the cut -----------------------------------------------------------------------------------


def test_the_split_of_mnist_is_that_of_its_order():
    whole = mnist()
    images, labels, validation_images, validation_labels = whole.split()
    assert len(images) == 55_000 and len(validation_images) == 5_000
    assert np.shares_memory(images, whole.train_images)
    np.testing.assert_array_equal(labels, whole.train_labels[:55_000])
    np.testing.assert_array_equal(validation_labels, whole.train_labels[55_000:])


@pytest.mark.parametrize("limit", [20, 100, 1_000, 2_000, 10_000, 54_999, 55_000, 70_000])
def test_a_limit_takes_the_first_images_of_mnist(limit):
    images, labels, validation_images, _ = mnist().split(limit)
    assert len(images) == len(labels) == min(limit, 55_000) and len(validation_images) == 5_000
    assert limit == 20 or np.shares_memory(images, mnist().train_images)


@pytest.mark.parametrize("classes, of_each", [(10, 100), (2, 10), (26, 40), (3, 2000)])
def test_a_sorted_set_has_every_class_in_training_and_validation_in_proportion(classes, of_each):
    _, labels, _, validation = labelled(np.repeat(np.arange(classes), of_each)).split()
    counts = np.bincount(validation, minlength=classes)
    assert counts.min() >= 1 and counts.max() - counts.min() <= 1
    assert np.bincount(labels, minlength=classes).min() >= 0.85 * of_each


def test_images_stay_with_their_labels_where_the_order_changes():
    labels = np.repeat(np.arange(5), 60)
    images, kept, validation_images, validation_labels = labelled(labels).split()
    numbers = np.concatenate([numbers_of(images), numbers_of(validation_images)])
    assert sorted(numbers) == list(range(300))
    np.testing.assert_array_equal(labels[numbers], np.concatenate([kept, validation_labels]))


@pytest.mark.parametrize(
    "labels",
    [
        np.repeat([0, 1], [10, 90]),  # sorted: the validation set would hold one class
        np.repeat([1, 0], [90, 10]),  # ... or all of a rare one
        np.r_[np.arange(900) % 10, np.full(100, 3)],  # mixed, but for the last tenth
        np.r_[np.arange(950) % 10, np.full(46, 3), [0, 1, 2, 4]],  # which has some of the others
        np.r_[np.zeros(990, int), np.ones(10, int)],
    ],
)
def test_a_cut_that_distorts_a_class_is_not_made(labels):
    kept, rest = cut(labels, 9 * len(labels) // 10)
    assert not is_kept(kept)
    for part, share in ((kept, 0.9), (rest, 0.1)):
        due = share * np.bincount(labels)
        assert (np.abs(np.bincount(labels[part], minlength=len(due)) - due) <= 1).all()


def test_classes_of_one_image_do_not_all_come_first():
    labels = np.r_[
        np.zeros(90, int), np.ones(90, int), np.arange(2, 22)
    ]  # sorted, and 20 classes of one image
    few = np.bincount(labels[first(labels, 20)], minlength=22)
    assert abs(few[0] - 9) <= 2 and abs(few[1] - 9) <= 2


@given(st.integers(0, 1000), st.integers(2, 12))
def test_an_order_that_is_mixed_is_kept(seed, classes):
    labels = np.random.default_rng(seed).integers(classes, size=2_000)
    assert is_kept(cut(labels, 1_800)[0]) and is_kept(first(labels, 500))


@given(LABELS, st.integers(0, 130))
def test_a_cut_loses_no_image_and_takes_none_twice(labels, count):
    kept, rest = (np.arange(len(labels))[part] for part in cut(labels, count))
    assert sorted([*kept, *rest]) == list(range(len(labels)))
    assert len(kept) == min(count, len(labels)) == len(np.arange(len(labels))[first(labels, count)])


@given(LABELS, st.integers(0, 130), st.integers(0, 9))
def test_a_class_that_is_due_an_image_lacks_none_if_there_is_room(labels, count, seed):
    labels = np.random.default_rng(seed).permutation(labels)
    part = labels[first(labels, count)]
    classes, of_all = np.unique(labels, return_counts=True)
    due = of_all * min(count, len(labels)) / len(labels)
    if (due >= 1).all():
        assert set(part) == set(classes)


def test_an_order_is_the_same_for_everybody():
    labels = np.repeat(np.arange(4), 50)
    for a, b in zip(cut(labels, 150), cut(labels, 150), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_limit_on_a_sorted_set_has_every_class():
    dataset = labelled(np.repeat(np.arange(10), 100))
    for limit in (10, 20, 200):
        _, labels, _, validation = dataset.split(limit)
        assert np.bincount(labels, minlength=10).tolist() == [limit // 10] * 10
        np.testing.assert_array_equal(validation, dataset.split()[3])


def test_every_fifth_of_a_class_is_for_the_test():
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 2])
    assert np.flatnonzero(every_fifth(labels)).tolist() == [6, 9]


def test_natural_order_counts():
    assert sorted(["10", "9", "x10", "x9", "2"], key=natural) == ["2", "9", "10", "x9", "x10"]


# -- what uses it ------------------------------------------------------------------------------


def sorted_mnist(train=1_000, test=200):
    """Return some of MNIST, sorted by class."""
    whole = mnist()
    chosen = [np.argsort(labels[:n], kind="stable") for labels, n in
              ((whole.train_labels, train), (whole.test_labels, test))]  # fmt: skip
    return dataclasses.replace(
        whole,
        train_images=whole.train_images[chosen[0]],
        train_labels=whole.train_labels[chosen[0]],
        test_images=whole.test_images[chosen[1]],
        test_labels=whole.test_labels[chosen[1]],
    )


@pytest.mark.parametrize("limit", [None, 100])
def test_a_run_on_sorted_files_trains_and_validates_every_class(tmp_path, limit):
    folder = write_folder(tmp_path / "sorted", sorted_mnist())
    run = Run(tiny_config(data=str(folder), limit=limit), tmp_path / "run", say=quiet)
    assert set(run.labels) == set(run.validation[1]) == set(range(10))
    assert limit is None or len(run.images) == limit


def test_a_run_learns_the_same_from_sorted_files(tmp_path):
    folder = write_folder(tmp_path / "sorted", sorted_mnist())
    config = tiny_config(data=str(folder), epochs=5, learning_rate=0.005, batch_size=30)
    Run(config, tmp_path / "run", say=quiet).train()
    assert read_metrics(tmp_path / "run")[-1]["validation_accuracy"] > 0.6


def experiment_module(name):
    return importlib.import_module(
        f"minicaps.experiments.{name}"
    )  # the folder exports a function of this name


class Asked:
    """A study that is asked for nothing but its settings."""

    def __init__(self, data):
        self.settings = Settings(data=data, networks=("mlp",))
        self.seeds = range(1)

    def load(self, needs):
        return load(self.settings.data)

    def build(self, *_):
        return None

    def fix_steps(self, *_):
        return 1


@pytest.mark.parametrize("module, name", [("ablation", "Ablation"), ("compare", "Comparison")])
def test_experiments_train_and_validate_every_class_of_a_sorted_set(tmp_path, monkeypatch, module, name):
    module = experiment_module(module)
    monkeypatch.setattr(module, "TRAIN_IMAGES" if name == "Ablation" else "IMAGES", 200)
    monkeypatch.setattr(getattr(module, name), "start", lambda *_: (None, None))
    experiment = getattr(module, name)(Asked(str(write_folder(tmp_path, sorted_mnist()))))
    assert len(experiment.labels) in (140, 200)
    assert set(experiment.labels) == set(experiment.validation[1]) == set(range(10))


def test_few_images_are_of_all_classes_even_if_few_are_as_many_as_the_classes(tmp_path, monkeypatch):
    module = experiment_module("few")
    monkeypatch.setattr(module, "COUNTS", (10, 20))
    experiment = module.FewImages(Asked(str(write_folder(tmp_path, sorted_mnist()))))
    for count in experiment.counts:
        for seed in range(3):
            _, batches = experiment.start("capsnet", count, seed)
            assert set(next(batches)[1]) == set(range(10))


def test_affine_sweeps_over_images_of_every_class(monkeypatch):
    module, seen, dataset = experiment_module("affine"), [], sorted_mnist()
    monkeypatch.setattr(module, "SWEEP_IMAGES", 50)
    monkeypatch.setattr(module, "warped_test", lambda images: (images, images))
    monkeypatch.setattr(module, "evaluate", lambda *_: SimpleNamespace(accuracy=0))
    monkeypatch.setattr(module, "sweep", lambda network, images, labels, kind: seen.append(labels))
    module.test(None, dataset.test_images, dataset.test_labels)
    assert seen and all(len(labels) == 50 and set(labels) == set(range(10)) for labels in seen)


def test_rotate_turns_images_of_every_class(monkeypatch):
    module, seen, dataset = experiment_module("rotate"), [], sorted_mnist()
    monkeypatch.setattr(module, "IMAGES", 50)
    monkeypatch.setattr(module, "class_capsules", lambda *_: None)
    monkeypatch.setattr(module, "compare_with", lambda upright, v, labels: seen.append(labels) or {})
    for name in ("one_digit", "report"):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(module.figures, "turning", lambda *_: None)
    module.rotate(Mock(), Mock(), dataset)
    assert seen and all(len(labels) == 50 and set(labels) == set(range(10)) for labels in seen)


def cuts(source):
    """Return the lines of a file in which images or labels are cut by hand: images[:count]."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Load)
            and isinstance(node.slice, ast.Slice)
        ):
            name = getattr(node.value, "attr", getattr(node.value, "id", ""))
            literal = isinstance(node.slice.upper, ast.Constant)  # a few to draw
            if (
                name.endswith(("images", "labels"))
                and node.slice.lower is None
                and node.slice.upper
                and not literal
            ):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("folder", ["training", "experiments", "commands", "networks", "figures"])
def test_nobody_cuts_images_by_hand(folder):
    files = sorted((Path(minicaps.__file__).parent / folder).glob("*.py"))
    assert files and {path.name: cuts(path.read_text(encoding="utf-8")) for path in files if
                      cuts(path.read_text(encoding="utf-8"))} == {}  # fmt: skip
    assert cuts("x = self.images[:count]\ny = labels[: len(y)]\nz = images[:1]\nimages[:n] = 3") == [1, 2]


# -- remarks -----------------------------------------------------------------------------------


def test_there_is_nothing_to_say_about_mnist():
    assert mnist().remarks() == mnist().remarks(limit=2_000) == []


@pytest.mark.parametrize(
    "train, test, expected",
    [
        (np.arange(1, 27).repeat(20), range(1, 27), ["class 0 has no images"]),
        ([*np.arange(10).repeat(20), *[255] * 20], range(10),
         ["classes 10 to 254 have no images", "class 255 has no test images"]),
        ([*np.arange(10).repeat(20), *[30] * 20, *[33] * 20], range(10),
         ["classes 10 to 29, 31 and 32 have no images", "classes 30 and 33 have no test images"]),
        (np.r_[np.arange(50) % 2, 2], [0, 1, 2], ["class 2 has no validation images"]),
        ([0, 1] * 20, [0, 0], ["class 1 has no test images"]),
        (np.arange(0, 40, 2).repeat(20), np.arange(0, 40, 2),
         ["classes 1, 3, 5, 7, 9, 11 and 13 more have no images"]),
    ],
)  # fmt: skip
def test_classes_without_images_are_named(train, test, expected):
    assert labelled(train, list(test)).remarks() == expected


def test_a_limit_names_the_classes_that_it_leaves_out():
    dataset = labelled(np.arange(40) % 4, range(4), ("cat", "dog", "eel", "fox"))
    assert dataset.remarks() == []
    (line,) = dataset.remarks(limit=2)
    assert line.startswith("classes ") and line.endswith(" have no training images")
    assert line.count(" and ") == 1


@pytest.mark.parametrize(
    "names, expected", [(tuple("ABCDE"), "B to D"), (("a1", "b", "cat", "d", "e"), "b, cat and d")]
)
def test_only_numbers_and_letters_make_a_range(names, expected):
    assert labelled([0, 4] * 20, [0, 4], names).remarks() == [f"classes {expected} have no images"]


def test_images_that_show_nothing_are_told():
    labels, rng = [0, 1] * 20, np.random.default_rng(0)
    white = np.full((40, 3, 3, 3), 255, np.uint8)
    assert labelled(labels, images=white).remarks() == [
        "all 40 training images are of one colour, so they show nothing"
    ]
    some = rng.integers(0, 256, (40, 3, 3, 3), dtype=np.uint8)
    some[7] = [10, 200, 30]
    assert labelled(labels, images=some).remarks() == [
        "1 of 40 training images are of one colour, so they show nothing"
    ]
    equal = np.repeat(some[:1], 40, axis=0)
    assert labelled(labels, images=equal).remarks() == ["all 40 training images are equal"]
    equal[39, 0, 0, 0] ^= 1
    assert labelled(labels, images=equal).remarks() == []
    dark = some[8:] % 17
    assert labelled(labels[8:], images=dark).remarks() == [
        "no pixel of the training images is brighter than 16 of 255; are they on another scale?"
    ]


def test_notes_are_told_first():
    dataset = dataclasses.replace(labelled([1, 2] * 20, [1, 2]), notes=("read with care",))
    assert dataset.remarks() == ["read with care", "class 0 has no images"]


def test_what_is_loaded_tells_its_remarks(tmp_path):
    letters = dataclasses.replace(sorted_mnist(200, 100), class_names=tuple("0123456789A"))
    letters = dataclasses.replace(
        letters, train_labels=letters.train_labels + 1, test_labels=letters.test_labels + 1
    )
    assert load(write_folder(tmp_path, letters)).remarks()[0] == "class 0 has no images"
