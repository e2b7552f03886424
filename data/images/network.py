"""Draw data/images/network.png: the default network at work on one test image, with the shapes it really has.

    python data/images/network.py

Everything shown is computed with the trained weights that come along: feature maps, capsules, couplings, the
reconstruction. It runs to the right and back again, so that it can be read on a telephone and so that the
reconstruction ends below its image. Colours are those of Okabe and Ito, told apart by strength in grey.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from minicaps.datasets import load, to_float
from minicaps.networks import load_pretrained

IMAGE = 1  # of the test set: a 2
CHOSEN = 14  # lower capsules whose couplings are drawn
DARK, BLUE, ORANGE, PALE = "#222222", "#0072B2", "#D55E00", "#CCCCCC"
SMALL, MEDIUM, LARGE = 11.5, 13.5, 14
WIDTH, HEIGHT = 6.4, 5.3  # inches, as are all positions below
UPPER, LOWER = 3.05, 0.68  # bottoms of the two rows


def panel(figure: Figure, left: float, bottom: float, width: float, height: float, **options: Any) -> Axes:
    """Return axes without ticks."""
    axes = figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
    axes.set(xticks=[], yticks=[], **options)
    return axes


def blank(figure: Figure, left: float, bottom: float, width: float, height: float, **options: Any) -> Axes:
    """Return axes without a frame."""
    axes = panel(figure, left, bottom, width, height, **options)
    axes.axis("off")
    return axes


def write(canvas: Axes, x: float, y: float, text: str, size: float = SMALL, **options: Any) -> None:
    canvas.text(x, y, text, **{"ha": "center", "va": "center", "size": size, "color": DARK, **options})


def name(canvas: Axes, x: float, y: float, title: str, shape: str) -> None:
    write(canvas, x, y + 0.12, title, LARGE, weight="bold")
    write(canvas, x, y - 0.12, shape, MEDIUM)


def arrow(canvas: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    style = {"arrowstyle": "-|>", "color": DARK, "lw": 1.8, "mutation_scale": 18, **style}
    canvas.annotate("", end, start, arrowprops={"shrinkA": 0, "shrinkB": 0, **style})


def picture(figure: Figure, left: float, bottom: float, pixels: np.ndarray) -> None:
    panel(figure, left, bottom, 1.3, 1.3).imshow(pixels, cmap="gray", vmin=0, vmax=1)


def sheets(figure: Figure, left: float, maps: np.ndarray, draw: Callable[[Axes, np.ndarray], None]) -> None:
    """Draw four of the maps behind each other; `draw` fills a sheet."""
    for k in reversed(range(4)):
        draw(panel(figure, left + 0.11 * k, UPPER + 0.11 * k, 1.2, 1.2, zorder=5 - k), maps[k])


def feature_map(axes: Axes, values: np.ndarray) -> None:
    axes.imshow(values, cmap="Blues", vmin=0)


def capsules_of_one_type(axes: Axes, u: np.ndarray) -> None:
    """Draw a grid of capsules u (P, Q, D) as arrows, made of the two largest of the D numbers."""
    rows, columns = np.indices(u.shape[:2])
    first, second = np.argsort(-(u**2).mean(axis=(0, 1)))[:2]
    shape = {"units": "inches", "width": 0.024, "headwidth": 4, "headlength": 4.5, "headaxislength": 4}
    scale = {"angles": "xy", "pivot": "mid", "scale_units": "xy", "scale": 0.85}
    axes.quiver(columns, rows, u[..., first], u[..., second], color=BLUE, **shape, **scale)
    axes.set(xlim=(-0.6, len(u) - 0.4), ylim=(len(u) - 0.4, -0.6))


def class_capsules(figure: Figure, left: float, v: np.ndarray, winner: int) -> None:
    """Draw v (J, E), a row of cells for each class capsule; the longest has a frame."""
    axes = panel(figure, left, LOWER, 1.45, 1.5)
    axes.imshow(np.abs(v), cmap="Blues", aspect="auto", vmin=0)
    box = Rectangle((-0.5, winner - 0.5), v.shape[1], 1, fill=False, ec=ORANGE, lw=2.5, clip_on=False)
    axes.add_patch(box)
    axes.set_yticks(range(len(v)), [str(k) for k in range(len(v))], size=9.5)
    axes.tick_params(length=0, pad=2)


def couplings(figure: Figure, left: float, width: float, c: np.ndarray, winner: int) -> None:
    """Draw c (I, J) as lines from lower capsules on the right to the rows of v: the wider, the larger."""
    axes = blank(figure, left, LOWER, width, 1.5, xlim=(0, 1), ylim=(c.shape[1] - 0.5, -0.5))
    heights = np.linspace(-0.3, c.shape[1] - 0.7, len(c))
    strength = ((c - c.min()) / (np.quantile(c, 0.98) - c.min())).clip(0, 1) ** 1.5
    for i, y in enumerate(heights):
        for j in range(c.shape[1]):
            colour, order = (ORANGE, 2) if j == winner else (PALE, 1)
            axes.plot([0.02, 0.95], [j, y], color=colour, lw=0.3 + 2.4 * strength[i, j], zorder=order)
    axes.plot(np.full(len(c), 0.96), heights, "o", color=BLUE, ms=5.5, clip_on=False, zorder=3)


def decoder(figure: Figure, left: float, sizes: list[int]) -> None:
    """Draw vectors and the dense layers between them, each as high as the root of its size."""
    axes = blank(figure, left, LOWER, 1.0, 1.5, xlim=(0, 1), ylim=(-1, 1))
    heights = np.sqrt(np.array(sizes) / max(sizes))
    centres = np.linspace(0.93, 0.07, len(sizes))
    for k in range(len(sizes) - 1):
        (x, far), (h, g) = centres[k : k + 2], heights[k : k + 2]
        axes.add_patch(Polygon([(x, h), (far, g), (far, -g), (x, -h)], color="#DDDDDD", lw=0))
    for size, x, h in zip(sizes, centres, heights, strict=True):
        axes.add_patch(Rectangle((x - 0.045, -h), 0.09, 2 * h, color=BLUE, lw=0, clip_on=False))
        y, va = (h + 0.06, "bottom") if size != sizes[0] else (-h - 0.06, "top")  # apart from its neighbour
        axes.text(x, y, str(size), ha="center", va=va, size=10.5, color=DARK)


def times(*sizes: int) -> str:
    return "×".join(str(size) for size in sizes)


def main() -> None:
    network, dataset = load_pretrained(), load()
    image = to_float(dataset.test_images[IMAGE : IMAGE + 1])  # (1, H, W, C)
    maps = network.relu(network.conv(image))  # (1, P', Q', K)
    u = network.primary(maps)  # (1, I, D)
    v, routing = network.capsules.forward(u)  # (1, J, E)
    _, reconstruction = network(image)  # (1, H, W, C)
    winner = int((v**2).sum(axis=-1).argmax())
    by_type = u.reshape(*network.grid, -1, u.shape[2]).transpose(2, 0, 1, 3)  # (types, P, Q, D)
    brightest = np.argsort(-maps[0].mean(axis=(0, 1)))[:4]  # channels
    chosen = np.linspace(0, u.shape[1] - 1, CHOSEN).astype(int)  # lower capsules, from everywhere

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=150, facecolor="white")
    canvas = blank(figure, 0, 0, WIDTH, HEIGHT, xlim=(0, WIDTH), ylim=(0, HEIGHT), zorder=-1)

    picture(figure, 0.15, UPPER + 0.1, image[0, ..., 0])
    sheets(figure, 2.3, maps[0].transpose(2, 0, 1)[brightest], feature_map)
    sheets(figure, 4.7, by_type, capsules_of_one_type)
    for x, start, end, layer in ((1.87, 1.55, 2.2, network.conv), (4.32, 4.0, 4.62, network.primary.conv)):
        arrow(canvas, (start, UPPER + 0.6), (end, UPPER + 0.6))
        write(canvas, x, UPPER + 0.83, f"{times(*layer.kernel_size)}\nstride {layer.stride[0]}")
    name(canvas, 0.8, 4.98, "image", times(*image.shape[1:]))
    name(canvas, 3.05, 4.98, "convolution", times(*maps.shape[1:]))
    name(canvas, 5.4, 4.98, "primary capsules", times(*u.shape[1:]))

    picture(figure, 0.15, LOWER + 0.1, reconstruction[0, ..., 0])
    decoder(figure, 1.75, [v[0].size, *network.config.decoder_hidden, image[0].size])
    class_capsules(figure, 3.3, v[0], winner)
    couplings(figure, 4.78, 1.42, routing.c[-1][0, chosen], winner)
    row = LOWER + 1.5 * (1 - (winner + 0.5) / v.shape[1])
    arrow(canvas, (3.1, row), (2.74, row))
    write(canvas, 2.87, row + 0.17, "mask", 11)
    arrow(canvas, (6.13, UPPER - 0.05), (6.13, LOWER + 1.55))
    write(canvas, 6.0, UPPER - 0.38, f"votes û = u W\n{times(u.shape[1], *v.shape[1:])}", ha="right")
    arrow(canvas, (0.8, UPPER + 0.05), (0.8, LOWER + 1.45), arrowstyle="<|-|>", linestyle=":")
    write(canvas, 0.95, UPPER - 0.38, "compared", ha="left")
    name(canvas, 0.86, 0.3, "reconstruction", times(*image.shape[1:]))
    name(canvas, 2.35, 0.3, "decoder", "dense")
    name(canvas, 4.0, 0.3, "class capsules", times(*v.shape[1:]))
    name(canvas, 5.6, 0.3, "routing", f"{network.config.iterations} iterations")
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
