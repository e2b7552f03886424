"""What training needs of a network besides the layer contract."""

from __future__ import annotations

import html
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from minicaps.arrays import Array, get_xp, to_backend, to_numpy
from minicaps.checks import check_array, check_labels, check_library, check_positive
from minicaps.datasets import to_float
from minicaps.layers import CrossEntropyLoss, Layer, Loss, Pair, Seed, as_pair, output_size, softmax

ImageShape: TypeAlias = tuple[int, int, int]
MAX_PIXELS = 1 << 26  # of an image: what a file asks for is built, so it may not ask for any memory
MAX_FLOAT_PIXEL = 10.0  # images of mean 0 and deviation 1 stay below; 8-bit ones as floats do not


@dataclass(frozen=True)
class NetworkConfig(ABC):
    """What decides a network but its weights; the options of each kind are added by subclasses.

    Attributes
    ----------
    image_shape : (int, int, int)
        Height, width and channels.
    classes : int
    """

    image_shape: ImageShape = (28, 28, 1)
    classes: int = 10

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.image_shape, tuple) or len(self.image_shape) != 3:
            raise ValueError(
                f"{name}: image_shape is {self.image_shape!r}, expected (height, width, channels)"
            )
        height, width, channels = self.image_shape
        check_positive(name, height=height, width=width, channels=channels, classes=self.classes)
        if height * width * channels > MAX_PIXELS:
            raise ValueError(
                f"{name}: images of {height * width * channels:,} numbers, expected at most {MAX_PIXELS:,}"
            )

    @abstractmethod
    def count_params(self) -> int:
        """Return how many weights such a network has, without building it."""


def kind_of(layer: Layer) -> str:
    """Return the name of a layer's class, and of its routing: "CapsuleLayer, EMRouting"."""
    routing = getattr(layer, "routing", None)
    return ", ".join(type(each).__name__ for each in (layer, routing) if each is not None)


class Network(Layer):
    """Base of all networks.

    Attributes
    ----------
    config : NetworkConfig
        What it was built from.
    """

    Config: ClassVar[type[NetworkConfig]]  # of its configuration
    config: NetworkConfig

    def __init__(self, config: NetworkConfig, *, rng: Seed = None, dtype: Any = np.float32) -> None:
        super().__init__()
        self.config = config

    @property
    def image_shape(self) -> ImageShape:
        """Height, width and channels."""
        return self.config.image_shape

    @property
    def classes(self) -> int:
        return self.config.classes

    # -- what training asks --------------------------------------------------------------------

    def objective(self) -> Loss:
        """Return the loss that the network is trained with."""
        return CrossEntropyLoss()

    def training_inputs(self, images: Array, labels: Array) -> tuple[Array, ...]:
        """Return the arguments of ``forward`` in training."""
        return (images,)

    def targets(self, images: Array, labels: Array) -> Any:
        """Return what the objective compares the outputs with."""
        return labels

    def scores(self, outputs: Any) -> Array:
        """Return a score (B, classes), 0 to 1, for every class: here the softmax."""
        return softmax(outputs)

    @property
    def score_name(self) -> str:
        """What the scores are: "length" or "activation" of the class capsules, or "probability"."""
        return "probability"

    def correct(self, outputs: Any, labels: Array) -> Array:
        """Return for each sample (B,) whether it is classified correctly: boolean.

        labels (B,): class numbers. A network whose images are of several classes has a `correct` of its own.
        """
        scores = self.scores(outputs)  # (B, J)
        check_network_labels(f"{type(self).__name__}.correct", labels, self, len(scores))
        return scores.argmax(axis=1) == labels  # (B,)

    def sample_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of a training image and of its label."""
        return self.image_shape, ()

    # -- what its users ask --------------------------------------------------------------------

    def predict(self, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
        """Classify images.

        Parameters
        ----------
        images : array (N, H, W, C)
            8-bit, or floats from 0 to 1. The channel's axis may be missing where there is one.
        batch_size : int
            How many are classified at a time.

        Returns
        -------
        integer array (N,)
            Class numbers.

        Raises
        ------
        TypeError
            If the images are neither 8-bit nor floats.
        ValueError
            If they have another size than the network's.

        Warns
        -----
        UserWarning
            If floats run up to 255, as those of 8-bit pixels that were not divided do.
        """
        check_positive("predict", batch_size=batch_size)
        check_library("predict", "images", images)
        warn_of_255("predict", images)
        if images.ndim == 3 and self.image_shape[2] == 1:
            images = images[..., None]  # (N, H, W, 1)
        network, found = self if self._is_snapshot else self.for_inference(), []
        dtype, xp = network.first_param.dtype, network.xp
        for start in range(0, len(images), batch_size):
            x = images[start : start + batch_size]  # (B, H, W, C)
            x = to_float(x) if x.dtype == np.uint8 else x  # (B, H, W, C)
            x = x.astype(dtype) if x.dtype.kind == "f" else x  # else the network says what is wrong
            scores = network.scores(network(to_backend(x, xp)))  # (B, J)
            found.append(to_numpy(scores.argmax(axis=1)))
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)  # (N,)

    # -- how it looks --------------------------------------------------------------------------

    def stages(self) -> list[tuple[str, Layer]]:
        """Return the parts that an image goes through, by name, in order."""
        return [(name, layer) for name, layer in self.sublayers() if isinstance(layer, Layer)]

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Run an empty image through the stages; return the shape of each output, without the batch."""
        like = self.first_param
        x = get_xp(like).zeros((1, *self.image_shape), dtype=like.dtype)  # (1, H, W, C)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in self.stages():
            x = layer(self.stage_input(name, x))
            x = x[0] if isinstance(x, tuple) else x  # the poses, of a layer that gives activations too
            shapes[name] = x.shape[1:]
        return shapes

    def stage_input(self, name: str, x: Array) -> Array:
        """Return what the stage of this name makes of the output of the one before it."""
        return x

    def rows(self) -> list[tuple[str, str, str, int]]:
        """Return for every stage its name, class (and routing), output shape and number of parameters."""
        shapes = self.output_shapes()
        return [
            (name, kind_of(layer), " × ".join(map(str, shapes[name])), layer.count_params())
            for name, layer in self.stages()
        ]

    def table(self) -> str:
        """Return the stages as a table: name, class, output shape, parameters."""
        rows = self.rows()
        width = max(len(kind) for _, kind, *_ in rows)
        head = f"{'layer':<14} {'class':<{width}} {'output':<16} {'parameters':>11}"
        lines = [f"{name:<14} {kind:<{width}} {shape:<16} {count:>11,}" for name, kind, shape, count in rows]
        return "\n".join([head, *lines, f"{'total':<{width + 32}} {self.count_params():>11,}"])

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        return f"{type(self).__name__}({shape} -> {self.classes} classes, {self.count_params():,} parameters)"

    def _repr_html_(self) -> str:
        head = ("layer", "class", "output", "parameters")
        rows = [(name, kind, shape, f"{count:,}") for name, kind, shape, count in self.rows()]
        total = ("total", "", "", f"{self.count_params():,}")
        lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in (*rows, total)]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{body}</table>"


def window_grid(where: str, size: Pair, kernel: int | Pair, stride: int | Pair) -> Pair:
    """Return the (rows, columns) of windows over an image of `size`, or say why none fits."""
    return output_size(where, size, as_pair(where, "kernel", kernel), as_pair(where, "stride", stride))


def check_images(where: str, images: Array, network: Network) -> None:
    """Check that `images` are what the network was built for."""
    height, width, channels = network.image_shape
    axes = ("batch B", None), ("height H", height), ("width W", width), ("channels C", channels)
    check_array(where, "images", images, *axes, like=network.first_param)


def check_network_labels(where: str, labels: Array, network: Network, count: int) -> None:
    """Check that `labels` are what the network learns: class numbers (B,), or (B, 2) of pairs."""
    check_labels(where, labels, count, network.classes, network.sample_shapes()[1])


def warn_of_255(where: str, images: Array) -> None:
    """Warn if floats are far from 0 to 1; on a device nobody looks, since that would wait for it."""
    if isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.size:
        largest = float(images.max())
        if MAX_FLOAT_PIXEL < largest < np.inf:
            warnings.warn(
                f"{where}: the pixels run up to {largest:g}, expected 0 to 1; divide 8-bit ones by 255",
                stacklevel=3,
            )
