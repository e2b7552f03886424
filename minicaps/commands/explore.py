"""``explore``: draw what a trained capsule network does; open a window, or write a page, to play with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from minicaps import figures
from minicaps.commands.common import OK, UsageError, add_data, add_run, load_data, load_run, path_of
from minicaps.datasets import Dataset
from minicaps.networks import Network

PAGE = "explore.html"


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
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--interactive", action="store_true", help="fail if there can be no window (default: do without)"
    )
    form.add_argument(
        "--html",
        nargs="?",
        const=True,
        metavar="FILE",
        type=path_of("--html"),
        help="write one page for a browser, which runs the network by itself: draw, move capsules, step "
        f"through the routing; no figures and no window (default FILE: {PAGE} in the folder of the figures)",
    )


def command(options: argparse.Namespace) -> int:
    """Write the page, or write the figures and open the window, or say why there is none."""
    if isinstance(options.html, Path) and options.out is not None:
        raise UsageError("--out names a folder, and --html a file; leave one of them out")
    network, class_names = load_run(options.run)
    figures.check_explorable(str(options.run), network)
    dataset = load_data(options.data, options.run, network, class_names)
    if not 0 <= options.image < len(dataset.test_images):
        raise UsageError(f"--image is {options.image}, expected 0 to {len(dataset.test_images) - 1}")
    folder = options.out or (options.run / "figures" if options.run.is_dir() else Path("figures"))
    if options.html is not None:
        path = folder / PAGE if options.html is True else options.html
        if path.is_dir():
            raise UsageError(f"--html: {path} is a folder, expected a file")
        figures.write_page(path, network, dataset, class_names, options.image)
        print(f"data: {dataset.source}")
        print(f"written: {path} (open it in a browser; {path.stat().st_size / 1e6:.1f} MB)")
        return OK
    return draw(options, network, class_names, dataset, folder)


def draw(
    options: argparse.Namespace,
    network: Network,
    class_names: tuple[str, ...],
    dataset: Dataset,
    folder: Path,
) -> int:
    """Write the figures and print their paths; then open the window, or say why there is none."""
    pyplot, why_not = figures.find_window(network)
    if options.interactive and pyplot is None:
        raise RuntimeError(f"--interactive: {why_not}")
    metrics = options.run / "metrics.jsonl" if options.run.is_dir() else None
    print(f"data: {dataset.source}")
    for figure in figures.write_figures(network, dataset, class_names, folder, options.image, metrics):
        print(figure, flush=True)
    if pyplot is None:
        print(f"no window: {why_not}")
    else:
        figures.open_window(pyplot, network, dataset, class_names, options.image)
    return OK
