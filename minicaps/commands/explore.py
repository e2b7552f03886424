"""``explore``: draw what a trained capsule network does, and open a window to play with its capsules."""

from __future__ import annotations

import argparse
from pathlib import Path

from minicaps import figures
from minicaps.commands.common import OK, UsageError, add_data, add_run, load_data, load_run, path_of


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_data(parser)
    parser.add_argument(
        "--image", type=int, default=0, metavar="N", help="number of the test image, from 0 (default: 0)"
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=path_of("--out"),
        help="folder of the figures (default: RUN/figures; figures for a file)",
    )
    parser.add_argument(
        "--interactive", action="store_true", help="fail if there can be no window (default: do without)"
    )


def command(options: argparse.Namespace) -> int:
    """Write the figures and print their paths; then open the window, or say why there is none."""
    network, class_names = load_run(options.run)
    figures.check_explorable(str(options.run), network)
    dataset = load_data(options.data, options.run, network, class_names)
    if not 0 <= options.image < len(dataset.test_images):
        raise UsageError(f"--image is {options.image}, expected 0 to {len(dataset.test_images) - 1}")
    pyplot, why_not = figures.find_window(network)
    if options.interactive and pyplot is None:
        raise RuntimeError(f"--interactive: {why_not}")
    is_run = options.run.is_dir()
    folder = options.out or (options.run / "figures" if is_run else Path("figures"))
    metrics = options.run / "metrics.jsonl" if is_run else None
    print(f"data: {dataset.source}")
    for figure in figures.write_figures(network, dataset, class_names, folder, options.image, metrics):
        print(figure, flush=True)
    if pyplot is None:
        print(f"no window: {why_not}")
    else:
        figures.open_window(pyplot, network, dataset, class_names, options.image)
    return OK
