"""Dynamic routing with a fast squash."""

from __future__ import annotations

from minicaps import capsules
from minicaps.fast.squash import Squash


class DynamicRouting(capsules.DynamicRouting):
    """capsules.DynamicRouting, with a fast squash: it is called in every iteration."""

    Squash = Squash
