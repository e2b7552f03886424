"""Watch an object from outside: one of its methods is another one for as long as a block runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Method = Callable[..., Any]


@contextmanager
def watched(owner: Any, method: str, wrap: Callable[[Method], Method]) -> Iterator[None]:
    """Within it, `owner` alone, not its class, has ``wrap(original)`` as its `method`."""
    setattr(owner, method, wrap(getattr(owner, method)))
    try:
        yield
    finally:
        delattr(owner, method)  # the class's own method shows again
