"""The trained weights in the package, which lessons and `explore` use."""

import re
from pathlib import Path

import helpers
import pytest

import minicaps
from minicaps.networks import PRESETS, CapsNet, find_pretrained, load_pretrained
from minicaps.networks.weights import PRETRAINED
from minicaps.training import evaluate


def test_they_classify_the_test_set():
    mnist, network = helpers.mnist(), load_pretrained(helpers.PRETRAINED)
    assert type(network) is CapsNet and network.config == PRESETS["small"]
    assert evaluate(network, mnist.test_images, mnist.test_labels).accuracy >= 0.992


def test_the_file_is_small():
    assert helpers.PRETRAINED.stat().st_size < 5e6


def test_a_file_beside_named_data_wins_over_the_one_in_the_package(tmp_path, monkeypatch):
    monkeypatch.delenv("MINICAPS_DATA", raising=False)
    package = Path(minicaps.__file__).parent / "networks" / PRETRAINED
    assert find_pretrained() == package and package.is_file()
    monkeypatch.setenv("MINICAPS_DATA", str(tmp_path))
    assert find_pretrained() == package
    (tmp_path / PRETRAINED).touch()
    assert find_pretrained() == tmp_path / PRETRAINED


def test_the_command_that_makes_them_is_told_where_they_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("python -m minicaps train --out RUN")):
        load_pretrained(tmp_path / "absent.npz")
    assert "python -m minicaps train --out RUN" in (helpers.DATA / "README.md").read_text()
