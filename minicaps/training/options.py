"""What an option of a training run is, and which networks have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from minicaps.networks import NETWORKS

OF_CAPSNETS = ("layers", "routing", "presence", "coupling")  # options that no other network has
OF_SOME = ("preset", "routing_iterations", *OF_CAPSNETS, "decoder")  # not every network has them
HAS = {"capsnet": OF_SOME, "efficient": ("preset", "decoder"), "matrix": ("preset", "routing_iterations")}


class BadOption(ValueError):
    """An option that another one, the data, or the run that is continued, leaves no room for."""


def options_without_effect(model: str) -> tuple[str, ...]:
    """Return the options that a network of this name does not have."""
    return tuple(name for name in OF_SOME if name not in HAS.get(model, ()))


def check_effect(model: str, given: Mapping[str, Any]) -> None:
    """Refuse what is given for options that a network of this name does not have."""
    for name in options_without_effect(model):
        if name in given:
            has = ", ".join(other for other in NETWORKS if name in HAS.get(other, ()))
            raise BadOption(
                f"train: {name} is {given[name]!r}, but {model} has no such option (these have: {has}); "
                "leave it out"
            )


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
