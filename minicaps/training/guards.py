"""What keeps a run whole: one process per folder, Ctrl-C between two batches, finite numbers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from minicaps.arrays import Array, get_xp
from minicaps.layers import Loss
from minicaps.networks import Network
from minicaps.training.step import gradients

if os.name == "nt":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, against any other process and any other run of this one.

    The operating system keeps the lock and drops it when the process ends, however it ends. What
    stays in the folder is an empty file, ``.lock``.

    Raises
    ------
    RuntimeError
        If another run holds it.
    """
    with open(folder / ".lock", "ab") as file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            raise RuntimeError(f"{folder}: another process is training this run; wait for it, or name "
                               "another folder with --out") from None  # fmt: skip
        yield


class CtrlC:
    """Makes the first Ctrl-C a wish, noted in `pressed`; the second stops at once, as it always does.

    Outside of the main thread, and where Ctrl-C has another meaning already, it changes nothing.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> CtrlC:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._ours = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error: Any) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


# -- numbers that are not finite --------------------------------------------------------------


def sum_of_squares(arrays: Iterable[Array]) -> Array:
    """Return Σ x² over all arrays, a scalar array: finite only if every number is.

    It may overflow where every number is finite; ``all_finite`` is exact, and several times slower.
    """
    squares = [get_xp(array).vdot(array, array) for array in arrays]
    return get_xp(*squares).stack(squares).sum()


def all_finite(*values: Any) -> bool:
    """Whether every number in arrays, and in tuples of them, is finite (None counts as finite)."""
    for value in values:
        if isinstance(value, tuple):
            if not all_finite(*value):
                return False
        elif value is not None and not bool(get_xp(value).isfinite(value).all()):
            return False
    return True


def first_not_finite(network: Network, objective: Loss, images: Array, labels: Array) -> str:
    """Compute the gradients again and say in words what is the first in them that is not finite.

    Parameters
    ----------
    images, labels
        As for ``gradients``.
    """
    for name, param in network.params.items():
        if not all_finite(param):
            return f"the weights {name}"
    found: list[str] = []
    with contextlib.ExitStack() as stack:
        for prefix, layer in [*network.leaves(), ("loss", objective)]:
            name = prefix.rstrip(".") or type(network).__name__
            for method in ("forward", "backward", "backward_params"):
                if hasattr(layer, method):
                    stack.enter_context(_watched(layer, method, name, found))
        gradients(network, objective, images, labels)
    return found[0] if found else "nothing, when computed again"


@contextlib.contextmanager
def _watched(layer: Any, method: str, name: str, found: list[str]) -> Iterator[None]:
    """Note in `found` when a method of this one layer or loss has a result that is not finite."""
    original = getattr(layer, method)

    def call(*arguments: Any) -> Any:
        result = original(*arguments)
        if method == "forward":
            what, values = "output", result[:1]  # without the cache
        else:
            what, values = "gradient", (result, *getattr(layer, "_grads", {}).values())
        if not all_finite(*values):
            found.append(f"the {what} of {name}")
        return result

    setattr(layer, method, call)
    try:
        yield
    finally:
        delattr(layer, method)  # the class's own method shows again
