"""Files of any content: a clear error with the path in it, or a right answer; no crash, hang or bomb."""

import contextlib
import gzip
import io
import json
import math
import os
import signal
import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import asdict

import numpy as np
import pytest
from helpers import idx_bytes, tiny_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from minicaps import cli
from minicaps.datasets import read_csv, read_idx, read_npz
from minicaps.datasets.idx import MAX_GZIP_RATIO
from minicaps.networks import build, files, save_network
from minicaps.training import TrainConfig, read_config

FUZZ = settings(
    max_examples=max(200, settings().max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MEGABYTE = 1 << 20

# -- what the files hold -----------------------------------------------------------------------

EXTREMES = [b"\0", b"\xff", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 8, b"9" * 12, b"-1", b"1e999", b"["]


@st.composite
def mutated(draw, good):
    """Bytes of a good file with some of them changed, left out, doubled or put in."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = start + draw(st.integers(0, 16))
        new = draw(
            st.sampled_from(EXTREMES) | st.binary(max_size=8) | st.just(bytes(content[stop : stop + 40]))
        )
        content[start:stop] = new
    return bytes(content)


NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 10**12, 10**400, 1e308])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def edited(draw, tree):
    """A JSON tree in which some values have become others, or their keys."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        inner = tree
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], (dict, list)) and draw(st.integers(0, 3)):
                inner = inner[key]
                continue
            if isinstance(inner, dict) and not draw(st.integers(0, 4)):
                inner[draw(st.text(max_size=8))] = inner.pop(key)
            else:
                inner[key] = draw(JSON)
            break
    return tree


# -- how they are read -------------------------------------------------------------------------


@contextlib.contextmanager
def in_time(seconds=20):
    """Raise TimeoutError after so much processor time (where the system can tell).

    Time on the clock would say how busy the machine is.
    """

    def late(number, frame):
        raise TimeoutError(f"took more than {seconds} seconds")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def read_or_refuse(read, path, content, most):
    """Return what `read` makes of a file, or None where it refuses with an error that names the file."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with in_time():
            result = read(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
        result = None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes of memory for a file of {len(content):,}"
    return result


# -- IDX files ---------------------------------------------------------------------------------

IDX = idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
IDX_STARTS = [b"", b"\0\0\x08\x03", b"\0\0\x0e\x01\0\0\0", b"\x1f\x8b\x08\x00", IDX[:16]]
IDX_FILES = (
    st.tuples(st.sampled_from(IDX_STARTS), st.binary(max_size=200)).map(b"".join)
    | mutated(IDX)
    | mutated(IDX).map(lambda content: gzip.compress(content, mtime=0))
    | mutated(gzip.compress(IDX, mtime=0))
)


@FUZZ
@given(IDX_FILES)
def test_any_idx_file_is_refused_or_read_as_it_says(tmp_path, content):
    array = read_or_refuse(read_idx, tmp_path / "file", content, MEGABYTE + 5 * MAX_GZIP_RATIO * len(content))
    if array is not None:
        unpacked = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        assert idx_bytes(array) == unpacked


# -- .npz and CSV ------------------------------------------------------------------------------

IMAGES = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
LABELS = np.arange(10, dtype=np.uint8) % 2
TABLE = "".join(f"{k},{','.join(map(str, image.ravel()))}\n" for k, image in zip(LABELS, IMAGES, strict=True))


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "file.npz"
    np.savez_compressed(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:4], y_test=LABELS[:4])
    return path.read_bytes()


def assert_is_a_data_set(dataset):
    """The arrays of a set belong together, whatever they hold."""
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(labels) > 0
        assert 0 <= labels.min() <= labels.max() < dataset.classes
    dataset.remarks()


@FUZZ
@given(data=st.data())
def test_any_npz_file_is_refused_or_read_as_a_data_set(tmp_path, npz, data):
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = data.draw(st.sampled_from(sorted(members)))
    content = data.draw(
        mutated(npz)
        | mutated(members[name]).map(lambda part: repacked(npz, name, part))
        | st.binary(max_size=99)
    )
    most = 16 * MEGABYTE + 4 * MAX_GZIP_RATIO * len(content)  # 16: the names of 65,536 classes
    dataset = read_or_refuse(read_npz, tmp_path / "file.npz", content, most)
    if dataset is not None:
        assert_is_a_data_set(dataset)


@FUZZ
@given(mutated(TABLE.encode()) | st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_table_is_refused_or_read_as_a_data_set(tmp_path, content):
    dataset = read_or_refuse(read_csv, tmp_path / "file.csv", content, 16 * MEGABYTE)
    if dataset is not None:
        assert_is_a_data_set(dataset)


# -- checkpoints -------------------------------------------------------------------------------

ARRAYS = {"conv.W": np.arange(12, dtype=np.float32).reshape(3, 4), "steps": np.array(7)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "file.npz"
    files.write(path, ARRAYS, {"epochs": [1, 2]})
    return path.read_bytes()


def repacked(content, name, part):
    """An npz with one member replaced, and all the sums of the archive right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for member in old.namelist():
            new.writestr(member, part if member == name else old.read(member))
    return made.getvalue()


@FUZZ
@given(data=st.data())
def test_any_checkpoint_is_refused_or_read_as_it_was_written(tmp_path, saved, data):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = data.draw(st.sampled_from(sorted(members)))
    content = data.draw(
        st.tuples(st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00"]), st.binary(max_size=300)).map(
            b"".join
        )
        | mutated(saved)
        | mutated(members[name]).map(lambda part: repacked(saved, name, part))
    )
    result = read_or_refuse(files.read, tmp_path / "file.npz", content, MEGABYTE + 10 * len(content))
    if result is not None:
        arrays, description = result
        assert description == {"format": files.FORMAT, "epochs": [1, 2]} and arrays.keys() == ARRAYS.keys()
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[key], array, strict=True)


# -- configurations ----------------------------------------------------------------------------

CONFIG = asdict(tiny_config(data="somewhere"))
CONFIG_FILES = (
    st.binary(max_size=200)
    | mutated(json.dumps(CONFIG).encode())
    | (edited(CONFIG) | JSON).map(lambda tree: json.dumps(tree).encode())
    | st.integers(1, 50_000).map(lambda depth: b"[" * depth)
    | st.just(b" " * MEGABYTE)
)


@FUZZ
@given(CONFIG_FILES)
def test_any_configuration_is_refused_or_could_train(tmp_path, content):
    config = read_or_refuse(
        lambda path: read_config(path.parent), tmp_path / "config.json", content, 6 * MEGABYTE
    )
    if config is not None:
        assert TrainConfig(**json.loads(json.dumps(asdict(config)))) == config
        rates = config.learning_rates(max(config.epochs * 1000, config.warmup))
        assert all(math.isfinite(rates(step)) and rates(step) >= 0 for step in (0, 1, 10**6))
        np.random.default_rng([config.seed, 0]).integers(-config.shift, config.shift, endpoint=True)


# -- predict -----------------------------------------------------------------------------------

SMALL = {
    **{"image_shape": (8, 9, 1), "classes": 3, "conv_channels": 2, "conv_kernel": 3, "primary_types": 2},
    **{"primary_dimension": 2, "primary_kernel": 3, "class_dimension": 2, "decoder_hidden": (3, 4)},
}
NETWORK = build("capsnet", **SMALL, rng=0)
DESCRIPTION = {"model": "capsnet", "network": vars(NETWORK.config), "class_names": ["a", "b", "c"]}
OLD_OPTIONS = {"leaky": False, "gradient": "full", "coupling": "softmax"}
OLD = {**DESCRIPTION, "format": 2, "network": {**vars(NETWORK.config), **OLD_OPTIONS}}
for name in ("std", "stopped_gradient"):
    del OLD["network"][name]
OLD_NAMES = {"capsules.votes.W": "capsules.prediction.W"} | {
    name: name.replace("decoder.", "reconstruct.") for name in NETWORK.params if "decoder." in name
}
OLD_STATE = {OLD_NAMES.get(name, name): array for name, array in NETWORK.state().items()}


def picture(kind, size=(12, 10)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def png_of_size(width, height):
    """A PNG whose header promises this size, with its checksum right."""
    content = picture("png")
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


PICTURES = (
    st.binary(max_size=100)
    | st.sampled_from(["png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm"]).flatmap(
        lambda k: mutated(picture(k))
    )
    | st.builds(png_of_size, st.integers(0, 2**20), st.integers(0, 2**20))
)


@pytest.fixture
def predict(tmp_path, capsys, monkeypatch):
    """Return a function that predicts in this process; it fails unless all goes as promised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no need to last
    save_network(tmp_path / "model.npz", NETWORK, ("a", "b", "c"))
    cli.build_parser(["predict"])  # imports what it needs, whose memory is not that of a file

    def predict(most):
        capsys.readouterr()
        tracemalloc.start()
        try:
            with in_time():
                code = cli.main(["predict", "model.npz", "image"])
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        output, errors = capsys.readouterr()
        assert peak < most, f"{peak:,} bytes of memory"
        complaints = [line for line in errors.splitlines() if "warning: image: " not in line]
        if code == 0:
            assert output.startswith("image: ") and not complaints
        else:
            assert code == cli.FAILED and output == "" and len(complaints) == 1
            assert complaints[0].startswith(("minicaps: image: ", "minicaps: model.npz: "))
        return code

    return predict


@FUZZ
@given(PICTURES)
def test_predict_answers_or_refuses_any_picture(tmp_path, predict, content):
    (tmp_path / "image").write_bytes(content)
    predict(most=8 * MEGABYTE)


@FUZZ
@given(data=st.data())
def test_predict_answers_or_refuses_with_any_model(tmp_path, predict, data):
    (tmp_path / "image").write_bytes(picture("png"))
    path = tmp_path / "model.npz"
    state, description = data.draw(st.sampled_from([(NETWORK.state(), DESCRIPTION), (OLD_STATE, OLD)]))
    files.write(path, state, data.draw(edited(description)))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(mutated(path.read_bytes())))
    predict(most=8 * MEGABYTE)


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (11_000, 11_000), (2**20, 1)])
def test_a_picture_with_a_header_that_promises_too_much_is_refused(tmp_path, predict, size):
    (tmp_path / "image").write_bytes(png_of_size(*size))
    assert predict(most=8 * MEGABYTE) == cli.FAILED


def test_the_good_files_that_are_mutated_are_good(tmp_path, predict, saved, npz):
    assert read_or_refuse(read_idx, tmp_path / "file", IDX, MEGABYTE).shape == (3, 4, 5)
    assert read_or_refuse(read_npz, tmp_path / "file", npz, MEGABYTE).classes == 2
    assert read_or_refuse(read_csv, tmp_path / "file", TABLE.encode(), MEGABYTE).classes == 2
    assert read_or_refuse(files.read, tmp_path / "file", saved, MEGABYTE)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert asdict(read_config(tmp_path)) == CONFIG
    (tmp_path / "image").write_bytes(picture("png"))
    files.write(tmp_path / "model.npz", OLD_STATE, OLD)
    assert predict(most=8 * MEGABYTE) == 0
    for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm"):
        (tmp_path / "image").write_bytes(picture(kind))
        assert predict(most=8 * MEGABYTE) == 0
    (tmp_path / "image").write_bytes(png_of_size(10, 12))
    assert predict(most=8 * MEGABYTE) == 0
