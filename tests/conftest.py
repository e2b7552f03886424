"""Fixtures that several test files use."""

import helpers
import pytest


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """A folder in MNIST's form with its first 300 training and 100 test images."""
    return helpers.small_folder(tmp_path_factory.mktemp("small"))
