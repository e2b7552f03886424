"""Named sets of options for ``train``: what was chosen together, on validation images, for one purpose."""

from __future__ import annotations

from typing import Any

from minicaps.training.notation import words_of

# Each was chosen on the last 10,000 training images, without a look at the test set; what was tried stands in
# data/experiments/README.md.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "accurate": {
        "model": "efficient",
        "preset": "medium",
        "epochs": 60,
        "batch_size": 50,
        "learning_rate": 0.003,
        "shift": 2,
        "warp": 0.75,
        "test_shift": 1,
        "validate": False,
    },
}


def flags_of(recipe: str) -> str:
    """Return the options of a recipe as one would give them to ``train``."""
    return " ".join(word for option in RECIPES[recipe].items() for word in words_of(*option))
