"""K-fold cross-validation: how images are dealt out, and what the experiment counts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import quiet, small_dataset

from minicaps.datasets import Dataset
from minicaps.experiments import Settings, Study, folds, study
from minicaps.experiments.folds import Folds, deal


@pytest.mark.parametrize("count, classes, k", [(300, 10, 5), (103, 7, 4), (11, 2, 3), (10, 1, 10)])
def test_every_fold_has_its_share_of_every_class(count, classes, k):
    labels = np.random.default_rng(3).integers(0, classes, count)
    fold = deal(labels, k, np.random.default_rng(0))
    assert fold.shape == (count,) and set(fold) <= set(range(k))
    assert np.ptp(np.bincount(fold, minlength=k)) <= 1
    for each in range(classes):
        assert np.ptp(np.bincount(fold[labels == each], minlength=k)) <= 1


def test_images_are_dealt_out_at_random_and_again_the_same():
    labels = np.zeros(40, int)
    one, again, other = (deal(labels, 4, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (np.diff(one) != 1).any()


@pytest.fixture
def data(monkeypatch):
    """MNIST's first images, of a data set whose test images nobody may look at."""
    small = small_dataset(120, 10)
    hidden = SimpleNamespace(shape=(10, 28, 28, 1), dtype=np.uint8)  # no array: to look is an error
    data = Dataset(
        small.train_images, small.train_labels, hidden, small.test_labels, small.class_names, "MNIST"
    )
    monkeypatch.setattr(study, "load", lambda folder: data)
    monkeypatch.setattr(folds, "BATCH", 20)
    return data


def a_study(folder, **settings):
    return Study("folds", Settings(**{"folds": 3, "steps": 2, "preset": "tiny", **settings}), folder, quiet)


def test_every_image_is_held_out_once_and_never_trained_on_meanwhile(data, tmp_path):
    experiment = Folds(a_study(tmp_path))
    held_out = [experiment.held_out(fold, seed=0) for fold in range(3)]
    np.testing.assert_array_equal(np.sum(held_out, axis=0), 1)
    for fold in range(3):
        images, _ = next(experiment.start(fold, seed=0)[1])
        assert len(images) == 20
        unshifted = {each.tobytes() for each in data.train_images[held_out[fold]]}
        assert not unshifted & {each.tobytes() for each in images}


def test_the_result_holds_every_fold_and_the_table_their_mean(data, tmp_path):
    lines = []
    chosen = a_study(tmp_path, seeds=2)
    chosen.say = lines.append
    folds.folds(chosen)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [(row["fold"], row["seed"]) for row in result["rows"]] == [
        (k, seed) for seed in (0, 1) for k in range(3)
    ]
    assert [row["images"] for row in result["rows"]] == [40] * 6
    first = [row["accuracy"] for row in result["rows"][:3]]
    assert result["accuracy"]["0"] == first
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2].endswith(f"| {100 * np.mean(first):.2f} ± {100 * np.std(first, ddof=1):.2f} |")
    assert table[4].startswith("| mean of the seeds |")
    assert (tmp_path / "folds.png").exists() and not [line for line in lines if "warning" in line]


@pytest.mark.parametrize("count", ["1", "0", "-2"])
def test_fewer_than_two_folds_are_refused(count, complaint, tmp_path):
    line = complaint("experiment", "folds", "--folds", count, "--out", tmp_path, code=2)
    assert f"folds is {count}, expected a whole number, 2 or more" in line


def test_only_the_cross_validation_takes_folds(call, tmp_path):
    assert call("experiment", "few", "--folds", 3, "--out", tmp_path)[0] == 2
    assert "--folds K" in call("experiment", "folds", "--help")[1]


def test_a_result_from_before_there_were_folds_is_continued(tmp_path):
    Study("few", Settings(seeds=3), tmp_path, quiet).save()
    path = tmp_path / "result.json"
    result = json.loads(path.read_text())
    del result["settings"]["folds"]
    path.write_text(json.dumps(result))
    Study("few", Settings(seeds=3), tmp_path, quiet)
    with pytest.raises(FileExistsError):
        Study("few", Settings(seeds=4), tmp_path, quiet)
