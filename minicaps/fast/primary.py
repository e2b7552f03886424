"""Primary capsules of a fast convolution and a fast squash."""

from __future__ import annotations

from minicaps import capsules
from minicaps.fast.convolution import Conv2d
from minicaps.fast.squash import Squash


class PrimaryCaps(capsules.PrimaryCaps):
    """capsules.PrimaryCaps, of fast parts."""

    Conv2d, Squash = Conv2d, Squash
