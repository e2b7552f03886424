"""The trained weights in data/, which lessons and `explore` use."""

import re

import pytest

from minicaps.checkpoint import PRETRAINED, load_pretrained
from minicaps.datasets import load
from minicaps.models import PRESETS, CapsNet
from minicaps.training import evaluate


def test_they_classify_the_test_set():
    mnist, network = load(), load_pretrained()
    assert type(network) is CapsNet and network.conv_channels == PRESETS["small"]["conv_channels"]
    assert evaluate(network, mnist.test_images, mnist.test_labels).accuracy >= 0.992


def test_the_file_is_small():
    assert PRETRAINED.stat().st_size < 5e6


def test_the_command_that_makes_them_is_told_where_they_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("python -m minicaps train --out RUN")):
        load_pretrained(tmp_path / "absent.npz")
    assert "python -m minicaps train --out RUN" in (PRETRAINED.parent / "README.md").read_text()
