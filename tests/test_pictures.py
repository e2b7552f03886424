"""Single pictures: whatever the file, they become what a network takes."""

import os
import struct
import zlib

import numpy as np
import pytest
from helpers import small_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from minicaps.datasets import border_is_light, fit_picture, read_picture, remark_on, to_float
from minicaps.datasets.pictures import _read_orientation, is_in_colour, to_channels

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


def drawing(colour, opacity=255):
    """Return RGBA pixels (28, 28, 4): a bar of a colour on a transparent ground of the same colour."""
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[5:23, 10:15, 3] = opacity
    return pixels


@pytest.mark.parametrize("colour, ground", [((255, 255, 255), 0), ((250, 240, 120), 0), ((0, 0, 0), 255),
                                            ((90, 20, 140), 255), ((200, 200, 200), 0)])  # fmt: skip
@pytest.mark.parametrize("opacity", [255, 128])
def test_a_drawing_on_a_transparent_ground_stays_visible(tmp_path, colour, ground, opacity):
    pixels = read_picture(save(tmp_path / "a.png", drawing(colour, opacity)), 1)[..., 0]
    assert pixels[0, 0] == ground and abs(int(pixels[10, 12]) - ground) >= 48


def test_a_white_drawing_in_a_palette_or_in_grey_stays_visible_too(tmp_path):
    grey = Image.fromarray(drawing((255, 255, 255))).convert("LA")
    palette = Image.fromarray(drawing(0)[..., 3] // 255).convert("P")
    palette.putpalette([9, 9, 9, 255, 255, 255])
    for path in (save(tmp_path / "a.png", grey), save(tmp_path / "b.png", palette, transparency=0)):
        pixels = read_picture(path, 1)[..., 0]
        assert pixels[0, 0] == 0 and pixels[10, 12] == 255


def test_what_is_wholly_transparent_is_white_paper(tmp_path):
    assert read_picture(save(tmp_path / "a.png", drawing(255, 0)), 3).min() == 255


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


@pytest.mark.parametrize("kind, dtype", [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
@pytest.mark.parametrize("brightest", [1, 255, 256, 4095, 65535])
def test_deep_whole_numbers_are_scaled_by_their_type_alone(tmp_path, kind, dtype, brightest):
    pixels = np.rint(RAMP / 255 * brightest).astype(dtype)
    image = read_image(save(tmp_path / f"a.{kind}", pixels), GREY)
    np.testing.assert_allclose(image[..., 0], pixels / 65535, atol=0.51 / 255)


def test_a_16_bit_pgm_is_scaled_as_a_png(tmp_path):
    pixels = RAMP.astype(np.uint16) * 16
    (tmp_path / "a.pgm").write_bytes(b"P5 28 28 65535\n" + pixels.astype(">u2").tobytes())
    np.testing.assert_allclose(read_image(tmp_path / "a.pgm", GREY)[..., 0], pixels / 65535, atol=0.51 / 255)


@pytest.mark.parametrize("full", [1, 255])
def test_floats_count_to_1_or_if_one_is_above_to_255(tmp_path, full):
    image = read_image(save(tmp_path / "a.tif", (RAMP / 255 * full).astype(np.float32)), GREY)
    np.testing.assert_allclose(image[..., 0], RAMP / 255, atol=0.51 / 255)


def test_floats_that_are_no_numbers_or_out_of_range_are_black_or_white(tmp_path):
    pixels = np.full((28, 28), 0.5, np.float32)
    pixels[0, :4] = np.nan, -np.inf, -0.3, 1
    image = read_image(save(tmp_path / "a.tif", pixels), GREY)[..., 0]
    assert image[0, :4].tolist() == [0, 0, 0, 1] and abs(image[1, 0] - 0.5) < 0.01


def test_negative_whole_numbers_are_black(tmp_path):
    image = read_image(save(tmp_path / "a.tif", np.full((28, 28), -7, np.int32)), GREY)
    assert image.max() == 0


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


def exif_entry(tag, kind, count, value):
    return struct.pack("<HHI", tag, kind, count) + value


def with_exif(jpeg, *entries):
    """Return a JPEG with these entries as its EXIF data."""
    table = struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    exif = b"Exif\0\0II*\0" + table
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


TURNED = exif_entry(0x112, 3, 1, struct.pack("<HH", 6, 0))
ODD_ENTRIES = {
    "a text where a number is due": exif_entry(0x11A, 2, 3, b"72\0\0"),
    "0/0": exif_entry(0x11A, 5, 1, struct.pack("<I", 0)),
    "a pointer beyond the end": exif_entry(0x8769, 4, 1, struct.pack("<I", 60000)),
    "an unknown type": exif_entry(0x11B, 99, 1, bytes(4)),
    "a short where a long is due": exif_entry(0x8769, 3, 1, bytes(4)),
    "more than there is": exif_entry(0x10F, 2, 1 << 30, struct.pack("<I", 26)),
}


@pytest.mark.parametrize("name", ODD_ENTRIES)
@pytest.mark.parametrize("first", [True, False])
def test_a_photo_is_turned_whatever_else_its_exif_data_hold(tmp_path, name, first):
    plain = save(tmp_path / "a.jpg", RAMP, quality=95).read_bytes()
    entries = (TURNED, ODD_ENTRIES[name]) if first else (ODD_ENTRIES[name], TURNED)
    (tmp_path / "odd.jpg").write_bytes(with_exif(plain, *entries))
    image = read_image(tmp_path / "odd.jpg", GREY)
    np.testing.assert_allclose(image[..., 0], np.rot90(RAMP, -1) / 255, atol=0.05)


def test_exif_data_of_either_byte_order_and_cut_short_are_read_as_far_as_they_go(tmp_path):
    plain = save(tmp_path / "a.jpg", RAMP, quality=95).read_bytes()
    entry = struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
    table = struct.pack(">H", 40) + entry  # it promises 40 entries, and holds one
    exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + table
    (tmp_path / "odd.jpg").write_bytes(
        plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    )
    image = read_image(tmp_path / "odd.jpg", GREY)
    np.testing.assert_allclose(image[..., 0], np.rot90(RAMP, -1) / 255, atol=0.05)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_found_behind_whatever_stands_before_it(order):
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    odd = struct.pack(f"{order}HHII", 0x10F, 2, 1 << 30, 26)  # it promises more than there is
    entry = struct.pack(f"{order}HHIHH", 0x112, 3, 1, 6, 0)
    table = struct.pack(f"{order}IH", 8, 2) + odd + entry
    assert _read_orientation(b"Exif\0\0" + mark + table) == _read_orientation(mark + table) == 6
    for end in range(len(table)):
        assert _read_orientation(mark + table[:end]) == (6 if end >= len(table) - 2 else None)
    long = struct.pack(f"{order}IH", 8, 1) + struct.pack(f"{order}HHII", 0x112, 4, 1, 6)
    assert _read_orientation(mark + long) is None  # an orientation is a short number
    assert _read_orientation(b"") is None


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_what_pillow_makes_of_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", RAMP, exif=exif)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(read_picture(path, 1)[..., 0], expected)


@pytest.mark.parametrize("value", [exif_entry(0x112, 2, 2, b"6\0\0\0"), exif_entry(0x112, 7, 4, b"\6\6\6\6")])
def test_an_orientation_that_is_no_number_turns_nothing(tmp_path, value):
    plain = save(tmp_path / "a.jpg", RAMP, quality=95)
    (tmp_path / "odd.jpg").write_bytes(with_exif(plain.read_bytes(), value))
    np.testing.assert_array_equal(read_picture(tmp_path / "odd.jpg", 1), read_picture(plain, 1))


def test_a_png_with_broken_exif_data_is_read_for_its_pixels_are_whole(tmp_path):
    png = save(tmp_path / "a.png", RAMP).read_bytes()
    end = png.index(b"IEND") - 4
    for content in (b"garbage", b"", b"MM\0*\xff\xff\xff\xff"):
        chunk = b"eXIf" + content
        chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "odd.png").write_bytes(png[:end] + chunk + png[end:])
        np.testing.assert_array_equal(read_picture(tmp_path / "odd.png", 1)[..., 0], RAMP)


@pytest.mark.parametrize("error", [struct.error, ZeroDivisionError, TypeError, KeyError, IndexError,
                                   RuntimeError, NotImplementedError, RecursionError])  # fmt: skip
def test_whatever_pillow_raises_names_the_file_in_one_line(tmp_path, monkeypatch, error):
    path = save(tmp_path / "a.png", RAMP)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: (_ for _ in ()).throw(error("of\nsome kind")))
    with pytest.raises(ValueError, match=r"a\.png: damaged image \(.*of\W+n?some kind.*\)") as caught:
        read_picture(path, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, PermissionError])
def test_what_is_no_fault_of_the_file_goes_through(tmp_path, monkeypatch, error):
    path = save(tmp_path / "a.png", RAMP)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: (_ for _ in ()).throw(error()))
    with pytest.raises(error):
        read_picture(path, 1)


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


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_device_is_not_opened(tmp_path, make):
    make(tmp_path / "a.png")
    for read in (is_in_colour, lambda path: read_picture(path, 1)):
        with pytest.raises(ValueError, match=r"a\.png: a pipe, socket or device, expected an image file"):
            read(tmp_path / "a.png")


def test_a_link_to_itself_and_a_name_that_cannot_be_are_told(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "a\0.png"):
        with pytest.raises(ValueError, match="cannot be looked at"):
            read_picture(path, 1)


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


def test_remarks_on_a_picture():
    assert remark_on(RAMP[..., None]) is None
    assert remark_on(np.full((3, 4, 3), (9, 80, 200), np.uint8)) == "it is of one colour"
    assert "no pixel is brighter than 15 of 255" in remark_on(RAMP[..., None] // 17)
    assert remark_on(RAMP[..., None] // 4) is None


@given(st.integers(0, 2**32 - 1))
def test_brightness_is_that_of_pillow(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    found = to_channels(pixels, 1)[..., 0].astype(int)
    assert np.abs(found - np.asarray(Image.fromarray(pixels).convert("L"))).max() <= 1
    np.testing.assert_array_equal(to_channels(to_channels(pixels, 1), 3)[..., 1], found)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="images of 2 channels cannot have 1; expected 1 or 3 of both"):
        to_channels(np.zeros((4, 4, 2), np.uint8), 1)
