"""``audit``: which known faults of capsule networks a code of yours has."""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap

from minicaps.commands.common import FAILED, OK, WRONG_USE, UsageError
from minicaps.proof import (
    CHOICE,
    FAULT,
    HOLDS,
    UNKNOWN,
    Finding,
    audit,
    audit_template,
    module_from_path,
    variants_table,
)

WIDTH = 100  # of the lines that explain


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="Python file with functions on NumPy arrays (see --template)"
    )
    text = "print a file to fill in: every function with its shapes, and how to adapt PyTorch and Keras"
    parser.add_argument("--template", action="store_true", help=text)
    parser.add_argument("--list", action="store_true", help="print what is known, as a table in Markdown")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    text = "of the arrays that functions are tried on (default: 0)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    text = "seconds that one call may take (default: 5)"
    parser.add_argument("--limit", type=float, default=5.0, metavar="X", help=text)


def command(options: argparse.Namespace) -> int:
    """Print the findings; 1 if something is broken, else 2 if a function could not be looked at."""
    if options.template:
        print(inspect.getsource(audit_template), end="")
        return OK
    if options.list:
        print(variants_table())
        return OK
    if options.file is None:
        raise UsageError("name a FILE, or get one to fill in: minicaps audit --template > my_code.py")
    if not options.limit > 0 or options.seed < 0:
        raise UsageError("--limit must be above 0, and --seed not below")
    try:
        findings = audit(module_from_path(options.file), seed=options.seed, limit=options.limit)
    except ValueError as error:
        raise UsageError(f"{options.file}: {error}") from None
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2, ensure_ascii=False))
    else:
        print_table(findings)
    verdicts = {finding.verdict for finding in findings}
    unusable = any(finding.check == "runs" for finding in findings)
    return FAILED if FAULT in verdicts else WRONG_USE if unusable else OK


def print_table(findings: list[Finding]) -> None:
    """Print a line for each check, and below it what is not as in the paper."""
    for finding in findings:
        name = f"{finding.function}: {finding.check}"
        if finding.verdict == HOLDS:
            print(f"{name:<34} {finding.verdict}")
            continue
        print(f"{name:<34} {finding.verdict.upper() if finding.verdict == FAULT else finding.verdict}")
        cost = f"it costs: {finding.cost}" if finding.cost else ""
        for text in filter(None, (finding.says, finding.evidence, cost)):
            print(textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    "))
    counts = [
        f"{sum(finding.verdict == verdict for finding in findings)} {word}"
        for verdict, word in (
            (HOLDS, "hold"),
            (FAULT, "broken"),
            (CHOICE, "choices"),
            (UNKNOWN, "cannot be told"),
        )
    ]
    print(f"{len(findings)} checks: {', '.join(counts)}")
