"""Small data sets, files and runs for the tests."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import os
import signal
import struct
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minicaps import datasets
from minicaps.networks import PRESETS_OF, find_pretrained
from minicaps.proof.gradcheck import JACOBIAN_COLUMNS
from minicaps.training import TrainConfig, backpropagate

# The real MNIST and the trained weights. A package that is installed without its repository has no MNIST
# beside it; then MINICAPS_DATA has to name it.
PRETRAINED = find_pretrained()
HERE = datasets.REPOSITORY_DATA
DATA = HERE if HERE.is_dir() else Path(os.environ.get("MINICAPS_DATA", HERE))

IDX_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_header(shape, code=0x08):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


def idx_bytes(array):
    array = np.asarray(array)
    code = IDX_CODES[array.dtype.name]
    return idx_header(array.shape, code) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path, array, packed=False):
    content = idx_bytes(array)
    path = Path(path)
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return path


@functools.cache
def mnist():
    """The real MNIST; read-only, since tests share it."""
    whole = datasets.read_idx_folder(DATA)
    for array in (whole.train_images, whole.train_labels, whole.test_images, whole.test_labels):
        array.flags.writeable = False
    return whole


def small_dataset(train=300, test=100):
    whole = mnist()
    return datasets.Dataset(
        whole.train_images[:train],
        whole.train_labels[:train],
        whole.test_images[:test],
        whole.test_labels[:test],
        whole.class_names,
        f"the first {train} and {test} of MNIST",
    )


def write_folder(folder, dataset, packed=False):
    """Write a data set as four IDX files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = (
        dataset.train_images[..., 0],
        dataset.train_labels.astype(np.uint8),
        dataset.test_images[..., 0],
        dataset.test_labels.astype(np.uint8),
    )
    for name, array in zip(datasets.PARTS, arrays, strict=True):
        write_idx(folder / (name + ".gz" if packed else name), array, packed)
    return folder


def small_folder(folder, train=300, test=100, packed=False):
    return write_folder(folder, small_dataset(train, test), packed)


def quiet(line):
    """Take the place of print."""


def tiny_config(**options):
    tiny = {"preset": "tiny"} if options.get("model", "capsnet") in PRESETS_OF else {}
    return TrainConfig(**{**tiny, "epochs": 1, "batch_size": 50, **options})


def interrupt_at(count):
    """Return a callable that raises KeyboardInterrupt when it is called for the `count`-th time."""
    calls = iter(range(1, count + 1))

    def call(*_):
        if next(calls) == count:
            raise KeyboardInterrupt

    return call


def press_ctrl_c_at(*counts):
    """Return a callable that sends this process the signal of Ctrl-C when called for these times."""
    calls = itertools.count(1)

    def call(*_):
        if next(calls) in counts:
            signal.raise_signal(signal.SIGINT)

    return call


def read_metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def assert_the_objective_agrees_with_central_differences(net, images, labels):
    """Network and loss together: the derivative that training follows, parameter by parameter."""
    objective, rng = net.objective(), np.random.default_rng(4)

    def loss():
        outputs, _ = net.forward(*net.training_inputs(images, labels))
        return objective.forward(outputs, net.targets(images, labels))[0]

    backpropagate(net, objective, images, labels)
    for name, param in net.params.items():
        d = rng.normal(size=param.shape) * min(1.0, (JACOBIAN_COLUMNS / param.size) ** 0.5)
        kept, values = param.copy(), []
        for h in (1e-5, -1e-5):
            param += h * d
            values.append(loss())
            param[...] = kept
        numeric, analytic = (values[0] - values[1]) / 2e-5, (net.grads[name] * d).sum()
        assert abs(numeric - analytic) <= 1e-6 * max(abs(numeric), abs(analytic)), name


def assert_drawn_whole(figure):
    """The figure shows something, and nothing of it lies outside of the page."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert np.asarray(canvas.buffer_rgba())[..., :3].std() > 10
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 > -0.01 and drawn.y0 > -0.01
    assert drawn.x1 < page.x1 + 0.01 and drawn.y1 < page.y1 + 0.01
