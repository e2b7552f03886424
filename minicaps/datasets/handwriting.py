"""Pictures of handwriting brought into MNIST's form: light on black, as large and as placed as its digits.

The digits of MNIST were scaled into a box of 20×20 pixels and placed in 28×28 with their centre of mass in
the middle. A network that has seen nothing else reads little of a photograph, which has margins, grey
paper and shadows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minicaps.arrays import Array
from minicaps.datasets.pictures import to_channels

BOX = 20 / 28  # of the side of an image, which the writing fills
WORKING_SIDE = 200  # pixels; larger pictures are reduced first
MAX_STROKE = 0.4  # of the longer side: wider than strokes are, and narrower than the paper
MIN_CONTRAST = 8  # of 255
SPECK = 0.05  # of the largest stroke: smaller ones are dirt
BORDER_IS_EVEN = 0.15  # of the contrast: deviation from a plane of nine in ten border pixels
SHEET = 0.7  # of its bounding box that a sheet of paper fills, and strokes do not


def like_mnist(pixels: Array, image_shape: tuple[int, int, int], light: bool | None = None) -> Array:
    """Bring a picture of one character or digit into MNIST's form.

    The ground (paper, its shadows, a gradient of the light) is what remains when everything narrower than
    0.4 of the picture is removed; the writing is the difference to it, without specks and what reaches in
    from the border. Its longer side is scaled to 20 of 28 pixels, its brightest strokes to white, and its
    centre of mass is placed in the middle of a black image. What has that form already is left as it is.

    Parameters
    ----------
    pixels : uint8 array (height, width, C)
    image_shape : (int, int, int)
        (H, W, C) of the result, 28×28×1 for MNIST.
    light : bool, optional
        Whether the writing is lighter than the ground. Without it, the border and the corners tell; a
        frame around a sheet of paper does not mislead.

    Returns
    -------
    uint8 array (H, W, C)
        Black if there is nothing to see.
    """
    if pixels.shape == image_shape and has_form(pixels):
        return pixels
    height, width, channels = image_shape
    grey = _reduce(to_channels(pixels, 1)[..., 0])  # (h, w)
    if light is None:
        light = writing_is_light(grey)
    dark = 255 - grey if light else grey  # (h, w), dark on light
    ink = _close(dark, int(MAX_STROKE * max(dark.shape)) | 1) - dark  # (h, w), 0 and above
    if ink.max() < MIN_CONTRAST:
        return np.zeros(image_shape, dtype=np.uint8)
    strokes = _find_strokes(ink)  # (h, w)
    full = np.percentile(ink[strokes], 95)
    ink = np.where(_widen(strokes), ink / full, 0).clip(0, 1)[_box(strokes)]
    return to_channels(_place(ink, height, width)[..., None], channels)  # (H, W, C)


def has_form(image: Array) -> bool:
    """Whether an 8-bit image (H, W, C) is in MNIST's form: black but for a centred box of the right size."""
    height, width = image.shape[:2]
    lit = image.max(axis=-1) > 0  # (H, W)
    if not lit.any():
        return False
    rows, columns = (part.stop - part.start for part in _box(lit))
    fills = max(rows / height, columns / width) - BOX
    down, right = _centre_of_mass(image.max(axis=-1))
    centred = max(abs(down - height / 2), abs(right - width / 2)) < 0.6
    return bool(abs(fills) < 0.5 / max(height, width)) and centred


def writing_is_light(grey: Array) -> bool:
    """Whether writing (height, width) is lighter than its ground.

    The ground is what border and corners show, once a gradient is taken off; unless that is a frame, and
    what is within looks like a sheet of paper with something on it.
    """
    light = _split(_less_gradient(grey))  # (height, width), the lighter class
    corner = max(1, min(light.shape) // 10)
    ends = slice(None, corner), slice(-corner, None)
    corners = np.mean([light[rows, columns].mean() for rows in ends for columns in ends])
    if _border(light).mean() + 2 * corners > 1.5:  # corners say more, for strokes seldom reach them
        return _is_sheet_with_writing(~light) and not _is_sheet_with_writing(light)
    return not _is_sheet_with_writing(light) or _is_sheet_with_writing(~light)


# -- the ground -------------------------------------------------------------------------------


def _reduce(grey: Array) -> Array:
    """Reduce a large picture (h, w) to the working size, and smooth its noise: float32."""
    from PIL import Image, ImageFilter

    scale = WORKING_SIDE / max(grey.shape)
    if scale >= 1:
        return grey.astype(np.float32)
    rows, columns = (max(1, round(scale * side)) for side in grey.shape)
    picture = Image.fromarray(grey).resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)


def _close(x: Array, width: int) -> Array:
    """Fill (h, w) with what surrounds whatever is darker and narrower than `width`: a closing.

    Beyond the border the picture goes on as it fell or rose up to it, so that a gradient is no ink.
    """
    mode = "reflect" if min(x.shape) > 1 else "edge"
    odd = {"reflect_type": "odd"} if mode == "reflect" else {}
    wide = np.pad(x, width - 1, mode=mode, **odd).clip(x.min(), x.max())  # type: ignore[call-overload]
    return _slide(_slide(wide, width, np.maximum), width, np.minimum)  # (h, w)


def _slide(x: Array, width: int, pick: Callable[[Array, Array], Array]) -> Array:
    """Pick (np.maximum or np.minimum) from every window of `width` × `width` pixels."""
    for _ in range(2):  # columns, then rows
        reach = 1
        while reach < width:
            step = min(reach, width - reach)
            x, reach = pick(x[:-step], x[step:]), reach + step
        x = x.T
    return x


def _less_gradient(grey: Array) -> Array:
    """Take off the plane that goes through the border, if the border lies on one."""
    height, width = grey.shape
    y, x = np.broadcast_arrays(np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width))  # (h, w)
    terms = np.stack([_border(term) for term in (np.ones_like(x), y, x)], axis=-1)  # (n, 3)
    border, weights = _border(grey), np.ones(len(terms))  # (n,), (n,)
    for _ in range(10):  # what lies off the plane counts less and less
        plane = np.linalg.lstsq(terms * weights[:, None], border * weights, rcond=None)[0]  # (3,)
        off = np.abs(border - terms @ plane)  # (n,)
        weights = 1 / np.sqrt(1 + (off / max(2 * float(np.median(off)), 1)) ** 2)  # (n,)
    level = grey - (plane[0] + plane[1] * y + plane[2] * x)  # (h, w)
    return level if np.percentile(off, 90) < BORDER_IS_EVEN * np.ptp(level) else grey


def _border(x: Array) -> Array:
    return np.concatenate([x[0], x[-1], x[1:-1, 0], x[1:-1, -1]])  # (n,)


def _split(x: Array) -> Array:
    """Return which values are in the higher of two classes that lie furthest apart (Otsu 1979)."""
    return x > _threshold(x)


def _threshold(x: Array) -> float:
    values = np.sort(x, axis=None).astype(np.float64)  # (n,)
    below = np.arange(1, len(values))  # (n - 1,), how many are in the lower class
    if not len(below):
        return float(values[0])
    sums, above = np.cumsum(values), len(values) - below  # (n,), (n - 1,)
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above  # (n - 1,)
    best = int(np.argmax(below * above * apart**2))
    return float(values[best] + values[best + 1]) / 2


# -- strokes ----------------------------------------------------------------------------------


def _find_strokes(ink: Array) -> Array:
    """Return where (h, w) the writing is: no specks, and nothing that reaches in from the border.

    What touches the border counts only where nothing of some size does not touch it, as in a picture that
    is cropped to the writing.
    """
    mask = ink > 0.75 * min(_threshold(ink), 0.5 * float(np.percentile(ink, 99.5)))  # (h, w)
    pieces = _number_pieces(mask)  # (h, w)
    sizes = np.bincount(pieces.ravel())  # (n + 1,)
    chosen = np.ones(len(sizes), dtype=bool)  # (n + 1,)
    if _has_free_piece(pieces, max(mask.shape) / 8):
        chosen[_border(pieces)] = False
    chosen[0] = False  # what is in no piece
    return (chosen & (sizes >= SPECK * sizes[chosen].max()))[pieces]  # (h, w)


def _is_sheet_with_writing(mask: Array) -> bool:
    """Whether a class of pixels (h, w) fills its bounding box but for something amid it."""
    if not mask.any():
        return False
    sheet = mask[_box(mask)]
    return bool(sheet.mean() >= SHEET) and _has_free_piece(_number_pieces(~sheet), max(sheet.shape) / 5)


def _has_free_piece(pieces: Array, length: float) -> bool:
    """Whether a piece of this length at least does not touch the border."""
    large = np.flatnonzero(np.bincount(pieces.ravel()) >= length)
    at_border = {0, *_border(pieces).tolist()}
    return any(_length(pieces == piece) >= length for piece in large if piece not in at_border)


def _number_pieces(mask: Array) -> Array:
    """Number the connected pieces of a mask (h, w), diagonals included, from 1; elsewhere 0: (h, w)."""
    pieces = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)  # (h, w)
    while True:
        largest = np.where(mask, _around(pieces).max(axis=0), 0)  # (h, w), of each and its neighbours
        largest = np.concatenate([[0], largest.ravel()])[largest]  # it numbers a pixel: take that one's
        if (largest == pieces).all():
            numbers = np.unique(np.append(0, pieces), return_inverse=True)[1]  # (1 + h·w,)
            return numbers.ravel()[1:].reshape(mask.shape)
        pieces = largest


def _around(x: Array) -> Array:
    """Return x (h, w) moved by up to one pixel in every direction: (9, h, w)."""
    height, width = x.shape
    wide = np.pad(x, 1)  # (h + 2, w + 2)
    return np.stack([wide[i : i + height, j : j + width] for i in range(3) for j in range(3)])


def _widen(mask: Array) -> Array:
    """Add the pixels around a mask (h, w), where strokes fade."""
    return np.any(_around(mask), axis=0)  # (h, w)


def _box(mask: Array) -> tuple[slice, slice]:
    """Return the rows and columns of the smallest box that holds a mask (h, w)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _length(mask: Array) -> int:
    return max(part.stop - part.start for part in _box(mask))


# -- the image --------------------------------------------------------------------------------


def _place(ink: Array, height: int, width: int) -> Array:
    """Scale ink (h, w), 0 to 1, to the box, and centre it by mass: uint8 (height, width)."""
    from PIL import Image

    scale = BOX * min(height / ink.shape[0], width / ink.shape[1])
    rows, columns = (max(1, round(scale * side)) for side in ink.shape)
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    scaled = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((columns, rows), how))
    down, right = _centre_of_mass(scaled)
    top = min(max(round(height / 2 - down), 0), height - rows)
    left = min(max(round(width / 2 - right), 0), width - columns)
    image = np.zeros((height, width), dtype=np.uint8)  # (H, W)
    image[top : top + rows, left : left + columns] = np.rint(scaled * (255 / scaled.max()))
    return image


def _centre_of_mass(x: Array) -> tuple[float, float]:
    """Return the row and column about which x (h, w) is balanced."""
    x = x.astype(np.float64)
    mass = x.sum()
    return float(x.sum(axis=1) @ np.arange(len(x)) / mass), float(
        x.sum(axis=0) @ np.arange(x.shape[1]) / mass
    )
