"""A command of several ranks of MPI: the first one speaks for all, and all end together."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext

from minicaps.commands.common import FAILED
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
        said = complaints.getvalue().strip().removeprefix("minicaps: ")
        print(f"minicaps: {ranks}: {said}", file=sys.stderr)
    ranks.abort(code)
    return code
