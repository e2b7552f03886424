"""The command ``predict``."""

import csv
import io
import json
import os
import re

import numpy as np
import pytest
from helpers import mnist, small_dataset
from PIL import Image

from minicaps.commands import answers, predict
from minicaps.networks import build, files, find_pretrained, load_network, save_network
from minicaps.training import fingerprint

pytestmark = pytest.mark.usefixtures("elsewhere")


def save(path, image, dark_on_light=False):
    """Write an image (H, W, 1) as PNG and return its path."""
    pixels = 255 - image[..., 0] if dark_on_light else image[..., 0]
    Image.fromarray(pixels).save(path)
    return path


def test_predict_prints_class_length_and_runner_up_of_every_image(call, finished_run, tmp_path):
    images = small_dataset().test_images[:3]
    paths = [save(tmp_path / f"{k}.png", image) for k, image in enumerate(images)]
    code, output, errors = call("predict", finished_run, *paths)
    assert code == 0 and errors == ""
    network, names = load_network(finished_run / "model.npz")
    scores = network.scores(network(images.astype(np.float32) / 255))
    for path, row, line in zip(paths, scores, output.splitlines(), strict=True):
        best, second = np.argsort(-row)[:2]
        first, then = f"{names[best]} (length {row[best]:.3f})", f"{names[second]} ({row[second]:.3f})"
        assert line == f"{path}: {first}, then {then}"


@pytest.mark.parametrize("model, word", [("mlp", "probability"), ("matrix", "activation")])
def test_predict_of_another_network_prints_what_its_scores_are(model, word, call, tmp_path):
    save_network(tmp_path / "network.npz", build(model, "tiny", rng=0))
    output = call("predict", "network.npz", save(tmp_path / "a.png", small_dataset().test_images[0]))[1]
    assert re.search(rf"a\.png: \d \({word} 0\.\d{{3}}\), then \d \(0\.\d{{3}}\)\n", output)


def test_a_missing_image_ends_with_2_and_the_others_are_answered(call, finished_run, tmp_path):
    good = save(tmp_path / "good.png", small_dataset().test_images[0])
    code, output, errors = call("predict", finished_run, tmp_path / "absent.png", good)
    assert code == 2 and output.startswith(f"{good}: ")
    assert errors == f"minicaps: {tmp_path / 'absent.png'}: no such file\n"


def test_a_broken_image_ends_with_1_and_the_others_are_answered(call, finished_run, tmp_path):
    good = save(tmp_path / "good.png", small_dataset().test_images[0])
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:60])
    code, output, errors = call("predict", finished_run, tmp_path / "broken.png", good)
    assert code == 1 and output.startswith(f"{good}: ")
    assert "broken.png: damaged image" in errors and errors.count("\n") == 1


def test_dark_on_light_is_warned_about_and_inverting_helps(call, finished_run, tmp_path):
    image = small_dataset().test_images[0]
    light = save(tmp_path / "light.png", image, dark_on_light=True)
    code, _, errors = call("predict", finished_run, light)
    assert code == 0 and errors == (
        f"minicaps: warning: {light}: its border is light; MNIST is light on dark, try --invert\n"
    )
    _, inverted, errors = call("predict", finished_run, "--invert", light)
    plain = call("predict", finished_run, save(tmp_path / "plain.png", image))[1]
    assert errors == "" and inverted.split(": ")[1] == plain.split(": ")[1]


def test_inverting_light_on_dark_is_warned_about(call, finished_run, tmp_path):
    path = save(tmp_path / "a.png", small_dataset().test_images[0])
    assert (
        "its border is light; MNIST is light on dark, try without --invert"
        in call("predict", finished_run, "--invert", path)[2]
    )


@pytest.mark.parametrize("size", [(28, 60), (60, 28)])
def test_dark_on_light_is_warned_about_whatever_the_aspect_ratio(call, finished_run, tmp_path, size):
    pixels = np.full((*size, 1), 255, np.uint8)
    pixels[14, 14] = 0
    errors = call("predict", finished_run, save(tmp_path / "wide.png", pixels))[2]
    assert (
        "its border is light; MNIST is light on dark, try --invert, or --mnist-like for handwriting" in errors
    )


def test_a_picture_of_one_colour_is_told(call, finished_run, tmp_path):
    path = save(tmp_path / "flat.png", np.full((40, 50, 1), 90, np.uint8))
    code, output, errors = call("predict", finished_run, path)
    assert code == 0 and output.startswith(f"{path}: ")
    assert errors == f"minicaps: warning: {path}: it is of one colour\n"


def test_a_picture_of_12_bits_is_told_to_be_dark(call, finished_run, tmp_path):
    image = small_dataset().test_images[0, ..., 0]  # (28, 28)
    Image.fromarray(image.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    errors = call("predict", finished_run, "deep.png")[2]
    assert errors.count("\n") == 1 and "deep.png: no pixel is brighter than 16 of 255; are its" in errors
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert call("predict", finished_run, "deep.png")[2] == ""


# -- which pictures ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder with four test images: 2.png and 10.png, and two in folders deeper."""
    images = iter(small_dataset().test_images)
    for name in ("10.png", "2.png", "b/deep/1.png", "a/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "photos" / name, next(images))
    return tmp_path / "photos"


def names(output):
    return [line.split(": ")[0] for line in output.splitlines()]


def test_a_folder_is_looked_through_in_natural_order(call, finished_run, folder):
    (folder / "Thumbs.db").touch()
    (folder / "b" / "again").symlink_to(folder)  # a circle
    code, output, errors = call("predict", finished_run, "photos")
    assert code == 0 and errors == ""
    assert names(output) == [f"photos/{name}" for name in ("2.png", "10.png", "a/1.png", "b/deep/1.png")]


def test_several_folders_files_and_patterns_are_answered_in_turn(call, finished_run, folder):
    output = call("predict", finished_run, "photos/b", "./photos/2.png", "photos/*.png", "photos/**/1.png")[1]
    assert names(output) == [
        *("photos/b/deep/1.png", "./photos/2.png", "photos/2.png", "photos/10.png"),
        *("photos/a/1.png", "photos/b/deep/1.png"),
    ]


def test_a_name_that_looks_like_a_pattern_is_a_name_where_it_is_there(call, finished_run, folder):
    save(folder / "[12].png", small_dataset().test_images[0])
    assert names(call("predict", finished_run, "photos/[12].png")[1]) == ["photos/[12].png"]


def test_the_home_folder_may_be_written_as_a_tilde(call, finished_run, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert names(call("predict", finished_run, "~/2.png")[1]) == [f"{folder}/2.png"]


def test_what_is_not_there_ends_with_2_and_the_others_are_answered(call, finished_run, folder):
    code, output, errors = call("predict", finished_run, "nix*", "photos/a", "~nobody/x.png", "")
    assert code == 2 and names(output) == ["photos/a/1.png"]
    assert errors.splitlines() == [
        "minicaps: nix*: no such file, and nothing fits the pattern",
        "minicaps: ~nobody/x.png: no such file",
        "minicaps: an empty path, expected that of a file or folder",
    ]


def test_an_empty_folder_is_told(call, finished_run, folder):
    (folder / "empty" / "more").mkdir(parents=True)
    code, output, errors = call("predict", finished_run, "photos/empty", "photos/a")
    assert code == 1 and names(output) == ["photos/a/1.png"]
    assert errors == "minicaps: photos/empty: a folder without pictures\n"


def test_whatever_cannot_be_read_is_told_and_the_others_are_answered(call, finished_run, folder, monkeypatch):
    (folder / "notes.txt").write_text("not a picture")
    os.mkfifo(folder / "pipe")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    read = predict.read_picture

    def denied(name, *arguments):
        if name == "photos/2.png":
            raise PermissionError(13, "Permission denied", name)
        return read(name, *arguments)

    monkeypatch.setattr(predict, "read_picture", denied)
    code, output, errors = call("predict", finished_run, "photos")
    assert code == 1 and names(output) == [f"photos/{name}" for name in ("10.png", "a/1.png", "b/deep/1.png")]
    told = errors.splitlines()
    assert len(told) == 4 and "photos/2.png: Permission denied" in told[0]
    assert "circle.png: cannot be looked at" in told[1]
    assert "notes.txt: not an image that can be read (PNG and JPEG are); leave it out, or save" in told[2]
    assert "pipe: a pipe, socket or device" in told[3]


# -- forms for programs ------------------------------------------------------------------------


def expected_scores(run, images):
    network, class_names = load_network(run / "model.npz")
    return network.scores(network(images.astype(np.float32) / 255)), class_names


def test_json_is_one_document_with_all_scores(call, finished_run, folder):
    (folder / "broken.png").write_bytes(b"")
    code, output, errors = call("predict", finished_run, "--json", "photos", "absent.png")
    assert code == 2 and errors.count("\n") == 2
    told = json.loads(output)
    assert told["scores"] == "length" and told["run"] == str(finished_run)
    whole = [each for each in told["predictions"] if "error" not in each]
    assert [each["image"] for each in whole] == [
        f"photos/{name}" for name in ("2.png", "10.png", "a/1.png", "b/deep/1.png")
    ]
    scores, class_names = expected_scores(finished_run, small_dataset().test_images[[1, 0, 3, 2]])
    for each, row in zip(whole, scores, strict=True):
        assert list(each["scores"]) == list(class_names)
        np.testing.assert_allclose(list(each["scores"].values()), row, rtol=1e-5)
        assert each["prediction"] == class_names[row.argmax()]
    failed = [each for each in told["predictions"] if "error" in each]
    assert [each["image"] for each in failed] == ["photos/broken.png", "absent.png"]


def test_csv_has_a_head_and_a_line_for_each_picture(call, finished_run, folder):
    save(folder / 'a "b", c.png', small_dataset().test_images[4])
    code, output, errors = call("predict", finished_run, "--csv", 'photos/a "b", c.png', "absent", "photos/a")
    assert code == 2 and errors == "minicaps: absent: no such file\n"
    head, *rows = csv.reader(io.StringIO(output))
    scores, class_names = expected_scores(finished_run, small_dataset().test_images[[4, 3]])
    assert head == ["image", "prediction", *(f"score {name}" for name in class_names)]
    assert [row[0] for row in rows] == ['photos/a "b", c.png', "photos/a/1.png"]
    for row, expected in zip(rows, scores, strict=True):
        np.testing.assert_allclose(np.array(row[2:], dtype=float), expected, rtol=1e-5)
        assert np.float32(row[2]) == float(row[2])  # all digits of the number
        assert row[1] == class_names[expected.argmax()]


def test_json_and_csv_exclude_each_other(call, finished_run):
    code, _, errors = call("predict", finished_run, "a.png", "--json", "--csv")
    assert code == 2 and "--csv: not allowed with argument --json" in errors


# -- handwriting -------------------------------------------------------------------------------


def photograph(image):
    """Return an image (28, 28, 1) as dark ink on grey paper with wide margins, three times as large."""
    ink = np.kron(np.pad(image[..., 0], 20), np.ones((3, 3)))  # (204, 204)
    return (150 - 0.45 * ink).astype(np.uint8)[..., None]


def test_the_network_that_comes_along_reads_photographs_and_says_how(call, tmp_path):
    images, labels = small_dataset().test_images[:8], small_dataset().test_labels[:8]
    paths = [save(tmp_path / f"{k}.png", photograph(image)) for k, image in enumerate(images)]
    code, output, errors = call("predict", "pretrained", *paths)
    assert code == 0 and [line.split(": ")[1][0] for line in output.splitlines()] == [*map(str, labels)]
    assert errors == (
        "minicaps: 8 pictures were brought into MNIST's form, which this network was trained on; --as-is "
        "leaves them as they are\n"
    )
    as_is = call("predict", "pretrained", "--as-is", *paths)[1]
    assert sum(line.split(": ")[1][0] == str(label)
               for line, label in zip(as_is.splitlines(), labels, strict=True)) < 4  # fmt: skip


def test_images_of_mnist_are_left_as_they_are(call, tmp_path):
    paths = [save(tmp_path / f"{k}.png", image) for k, image in enumerate(small_dataset().test_images[:20])]
    code, output, errors = call("predict", "pretrained", *paths)
    assert code == 0 and errors == "" and output == call("predict", "pretrained", "--as-is", *paths)[1]


def test_a_network_that_has_not_learnt_mnist_needs_to_be_told(call, finished_run, tmp_path):
    path = save(tmp_path / "a.png", photograph(small_dataset().test_images[0]))
    plain = call("predict", finished_run, path)
    assert "its border is light" in plain[2] and plain[1] == call("predict", finished_run, "--as-is", path)[1]
    code, output, errors = call("predict", finished_run, "--mnist-like", path)
    assert code == 0 and errors == "" and output != plain[1]


def test_the_run_says_whether_it_has_learnt_mnist(tmp_path, finished_run, unfinished_run):
    assert fingerprint(mnist()) == answers.MNIST
    assert answers.learnt_mnist(find_pretrained()) and not answers.learnt_mnist(finished_run)
    arrays, description = files.read(unfinished_run / "checkpoint.npz")
    files.write(tmp_path / "checkpoint.npz", arrays, description | {"data": answers.MNIST})
    (tmp_path / "config.json").write_bytes((unfinished_run / "config.json").read_bytes())
    assert all(answers.learnt_mnist(path) for path in (tmp_path, tmp_path / "model.npz"))
    assert not answers.learnt_mnist(tmp_path / "other.npz")
    (tmp_path / "checkpoint.npz").write_bytes(b"damaged")
    assert not answers.learnt_mnist(tmp_path)


def test_inverted_handwriting_is_read_too(call, tmp_path):
    image = small_dataset().test_images[0]
    path = save(tmp_path / "a.png", photograph(image))
    for arguments in ([], ["--invert"]):
        assert f"{path}: 7 (length 0.9" in call("predict", "pretrained", *arguments, path)[1]


def test_an_empty_sheet_is_told(call, tmp_path):
    path = save(tmp_path / "empty.png", np.full((60, 60, 1), 200, np.uint8))
    assert f"warning: {path}: it is of one colour" in call("predict", "pretrained", path)[2]
