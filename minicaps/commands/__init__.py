"""What can be asked for on the command line: a file for each command.

Each has ``add_options(parser)``, and ``command(options)``, which does it and returns the exit code. The file
and the command have one name, and ``minicaps.cli`` imports only the one that was asked for.
"""

from minicaps.commands.common import (
    FAILED,
    INTERRUPTED,
    OK,
    WRONG_USE,
    UsageError,
    add_debug,
    complain,
    one_line,
)
from minicaps.commands.ranks import OF_ALL, run_as_rank
from minicaps.commands.streams import end_quietly, usable_streams

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "OF_ALL",
    "OK",
    "WRONG_USE",
    "UsageError",
    "add_debug",
    "complain",
    "end_quietly",
    "one_line",
    "run_as_rank",
    "usable_streams",
]
