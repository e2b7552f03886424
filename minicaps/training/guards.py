"""What keeps a run whole: one process per folder, and Ctrl-C between two batches."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
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
            raise RuntimeError(
                f"{folder}: another process is training this run; wait for it, or name another folder "
                "with --out"
            ) from None
        yield


class CtrlC:
    """Makes the first Ctrl-C a wish, noted in `pressed`; the second stops at once, as it always does.

    Outside of the main thread, and where Ctrl-C has another meaning already, it changes nothing.
    """

    def __init__(self) -> None:
        self.pressed = self._ours = False

    def __enter__(self) -> CtrlC:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._ours = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
