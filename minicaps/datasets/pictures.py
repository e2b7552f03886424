"""Reading single pictures: PNG, JPEG and what else Pillow knows, scaled to what a network takes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minicaps.arrays import Array

MAX_PIXELS_PER_BYTE = 10_000  # of an image file; a single colour, well packed, comes near it


def read_picture(path: str | Path, channels: int, invert: bool = False) -> Array:
    """Read an image file in its own size: 8-bit pixels (height, width, channels).

    It is turned as its EXIF data says. Transparent pixels count as white paper.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an image, or `channels` is neither 1 nor 3.
    """
    from PIL import ImageOps  # comes with matplotlib

    if channels not in (1, 3):
        raise ValueError(f"the network takes {channels} channels; image files have 1 or 3")
    with _opened(path) as picture:
        picture = ImageOps.exif_transpose(picture)
        picture = _as_8_bit(picture, "L" if channels == 1 else "RGB")
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


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open an image file with Pillow; what goes wrong with it becomes one line that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what it can read all the same
            with Image.open(path) as picture:
                _check_size(picture, os.path.getsize(path))
                yield picture
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except PermissionError:
        raise
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder, expected an image file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that can be read (PNG and JPEG are)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: damaged image ({error})") from None


def _check_size(picture: Any, length: int) -> None:
    """Raise ValueError if so few bytes cannot hold the pixels that an image's header promises."""
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS_PER_BYTE * length + (1 << 20):
        raise ValueError(f"its header promises {pixels:,} pixels, the file has {length:,} bytes")


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


def _as_8_bit(picture: Any, mode: str) -> Any:
    """Return a PIL image with 8 bits in each channel, laid on white where it is transparent."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":  # 16 or 32 bits: 255 is full brightness
        pixels = np.asarray(picture, dtype=np.float64)
        full = 65535 if picture.mode != "F" and pixels.max() > 255 else 255
        picture = Image.fromarray((pixels * 255 / full).clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return picture.convert(mode)


def border_is_light(image: Array) -> bool:
    """Whether the outermost pixels of an image (H, W, C), 8-bit or 0 to 1, are light on average."""
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    mean = float(np.concatenate([edge.ravel() for edge in edges]).mean())
    return mean > (127.5 if image.dtype == np.uint8 else 0.5)
