"""Reading IDX files, and finding MNIST wherever it is."""

import contextlib
import gzip
import hashlib
import importlib
import math
import socket
import struct
import threading
import tracemalloc
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import DATA, idx_bytes, idx_header, mnist, small_folder, write_folder, write_idx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from minicaps import datasets
from minicaps.datasets import mnist as mnist_module
from minicaps.datasets import read_idx, read_idx_folder

load_module = importlib.import_module("minicaps.datasets.load")  # datasets.load is the function in it

ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
IDX_DTYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


# -- one IDX file ------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", IDX_DTYPES)
def test_every_idx_type_round_trips(path, dtype, packed):
    array = (np.arange(-12, 12) * 5).reshape(2, 3, 4).astype(dtype)
    np.testing.assert_array_equal(read_idx(write_idx(path, array, packed)), array, strict=True)


@ONE_FOLDER
@given(npst.arrays(np.uint8, npst.array_shapes(min_side=0, max_dims=5)), st.booleans())
def test_any_array_of_bytes_round_trips(tmp_path, array, packed):
    back = read_idx(write_idx(tmp_path / "file", array, packed))
    np.testing.assert_array_equal(back, array, strict=True)


def test_the_result_is_native_and_writable(path):
    array = read_idx(write_idx(path, np.ones((2, 3), np.int32)))
    array += 1
    assert array.dtype.isnative


def test_content_decides_whether_it_is_gzip(tmp_path):
    array = np.arange(6, dtype=np.uint8)
    plain = write_idx(tmp_path / "plain.gz", array)
    packed = write_idx(tmp_path / "packed-ubyte", array, packed=True)
    np.testing.assert_array_equal(read_idx(plain), array)
    np.testing.assert_array_equal(read_idx(packed), array)


def test_truncated_at_any_length_is_refused(path):
    content = idx_bytes(np.ones((3, 4), np.uint8))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"file: (truncated|not an IDX file)"):
            read_idx(path)


def test_gzip_truncated_at_any_length_is_refused(path):
    content = gzip.compress(idx_bytes(np.ones((3, 4), np.uint8)))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"file: (damaged gzip|truncated|not an IDX file)"):
            read_idx(path)


def test_one_damaged_byte_in_a_gzip_never_changes_a_value(path):
    array = np.arange(100, dtype=np.uint8)
    content = gzip.compress(idx_bytes(array))
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_idx(path), array)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")


def test_random_content_after_a_gzip_magic_is_refused(path):
    path.write_bytes(b"\x1f\x8b" + bytes(range(100)))
    with pytest.raises(ValueError, match=r"file: damaged gzip file .* get it again"):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
def test_one_byte_too_many_is_refused(path, packed):
    content = idx_bytes(np.ones((3, 4), np.uint8)) + b"\0"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=r"too long, its header promises 12 bytes for the shape \(3, 4\)"):
        read_idx(path)


@pytest.mark.parametrize(
    "magic",
    [b"\1\0\x08\1", b"\0\1\x08\1", b"\0\0\x07\1", b"\0\0\x0a\1", b"\0\0\x0f\1", b"\0\0\x08\0", b"PK\3\4"],
)
def test_a_wrong_magic_number_is_refused_and_shown(path, magic):
    path.write_bytes(magic + idx_bytes(np.ones(3, np.uint8))[4:])
    with pytest.raises(ValueError, match=rf"not an IDX file \(starts with {magic.hex(' ')}"):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(2**31,), (60_000, 2**31, 2**31), (2**32 - 1,) * 8])
def test_a_header_that_promises_too_much_is_refused_without_allocating(path, shape, packed):
    content = idx_header(shape) + bytes(1000)
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"promises {math.prod(shape):,} bytes"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1,) * 255, (2**32 - 1, 2**32 - 1, 2**32 - 1, 0)])
def test_a_shape_that_numpy_cannot_hold_is_refused_with_the_file_named(path, shape):
    path.write_bytes(idx_header(shape) + bytes(math.prod(shape)))
    with pytest.raises(ValueError, match="file: "):
        read_idx(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match="file"):
        read_idx(path)


# -- a folder of four --------------------------------------------------------------------------


def random_dataset(train=20, test=6, size=(4, 5), classes=3):
    rng = np.random.default_rng(0)
    return datasets.Dataset(
        rng.integers(0, 256, (train, *size, 1), dtype=np.uint8),
        np.arange(train) % classes,
        rng.integers(0, 256, (test, *size, 1), dtype=np.uint8),
        np.arange(test) % classes,
        tuple(map(str, range(classes))),
        "random",
    )


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "set", random_dataset())


def part(folder, name):
    return next(folder / p for p in datasets.PARTS if p.startswith(name))


def same(found, expected):
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    return found.class_names == expected.class_names


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_round_trips(tmp_path, packed):
    assert same(read_idx_folder(write_folder(tmp_path, random_dataset(), packed)), random_dataset())


def test_both_spellings_of_the_names_are_read_plain_and_packed_mixed(folder):
    names = [folder / name for name in datasets.PARTS]
    names[0].rename(folder / "train-images.idx3-ubyte")
    (folder / "train-labels.idx1-ubyte.gz").write_bytes(gzip.compress(names[1].read_bytes()))
    names[1].unlink()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(names[2].read_bytes()))
    names[2].unlink()
    assert same(read_idx_folder(folder), random_dataset())


def test_images_with_a_channel_axis_keep_their_channels(folder):
    for name, count in (("train-images", 20), ("t10k-images", 6)):
        write_idx(part(folder, name), np.ones((count, 4, 5, 3), np.uint8))
    assert read_idx_folder(folder).image_shape == (4, 5, 3)


@pytest.mark.parametrize("name", datasets.PARTS)
def test_a_missing_part_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"set: holds no {name}"):
        read_idx_folder(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        read_idx_folder(tmp_path / "absent")


@pytest.mark.parametrize(
    "name, array, message",
    [
        ("train-labels", np.zeros(19, np.uint8), "19 labels for 20 images in train-images"),
        ("t10k-images", np.zeros((7, 4, 5), np.uint8), "t10k-labels.*: 6 labels for 7 images"),
        ("train-images", np.zeros((20, 4, 5), np.int16), r"train-images.*: holds int16 .* expected uint8"),
        ("train-images", np.zeros((20, 4), np.uint8), r"holds uint8 of shape \(20, 4\), expected"),
        ("train-images", np.zeros((20, 0, 5), np.uint8), r"holds uint8 of shape \(20, 0, 5\), expected"),
        ("train-labels", np.zeros(20, np.float32), "train-labels.*: holds float32 .* expected integer"),
        ("t10k-labels", np.zeros((6, 1), np.uint8), r"t10k-labels.*: holds uint8 of shape \(6, 1\)"),
        ("t10k-images", np.zeros((6, 4, 4), np.uint8), r"\(4, 5\) pixels, test images \(4, 4\)"),
        ("t10k-labels", np.full(6, 3, np.uint8), "training labels run from 0 to 2, test labels to 3"),
        ("train-labels", np.zeros(20, np.uint8), "expected at least two classes"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(folder, name, array, message):
    write_idx(part(folder, name), array)
    with pytest.raises(ValueError, match=message):
        read_idx_folder(folder)


# -- the split ---------------------------------------------------------------------------------


def numbered_dataset(count):
    """A mixed set in which image k shows the number k."""
    numbers = np.arange(count)
    empty = np.zeros((0, 1, 1, 1), np.uint8)
    images = numbers.reshape(-1, 1, 1, 1)
    return datasets.Dataset(images, numbers % 2, empty, numbers[:0], ("0", "1"), "numbers")


@pytest.mark.parametrize("count, kept", [(60_000, 5000), (50_000, 5000), (49_999, 4999), (300, 30), (10, 1)])
def test_the_last_5000_images_or_a_tenth_are_for_validation(count, kept):
    images, labels, validation_images, validation_labels = numbered_dataset(count).split()
    np.testing.assert_array_equal(images.ravel(), np.arange(count - kept))
    np.testing.assert_array_equal(validation_images.ravel(), np.arange(count - kept, count))
    np.testing.assert_array_equal(labels, images.ravel() % 2)
    np.testing.assert_array_equal(validation_labels, validation_images.ravel() % 2)


@given(st.integers(2, 300))
def test_the_split_never_overlaps_loses_nothing_and_leaves_no_part_empty(count):
    images, _, validation, _ = numbered_dataset(count).split()
    np.testing.assert_array_equal(np.concatenate([images, validation]).ravel(), np.arange(count))
    assert len(images) > 0 and len(validation) > 0


def test_to_float_maps_0_to_255_onto_0_to_1():
    pixels = datasets.to_float(np.array([0, 51, 255], np.uint8))
    np.testing.assert_array_equal(pixels, np.array([0, 0.2, 1], np.float32), strict=True)


# -- the real MNIST ----------------------------------------------------------------------------


def test_the_repository_holds_mnist():
    whole = mnist()
    assert whole.train_images.shape == (60_000, 28, 28, 1) and whole.test_images.shape == (10_000, 28, 28, 1)
    assert whole.train_labels.shape == (60_000,) and whole.test_labels.shape == (10_000,)
    assert whole.class_names == tuple("0123456789")
    assert np.bincount(whole.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("name", datasets.PARTS)
def test_the_unpacked_files_have_the_sums_that_are_written_down(name):
    content = gzip.decompress((DATA / f"{name}.gz").read_bytes())
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    written = {file: total for total, file in map(str.split, lines)}
    assert hashlib.sha256(content).hexdigest() == written[name] == mnist_module.MNIST_SHA256[name]


# -- where load looks --------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Sets of 30, 40, … images in every folder that load knows; the argument is their number."""
    counts = {"explicit": 30, "named": 40, "repository": 50, "home/minicaps": 60}
    folders = {name: small_folder(tmp_path / name, count, 10) for name, count in counts.items()}
    monkeypatch.setenv("MINICAPS_DATA", str(folders["named"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(load_module, "REPOSITORY_DATA", folders["repository"])
    monkeypatch.setattr(load_module, "download_mnist", lambda folder: small_folder(folder, 70, 10))
    return folders


def loaded(*arguments):
    return len(datasets.load(*arguments).train_images)


def remove(folder):
    for file in folder.iterdir():
        file.unlink()


def test_load_prefers_the_explicit_path(folders):
    assert loaded(folders["explicit"]) == loaded(str(folders["explicit"])) == 30


def test_load_then_takes_the_folder_named_by_minicaps_data(folders):
    assert loaded() == 40


@pytest.mark.parametrize("value", [None, ""])
def test_load_then_takes_the_repository(folders, monkeypatch, value):
    monkeypatch.delenv("MINICAPS_DATA") if value is None else monkeypatch.setenv("MINICAPS_DATA", value)
    assert loaded() == 50


def test_load_then_takes_the_cache(folders, monkeypatch):
    monkeypatch.delenv("MINICAPS_DATA")
    remove(folders["repository"])
    assert loaded() == 60


def test_load_passes_over_a_folder_that_holds_only_some_of_the_files(folders, monkeypatch):
    monkeypatch.delenv("MINICAPS_DATA")
    part(folders["repository"], "t10k-labels").unlink()
    assert loaded() == 60


def test_load_last_downloads_into_the_cache(folders, monkeypatch):
    monkeypatch.delenv("MINICAPS_DATA")
    remove(folders["repository"])
    remove(folders["home/minicaps"])
    assert loaded() == 70
    assert part(folders["home/minicaps"], "train-images").exists()


def test_load_takes_the_other_spelling_in_the_cache_too(folders, monkeypatch):
    monkeypatch.delenv("MINICAPS_DATA")
    remove(folders["repository"])
    for file in folders["home/minicaps"].iterdir():
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert loaded() == 60


def test_load_does_not_fall_back_when_the_named_folder_is_missing(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("MINICAPS_DATA", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        datasets.load()


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert datasets.cache_folder() == tmp_path / ".cache" / "minicaps"


# -- download ----------------------------------------------------------------------------------

CONTENTS = {"one": b"the first file", "two": b"the second file" * 1000}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}


def send_endlessly(handler):
    with contextlib.suppress(ConnectionError):
        while True:
            handler.wfile.write(bytes(1 << 16))


def stall(handler):
    handler.rfile.read(1)  # until the other side leaves


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hang_up(handler):
    pass


MISBEHAVIOUR = {"endless": send_endlessly, "stalled": stall, "reset": reset, "cut off": hang_up}


@pytest.fixture(scope="module")
def server():
    """A local web server: /good/ has the files, every other folder one thing wrong with them."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            _, folder, name = urllib.parse.unquote(self.path).split("/")
            content = gzip.compress(CONTENTS[name.removesuffix(".gz")])
            if folder == "bomb":
                content = gzip.compress(bytes(2 << 20))
            if folder == "garbage":
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                return
            if folder == "silent":
                return
            if folder == "loop":
                self.send_response(302)
                self.send_header("Location", self.path)
                self.end_headers()
                return
            self.send_response(404 if folder == "absent" else 200)
            if folder != "endless":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if folder in MISBEHAVIOUR:
                self.wfile.write(content[:20])
                MISBEHAVIOUR[folder](self)
                self.close_connection = True
                return
            wrong = {
                "other": gzip.compress(b"another file"),
                "plain": b"<html>sign in to this network</html>",
                "short": content[:-5],
                "damaged": content[:-8] + bytes(8),
            }
            self.wfile.write(wrong.get(folder, content))

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.url, running.asked = f"http://127.0.0.1:{running.server_port}/", asked
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def download(server, tmp_path, monkeypatch):
    """Return a function that downloads from mirrors, given as folders of the server or as URLs."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(mnist_module, "MAX_BYTES", 1 << 20)
    server.asked.clear()

    def download(*mirrors):
        if "stalled" in mirrors:  # the others have time, however busy the machine is
            monkeypatch.setattr(mnist_module, "TIMEOUT", 1.0)
        urls = [m if ":" in m else f"{server.url}{urllib.parse.quote(m)}/" for m in mirrors]
        datasets.download_mnist(tmp_path / "cache", urls, SUMS)

    return download


def unpacked(folder):
    return {file.name: gzip.decompress(file.read_bytes()) for file in folder.iterdir()}


def refused_url():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/"


EXPECTED = {f"{name}.gz": content for name, content in CONTENTS.items()}
WRONG = {
    "other": r"wrong bytes \(SHA-256 [0-9a-f]{12}…\)",
    "plain": "its file is damaged .*gzip",
    "short": "its file is damaged|wrong bytes",
    "damaged": "its file is damaged .*CRC",
    "bomb": "its file unpacks to more than 1,048,576 bytes",
    "absent": "HTTP Error 404",
    "silent": "closed connection",
    "garbage": "not HTTP",
    "loop": "HTTP Error 302.*infinite loop",
    "endless": "sends more than 1,048,576 bytes",
    "stalled": "timed out",
    "reset": "reset",
    "cut off": "its file is damaged .*end-of-stream",
}


def test_download_brings_every_file(download, tmp_path):
    download("good")
    assert unpacked(tmp_path / "cache") == EXPECTED


def test_download_asks_the_second_mirror_only_if_it_must(download, server):
    download("good", "other")
    assert server.asked == ["/good/one.gz", "/good/two.gz"]


@pytest.mark.parametrize("wrong", WRONG)
def test_after_a_bad_mirror_the_next_one_is_tried(download, tmp_path, wrong):
    download(wrong, "good")
    assert unpacked(tmp_path / "cache") == EXPECTED


def test_after_a_mirror_that_refuses_the_connection_the_next_one_is_tried(download, tmp_path):
    download(refused_url(), "good")
    assert unpacked(tmp_path / "cache") == EXPECTED


@pytest.mark.parametrize("wrong", WRONG)
def test_a_failed_download_says_what_is_wrong_and_leaves_nothing_behind(download, tmp_path, wrong):
    with pytest.raises(RuntimeError, match=WRONG[wrong]):
        download(wrong)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_mirror_that_is_too_slow_is_given_up(download, monkeypatch, tmp_path):
    monkeypatch.setattr(mnist_module, "PATIENCE", -1.0)
    with pytest.raises(RuntimeError, match=r"sent \d+ bytes in -1 seconds"):
        download("good")


def test_a_failed_download_says_why_and_what_to_do(download, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        download("other", "absent", refused_url())
    message = str(caught.value)
    for words in (
        "one.gz could not be downloaded",
        "other/: wrong bytes",
        "404",
        "refused",
        f"put the four files into {tmp_path / 'cache'}",
        "--data",
        "MINICAPS_DATA",
    ):
        assert words in message


def test_a_file_that_is_there_is_not_downloaded_again(download, server):
    download("good")
    server.asked.clear()
    download("good")
    assert server.asked == []


def test_a_failing_write_leaves_nothing_behind(download, tmp_path, monkeypatch):
    def replace(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(mnist_module.os, "replace", replace)
    with pytest.raises(OSError, match="disk full"):
        download("good")
    assert list((tmp_path / "cache").iterdir()) == []
