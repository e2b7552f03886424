"""The decoder: from the capsule of one class back to the image."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minicaps import layers
from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_gradient, check_labels, check_positive
from minicaps.layers import Layer, Reshape, Seed, Sigmoid, generator, one_hot


class MaskCache(NamedTuple):
    chosen: Array  # (B,), the class whose capsule is kept
    keep: Array  # (B, J, 1), boolean
    by_label: bool
    shape: tuple[int, ...]  # of v


class Mask(Layer):
    r"""Keep one capsule and set the others to zero (Sabour et al. 2017, §4.1).

    y_j = T_j v_j, flattened, where T is 1 for the label, or for the longest capsule if no label is given.

    Gradient: dv_j = T_j dy_j. The choice has none.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 4.1.
    """

    def forward(self, v: Array, labels: Array | None = None) -> tuple[Array, MaskCache]:
        """v (B, J, E), labels (B,) or None -> y (B, J·E)."""
        axes = ("batch B", None), ("classes J", None), ("capsule dimension E", None)
        check_array("Mask.forward", "v", v, *axes)
        if labels is None:
            chosen = (v * v).sum(axis=-1).argmax(axis=-1)  # (B,), the longest
        else:
            check_labels("Mask.forward", labels, v.shape[0], v.shape[1])
            get_xp(v, labels)  # of one library
            chosen = labels  # (B,)
        keep = one_hot(chosen, v.shape[1], bool)[..., None]  # (B, J, 1)
        y = (v * keep).reshape(len(v), -1)  # (B, J·E)
        return y, MaskCache(chosen, keep, labels is not None, v.shape)

    def backward(self, dy: Array, cache: MaskCache) -> Any:
        """dy (B, J·E) -> dv (B, J, E), or (dv, None) where labels were given."""
        batch, classes, dimension = cache.shape
        check_gradient("Mask.backward", dy, (batch, classes * dimension), dy)
        dv = dy.reshape(cache.shape) * cache.keep  # (B, J, E)
        return (dv, None) if cache.by_label else dv


class DecoderCache(NamedTuple):
    """The caches of the decoder's parts."""

    fc1: Any
    relu1: Any
    fc2: Any
    relu2: Any
    fc3: Any
    sigmoid: Any
    reshape: Any


class Decoder(Layer):
    r"""Three dense layers that reconstruct the image (Sabour et al. 2017, §4.1 and figure 2).

    x = sigmoid(fc3(relu(fc2(relu(fc1(masked)))))), as an image.

    Gradient: dmasked = fc1ᵀ relu'ᵀ fc2ᵀ relu'ᵀ fc3ᵀ sigmoid' dx, each part's own backward in reverse.

    Parameters
    ----------
    in_features : int
        J·E, the masked capsules in one row.
    image_shape : (int, int, int)
        Height, width and channels of the image.
    hidden : (int, int)
        Widths of the two hidden layers.
    rng : numpy.random.Generator or int, optional
    dtype : float32 or float64

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 4.1 and figure 2.
    """

    Dense, ReLU = layers.Dense, layers.ReLU  # fast.Decoder puts its own here

    def __init__(
        self,
        in_features: int,
        image_shape: tuple[int, int, int],
        *,
        hidden: tuple[int, int] = (512, 1024),
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        if not isinstance(hidden, (tuple, list)) or len(hidden) != 2:
            raise ValueError(f"Decoder: hidden is {hidden!r}, expected the widths of two layers")
        if not isinstance(image_shape, (tuple, list)) or len(image_shape) != 3:
            raise ValueError(f"Decoder: image_shape is {image_shape!r}, expected (height, width, channels)")
        check_positive("Decoder", in_features=in_features)
        self.in_features, self.image_shape, self.hidden = in_features, tuple(image_shape), tuple(hidden)
        options: dict[str, Any] = {"rng": generator(rng), "dtype": dtype}
        self.fc1 = self.Dense(in_features, hidden[0], **options)
        self.relu1 = self.ReLU()
        self.fc2 = self.Dense(hidden[0], hidden[1], **options)
        self.relu2 = self.ReLU()
        self.fc3 = self.Dense(hidden[1], math.prod(image_shape), **options)
        self.sigmoid = Sigmoid()
        self.reshape = Reshape(*image_shape)

    def forward(self, masked: Array) -> tuple[Array, DecoderCache]:
        """masked (B, J·E) -> images (B, H, W, C), pixels between 0 and 1."""
        x, fc1 = self.fc1.forward(masked)  # (B, hidden[0])
        x, relu1 = self.relu1.forward(x)
        x, fc2 = self.fc2.forward(x)  # (B, hidden[1])
        x, relu2 = self.relu2.forward(x)
        x, fc3 = self.fc3.forward(x)  # (B, H·W·C)
        x, sigmoid = self.sigmoid.forward(x)
        x, reshape = self.reshape.forward(x)  # (B, H, W, C)
        return x, DecoderCache(fc1, relu1, fc2, relu2, fc3, sigmoid, reshape)

    def backward(self, dx: Array, cache: DecoderCache) -> Array:
        """dx (B, H, W, C) -> dmasked (B, J·E)."""
        dx = self.reshape.backward(dx, cache.reshape)  # (B, H·W·C)
        dx = self.sigmoid.backward(dx, cache.sigmoid)
        dx = self.fc3.backward(dx, cache.fc3)  # (B, hidden[1])
        dx = self.relu2.backward(dx, cache.relu2)
        dx = self.fc2.backward(dx, cache.fc2)  # (B, hidden[0])
        dx = self.relu1.backward(dx, cache.relu1)
        return self.fc1.backward(dx, cache.fc1)  # (B, J·E)
