"""The window of ``explore``: a test image, and a slider for each dimension of one of its class capsules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.widgets import Button, Slider

from minicaps.arrays import Array
from minicaps.datasets import Dataset, to_float
from minicaps.figures.explore import OFFSETS, check_capsnet, reconstruct_capsules
from minicaps.figures.style import COLOURS, MAX_NAMES, STYLE, as_picture, short_name, whole_numbers
from minicaps.figures.text import as_text
from minicaps.networks import Network

WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # backends of matplotlib


class Explorer:
    """A test image, its reconstruction from the predicted class, and sliders that move that capsule.

    It fills any figure of matplotlib; on one without a screen the sliders and buttons work too, called
    by ``sliders[d].set_val(x)`` or by the methods below.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Empty.
    network : VectorCapsNet
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
    scores : array (J,), 0 to 1
        Of the classes: lengths of their capsules, or whatever the network has.
    predicted : int
        The class of the highest.
    capsule : array (E,)
        That of this class.
    offsets : array (E,)
        What the sliders add to it.
    reconstruction, moved : arrays (H, W, C), 0 to 1
        From that capsule, as it is and as the sliders have it.

    Raises
    ------
    ValueError
        If the network is no CapsNet, or has no decoder.
    """

    def __init__(
        self,
        figure: Figure,
        network: Network,
        images: Array,
        labels: Array,
        class_names: Sequence[str],
        number: int = 0,
    ) -> None:
        self.network = check_capsnet(network).for_inference()
        if self.network.decoder is None:
            raise ValueError(
                "Explorer: the network has no decoder, expected one: it makes images of the capsules"
            )
        self.figure, self.class_names = figure, class_names
        self.images, self.labels = images, labels
        self._look_at(number)
        with matplotlib.rc_context({**STYLE, "figure.constrained_layout.use": False}):
            self._build()
        self._show_image()

    # -- what the sliders and buttons do ------------------------------------------------------

    def go_to(self, number: int) -> None:
        """Show another image, counted around the end, with every slider at 0."""
        self._look_at(number)
        self._show_image()

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
        """Show the reconstruction from the capsule as the sliders have it."""
        self.offsets = np.array([slider.val for slider in self.sliders])  # (E,)
        capsule = (self.capsule + self.offsets).astype(self.capsule.dtype)  # (E,)
        self.moved = reconstruct_capsules(self.network, self.predicted, capsule[None])[0]  # (H, W, C)
        length = f": length {np.linalg.norm(capsule):.2f}" if self.network.score_name == "length" else ""
        self._show("moved", self.moved, f"With the sliders{length}")
        self.figure.canvas.draw_idle()

    # -- the network -------------------------------------------------------------------------

    def _look_at(self, number: int) -> None:
        """Let the network see an image."""
        self.number = number % len(self.images)
        self.image = to_float(self.images[self.number])  # (H, W, C)
        outputs, cache = self.network.forward(self.image[None])  # …, (1, H, W, C)
        self.reconstruction = outputs[1][0]  # (H, W, C)
        self.scores = self.network.scores(outputs)[0]  # (J,)
        self.predicted = int(self.scores.argmax())
        self.capsule = cache.v[0, self.predicted]  # (E,)

    # -- what is on the screen ----------------------------------------------------------------

    def _build(self) -> None:
        self._add_pictures()
        self._add_bars()
        self.figure.text(0.68, 0.9, "Added to each dimension of the capsule", fontsize=9)
        self.sliders = [self._slider(d) for d in range(len(self.capsule))]
        self._add_buttons()

    def _add_pictures(self) -> None:
        self.pictures: dict[str, AxesImage] = {}
        for k, name in enumerate(("image", "reconstruction", "moved")):
            axes = self.figure.add_axes((0.04 + 0.19 * k, 0.58, 0.17, 0.3))
            self.pictures[name] = axes.imshow(as_picture(self.image), vmin=0, vmax=1)
            axes.set_axis_off()

    def _add_bars(self) -> None:
        self.bars_axes = self.figure.add_axes((0.075, 0.24, 0.505, 0.25), ylim=(0, 1))
        of_class = "" if self.network.score_name == "probability" else " of its capsule"
        ylabel = self.network.score_name.capitalize() + of_class
        self.bars_axes.set(xlabel="Class", ylabel=ylabel, axisbelow=True)
        self.bars = self.bars_axes.bar(range(self.network.classes), 0)
        if self.network.classes > MAX_NAMES:
            whole_numbers(self.bars_axes.xaxis)
            return
        names = [short_name(name) for name in self.class_names]
        self.bars_axes.set_xticks(range(len(names)), names)
        if sum(map(len, names)) > 50:
            self.bars_axes.tick_params("x", rotation=90)
            self.bars_axes.set_xlabel("")  # there is no room below the names

    def _slider(self, dimension: int) -> Slider:
        step = 0.82 / len(self.capsule)
        axes = self.figure.add_axes((0.68, 0.88 - step * (dimension + 1), 0.24, 0.8 * step))
        slider = Slider(
            axes,
            str(dimension),
            OFFSETS[0],
            OFFSETS[-1],
            valinit=0.0,
            valfmt="%+.2f",
            initcolor="black",
            handle_style={"facecolor": COLOURS[1]},
        )
        slider.poly.set_visible(False)  # a bar from the left end would mark a zero that is none
        slider.on_changed(self.draw)
        return slider

    def _add_buttons(self) -> None:
        self.buttons: dict[str, Button] = {}  # by the name of the method
        texts = {"previous": "Previous image", "next": "Next image", "reset": "Reset"}
        for k, (name, text) in enumerate(texts.items()):
            axes = self.figure.add_axes((0.075 + 0.14 * k, 0.03, 0.13, 0.055))
            self.buttons[name] = Button(axes, text)
            self.buttons[name].on_clicked(getattr(self, name))
            axes.spines[:].set_visible(False)

    def _show_image(self) -> None:
        label, predicted = self.class_names[self.labels[self.number]], self.class_names[self.predicted]
        self._show("image", self.image, f"Test image {self.number}: {short_name(label)}")
        self._show("reconstruction", self.reconstruction, f"Reconstruction from {short_name(predicted)}")
        for j, (bar, score) in enumerate(zip(self.bars, self.scores, strict=True)):
            bar.set(height=score, color=COLOURS[1] if j == self.predicted else "0.7")
        name = self.network.score_name
        highest = "longest capsule" if name == "length" else f"highest {name}"
        text = f"The {highest} is that of {as_text(predicted)}: {self.scores.max():.2f}"
        self.bars_axes.set_title(text, loc="left", fontsize=9)
        self.reset()

    def _show(self, name: str, image: Array, title: str) -> None:
        picture = self.pictures[name]
        picture.set_data(as_picture(image))
        picture.axes.set_title(title, fontsize=8)


def find_window(network: Network) -> tuple[Any, str]:
    """Return matplotlib.pyplot if it can open a window here, else None and the reason."""
    if not getattr(network, "decoder", None):
        return None, "the network has no decoder: no reconstructions, and no dimension of a capsule to turn"
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
    pyplot: Any, network: Network, dataset: Dataset, class_names: Sequence[str], number: int = 0
) -> None:
    """Open the window with what ``find_window`` found, and return when it is closed."""
    of_screen: dict[Any, Any] = {
        "figure.dpi": matplotlib.rcParams["figure.dpi"],
        "figure.constrained_layout.use": False,
    }
    with matplotlib.rc_context({**STYLE, **of_screen}):
        figure = pyplot.figure("minicaps explore", figsize=(10, 5.6))
    explorer = Explorer(figure, network, dataset.test_images, dataset.test_labels, class_names, number)
    pyplot.show()
    del explorer  # held until here: matplotlib's widgets work only while someone holds them
