"""What training needs of a network besides the layer contract."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_positive
from minicaps.layers.contract import Layer, Loss
from minicaps.layers.convolution import Pair, as_pair, output_size
from minicaps.layers.losses import CrossEntropyLoss

ImageShape = tuple[int, int, int]


class Network(Layer):
    """Base of all networks.

    Attributes
    ----------
    image_shape : (int, int, int)
        Height, width and channels.
    classes : int
    """

    image_shape: ImageShape
    classes: int

    def config(self) -> dict[str, Any]:
        """Return the arguments that build the network again, as JSON takes them."""
        names = inspect.signature(type(self).__init__).parameters
        return {n: getattr(self, n) for n in names if n not in ("self", "rng", "dtype")}

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
        xp = get_xp(outputs)
        exp_x = xp.exp(outputs - outputs.max(axis=1, keepdims=True))  # (B, J)
        return exp_x / exp_x.sum(axis=1, keepdims=True)

    def sample_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of a training image and of its label."""
        return self.image_shape, ()

    def right(self, outputs: Any, labels: Array) -> Array:
        """Return for each sample (B,) whether it is classified right: boolean."""
        return self.scores(outputs).argmax(axis=1) == labels

    def for_inference(self) -> Network:
        """Return a snapshot for inference, read-only: training this network does not change it."""
        return copy.deepcopy(self).freeze()

    def table(self) -> str:
        """Return a table of the parts: name, output shape, parameters."""
        rows, shapes = [], {}
        like = next(iter(self.params.values()))
        image = get_xp(like).zeros((1, *self.image_shape), dtype=like.dtype)  # (1, H, W, C)
        self.trace(image, shapes)
        for name, layer in self.stages():
            shape = " × ".join(map(str, shapes[name]))
            rows.append(f"{name:<14} {type(layer).__name__:<14} {shape:<16} {layer.count_params():>11,}")
        head = f"{'layer':<14} {'class':<14} {'output':<16} {'parameters':>11}"
        total = f"{'total':<46} {self.count_params():>11,}"
        return "\n".join([head, *rows, total])

    def trace(self, image: Array, shapes: dict[str, tuple[int, ...]]) -> None:
        """Run the parts on one image and note the shape of each output, without the batch."""
        for name, layer in self.stages():
            image = layer(image)
            shapes[name] = image.shape[1:]


def window_grid(place: str, size: Pair, kernel: int | Pair, stride: int | Pair) -> Pair:
    """Return the (rows, columns) of windows over an image of `size`, or say why none fits."""
    pairs = as_pair(place, "kernel", kernel), as_pair(place, "stride", stride)
    return output_size(place, tuple(size), *pairs)


def check_image_shape(place: str, image_shape: Any) -> ImageShape:
    """Return `image_shape` as a tuple, or raise ValueError if it is not (height, width, channels)."""
    if not isinstance(image_shape, (tuple, list)) or len(image_shape) != 3:
        raise ValueError(f"{place}: image_shape is {image_shape!r}, expected (height, width, channels)")
    shape = tuple(image_shape)
    check_positive(place, **dict(zip(("height", "width", "channels"), shape, strict=True)))
    return shape


def check_images(place: str, images: Array, network: Network) -> None:
    """Check that `images` are what the network was built for."""
    height, width, channels = network.image_shape
    like = next(iter(network.params.values()))
    check_array(place, "images", images, ("batch B", None), ("height H", height),
                ("width W", width), ("channels C", channels), like=like)  # fmt: skip
