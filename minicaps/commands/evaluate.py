"""``evaluate``: test a trained network again."""

from __future__ import annotations

import argparse

from minicaps.commands.common import OK, add_data, add_run, load_data, load_run
from minicaps.training import evaluate


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_data(parser)


def command(options: argparse.Namespace) -> int:
    """Print the accuracy on the test images, and that of each class."""
    network, class_names = load_run(options.run)
    dataset = load_data(options.data, options.run, network, class_names)
    labels = dataset.test_labels  # (N,)
    result = evaluate(network, dataset.test_images, labels)
    correct = result.predictions == labels  # (N,)
    print(
        f"accuracy {100 * result.accuracy:.2f} % (error {100 * (1 - result.accuracy):.2f} %): "
        f"{(~correct).sum():,} of {len(labels):,} images wrong"
    )
    width = max(12, *map(len, class_names))
    for k, name in enumerate(class_names):
        of_class = correct[labels == k]  # (n,)
        if len(of_class):
            print(f"  class {name:<{width}} {100 * of_class.mean():6.2f} % of {len(of_class):,}")
    return OK
