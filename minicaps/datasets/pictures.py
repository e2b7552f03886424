"""Reading single pictures: PNG, JPEG and what else Pillow knows, scaled to what a network takes."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.arrays import Array

MAX_PIXELS_PER_BYTE = 10_000  # of an image file; a single colour, well packed, comes near it
ORIENTATION = 0x0112  # the tag of EXIF data
DARK = 32  # of 255: a picture that is nowhere brighter may hold fewer bits than its type; of 12, 16 at most
LIGHT = 127.5  # of 255: above it a drawing is light


def read_picture(path: str | Path, channels: int, invert: bool = False) -> Array:
    """Read an image file in its own size: 8-bit pixels (height, width, channels).

    - It is turned as the orientation of its EXIF data says, whatever else these hold.
    - Deep pixels are scaled by their type, not by what they hold: whole numbers of 16 or 32 bits from
      0 to 65,535; floats from 0 to 1, or if one is above 1, from 0 to 255.
    - Transparent pixels count as white paper, or as black if what is opaque is light on average.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an image, or damaged, or no file but a folder, a pipe or a device; or if `channels` is
        neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"the network takes {channels} channels; image files have 1 or 3")
    with _opened(path) as picture:
        turned = _turned_upright(picture)
        picture = _as_8_bit(turned, "L" if channels == 1 else "RGB")
    pixels = np.array(picture).reshape(picture.height, picture.width, channels)  # (height, width, C)
    return 255 - pixels if invert else pixels


def is_in_colour(path: str | Path) -> bool:
    """Whether an image file is stored in colour: only its header is read, and a palette counts.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``read_picture``.
    """
    from PIL import Image

    with _opened(path) as picture:
        return Image.getmodebase(picture.mode) != "L"


def fit_picture(pixels: Array, image_shape: tuple[int, int, int]) -> Array:
    """Scale 8-bit pixels (height, width, C) to fit (H, W, C) and centre them; the rest is black.

    Returns
    -------
    uint8 array (H, W, C)
    """
    from PIL import Image

    height, width, channels = image_shape
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    rows, columns = (max(1, round(scale * n)) for n in pixels.shape[:2])
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    picture = picture.resize((columns, rows), Image.Resampling.BILINEAR)
    image = np.zeros(image_shape, dtype=np.uint8)  # (H, W, C)
    top, left = (height - rows) // 2, (width - columns) // 2
    image[top : top + rows, left : left + columns] = np.asarray(picture).reshape(rows, columns, channels)
    return image


def to_channels(images: Array, channels: int) -> Array:
    """Return 8-bit images (..., C) in grey (C = 1) or in colour (C = 3): their brightness, or it three times.

    Raises
    ------
    ValueError
        If they have another number of channels, or are to have one.
    """
    if images.shape[-1] == channels:
        return images
    if (images.shape[-1], channels) == (1, 3):
        return np.repeat(images, 3, axis=-1)  # (..., 3)
    if (images.shape[-1], channels) != (3, 1):
        raise ValueError(
            f"images of {images.shape[-1]} channels cannot have {channels}; expected 1 or 3 of both"
        )
    red, green, blue = (images[..., k : k + 1].astype(np.uint32) for k in range(3))  # (..., 1)
    return ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(np.uint8)  # (..., 1)


# -- what may be wrong with it ----------------------------------------------------------------


def border_is_light(image: Array) -> bool:
    """Whether the outermost pixels of an image (H, W, C), 8-bit or 0 to 1, are light on average."""
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    mean = float(np.concatenate([edge.ravel() for edge in edges]).mean())
    return mean > (LIGHT if image.dtype == np.uint8 else 0.5)


def remark_on(pixels: Array) -> str | None:
    """Say what makes 8-bit pixels (height, width, C) hard to see anything in: one colour, or darkness."""
    if (pixels == pixels[:1, :1]).all():
        return "it is of one colour"
    if (brightest := int(pixels.max())) < DARK:
        return (
            f"no pixel is brighter than {brightest} of 255; are its values on another scale, of 12 bits, say?"
        )
    return None


# -- from file to pixels ----------------------------------------------------------------------


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open an image file with Pillow; what goes wrong with it becomes one line that names it.

    On damaged files Pillow raises what its readers happen to run into: any type of error.
    """
    from PIL import Image, UnidentifiedImageError

    length = _check_is_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what it can read all the same
            with Image.open(path) as picture:
                _check_size(picture, length)
                yield picture
    except (MemoryError, PermissionError):
        raise
    except UnidentifiedImageError:
        raise ValueError(
            f"{path}: not an image that can be read (PNG and JPEG are); leave it out, or save it as PNG"
        ) from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged image ({reason})") from None


def _check_is_file(path: str | Path) -> int:
    """Return the length of a file; what is none is not opened, since a pipe would be waited for for ever."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path}: cannot be looked at ({error})") from None  # links in a circle, say
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{path}: a folder, expected an image file")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: a pipe, socket or device, expected an image file; leave it out")
    return status.st_size


def _check_size(picture: Any, length: int) -> None:
    """Raise ValueError if so few bytes cannot hold the pixels that an image's header promises."""
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS_PER_BYTE * length + (1 << 20):
        raise ValueError(f"its header promises {pixels:,} pixels, the file has {length:,} bytes")


def _turned_upright(picture: Any) -> Any:
    """Return a PIL image turned by the orientation of its EXIF data, if these can be read that far."""
    from PIL import Image

    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    picture.load()  # some formats find their EXIF data behind the pixels
    orientation = _read_orientation(picture.info.get("exif", b""))
    if orientation is None:
        try:
            orientation = picture.getexif().get(ORIENTATION)  # TIFF, and what is stored elsewhere
        except MemoryError:
            raise
        except Exception:  # as with damaged pixels, but these are whole
            return picture
    if not isinstance(orientation, int) or orientation not in methods:
        return picture
    return picture.transpose(methods[orientation])


def _read_orientation(exif: bytes) -> int | None:
    """Return the orientation in EXIF data, if it is there; Pillow stops at the first entry that is odd."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    with contextlib.suppress(struct.error):  # it ends before its table does
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if (tag, kind) == (ORIENTATION, 3):  # a short number, which stands in the entry itself
                return value
    return None


def _as_8_bit(picture: Any, mode: str) -> Any:
    """Return a PIL image with 8 bits in each channel, laid on paper where it is transparent."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        picture = Image.fromarray(_scale_deep(np.asarray(picture, dtype=np.float64), picture.mode))
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "black" if _drawing_is_light(picture) else "white")
        picture = Image.alpha_composite(paper, picture)
    return picture.convert(mode)


def _scale_deep(pixels: Array, mode: str) -> Array:
    """Return whole numbers ("I", "I;16") or floats ("F") of any axes as 8-bit pixels, by their type."""
    pixels = np.nan_to_num(pixels)
    full = 65535 if mode != "F" else 255 if pixels.max() > 1 else 1
    return np.rint(pixels * (255 / full)).clip(0, 255).astype(np.uint8)


def _drawing_is_light(picture: Any) -> bool:
    """Whether what is opaque in a PIL image (RGBA) is light on average."""
    grey = np.asarray(picture.convert("RGB").convert("L"))  # (height, width)
    opacity = np.asarray(picture.getchannel("A"), dtype=np.float64)  # (height, width)
    return float((grey * opacity).sum()) > LIGHT * float(opacity.sum())
