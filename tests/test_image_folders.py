"""Folders of pictures as data: which pictures, in what order, their pixels, and runs on them."""

import json
import os
import re
import shutil
import socket
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from benchmarks.idx_to_pngs import write_pngs
from helpers import interrupt_at, small_folder, tiny_config
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minicaps import cli
from minicaps.datasets import Dataset, fit_picture, load, read_image_folder, read_picture, to_float
from minicaps.datasets.listing import list_visible
from minicaps.networks import weights as checkpoint
from minicaps.training import run as runs


def save(path, pixels, **options):
    """Write pixels (H, W) or (H, W, 3), or one grey value for a picture of 4×5, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if np.ndim(pixels) == 0:
        pixels = np.full((4, 5), pixels)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def spotted(height, width, colour):
    """Return pixels (height, width, 3) of one colour but for a black one: not flat."""
    pixels = np.full((height, width, 3), colour)
    pixels[0, 0] = 0
    return pixels


def fill(folder, **counts):
    """Make a folder with `counts` pictures in its classes, each of its own brightness, and return it."""
    brightness = iter(range(256))
    for name, count in counts.items():
        for k in range(count):
            save(folder / name / f"{k + 1}.png", next(brightness))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten pictures: 0 to 9 bright, and 10 to 19."""
    return fill(tmp_path / "set", cat=10, dog=10)


def brightness(images):
    """Return the brightness of each image; every pixel of it must have it."""
    values = images[:, 0, 0, 0]  # (N,)
    assert (images == values[:, None, None, None]).all()
    return values.tolist()


def same(found, expected):
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    return found.class_names == expected.class_names


# -- the same pixels as IDX files --------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


def labelled_bytes(images, labels):
    """Return what a part of a data set holds, whatever its order."""
    return sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))


@given(
    seed=st.integers(0, 1000),
    classes=st.integers(2, 12),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
)
def test_a_folder_of_pngs_holds_the_pixels_that_were_written(scratch, seed, classes, shape):
    rng = np.random.default_rng(seed)
    written = Dataset(
        rng.integers(0, 256, (2 * classes, *shape), dtype=np.uint8),
        rng.permutation(2 * classes) % classes,
        rng.integers(0, 256, (classes, *shape), dtype=np.uint8),
        rng.permutation(classes),
        tuple(map(str, range(classes))),
        "random",
    )
    shutil.rmtree(scratch / "pngs", ignore_errors=True)
    read = load(write_pngs(written, scratch / "pngs"))
    assert read.class_names == written.class_names and read.train_images.dtype == np.uint8
    for part in ("train", "test"):
        pair = f"{part}_images", f"{part}_labels"
        assert labelled_bytes(*(getattr(read, n) for n in pair)) == labelled_bytes(
            *(getattr(written, n) for n in pair)
        )
    assert read.train_labels.dtype == read.test_labels.dtype == np.int64


# -- which pictures ----------------------------------------------------------------------------


def test_every_fifth_picture_of_each_class_is_for_the_test(tmp_path):
    data = load(fill(tmp_path, cat=12, dog=5))
    assert sorted(brightness(data.test_images)) == [4, 9, 16]
    assert sorted(brightness(data.train_images)) == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15]


def test_labels_stay_with_their_pictures(folder):
    data = load(folder)
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert [value // 10 for value in brightness(images)] == labels.tolist()
    assert data.class_names == ("cat", "dog")


def test_train_and_test_are_taken_as_they_are(tmp_path):
    fill(tmp_path / "test", dog=1)
    save(tmp_path / "train" / "cat" / "a.png", 50)
    save(tmp_path / "train" / "dog" / "a.png", 60)
    data = load(tmp_path)
    assert brightness(data.test_images) == [0] and data.test_labels.tolist() == [1]
    assert dict(zip(brightness(data.train_images), data.train_labels.tolist(), strict=True)) == {50: 0, 60: 1}


def test_a_class_may_be_called_train_where_there_is_no_test(tmp_path):
    assert load(fill(tmp_path, bus=5, train=5)).class_names == ("bus", "train")


def test_the_order_does_not_depend_on_the_file_system(folder, monkeypatch):
    expected, listed = load(folder), Path.iterdir
    for order in (sorted, lambda paths: sorted(paths, reverse=True)):
        monkeypatch.setattr(Path, "iterdir", lambda path, order=order: iter(order(listed(path))))
        assert same(load(folder), expected)


def test_the_first_and_the_last_pictures_show_many_classes(tmp_path):
    data = load(fill(tmp_path, **{f"class{k}": 20 for k in range(10)}))
    validation_labels = data.split()[3]
    assert len(validation_labels) == 16 and len(set(validation_labels)) >= 5
    assert len(set(data.train_labels[:20])) >= 5 and len(set(data.test_labels[:12])) >= 5


def test_classes_come_in_natural_order(tmp_path):
    data = load(fill(tmp_path, **{name: 5 for name in ("10", "x10y2", "2", "x9y1", "x10y10", "1")}))
    assert data.class_names == ("1", "2", "10", "x9y1", "x10y2", "x10y10")


@given(st.sets(st.integers(0, 10**9), min_size=1, max_size=6), st.text("ab.-", max_size=3))
def test_numbered_files_come_in_the_order_of_their_numbers(scratch, numbers, prefix):
    folder = scratch / "numbered"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for n in numbers:
        (folder / f"x{prefix}{n}.png").touch()
    assert [path.name for path in list_visible(folder)] == [f"x{prefix}{n}.png" for n in sorted(numbers)]


def test_names_that_differ_only_by_leading_zeros_have_an_order_too(folder, monkeypatch):
    names = ["01", "1", "001"]
    orders = []
    for order in (names, names[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda path, order=order: (path / name for name in order))
        orders.append(list_visible(folder))
    assert orders[0] == orders[1]


def test_what_systems_leave_behind_is_passed_over(folder):
    expected = load(folder)
    for name in (
        ".DS_Store",
        "cat/.DS_Store",
        "cat/Thumbs.db",
        "dog/desktop.ini",
        "cat/._1.png",
        "labels.csv",
    ):
        (folder / name).write_bytes(b"\0\0\0\1Bud1")
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        (folder / name).mkdir()
    assert same(load(folder), expected)


@pytest.mark.parametrize("name", ["lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir"])
def test_folders_of_systems_are_no_classes_even_if_they_cannot_be_read(folder, name):
    expected = load(folder)
    (folder / name).mkdir(mode=0)
    (folder / "dog" / name).mkdir()
    assert same(load(folder), expected)


@pytest.mark.parametrize("name", ["ehthumbs.db", "Picasa.ini", "Icon\r", "Desktop.INI", "._Icon\r"])
def test_files_of_systems_are_no_pictures(folder, name):
    expected = load(folder)
    (folder / "dog" / name).write_bytes(b"x")
    assert same(load(folder), expected)


@pytest.mark.parametrize("name", ["@", "#1", "$", "icon", "recycle"])
def test_classes_may_be_called_like_them(folder, name):
    (folder / "dog").rename(folder / name)
    assert set(load(folder).class_names) == {"cat", name}


def test_a_pipe_among_the_pictures_is_named_and_not_waited_for(folder):
    os.mkfifo(folder / "cat" / "pipe.png")
    assert "cat/pipe.png: a pipe, socket or device, expected an image file" in refused(folder)


def test_a_socket_among_the_pictures_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder / "cat")  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.png")
        assert "socket.png: a pipe, socket or device" in refused(folder)


def test_links_are_followed(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "cat").symlink_to(folder / "cat")
    (linked / "dog").mkdir()
    for file in (folder / "dog").iterdir():
        (linked / "dog" / file.name).symlink_to(file)
    assert same(load(linked), load(folder))


# -- their pixels ------------------------------------------------------------------------------


def test_one_picture_in_colour_makes_all_images_colour_ones(folder):
    assert load(folder).image_shape == (4, 5, 1)
    save(folder / "dog" / "5.png", np.full((4, 5, 3), (200, 100, 50)))
    data = load(folder)
    assert data.image_shape == (4, 5, 3)
    assert data.test_images[:, 0, 0].max(axis=0).tolist() == [200, 100, 50]
    assert (data.train_images == data.train_images[..., :1]).all()


def test_grey_or_colour_may_be_chosen(folder):
    save(folder / "dog" / "5.png", np.full((4, 5, 3), (255, 0, 0)))
    grey, colour = load(folder, channels=1), load(folder, channels=3)
    assert grey.image_shape == (4, 5, 1) and grey.test_images.max() == 76  # 0.299 of 255
    assert colour.image_shape == (4, 5, 3) and same(colour, load(folder))
    (folder / "dog" / "5.png").unlink()
    assert load(folder).image_shape == (4, 5, 1) and load(folder, channels=3).image_shape == (4, 5, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_in_the_channels_that_are_chosen(folder, channels):
    save(folder / "dog" / "5.png", np.full((4, 5, 3), (255, 0, 0)))
    assert {images.shape[1:] for images in read_image_folder(folder, channels=channels)[0:3:2]} == {
        (4, 5, channels)
    }


def test_idx_files_may_be_read_in_colour_too(tmp_path):
    small_folder(tmp_path, 20, 10)
    grey, colour = load(tmp_path, channels=1), load(tmp_path, channels=3)
    assert same(grey, load(tmp_path)) and colour.image_shape == (28, 28, 3)
    assert (colour.train_images == grey.train_images).all()


@pytest.mark.parametrize("channels", [0, 2, "grey"])
def test_other_channels_are_refused(folder, channels):
    with pytest.raises(ValueError, match=r"load: channels is .*, expected 1 \(grey\), 3 \(colour\) or None"):
        load(folder, channels=channels)


def test_png_and_jpeg_of_any_kind_may_be_mixed(folder):
    save(folder / "cat" / "a.jpg", np.full((4, 5), 100), quality=95)
    save(folder / "cat" / "b.JPEG", np.full((4, 5), 100), quality=95)
    Image.new("LA", (5, 4), (100, 255)).save(folder / "dog" / "c.PNG")
    Image.new("I;16", (5, 4), 100 * 257).save(folder / "dog" / "d.png")
    data = load(folder)
    found = sorted(brightness(data.train_images) + brightness(data.test_images))
    assert found[:20] == list(range(20)) and np.allclose(found[20:], 100, atol=2)


@pytest.mark.parametrize("size, shape", [(7, (7, 7)), ((8, 6), (8, 6))])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_scaled_as_predict_scales_them(tmp_path, size, shape, channels):
    rng = np.random.default_rng(0)
    scaled = []
    for name in ("cat", "dog"):
        for k in range(5):
            pixels = rng.integers(0, 256, (*rng.integers(1, 30, 2), channels), dtype=np.uint8)
            path = save(tmp_path / name / f"{k}.png", pixels.squeeze(-1) if channels == 1 else pixels)
            scaled.append(fit_picture(read_picture(path, channels), (*shape, channels)))
    data = load(tmp_path, size)
    found = np.concatenate([data.train_images, data.test_images])  # (10, H, W, C)
    assert data.image_shape == (*shape, channels)
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in scaled)


def test_pictures_of_another_size_need_a_size(folder):
    save(folder / "dog" / "3.png", np.full((6, 5), 7))
    with pytest.raises(ValueError, match=r"[46]×5 pixels, but .*png has [46]×5; give --size N") as caught:
        load(folder)
    assert "dog/3.png" in str(caught.value)
    assert load(folder, 8).image_shape == (8, 8, 1)


def test_the_size_is_that_of_the_upright_picture(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright: turn clockwise
    save(folder / "cat" / "upright.jpg", np.full((5, 4), 9), exif=exif)
    assert load(folder).image_shape == (4, 5, 1)


def test_large_pictures_are_scaled_one_by_one(tmp_path):
    for name in ("cat", "dog"):
        for k in range(10):
            save(tmp_path / name / f"{k}.png", np.full((1000, 1000, 3), 100))  # 60 MB in all
    tracemalloc.start()
    try:
        assert load(tmp_path, 16).train_images.nbytes == 16 * 16 * 16 * 3
        assert tracemalloc.get_traced_memory()[1] < 15e6
    finally:
        tracemalloc.stop()


# -- what cannot be read -----------------------------------------------------------------------


def refused(folder, error=ValueError):
    """Return the message with which `load` refuses a folder; it must be one line."""
    with pytest.raises(error) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_data_set_is_told_both_forms(tmp_path):
    (tmp_path / "picture.png").touch()
    (tmp_path / ".hidden").mkdir()
    message = refused(tmp_path, FileNotFoundError)
    assert message.startswith(f"{tmp_path}: ")
    assert "four IDX files (train-images-idx3-ubyte" in message and "subfolder of pictures" in message


def test_idx_files_come_before_subfolders(tmp_path):
    small_folder(fill(tmp_path, cat=5, dog=5), 20, 10)
    assert load(tmp_path).image_shape == (28, 28, 1)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "holds no t10k-labels-idx1-ubyte" in refused(tmp_path, FileNotFoundError)


def test_one_class_is_refused(tmp_path):
    assert "expected a subfolder for each of at least two classes, got 1" in refused(fill(tmp_path, cat=9))


def test_an_empty_train_is_refused(tmp_path):
    fill(tmp_path / "test", cat=2, dog=2)
    (tmp_path / "train").mkdir()
    assert "at least two classes, got 0" in refused(tmp_path)


def test_an_empty_test_is_refused(tmp_path):
    fill(tmp_path / "train", cat=2, dog=2)
    (tmp_path / "test").mkdir()
    assert f"{tmp_path / 'test'}: holds no class" in refused(tmp_path)


def test_a_class_without_pictures_is_named(folder):
    (folder / "emu").mkdir()
    (folder / "emu" / "Thumbs.db").touch()
    assert f"{folder / 'emu'}: a class without pictures" in refused(folder)


def test_a_class_too_small_to_be_split_is_named(tmp_path):
    assert f"{tmp_path / 'dog'}: 4 pictures, expected at least 5" in refused(fill(tmp_path, cat=5, dog=4))


def test_a_class_that_train_lacks_is_named(tmp_path):
    fill(tmp_path / "train", cat=2, dog=2)
    fill(tmp_path / "test", cat=2, emu=2)
    assert f"{tmp_path / 'test' / 'emu'}: a class that train/ lacks" in refused(tmp_path)


def test_train_without_test_is_told_that_both_are_needed(tmp_path):
    fill(tmp_path / "train", cat=5, dog=5)
    message = refused(tmp_path)
    assert f"{tmp_path / 'train' / 'cat'}: a folder within the class train" in message
    assert "needs both train/ and test/" in message


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("notes.txt", b"not a picture", "not an image"),
        ("empty.png", b"", "not an image"),
        ("half.png", None, "damaged image"),
    ],
)
@pytest.mark.parametrize("size", [None, 8])
def test_a_file_that_is_no_picture_is_named(folder, name, content, reason, size):
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "dog" / name).write_bytes(whole[: len(whole) - 20] if content is None else content)
    with pytest.raises(ValueError, match=rf"dog/{name}: {reason}"):
        load(folder, size)


def test_a_link_to_nowhere_is_named(folder):
    (folder / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    assert "gone.png: no such file" in refused(folder, FileNotFoundError)


# -- runs --------------------------------------------------------------------------------------

NAMES = [f"kind {k}" for k in range(1, 21)]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Twenty classes of six colour pictures of different sizes."""
    folder, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    for name in NAMES:
        colour = rng.integers(0, 256, 3)
        for k in range(6):
            save(folder / name / f"{k}.png", spotted(*rng.integers(40, 99, 2), colour))
    return folder


@pytest.fixture(scope="module")
def run(kinds, tmp_path_factory):
    """A run on them in 64×64, stopped after its first epoch and resumed."""
    folder = tmp_path_factory.mktemp("runs") / "kinds"
    config = tiny_config(epochs=2, data=str(kinds), size=64)
    with pytest.raises(KeyboardInterrupt):
        runs.Run(config, folder, say=interrupt_at(1)).train()
    assert cli.main(["train", "--resume", str(folder)]) == 0
    return folder


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Return a function that runs a command in an empty folder and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        capsys.readouterr()
        found = cli.main([str(argument) for argument in arguments])
        output, errors = capsys.readouterr()
        assert found == code, errors
        assert errors == "" if code == 0 else errors.count("\n") == 1
        return output or errors

    return call


def test_train_takes_a_folder_and_a_size(call, kinds):
    options = "--epochs 1 --model mlp --size 16 --out run".split()
    output = call("train", *options, "--data", kinds)
    assert "90 images to train on, 10 to validate, 20 to test, 20 classes, 16 × 16 × 3 pixels" in output
    assert json.loads(Path("run/config.json").read_text())["size"] == 16


def test_a_run_on_a_folder_is_resumed_with_its_size(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs"] == 2 and summary["train_images"] == 90 and summary["test_images"] == 20
    network, names = checkpoint.load_network(run / "model.npz")
    assert network.image_shape == (64, 64, 3) and list(names) == NAMES


def test_evaluate_loads_the_folder_with_the_size_of_the_run(call, run, kinds):
    first, source, *rows = call("evaluate", run).splitlines()
    accuracy = json.loads((run / "summary.json").read_text())["test_accuracy"]
    assert source == f"data: {kinds}: 20 test images of 20 classes"
    assert f"accuracy {100 * accuracy:.2f} %" in first
    assert [re.match(r"  class (kind \d+) ", row)[1] for row in rows] == NAMES


def test_evaluate_scales_another_folder_to_the_size_of_the_network(call, run, tmp_path):
    for name in NAMES:
        for k in range(5):
            save(tmp_path / "other" / name / f"{k}.png", spotted(9, 9, 100 + k))
    assert "of 100 images wrong" in call("evaluate", run / "model.npz", "--data", tmp_path / "other")


def test_evaluate_refuses_other_classes(call, run, tmp_path):
    for name in ("kind 1", "mind 2"):
        for k in range(5):
            save(tmp_path / "other" / name / f"{k}.png", spotted(9, 9, 100 + k))
    line = call("evaluate", run, "--data", tmp_path / "other", code=1)
    assert f"{tmp_path / 'other' / 'mind 2'}: the network has no class mind 2, only kind 1, kind 2" in line


def test_predict_sees_what_the_network_was_trained_on(call, run, kinds):
    network, names = checkpoint.load_network(run / "model.npz")
    data = load(kinds, 64)
    scores = network.scores(network(to_float(data.test_images)))  # (20, 20)
    best = dict(
        zip(
            data.test_labels.tolist(),
            zip(scores.argmax(axis=1), scores.max(axis=1), strict=True),
            strict=True,
        )
    )
    for label, line in enumerate(call("predict", run, *(kinds / n / "4.png" for n in NAMES)).splitlines()):
        predicted, length = best[label]
        assert f"{names[predicted]} (length {length:.3f}), then kind " in line


def test_light_pictures_are_no_warning_where_classes_have_names(call, run, tmp_path):
    light = save(tmp_path / "light.png", spotted(30, 30, 250))
    assert "then kind " in call("predict", run, light)  # and nothing on stderr


def test_explore_draws_a_run_on_a_folder(call, run):
    names = {Path(line).name for line in call("explore", run, "--out", "figures").splitlines()[1:7]}
    assert {"confusion_matrix.png", "dimensions.png", "reconstructions.png"} <= names


def test_a_broken_folder_ends_with_1_in_one_line(call, folder):
    (folder / "cat" / "3.png").write_bytes(b"")
    line = call("train", "--data", folder, "--preset", "tiny", code=1)
    assert line.startswith(f"minicaps: {folder / 'cat' / '3.png'}: not an image")


def test_a_wrong_size_ends_with_2(call, folder):
    assert "size is 0, expected a whole number above 0" in call(
        "train", "--size", 0, "--data", folder, code=2
    )
