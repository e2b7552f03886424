"""``runs``: the runs in a folder, and what differs between them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from minicaps.commands.answers import print_json
from minicaps.commands.common import OK, complain, one_line, path_of
from minicaps.training import REPORT, RUNS, RunRecord, differing_options, find_runs, flag

NUMBERS = ("accuracy", "epochs", "seconds")  # columns that are set to the right


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=path_of("FOLDER"),
        help="a run, or a folder with runs in it or further below (default: runs, where train puts them)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, with all options")


def command(options: argparse.Namespace) -> int:
    """Print a line for each run, the one trained last at the end; what is no run is told on stderr."""
    folder = options.folder or Path(RUNS)
    none_yet = options.folder is None and not folder.exists()
    records, others = ([], {}) if none_yet else find_runs(folder)
    reasons = {str(path): one_line(error) for path, error in others.items()}
    if options.json:
        found = [_as_json(record) for record in records]
        differ = differing_options(records)
        print_json({"folder": str(folder), "differ": differ, "runs": found, "not_read": reasons})
        return OK
    if records:
        print(_table(records))
    else:
        print(f"no runs in {_plain(folder)}: python -m minicaps train makes one")
    for reason in reasons.values():
        complain(_plain(reason))
    return OK


def _table(records: Sequence[RunRecord]) -> str:
    """Return a line for each run below a head: what all have, and the options that differ."""
    names = differing_options(records)
    rows = [_cells(record) | {flag(name): record.options().get(name, "") for name in names}
            for record in records]  # fmt: skip
    lines = [list(rows[0]), *([_plain(cell) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    to_right = [name in NUMBERS for name in rows[0]]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    )


def _cells(record: RunRecord) -> dict[str, str]:
    accuracy, of = record.test_accuracy, "test"
    if accuracy is None:
        accuracy, of = record.validation_accuracy, "validation"
    return {
        "run": str(record.folder),
        "model": " ".join([record.config.model, *filter(None, [record.options().get("preset")])]),
        "accuracy": "" if accuracy is None else f"{100 * accuracy:.2f} %",
        "of": "" if accuracy is None else of,
        "epochs": f"{len(record.epochs)}/{record.config.epochs}",
        "seconds": f"{record.seconds:,.0f}",
        "trained": _moment(record),
    }


def _moment(record: RunRecord) -> str:
    return datetime.fromtimestamp(record.written).astimezone().isoformat(" ", "minutes")[:16]


def _plain(value: object) -> str:
    """Return what can stand in a line of a table, whatever a folder is called."""
    text = str(value)
    return text if text.isprintable() else ascii(text)[1:-1]


def _as_json(record: RunRecord) -> dict[str, Any]:
    report = record.folder / REPORT
    return {
        "run": str(record.folder),
        "finished": record.finished,
        "test_accuracy": record.test_accuracy,
        "validation_accuracy": record.validation_accuracy,
        "epochs": len(record.epochs),
        "of_epochs": record.config.epochs,
        "seconds": record.seconds,
        "trained": datetime.fromtimestamp(record.written).astimezone().isoformat(timespec="seconds"),
        "options": record.options(),
        "report": str(report) if report.exists() else None,
    }
