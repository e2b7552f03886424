"""A command of several ranks of MPI: the first one speaks for all, and all end together."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import nullcontext

from minicaps.commands.common import FAILED, complain
from minicaps.commands.streams import silent_streams
from minicaps.training import Ranks

OF_ALL = ("train", "experiment")  # what all ranks do; the first one does the others alone


def run_as_rank(ranks: Ranks, name: str | None, run: Callable[[], int]) -> int:
    """Run a command as one of several ranks, and return its exit code once all ranks have ended.

    The others than the first are silent. If one fails and the others go on, it says why and ends them all.

    Parameters
    ----------
    ranks : Ranks
        Two or more.
    name : str or None
        Of the command.
    run : callable
        Runs it, and returns the exit code.
    """
    with nullcontext() if ranks.first else silent_streams() as complaints:
        try:
            code = run() if name in OF_ALL else ranks.decide(run)
        except Exception:  # with --debug
            traceback.print_exc()
            code = FAILED
    if ranks.end(code):
        return code
    if complaints is not None:
        complain(f"{ranks}: {_reason(complaints.getvalue())}")
    ranks.abort(code)
    return code


def _reason(text: str) -> str:
    """Return what a rank said is wrong, without its warnings and progress; with --debug, all of it."""
    lines = [line for line in text.splitlines() if line.startswith("minicaps: ")]
    return lines[-1].removeprefix("minicaps: ") if lines else text.strip()
