"""Pictures of handwriting in MNIST's form: the trained network reads them as it reads MNIST."""

import io
import re
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import PRETRAINED, mnist
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minicaps.datasets import fit_picture, like_mnist
from minicaps.datasets.handwriting import has_form, writing_is_light
from minicaps.networks import load_pretrained

COUNT = 60  # of the test set; data/README.md has the table for its first 400
SHAPE = (28, 28, 1)
PAGE = Path(__file__).parents[1] / "data" / "README.md"

# -- what people do to a digit; each takes an image (28, 28) of MNIST and a generator --------------


def enlarge(image, times=5):
    height, width = image.shape
    return np.asarray(Image.fromarray(image).resize((width * times, height * times)))


def crop(image, margin=0.0):
    """Cut the digit out, with a margin in parts of its longer side."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(digit, round(margin * max(digit.shape)))


def in_corner(image):
    """Put it into the upper left of a sheet of twice the size."""
    height, width = image.shape
    return np.pad(image, ((0, height), (0, width)))


def on_paper(image, rng, margin=0.5, noise=0.0, vignette=0.0):
    """Write it in dark ink on grey paper, 66 to 234 bright, with the light from one side."""
    ink = enlarge(crop(image, margin), 6) / 255  # (h, w)
    y, x = (np.linspace(-0.5, 0.5, side) for side in ink.shape)
    angle = rng.uniform(0, 2 * np.pi)
    light = 150 + 84 * (np.sin(angle) * y[:, None] + np.cos(angle) * x)  # (h, w)
    light = light * (1 - 2 * vignette * (y[:, None] ** 2 + x**2))
    return np.clip(light * (1 - 0.75 * ink) + rng.normal(0, noise, ink.shape), 0, 255).astype(np.uint8)


def as_jpeg(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg", quality=25)
    return np.asarray(Image.open(content))


def photograph(image, rng):
    pixels = on_paper(image, rng, margin=0.8, noise=5)
    return np.asarray(Image.fromarray(pixels).resize((1000, 1000)))


def with_frame(image, rng):
    """Show the dark table around the sheet."""
    pixels = on_paper(image, rng, margin=1, noise=3)
    return np.pad(pixels, len(pixels) // 16, constant_values=30)


def with_edge(image, rng):
    """Show the dark table on the left of the sheet."""
    pixels = on_paper(image, rng, margin=1, noise=3)
    return np.pad(pixels, ((0, 0), (len(pixels) // 8, 0)), constant_values=40)


def on_ruled_paper(image, rng):
    pixels = on_paper(image, rng, margin=1, noise=3)
    pixels[::30] = pixels[::30] * 0.85
    return pixels


def beside_another(image, rng):
    """Show half of another digit too, cut by the border."""
    ink, other = crop(image, 1), crop(mnist().test_images[1, ..., 0])
    half = other[:, : other.shape[1] // 2]
    top = (len(ink) - len(half)) // 2
    ink[top : top + len(half), -half.shape[1] :] = half
    return 255 - enlarge(ink)


def with_thin_pen(image, rng):
    """Wear the strokes down to about a third, black on white."""
    strokes = enlarge(crop(image, 0.6), 12) > 110  # (h, w)
    for _ in range(5):
        wide = np.pad(strokes, 1)
        strokes = np.min([wide[i : i + len(strokes), j : j + strokes.shape[1]]
                          for i in range(3) for j in range(3)], axis=0)  # fmt: skip
    return np.where(strokes, 20, 220).astype(np.uint8)


ROWS = {
    "as it is": lambda image, rng: image,
    "cropped tightly": lambda image, rng: crop(image),
    "cropped tightly and enlarged": lambda image, rng: enlarge(crop(image), 10),
    **{f"with a margin of {margin}": lambda image, rng, margin=margin: enlarge(crop(image, margin))
       for margin in (0.1, 0.2, 0.4, 0.8, 1.5)},
    "in the corner of a sheet of twice the size": lambda image, rng: in_corner(image),
    "the same enlarged": lambda image, rng: enlarge(in_corner(image)),
    "dark on light": lambda image, rng: 255 - image,
    "cropped tightly, dark on light": lambda image, rng: 255 - enlarge(crop(image)),
    "dark on grey paper lit unevenly": on_paper,
    "the same cropped tightly": lambda image, rng: on_paper(image, rng, margin=0),
    "the same with a margin of 1.5": lambda image, rng: on_paper(image, rng, margin=1.5),
    "on noisy paper": lambda image, rng: on_paper(image, rng, margin=1, noise=20),
    "with dark corners, noisy": lambda image, rng: on_paper(image, rng, margin=1, noise=8, vignette=0.9),
    "a poor JPEG": lambda image, rng: as_jpeg(on_paper(image, rng)),
    "a photograph of 1000×1000": photograph,
    "a dark frame around the sheet": with_frame,
    "a dark edge on the left": with_edge,
    "ruled paper": on_ruled_paper,
    "half of another digit at the border": beside_another,
    "a thin pen": with_thin_pen,
}  # fmt: skip


@cache
def network():
    return load_pretrained(PRETRAINED).for_inference()


def accuracy(row, count, make=like_mnist):
    """Return the share of the first test images that is read correctly when ROWS[row] was done to them."""
    made = (ROWS[row](image[..., 0], np.random.default_rng(k))
            for k, image in enumerate(mnist().test_images[:count]))  # fmt: skip
    images = np.stack([make(np.ascontiguousarray(pixels)[..., None], SHAPE) for pixels in made])
    return (network().predict(images) == mnist().test_labels[:count]).mean()


@pytest.mark.parametrize("row", ROWS)
def test_it_is_read_whatever_was_done_to_it(row):
    assert accuracy(row, COUNT) >= 0.98  # one may be wrong


@pytest.mark.skipif(not PAGE.exists(), reason="an installed package is tested without its repository")
def test_the_page_has_a_table_of_these_rows_all_above_95_per_cent():
    table = re.findall(
        r"^\| (.+) \| (\d+\.\d\d) \| \d+\.\d\d \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [row for row, _ in table] == list(ROWS) and all(float(share) >= 95 for _, share in table)


def test_without_the_form_most_of_it_is_not_read():
    for row in ("with a margin of 1.5", "the same enlarged", "dark on grey paper lit unevenly"):
        assert accuracy(row, COUNT, fit_picture) < 0.4


# -- the form ----------------------------------------------------------------------------------


def test_nearly_every_image_of_mnist_has_the_form_and_is_left_alone():
    images = mnist().test_images[:2000]
    assert np.mean([has_form(image) for image in images]) > 0.995
    assert all(like_mnist(image, SHAPE) is image for image in images if has_form(image))


def test_what_was_made_has_the_form():
    rng = np.random.default_rng(0)
    for image in mnist().test_images[:50, ..., 0]:
        assert has_form(like_mnist(on_paper(image, rng)[..., None], SHAPE))


def test_other_images_have_not_the_form():
    image = mnist().test_images[0]
    for other in (np.zeros_like(image), np.roll(image, 2, axis=0), 255 - image, image + 1, image * 0 + 9):
        assert not has_form(other)
    assert not has_form(fit_picture(crop(image[..., 0])[..., None], SHAPE))


@pytest.mark.parametrize("shape", [(28, 28, 1), (28, 28, 3), (56, 56, 1), (20, 36, 1)])
def test_the_writing_fills_twenty_parts_of_28_and_is_balanced(shape):
    bar = np.full((300, 200), 230, np.uint8)
    bar[40:220, 90:120] = 30
    image = like_mnist(bar[..., None], shape)
    assert image.shape == shape and image.dtype == np.uint8 and image.max() == 255
    lit = image.max(axis=-1) > 128
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    assert len(rows) == round(20 / 28 * shape[0]) and abs(len(columns) - len(rows) / 6) <= 1
    for found, side in ((rows, shape[0]), (columns, shape[1])):
        assert abs(found.mean() - side / 2) <= 0.5
    assert (image == image[..., :1]).all()


def test_a_digit_in_colour_is_read_by_its_brightness():
    image = np.repeat(255 - mnist().test_images[0], 3, axis=-1)
    image[..., 0] = 255  # red ink
    assert network().predict(like_mnist(image, SHAPE)[None])[0] == mnist().test_labels[0]


def test_light_and_dark_are_told_apart_even_where_the_digit_fills_the_picture():
    digits = [crop(image) for image in mnist().test_images[:300, ..., 0]]
    assert np.mean([writing_is_light(digit) for digit in digits]) > 0.99
    assert np.mean([not writing_is_light(255 - digit) for digit in digits]) > 0.99


def test_light_or_dark_may_be_said():
    pixels = mnist().test_images[:1, ..., 0].repeat(2, axis=0)[0]
    pixels = np.pad(pixels, 9)[..., None]
    auto, light, dark = (like_mnist(pixels, SHAPE, light) for light in (None, True, False))
    np.testing.assert_array_equal(auto, light)
    assert (auto != dark).any()


def test_specks_are_no_ink():
    rng, image = np.random.default_rng(0), mnist().test_images[0, ..., 0]
    pixels = on_paper(image, rng)
    clean = like_mnist(pixels[..., None], SHAPE)
    pixels[8:11, 8:11] = pixels[-9:-6, -20:-17] = 20
    np.testing.assert_allclose(like_mnist(pixels[..., None], SHAPE), clean.astype(float), atol=8)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])),
    st.sampled_from(["flat", "noise", "black and white", "faint"]),
    st.integers(0, 1000),
)
def test_any_picture_becomes_an_image(shape, kind, seed):
    rng = np.random.default_rng(seed)
    highest = {"flat": 1, "noise": 256, "black and white": 2, "faint": 7}[kind]
    pixels = rng.integers(0, highest, shape, dtype=np.uint8) * (255 if kind == "black and white" else 1)
    with np.errstate(all="raise"):
        image = like_mnist(pixels, SHAPE)
    assert image.shape == SHAPE and image.dtype == np.uint8
    assert image.max() in ((0,) if kind in ("flat", "faint") else (0, 255))


def test_a_photograph_of_12_million_pixels_takes_no_more_memory_than_it_has():
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 4000, 1), dtype=np.uint8)
    tracemalloc.start()
    try:
        like_mnist(pixels, SHAPE)
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()
