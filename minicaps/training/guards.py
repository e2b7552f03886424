"""What keeps a run whole: one process per folder, and Ctrl-C between two batches."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from minicaps.training.ranks import current_ranks

if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# How file systems without locks answer: Lustre without -o flock, NFS without lockd, some of FUSE
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class FolderLock:
    """The lock of a run's folder, against any other process and any other run of this one.

    Within ``with lock:`` it is held. The operating system keeps it and drops it when the process ends,
    however it ends. What stays in the folder is an empty file, ``.lock``. Some file systems have no
    locks: there it is said once, and all goes on without.

    Parameters
    ----------
    folder : path
    say : callable
        Receives the warning.

    Raises
    ------
    RuntimeError
        If another run holds it.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self.folder, self.say = folder, say
        self._warned = False
        self._file: BinaryIO | None = None

    def __enter__(self) -> FolderLock:
        file = open(self.folder / ".lock", "ab")
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise _not_locked(self.folder, error) from None
            self._warn(error)
        self._file = file
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            self.say(
                f"warning: {self.folder}: its file system has no locks ({error.strerror}), so take care that "
                "no second process trains this run"
            )


def _not_locked(folder: Path, error: OSError) -> Exception:
    """Return what a lock that was refused means, as an error."""
    cure = "wait for it, or name another folder with --out"
    if isinstance(error, BlockingIOError) or (error.errno == errno.EACCES and sys.platform == "win32"):
        return RuntimeError(f"{folder}: another process is training this run; {cure}")
    if error.errno == errno.EACCES:  # of a network share: held by another machine, or not allowed at all
        return RuntimeError(
            f"{folder}: its lock was refused ({error.strerror}); if another process is training this run, "
            f"{cure}; if the file system allows no locks, name a folder on another one"
        )
    return OSError(error.errno, f"could not be locked ({error.strerror})", str(folder / ".lock"))


class CtrlC:
    """Makes the first Ctrl-C a wish, noted in `pressed`; the second stops at once, as it always does.

    Outside of the main thread, and where Ctrl-C has another meaning already, it changes nothing. Among
    several ranks SIGTERM is such a wish, too: Open MPI turns Ctrl-C into it.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._usual: dict[int, Any] = {}  # signal -> what it does outside

    def __enter__(self) -> CtrlC:
        usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if current_ranks().size > 1:
            usual[signal.SIGTERM] = signal.SIG_DFL
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: does for number, does in usual.items() if signal.getsignal(number) is does}
        for number in self._usual:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.pressed = True
        self._end()

    def _end(self) -> None:
        for number, usual in self._usual.items():
            signal.signal(number, usual)

    def __exit__(self, *error: object) -> None:
        self._end()
