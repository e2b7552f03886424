"""What all figures share: one look, readable in grey print and for colour-blind eyes."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from minicaps.arrays import Array
from minicaps.figures.text import as_text, font_families

OF_WINDOWS = ("backend", "interactive", "keymap", "macosx", "timezone", "tk", "toolbar", "webagg")
DEFAULTS = {
    name: value
    for name, value in matplotlib.rcParamsDefault.items()
    if not name.startswith((*OF_WINDOWS, "savefig.directory"))
}
STYLE: dict[Any, Any] = {  # for matplotlib.rc_context: all that a user's matplotlibrc may have set
    **DEFAULTS,
    "font.family": font_families(),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "image.cmap": "gray",
    "savefig.facecolor": "white",
}
# Okabe and Ito's colours, ordered from dark to light so that they also differ in grey
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
HEAT = "Blues"  # of heat maps: light is little, dark is much, in grey print too
MAX_NAMES = 20  # along an axis of a heat map; of more classes the numbers stand there
MAX_SHOWN = 30  # capsules, classes or dimensions; of more, the MAX_NAMES that matter most are shown
MAX_INCHES = 20.0  # width or height of what is drawn


def line_style(k: int) -> dict[str, Any]:
    """Return colour, dash and marker of the k-th curve: three ways to tell it from the others.

    Of more than six curves those of one colour differ in dash and marker.
    """
    shifted = k + k // len(COLOURS)
    return {
        "color": COLOURS[k % len(COLOURS)],
        "linestyle": LINES[shifted % len(LINES)],
        "marker": MARKERS[shifted % len(MARKERS)],
        "markersize": 4,
    }


# -- files and notebooks -----------------------------------------------------------------------


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (or what the path's ending says)."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path)


def save_or_warn(path: Path, draw: Callable[[], Figure], say: Callable[[str], None]) -> bool:
    """Draw a figure and write it; where that fails, say so in one line that names it.

    Returns
    -------
    bool
        Whether it is written.
    """
    return write_or_warn(path, lambda: save(draw(), path), say)


def write_or_warn(path: Path, write: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Let a file be written; where that fails, remove it, since it is half or old, and say so in one line.

    Returns
    -------
    bool
        Whether it is written.
    """
    try:
        write()
    except Exception as error:  # whatever it was: the other figures, and the result, do without this one
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"warning: {path} could not be drawn ({reason})")
        return False
    return True


def show(figure: Figure, name: str) -> Path:
    """Save a figure as ``<folder>/<name>.png``, print the path, and display it in a notebook.

    The folder is that of the variable MINICAPS_FIGURES, or ``figures`` in the current folder; it is
    made if it is missing.

    Returns
    -------
    Path
        Of the file.
    """
    folder = Path(os.environ.get("MINICAPS_FIGURES") or "figures")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    save(figure, path)
    print(path)
    _display(path, figure.get_figwidth())
    return path


def _display(path: Path, inches: float) -> None:
    """Display an image in the notebook that this runs in, if it runs in one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:  # not in IPython, or in a terminal without pictures
        return
    from IPython.display import Image, display

    display(Image(filename=str(path), width=round(100 * inches)))


# -- text ------------------------------------------------------------------------------------


def headline(figure: Figure, text: str) -> None:
    """Put a sentence above all panels."""
    figure.suptitle(text, fontsize=10, x=0.01, ha="left")


def short_name(name: str, maximum: int = 10) -> str:
    """Return a class's name as it fits above a small image."""
    return as_text(name, maximum)


# -- what there is room for --------------------------------------------------------------------


def foremost(weights: Array, maximum: int = MAX_SHOWN) -> Array:
    """Return the numbers of those to show: all, or of more than `maximum` the MAX_NAMES of most weight.

    Parameters
    ----------
    weights : array (N,)

    Returns
    -------
    integer array (n,), ascending
    """
    if len(weights) <= maximum:
        return np.arange(len(weights))  # (N,)
    return np.sort(np.argsort(-weights, kind="stable")[:MAX_NAMES])  # (MAX_NAMES,)


def shown_of(shown: Array, total: int, what: str) -> str:
    """Return a line for the title that says what is left out, or nothing if nothing is."""
    return "" if len(shown) == total else f"\nShown: the {len(shown)} of {total:,} {what}"


# -- images and heat maps ----------------------------------------------------------------------


def as_picture(images: Array) -> Array:
    """Return images of any number of channels as matplotlib draws them.

    One channel is grey, and three are red, green and blue. The channels of any other number stand beside
    each other in grey, row by row, with a white line between them.

    Parameters
    ----------
    images : array (..., H, W, C), 0 to 1

    Returns
    -------
    array (..., H, W), (..., H, W, 3), or (..., rows·(H + 1) - 1, columns·(W + 1) - 1)
    """
    *before, height, width, channels = images.shape
    if channels in (1, 3):
        return images[..., 0] if channels == 1 else images
    columns = math.isqrt(max(1, channels) - 1) + 1
    rows = max(1, -(-channels // columns))
    sheet = np.ones((*before, rows * (height + 1) - 1, columns * (width + 1) - 1), dtype=images.dtype)
    for k in range(channels):
        top, left = (height + 1) * (k // columns), (width + 1) * (k % columns)
        sheet[..., top : top + height, left : left + width] = images[..., k]
    return sheet


def draw_image(axes: Axes, image: Array, title: str) -> None:
    """Draw an image (H, W, C), 0 to 1, without ticks."""
    axes.imshow(as_picture(image), vmin=0, vmax=1)
    title_only(axes, title)


def name_row(axes: Axes, text: str) -> None:
    """Write a row's name to the left of its first panel."""
    axes.set_ylabel(text, rotation=0, ha="right", va="center")


def title_only(axes: Axes, title: str) -> None:
    """Put a small title above a panel, and take its ticks and frame away."""
    axes.set_title(title, fontsize=8, loc="center", pad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def whole_numbers(axis: Axis) -> None:
    """Let ticks stand at whole numbers only."""
    axis.set_major_locator(MaxNLocator("auto", integer=True))


def name_ticks(axes: Axes, columns: Sequence[str] | None, rows: Sequence[str] | None) -> None:
    """Name the columns and rows of a heat map; without names, or with many, numbers stand there."""
    axes.grid(False)
    for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
        if names is None or len(names) > MAX_NAMES:
            whole_numbers(axis)
        else:
            axis.set_ticks(range(len(names)), [as_text(name) for name in names])
    if room_for_names(columns):
        axes.tick_params("x", rotation=90)


def room_for_names(columns: Sequence[str] | None) -> float:
    """Return the height in inches of the names below a heat map: 0 where they lie, and need none."""
    if columns is None or len(columns) > MAX_NAMES:
        return 0.0
    lengths = [len(as_text(name)) for name in columns]
    return 0.08 * max(lengths) if sum(lengths) > 30 else 0.0


def write_numbers(heat_map: AxesImage, values: Array, text: Callable[[Any], str]) -> None:
    """Write values (rows, columns) into the cells of a heat map, in white where it is dark."""
    colours = heat_map.to_rgba(np.ma.asarray(heat_map.get_array()))[..., :3]  # (rows, columns, 3)
    dark = colours.mean(axis=-1) < 0.5  # (rows, columns)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if dark[row, column] else "black"
        heat_map.axes.text(column, row, text(value), ha="center", va="center", fontsize=7, color=colour)
