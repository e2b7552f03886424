"""The trained weights in data/, which lessons and `explore` use."""

import re

import helpers
import pytest

from minicaps import datasets
from minicaps.networks import PRESETS, CapsNet, find_pretrained, load_pretrained
from minicaps.networks import weights as checkpoint
from minicaps.training.step import evaluate


def test_they_classify_the_test_set():
    mnist, network = helpers.mnist(), load_pretrained(helpers.PRETRAINED)
    assert type(network) is CapsNet and network.conv_channels == PRESETS["small"]["conv_channels"]
    assert evaluate(network, mnist.test_images, mnist.test_labels).accuracy >= 0.992


def test_the_file_is_small():
    assert helpers.PRETRAINED.stat().st_size < 5e6


def test_they_are_looked_for_where_mnist_is(tmp_path, monkeypatch):
    named, repository, cache = (tmp_path / name for name in ("named", "repository", "home/minicaps"))
    monkeypatch.setattr(datasets, "REPOSITORY_DATA", repository)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINICAPS_DATA", raising=False)
    assert find_pretrained() == repository / checkpoint.PRETRAINED  # where it should be
    for folder in (cache, repository, named):
        if folder == named:
            monkeypatch.setenv("MINICAPS_DATA", str(named))
        folder.mkdir(parents=True)
        (folder / checkpoint.PRETRAINED).touch()
        assert find_pretrained() == folder / checkpoint.PRETRAINED


def test_the_command_that_makes_them_is_told_where_they_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("python -m minicaps train --out RUN")):
        load_pretrained(tmp_path / "absent.npz")
    assert "python -m minicaps train --out RUN" in (helpers.DATA / "README.md").read_text()
