"""``bench``: time training steps, stage by stage."""

from __future__ import annotations

import argparse
import json

from minicaps.checks import check_positive
from minicaps.commands.common import OK, checking_arguments
from minicaps.layers import FULL, PRECISIONS
from minicaps.networks import PRESETS
from minicaps.training import bench


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="small", help="(default: small)")
    parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="(default: 10)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=FULL,
        help="of training; mixed is simulated, since this is the host (default: float32)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def command(options: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    with checking_arguments():
        check_positive("bench", batch_size=options.batch_size, steps=options.steps)
    result = bench(options.preset, options.batch_size, options.steps, options.precision)
    print(json.dumps(result.as_dict(), indent=2) if options.json else result)
    return OK
