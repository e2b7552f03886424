"""What an option of a training run is, and which networks have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

OF_CAPSNETS = ("layers", "routing", "presence", "coupling")  # options that no other network has
OF_SOME = ("preset", "routing_iterations", *OF_CAPSNETS, "decoder")  # not every network has them
HAS = {"capsnet": OF_SOME, "efficient": ("preset", "decoder"), "matrix": ("preset", "routing_iterations")}


class BadOption(ValueError):
    """An option that another one, the data, or the run that is continued, leaves no room for."""


def options_without_effect(model: str) -> tuple[str, ...]:
    """Return the options that a network of this name does not have."""
    return tuple(name for name in OF_SOME if name not in HAS.get(model, ()))


def option(
    default: Any,
    text: str,
    *choices: Any,
    metavar: str | None = None,
    read: Callable[[str], Any] | None = None,
) -> Any:
    """Return a field of TrainConfig: its default, its line in the help, what it may be and how it is read."""
    metadata = {"help": text, "choices": choices or None, "metavar": metavar, "read": read}
    return field(default=default, metadata=metadata)
