"""A look inside a trained CapsNet: its figures, and a window with a slider for each dimension."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.widgets import Button, Slider

from minicaps.datasets import Dataset, to_float
from minicaps.figures import plots
from minicaps.networks import CapsNet, Network
from minicaps.training.step import evaluate

OFFSETS = np.linspace(-0.25, 0.25, 11)  # as in the paper's figure 4
WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # backends of matplotlib


def check_capsnet(network: Network) -> None:
    """Raise ValueError unless `network` is a CapsNet."""
    if not isinstance(network, CapsNet):
        raise ValueError(f"explore: the network is of class {type(network).__name__}, expected CapsNet: "
                         "only that has capsules to look at")  # fmt: skip


# -- what the decoder draws -------------------------------------------------------------------


def draw_capsules(network: CapsNet, chosen: int, capsules: np.ndarray) -> np.ndarray:
    """Return what the decoder draws for several values of one class's capsule.

    Parameters
    ----------
    chosen : int
        The class, 0 to J - 1.
    capsules : array (N, E), of the network's dtype

    Returns
    -------
    array (N, H, W, C), 0 to 1
    """
    shape = (len(capsules), network.classes, network.class_dimension)
    v = np.zeros(shape, dtype=capsules.dtype)  # (N, J, E)
    v[:, chosen] = capsules
    return network.reconstruct(network.mask(v, np.full(len(v), chosen)))


def draw_moved(
    network: CapsNet, chosen: int, capsule: np.ndarray, offsets: Sequence[float] = OFFSETS
) -> np.ndarray:
    """Draw one capsule with every offset added to every dimension in turn (the paper's figure 4).

    Parameters
    ----------
    chosen : int
        The class, 0 to J - 1.
    capsule : array (E,)
    offsets : sequence of N floats

    Returns
    -------
    array (E, N, H, W, C), 0 to 1
    """
    moves = np.eye(len(capsule))[:, None] * np.asarray(offsets)[:, None]  # (E, N, E)
    moved = (capsule + moves).reshape(-1, len(capsule)).astype(capsule.dtype)  # (E·N, E)
    return draw_capsules(network, chosen, moved).reshape(*moves.shape[:2], *network.image_shape)


# -- the figures ------------------------------------------------------------------------------


def write_figures(
    network: CapsNet,
    dataset: Dataset,
    class_names: Sequence[str],
    folder: str | Path,
    number: int = 0,
    metrics: Path | None = None,
) -> Iterator[Path]:
    """Write the figures as PNG files into `folder`, and yield the path of each.

    Without a decoder there are no reconstructions.png and dimensions.png.

    Parameters
    ----------
    network : CapsNet
    dataset : Dataset
    class_names : sequence of str
    folder : path
        Made if it is missing.
    number : int
        The test image whose couplings and capsule are shown.
    metrics : path, optional
        A run's ``metrics.jsonl``, for the learning curves; none are drawn if it is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawings = (_of_the_run(metrics), _of_one_image(network, dataset, class_names, number),
                _of_all_images(network, dataset, class_names, number))  # fmt: skip
    for drawing in drawings:
        for name, figure in drawing:
            path = folder / f"{name}.png"
            plots.save(figure, path)
            yield path


def _of_the_run(metrics: Path | None) -> Iterator[tuple[str, Figure]]:
    if metrics is None or not metrics.is_file():
        return
    try:
        epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
        if epochs:
            yield "learning_curves", plots.learning_curves(epochs)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{metrics}: damaged ({error})") from None


def _of_one_image(
    network: CapsNet, dataset: Dataset, class_names: Sequence[str], number: int
) -> Iterator[tuple[str, Figure]]:
    image = to_float(dataset.test_images[number : number + 1])  # (1, H, W, C)
    outputs, cache = network.forward(image)
    c = [each[0] for each in cache.capsules.c]  # of every iteration, (I, J)
    yield "couplings", plots.couplings_per_iteration(c, upper_names=class_names)
    yield "couplings_over_image", plots.couplings_over_image(image[0], c[-1], network.grid, class_names)
    if network.decoder:
        chosen = int(network.scores(outputs)[0].argmax())
        yield "dimensions", plots.dimension_grid(draw_moved(network, chosen, cache.v[0, chosen]), OFFSETS)


def _of_all_images(
    network: CapsNet, dataset: Dataset, class_names: Sequence[str], number: int
) -> Iterator[tuple[str, Figure]]:
    images, labels = dataset.test_images, dataset.test_labels
    predictions = evaluate(network, images, labels).predictions
    if network.decoder:
        few = (number + np.arange(min(12, len(images)))) % len(images)  # from this image on
        x = to_float(images[few])
        drawn = network(x)[1]
        yield "reconstructions", plots.reconstructions(x, drawn, labels[few], predictions[few], class_names)
    yield "confusion_matrix", plots.confusion_matrix(labels, predictions, class_names)
    wrong = np.flatnonzero(predictions != labels)
    x = to_float(images[wrong])
    yield "mistakes", plots.mistakes(x, labels[wrong], predictions[wrong], class_names, len(images))


# -- the window -------------------------------------------------------------------------------


class Explorer:
    """A test image, what the decoder draws for its longest capsule, and sliders that move that capsule.

    It fills any figure of matplotlib; on one without a screen the sliders and buttons work too, called
    by ``sliders[d].set_val(x)`` or by the methods below.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Empty.
    network : CapsNet
        With a decoder.
    images : uint8 array (N, H, W, C)
    labels : integer array (N,)
    class_names : sequence of str
    number : int
        The image to begin with.

    Attributes
    ----------
    number : int
        Of the image.
    lengths : array (J,), 0 to 1
        Of the class capsules.
    predicted : int
        The class of the longest.
    capsule : array (E,)
        The longest.
    offsets : array (E,)
        What the sliders add to it.
    drawn : array (H, W, C), 0 to 1
        What the decoder draws for their sum.
    """

    def __init__(
        self,
        figure: Figure,
        network: CapsNet,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        number: int = 0,
    ) -> None:
        check_capsnet(network)
        if not network.decoder:
            raise ValueError("Explorer: the network has no decoder, expected one: it draws the capsules")
        self.figure, self.network, self.class_names = figure, network, class_names
        self.images, self.labels = images, labels
        with matplotlib.rc_context({**plots.STYLE, "figure.constrained_layout.use": False}):
            self._build()
        self.go_to(number)

    # -- what the sliders and buttons do ------------------------------------------------------

    def go_to(self, number: int) -> None:
        """Show another image, counted around the end, with every slider at 0."""
        self.number = number % len(self.images)
        self.image = to_float(self.images[self.number])  # (H, W, C)
        outputs = self.network(self.image[None])  # (1, J, E), (1, H, W, C)
        self.reconstruction = outputs[1][0]
        self.lengths = self.network.scores(outputs)[0]  # (J,)
        self.predicted = int(self.lengths.argmax())
        self.capsule = outputs[0][0, self.predicted]  # (E,)
        self._show_image()
        self.reset()

    def next(self, event: Any = None) -> None:
        self.go_to(self.number + 1)

    def previous(self, event: Any = None) -> None:
        self.go_to(self.number - 1)

    def reset(self, event: Any = None) -> None:
        """Set every slider to 0."""
        for slider in self.sliders:
            slider.eventson = False  # draw once, not once for each slider
            slider.reset()
            slider.eventson = True
        self.draw()

    def draw(self, value: Any = None) -> None:
        """Draw the capsule as the sliders have it."""
        self.offsets = np.array([slider.val for slider in self.sliders])  # (E,)
        moved = (self.capsule + self.offsets).astype(self.capsule.dtype)  # (E,)
        self.drawn = draw_capsules(self.network, self.predicted, moved[None])[0]
        self._show("moved", self.drawn, f"With the sliders: length {np.linalg.norm(moved):.2f}")
        self.figure.canvas.draw_idle()

    # -- what is on the screen ----------------------------------------------------------------

    def _build(self) -> None:
        self.pictures = {}  # by name
        height, width, _ = self.network.image_shape
        for k, name in enumerate(("image", "reconstruction", "moved")):
            axes = self.figure.add_axes((0.04 + 0.19 * k, 0.58, 0.17, 0.3))
            self.pictures[name] = axes.imshow(np.zeros((height, width)), vmin=0, vmax=1)
            axes.set_axis_off()
        self.bars_axes = self.figure.add_axes((0.075, 0.2, 0.505, 0.28), ylim=(0, 1))
        self.bars_axes.set(xlabel="Class", ylabel="Length of its capsule", axisbelow=True)
        self.bars = self.bars_axes.bar(range(self.network.classes), 0)
        rotation = 90 if sum(map(len, self.class_names)) > 30 else 0
        self.bars_axes.set_xticks(range(self.network.classes), self.class_names, rotation=rotation)
        self.figure.text(0.68, 0.9, "Added to each dimension of the capsule", fontsize=9)
        self.sliders = [self._slider(d) for d in range(self.network.class_dimension)]
        self.buttons = {}  # by the name of the method
        for k, name in enumerate(("previous", "next", "reset")):
            axes = self.figure.add_axes((0.075 + 0.14 * k, 0.03, 0.13, 0.055))
            button = Button(axes, "Reset" if name == "reset" else f"{name.capitalize()} image")
            axes.spines[:].set_visible(False)
            button.on_clicked(getattr(self, name))
            self.buttons[name] = button

    def _slider(self, dimension: int) -> Slider:
        step = 0.82 / self.network.class_dimension
        axes = self.figure.add_axes((0.68, 0.88 - step * (dimension + 1), 0.24, 0.8 * step))
        slider = Slider(axes, str(dimension), OFFSETS[0], OFFSETS[-1], valinit=0.0, valfmt="%+.2f",
                        initcolor="black", handle_style={"facecolor": plots.COLOURS[1]})  # fmt: skip
        slider.poly.set_visible(False)  # a bar from the left end would mark a zero that is none
        slider.on_changed(self.draw)
        return slider

    def _show_image(self) -> None:
        label, predicted = self.class_names[self.labels[self.number]], self.class_names[self.predicted]
        self._show("image", self.image, f"Test image {self.number}: {label}")
        self._show("reconstruction", self.reconstruction, f"Drawn from capsule {predicted}")
        for j, (bar, length) in enumerate(zip(self.bars, self.lengths, strict=True)):
            bar.set(height=length, color=plots.COLOURS[1] if j == self.predicted else "0.7")
        self.bars_axes.set_title(
            f"The longest capsule is that of {predicted}: {self.lengths.max():.2f}", loc="left"
        )

    def _show(self, name: str, image: np.ndarray, title: str) -> None:
        picture = self.pictures[name]
        picture.set_data(image[..., 0] if image.shape[-1] == 1 else image)
        picture.axes.set_title(title, fontsize=9)


def find_window(network: CapsNet) -> tuple[Any, str]:
    """Return matplotlib.pyplot if it can open a window here, else None and the reason."""
    if not network.decoder:
        return None, "the network has no decoder to draw its capsules with"
    import matplotlib.pyplot as plt

    try:
        plt.switch_backend(matplotlib.get_backend())
    except ImportError as error:  # the user chose this backend
        return None, f"matplotlib cannot open one here ({error})"
    backend = matplotlib.get_backend().lower()
    if backend in WITHOUT_WINDOWS or "inline" in backend:
        return None, f"there is no display, or no toolkit such as Tk (matplotlib draws with {backend!r})"
    return plt, ""


def open_window(
    pyplot: Any, network: CapsNet, dataset: Dataset, class_names: Sequence[str], number: int = 0
) -> None:
    """Open the window with what ``find_window`` found, and return when it is closed."""
    figure = pyplot.figure("minicaps explore", figsize=(10, 5.6))
    explorer = Explorer(figure, network, dataset.test_images, dataset.test_labels, class_names, number)
    pyplot.show()
    del explorer  # held until here: matplotlib's widgets work only while someone holds them
