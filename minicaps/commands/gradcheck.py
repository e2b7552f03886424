"""``gradcheck``: every backward against central differences, and layers of your own against the contract."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from minicaps.commands.common import FAILED, OK
from minicaps.layers import Layer, Loss
from minicaps.proof import Report, check_class, check_layer, find_classes, module_from_path, package_modules


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="Python files with layers of your own: classes with forward, backward and examples; "
        "every Layer and Loss is held to its whole contract too (default: the gradients of all of minicaps)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")


def command(options: argparse.Namespace) -> int:
    """Print a line for each example, one for the contract of each class of a file, and what failed."""
    classes = find_what_to_check(options.files)
    print(f"{'layer (example)':<34} {'worst':>8} {'seconds':>8}  relative error of each gradient")
    reports: list[Report] = []
    contracts: list[bool] = []
    for cls in classes:
        for report in check_class(cls, options.seed):
            each = "  ".join(f"{row.array} {row.error:.0e}" for row in report.rows)
            print(f"{report.layer:<34} {report.worst:8.1e} {report.seconds:8.2f}  {each}", flush=True)
            reports.append(report)
        if options.files:
            contracts.append(keeps_contract(cls))
    for report in reports:
        for failure in report.failures():
            print(failure)
    passed = all(report.ok for report in reports) and all(contracts)
    print(
        f"{len(reports)} examples of {len(classes)} classes, "
        f"worst relative error {max(report.worst for report in reports):.1e}, "
        f"allowed {reports[0].tolerance:.0e}: {'all pass' if passed else 'FAILED'}"
    )
    return OK if passed else FAILED


def find_what_to_check(files: Sequence[str]) -> list[type]:
    """Return the classes of the files, or of minicaps."""
    modules = [module_from_path(path) for path in files] or package_modules()
    classes = find_classes(modules)
    if not classes:
        raise ValueError(
            f"{', '.join(files)}: no class with forward, backward and examples; "
            "minicaps.Layer shows what they look like"
        )
    return classes


def keeps_contract(cls: type) -> bool:
    """Print whether a class keeps the contract of a layer, and what of it it does not."""
    if not issubclass(cls, (Layer, Loss)):  # then it has promised a backward, and no more
        print(f"{cls.__name__}: contract: not checked, since it is no subclass of Layer or Loss", flush=True)
        return True
    try:
        passed = check_layer(cls)
    except AssertionError as error:
        print(f"{cls.__name__}: contract: FAILED\n{textwrap.indent(str(error), '  ')}", flush=True)
        return False
    print(f"{cls.__name__}: contract: {len(passed)} checks pass", flush=True)
    return True
