"""Named sets of options for ``train``: what was chosen together, on validation images, for one purpose."""

from __future__ import annotations

from typing import Any

from minicaps.training.notation import flag

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "accurate": {
        "model": "efficient",
        "epochs": 60,
        "shift": 2,
        "warp": 0.5,
        "validate": False,
    },
}


def flags_of(recipe: str) -> str:
    """Return the options of a recipe as one would give them to ``train``."""
    return " ".join(
        flag(name, value) if isinstance(value, bool) else f"{flag(name)} {value}"
        for name, value in RECIPES[recipe].items()
    )
