"""The command ``predict``."""

import re

import numpy as np
import pytest
from helpers import small_dataset
from PIL import Image

from minicaps.networks import build, load_network, save_network

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
    path = save(tmp_path / "wide.png", np.full((*size, 1), 255, np.uint8))
    assert "its border is light" in call("predict", finished_run, path)[2]
