"""The networks that read two overlapping digits (MultiMNIST, Sabour et al. 2017, §6)."""

from __future__ import annotations

from typing import Any

from minicaps.arrays import Array, get_xp
from minicaps.datasets import augment
from minicaps.layers import one_hot
from minicaps.networks.baselines import CNN
from minicaps.networks.capsnet import CapsNet, CapsNetCache
from minicaps.networks.network import Network, check_network_labels


def highest_two(scores: Array) -> Array:
    """Return the classes of the two highest scores: (B, J) -> (B, 2), the highest first."""
    return get_xp(scores).argsort(scores, axis=1)[:, :-3:-1]


class OfPairs(Network):
    """What a network needs to learn pairs: an "image" is its two parts (B, 2, H, W, C).

    The network sees their overlay; its labels are (B, 2). Put it before the network's own class.
    """

    def sample_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (2, *self.image_shape), (2,)

    def training_inputs(self, images: Array, labels: Array) -> tuple[Array, ...]:
        return super().training_inputs(augment.overlay(images), labels)

    def targets(self, images: Array, labels: Array) -> Any:
        first, second = (one_hot(labels[:, k], self.classes, images.dtype) for k in (0, 1))  # (B, J)
        return super().targets(images, first + second)

    def correct(self, outputs: Any, labels: Array) -> Array:
        """Whether the two highest scores are those of both labels (B,)."""
        found = highest_two(self.scores(outputs))  # (B, 2)
        check_network_labels(f"{type(self).__name__}.correct", labels, self, len(found))
        return ((found == labels) | (found == labels[:, ::-1])).all(axis=1)


class OverlapCapsNet(OfPairs, CapsNet):
    r"""A CapsNet for two overlapping digits (Sabour et al. 2017, §6).

    It routes once and decodes twice, with the same decoder: once from the capsule of each label, or of
    the two longest. Each reconstruction is compared with its own part.

    Gradient: that of CapsNet; v receives the sum over both reconstructions.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 6.
    """

    def decode(self, v: Array, labels: Array | None = None) -> tuple[Array, Any, Any]:
        """v (B, J, E), labels (B, 2) -> images (B, 2, H, W, C), and the caches of mask and decoder."""
        if labels is None:
            labels = highest_two((v * v).sum(axis=-1))  # (B, 2)
        twice = get_xp(v).repeat(v, 2, axis=0)  # (2B, J, E)
        images, mask, decoder = super().decode(twice, labels.reshape(-1))  # (2B, H, W, C)
        return images.reshape(len(v), 2, *self.image_shape), mask, decoder

    def highest(self, z: Array) -> Array:
        """Return the classes of the two highest logits: (B, J) -> (B, 2)."""
        return highest_two(z)

    def decode_backward(self, dreconstruction: Array, cache: CapsNetCache) -> Array:
        """dreconstruction (B, 2, H, W, C) -> dv (B, J, E)."""
        each = dreconstruction.reshape(-1, *self.image_shape)  # (2B, H, W, C)
        dtwice = super().decode_backward(each, cache)  # (2B, J, E)
        return dtwice.reshape(-1, 2, *dtwice.shape[1:]).sum(axis=1)  # (B, J, E)


class OverlapCNN(OfPairs, CNN):
    r"""A CNN for two overlapping digits: one softmax, cross-entropy for both labels.

    At best it gives each of the two classes a probability of a half.

    Gradient: that of CNN.
    """
