"""How options are written on the command line."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from minicaps.checks import check_whole

Layers: TypeAlias = tuple[tuple[int, int], ...]  # (capsules, dimension) of each


def read_size(text: str) -> int | tuple[int, int]:
    """Return the size that is written as ``28`` or, height first, as ``60x80``."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*[xX×]\s*(\d+))?\s*", text)
    if match is None:
        raise ValueError(f"size is {text!r}, expected N or HEIGHTxWIDTH, such as 28 or 60x80")
    height, width = match.groups()
    return (int(height), int(width)) if width else int(height)


def as_size(where: str, size: Any) -> int | tuple[int, int] | None:
    """Return a size, which JSON has as a list, as (height, width), or as one number where it is square.

    Raises
    ------
    ValueError
        If it is no whole number above 0, or two of them.
    """
    if isinstance(size, (list, tuple)) and len(size) == 2:
        height, width = size
        check_whole(where, 1, **{"size (height)": height, "size (width)": width})
        return height if height == width else (height, width)
    if size is not None:
        check_whole(where, 1, size=size)
    return size


def read_layers(text: str) -> Layers:
    """Return the capsule layers that are written as ``32x8,16x8``: capsules and dimension of each."""
    matches = [re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", each) for each in text.split(",")]
    if not all(matches):
        raise ValueError(f"layers is {text!r}, expected CAPSULESxDIMENSION of each layer, such as 32x8,16x8")
    return tuple((int(match[1]), int(match[2])) for match in matches if match)


def write_layers(layers: Layers) -> str:
    """Return what ``read_layers`` reads."""
    return ",".join(f"{capsules}x{dimension}" for capsules, dimension in layers)


def as_layers(where: str, layers: Any) -> Layers | None:
    """Return capsule layers, which JSON has as lists, as tuples; None where there are none.

    Raises
    ------
    ValueError
        If they are something else.
    """
    if layers is None:
        return None
    if not isinstance(layers, (list, tuple)) or not all(
        isinstance(each, (list, tuple)) and len(each) == 2 for each in layers
    ):
        raise ValueError(f"{where}: layers is {layers!r}, expected (capsules, dimension) of each layer")
    for capsules, dimension in layers:
        check_whole(where, 1, **{"layers (capsules)": capsules, "layers (dimension)": dimension})
    return tuple(map(tuple, layers)) or None


def flag(name: str, value: object = None) -> str:
    """Return the flag of ``train`` that sets an option (to this value)."""
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def words_of(name: str, value: Any) -> list[str]:
    """Return the words that give an option this value on the command line."""
    return [flag(name, value)] if isinstance(value, bool) else [flag(name), str(value)]
