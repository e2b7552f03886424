"""Single pictures: whatever the file, they become what a network takes."""

import numpy as np
import pytest
from helpers import small_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from minicaps.datasets import border_is_light, fit_picture, read_picture, to_float
from minicaps.datasets.pictures import is_in_colour

ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

GREY, COLOUR = (28, 28, 1), (28, 28, 3)
RAMP = np.linspace(0, 255, 28 * 28).astype(np.uint8).reshape(28, 28)


def save(path, picture, **options):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(path, **options)
    return path


def read_image(path, image_shape, invert=False):
    """Read a picture as predict does: float32 (H, W, C), 0 to 1."""
    return to_float(fit_picture(read_picture(path, image_shape[2], invert), image_shape))


def test_a_grey_png_of_the_right_size_is_read_exactly(tmp_path):
    image = read_image(save(tmp_path / "a.png", RAMP), GREY)
    np.testing.assert_array_equal(image, to_float(RAMP)[..., None], strict=True)


def test_a_grey_png_for_a_colour_network_has_three_equal_channels(tmp_path):
    image = read_image(save(tmp_path / "a.png", RAMP), COLOUR)
    np.testing.assert_array_equal(image, to_float(np.stack([RAMP] * 3, axis=-1)), strict=True)


def test_a_colour_png_for_a_colour_network_is_read_exactly(tmp_path):
    colour = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    np.testing.assert_array_equal(
        read_image(save(tmp_path / "a.png", colour), COLOUR), to_float(colour), strict=True
    )


def test_a_colour_png_for_a_grey_network_becomes_its_brightness(tmp_path):
    image = read_image(save(tmp_path / "a.png", Image.new("RGB", (28, 28), (255, 0, 0))), GREY)
    np.testing.assert_allclose(image, 0.299, atol=1 / 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_white_paper(tmp_path, mode):
    picture = Image.new(mode, (28, 28), 0)
    picture.paste(Image.new("L", (14, 28), 0).convert(mode), (0, 0))
    image = read_image(save(tmp_path / "a.png", picture), GREY)[..., 0]
    assert (image[:, :14] == 0).all() and (image[:, 14:] == 1).all()


def test_half_transparent_black_is_half_grey(tmp_path):
    image = read_image(save(tmp_path / "a.png", Image.new("RGBA", (28, 28), (0, 0, 0, 128))), GREY)
    np.testing.assert_allclose(image, 127 / 255, atol=1 / 255)


def test_a_palette_png_shows_its_colours(tmp_path):
    picture = Image.fromarray(np.stack([RAMP // 128 * 255] * 3, axis=-1)).quantize(2)
    image = read_image(save(tmp_path / "a.png", picture), GREY)[..., 0]
    np.testing.assert_array_equal(image, RAMP // 128)


def test_a_palette_png_may_have_a_transparent_colour(tmp_path):
    picture = Image.fromarray(RAMP // 128).convert("P")
    picture.putpalette([0, 0, 0, 10, 10, 10])
    image = read_image(save(tmp_path / "a.png", picture, transparency=1), GREY)[..., 0]
    np.testing.assert_array_equal(image, RAMP // 128)


def test_a_bilevel_png_is_black_and_white(tmp_path):
    image = read_image(save(tmp_path / "a.png", Image.fromarray(RAMP > 127)), GREY)[..., 0]
    np.testing.assert_array_equal(image, RAMP // 128)


def test_a_16_bit_png_keeps_its_grey_values(tmp_path):
    image = read_image(save(tmp_path / "a.png", RAMP.astype(np.uint16) * 257), GREY)
    np.testing.assert_allclose(image[..., 0], RAMP / 255, atol=1 / 255)


@pytest.mark.parametrize("dtype, full", [(np.int32, 255), (np.int32, 65535), (np.float32, 255)])
def test_a_32_bit_tiff_may_count_to_255_or_to_65535(tmp_path, dtype, full):
    image = read_image(save(tmp_path / "a.tif", (RAMP / 255 * full).astype(dtype)), GREY)
    np.testing.assert_allclose(image[..., 0], RAMP / 255, atol=1 / 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_read(tmp_path, mode):
    picture = Image.fromarray(RAMP).convert(mode)
    image = read_image(save(tmp_path / "a.jpg", picture, quality=95), GREY)
    np.testing.assert_allclose(image[..., 0], RAMP / 255, atol=0.05)


def test_a_photo_is_turned_as_its_exif_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright: turn clockwise
    image = read_image(save(tmp_path / "a.jpg", RAMP, exif=exif, quality=95), GREY)
    np.testing.assert_allclose(image[..., 0], np.rot90(RAMP, -1) / 255, atol=0.05)


@ONE_FOLDER
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([GREY, COLOUR, (20, 36, 1)]))
def test_any_size_is_scaled_to_fit_and_centred_on_black(tmp_path, height, width, shape):
    white = save(tmp_path / "a.png", Image.new("L", (width, height), 255))
    image = read_image(white, shape)
    assert image.shape == shape and image.dtype == np.float32
    scale = min(shape[0] / height, shape[1] / width)
    for axis, size in enumerate((height, width)):
        lit = np.flatnonzero((image == 1).any(axis=(1 - axis, 2)))
        assert abs(len(lit) - max(1, scale * size)) <= 1 and len(lit) == lit[-1] - lit[0] + 1
        assert abs(lit[0] - (shape[axis] - 1 - lit[-1])) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2000)])
def test_any_aspect_ratio_is_read(tmp_path, size):
    image = read_image(save(tmp_path / "a.png", Image.new("L", size, 255)), GREY)
    assert image.max() == 1


def test_invert_turns_dark_on_light_into_light_on_dark(tmp_path):
    image = read_image(save(tmp_path / "a.png", 255 - RAMP), GREY, invert=True)
    np.testing.assert_array_equal(image, to_float(RAMP)[..., None])


def test_inverted_pictures_are_still_centred_on_black(tmp_path):
    image = read_image(save(tmp_path / "a.png", Image.new("L", (10, 28), 0)), GREY, invert=True)
    assert image[:, :8].max() == 0 and image[:, 10:18].min() == 1 and image[:, 20:].max() == 0


def test_pixels_stay_between_0_and_1_after_scaling(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (61, 47)).astype(np.uint8) * 255
    image = read_image(save(tmp_path / "a.png", noise), GREY)
    assert image.min() >= 0 and image.max() <= 1


def bad_files(folder):
    png = save(folder / "good.png", RAMP).read_bytes()
    jpeg = save(folder / "good.jpg", RAMP).read_bytes()
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "empty.png": b"",
        "text.png": b"not a picture\n" * 20,
        "half.png": png[: len(png) // 2],
        "header.png": png[:20],
        "flipped.png": flipped,
        "half.jpg": jpeg[: len(jpeg) // 2],
    }


@pytest.mark.parametrize(
    "name", ["empty.png", "text.png", "half.png", "header.png", "flipped.png", "half.jpg"]
)
def test_a_broken_picture_is_refused_in_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(bad_files(tmp_path)[name])
    with pytest.raises(ValueError, match=rf"{name}: (damaged image|not an image)") as caught:
        read_image(tmp_path / name, GREY)
    assert "\n" not in str(caught.value)


def test_a_folder_instead_of_a_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a folder, expected an image file"):
        read_image(tmp_path, GREY)


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png: no such file"):
        read_image(tmp_path / "absent.png", GREY)


def test_a_network_of_two_channels_takes_no_picture(tmp_path):
    with pytest.raises(ValueError, match="takes 2 channels"):
        read_image(save(tmp_path / "a.png", RAMP), (28, 28, 2))


@pytest.mark.parametrize(
    "mode, in_colour",
    [("1", False), ("L", False), ("LA", False), ("I;16", False), ("P", True), ("RGB", True), ("RGBA", True)],
)
def test_the_file_says_whether_it_is_in_colour(tmp_path, mode, in_colour):
    path = save(tmp_path / "a.png", Image.new(mode, (4, 5)))
    assert is_in_colour(path) is in_colour


@pytest.mark.parametrize("mode, in_colour", [("L", False), ("RGB", True), ("CMYK", True)])
def test_a_jpeg_says_whether_it_is_in_colour(tmp_path, mode, in_colour):
    assert is_in_colour(save(tmp_path / "a.jpg", Image.new(mode, (4, 5)))) is in_colour


@pytest.mark.parametrize("shape", [GREY, COLOUR, (5, 9, 1)])
def test_border_is_light_looks_at_the_border_only(shape):
    dark_edge, light_edge = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    dark_edge[1:-1, 1:-1] = 1
    light_edge[1:-1, 1:-1] = 0
    assert border_is_light(light_edge) is True and border_is_light(dark_edge) is False


def test_digits_of_mnist_have_no_light_border():
    assert not any(border_is_light(image) for image in to_float(small_dataset().test_images))
