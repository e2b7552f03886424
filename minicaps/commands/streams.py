"""Where output goes: absent, of another encoding, or closed meanwhile, it is no reason to fail."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress


@contextmanager
def usable_streams() -> Iterator[None]:
    """Within it, whatever is printed to stdout and stderr is taken.

    Where one is absent, as in a program of Windows without a console, it goes nowhere. A letter that its
    encoding lacks is written as in a string of Python: ``\\xd7`` for ×.
    """
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect(nowhere))
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        yield


@contextmanager
def silent_streams() -> Iterator[io.StringIO]:
    """Within it, what is printed to stdout goes nowhere, and what goes to stderr is kept: the result."""
    complaints = io.StringIO()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        with redirect_stdout(nowhere), redirect_stderr(complaints):
            yield complaints


def end_quietly() -> None:
    """Let what is still to be written go nowhere, once the reader of an output has left, or it is full."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):  # no file of the system
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
