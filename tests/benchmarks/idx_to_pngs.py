"""Turn four IDX files into a folder of PNGs, to hold the one reader against the other.

    python tests/benchmarks/idx_to_pngs.py FOLDER OUT

The same network trained with --data FOLDER and with --data OUT must be equally good, apart from the
order of the images. FOLDER may hold Fashion-MNIST, which Debian has as the package dataset-fashion-mnist.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from minicaps.datasets import Dataset, read_idx_folder


def write_pngs(dataset: Dataset, out: Path) -> Path:
    """Write image k of a class as ``out/train/CLASS/k.png``, or ``out/test/CLASS/k.png``."""
    parts = {
        "train": (dataset.train_images, dataset.train_labels),
        "test": (dataset.test_images, dataset.test_labels),
    }
    for part, (images, labels) in parts.items():
        for k, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = out / part / dataset.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = image[..., 0] if image.shape[-1] == 1 else image
            Image.fromarray(pixels).save(folder / f"{k}.png")
    return out


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write_pngs(read_idx_folder(sys.argv[1]), Path(sys.argv[2]))
