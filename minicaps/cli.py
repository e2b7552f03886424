"""The command line: ``python -m minicaps``, or ``minicaps`` once installed."""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from collections.abc import Sequence

from minicaps import __version__
from minicaps.commands import (
    FAILED,
    INTERRUPTED,
    OF_ALL,
    OK,
    WRONG_USE,
    UsageError,
    add_debug,
    complain,
    end_quietly,
    one_line,
    run_as_rank,
    usable_streams,
)
from minicaps.fast import keep_freed_memory, own_the_cores
from minicaps.training import BadOption, all_ranks, check_launch

__all__ = ["COMMANDS", "FAILED", "INTERRUPTED", "OK", "WRONG_USE", "UsageError", "build_parser", "main"]

COMMANDS = {  # its name, which is that of its file in minicaps/commands too: what it does
    "train": "train a network and test it once",
    "runs": "list the runs in a folder, and what differs between them",
    "evaluate": "test a trained network again",
    "predict": "say what images show",
    "explore": "draw what a trained capsule network does; open a window, or write a page, to play with it",
    "export": "write a trained network for other tools: ONNX, safetensors",
    "experiment": "run an experiment, and set its result beside what was published",
    "gradcheck": "compare every backward pass with central differences",
    "audit": "tell which known faults of capsule networks a code of yours has",
    "bench": "time training steps, stage by stage",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: bad content or a failed run; 2: wrong arguments, or a path that is not there;
    130: interrupted.
    """
    own_the_cores()
    keep_freed_memory()
    given = list(sys.argv[1:] if arguments is None else arguments)
    with usable_streams(), all_ranks() as ranks:
        if ranks.size > 1:
            return run_as_rank(ranks, command_of(given), lambda: run_and_flush(given))
        return run_and_flush(given)


def run_and_flush(arguments: Sequence[str]) -> int:
    """Run one command, bring its output where it goes, and return the exit code."""
    try:
        return flush_output(run_command(arguments))
    except BrokenPipeError:  # the reader of our output has left, as in `… | head`
        end_quietly()
        return FAILED


def command_of(arguments: Sequence[str]) -> str | None:
    """Return the name of the command."""
    return next((word for word in arguments if not word.startswith("-")), None)


def flush_output(code: int) -> int:
    """Bring the output where it goes; return the code, or that of what went wrong."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # what it is written to is full
        end_quietly()
        return tell(error)
    return code


def run_command(arguments: Sequence[str]) -> int:
    """Run one command, and say what goes wrong."""
    options = argparse.Namespace(debug=False)
    try:
        build_parser(arguments).parse_args(arguments, options)
        if command_of(arguments) in OF_ALL:
            check_launch()
        return options.command(options)
    except SystemExit as ending:  # argparse has said what is wrong, or has shown the help
        return int(ending.code or 0)
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if options.debug:
            raise
        return tell(error)


class Help(argparse.HelpFormatter):
    """Help whose lines end at spaces only, so that a flag such as --batch-size can be copied."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for these arguments; the function of their command is its default for ``command``.

    Only that command has its options, and only its file is imported: to import what the others need
    takes longer than most answers.
    """
    parser = argparse.ArgumentParser(
        prog="minicaps",
        description="A capsule network in plain NumPy. Train one, look at it, prove its gradients.",
    )
    parser.add_argument("--version", action="version", version=f"minicaps {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    named = command_of(arguments)
    for name, text in COMMANDS.items():
        description = text[0].upper() + text[1:] + "."
        own = commands.add_parser(name, help=text, description=description, formatter_class=Help)
        add_debug(own)
        if name == named:
            module = importlib.import_module(f"minicaps.commands.{name}")
            module.add_options(own)
            own.set_defaults(command=module.command)
    return parser


def tell(error: Exception) -> int:
    """Say in one line what went wrong, and return the exit code for it."""
    line = one_line(error)
    if isinstance(error, (UsageError, BadOption, FileNotFoundError, FileExistsError)):
        complain(line)
        return WRONG_USE
    if isinstance(error, MemoryError):
        complain(f"out of memory ({line}); try a smaller --batch-size, --preset or --size")
    elif isinstance(error, (ValueError, OSError, RuntimeError, ImportError)):
        complain(line)
    else:
        complain(f"{type(error).__name__}: {line} (--debug shows where)")
    return FAILED
