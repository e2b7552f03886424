"""The first and the last matrix capsules: read from channels, and one for every class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps import layers
from minicaps.arrays import Array, get_xp
from minicaps.capsules.em_routing import EMCache, EMRouting
from minicaps.capsules.matrix_votes import SIDE, MatrixVotes, MatrixVotesCache
from minicaps.checks import check_array, check_flag, check_gradient, check_positive, check_two_gradients
from minicaps.layers import Layer, Seed, Sigmoid, generator


class PrimaryMatrixCapsCache(NamedTuple):
    poses: Any
    activations: Any
    sigmoid: Any


class PrimaryMatrixCaps(Layer):
    r"""The first matrix capsules (Hinton et al. 2018, §4), at every position of an image.

    The poses are a 1×1 convolution with 16 channels for each type; a is the logistic function of another one
    with a channel for each.

    Gradient: x receives those of both convolutions.

    Parameters
    ----------
    in_channels : int
        C.
    types : int
        How many capsules stand at each position.
    rng, dtype
        As for Conv2d.

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: section 4.
    """

    Conv2d = layers.Conv2d  # fast.PrimaryMatrixCaps puts its own here

    def __init__(self, in_channels: int, types: int, *, rng: Seed = None, dtype: Any = np.float32) -> None:
        super().__init__()
        check_positive("PrimaryMatrixCaps", in_channels=in_channels, types=types)
        self.in_channels, self.types = in_channels, types
        options: dict[str, Any] = {"rng": generator(rng), "dtype": dtype}
        self.poses = self.Conv2d(in_channels, types * SIDE**2, 1, **options)
        self.activations = self.Conv2d(in_channels, types, 1, **options)
        self.sigmoid = Sigmoid()

    def forward(self, x: Array) -> tuple[tuple[Array, Array], PrimaryMatrixCapsCache]:
        """x (B, H, W, C) -> poses (B, H, W, types, 16), a (B, H, W, types) from 0 to 1."""
        axes = ("batch B", None), ("height H", None), ("width W", None), ("channels C", self.in_channels)
        check_array("PrimaryMatrixCaps.forward", "x", x, *axes, like=self.first_param)
        channels, poses = self.poses.forward(x)  # (B, H, W, types·16)
        logits, activations = self.activations.forward(x)  # (B, H, W, types)
        a, sigmoid = self.sigmoid.forward(logits)  # (B, H, W, types)
        matrices = channels.reshape(*a.shape, SIDE**2)  # (B, H, W, types, 16)
        return (matrices, a), PrimaryMatrixCapsCache(poses, activations, sigmoid)

    def backward(self, dy: tuple[Array, Array], cache: PrimaryMatrixCapsCache) -> Array:
        """(dposes (B, H, W, types, 16), da (B, H, W, types)) -> dx (B, H, W, C)."""
        shape = cache.sigmoid.y.shape  # (B, H, W, types)
        check_gradient("PrimaryMatrixCaps.backward", dy[0], (*shape, SIDE**2), self.first_param)
        check_gradient("PrimaryMatrixCaps.backward", dy[1], shape, self.first_param)
        dlogits = self.sigmoid.backward(dy[1], cache.sigmoid)  # (B, H, W, types)
        dx = self.activations.backward(dlogits, cache.activations)  # (B, H, W, C)
        return dx + self.poses.backward(dy[0].reshape(*shape[:3], -1), cache.poses)  # (B, H, W, C)


class ClassMatrixCapsCache(NamedTuple):
    """What ClassMatrixCaps keeps; ``c`` is a list with one array per iteration."""

    votes: MatrixVotesCache
    routing: EMCache

    @property
    def c(self) -> list[Array]:
        return self.routing.c  # each (B, I, J)


class ClassMatrixCaps(Layer):
    r"""One capsule for every class (Hinton et al. 2018, §4), to which all capsules of a grid are routed.

    The matrices W are the same at every position. So that votes know where they come from, a child's row
    (p + ½)/P and column (q + ½)/Q are added to the first two numbers of their last column: coordinate
    addition.

    Gradient: of the routing and of the votes; what is added is constant.

    Parameters
    ----------
    types : int
        Types of capsules below.
    classes : int
        J.
    coordinates : bool
        Whether they are added.
    iterations, inverse_temperature, min_variance, beta_u_start
        As for EMRouting.
    std, rng, dtype
        As for MatrixVotes.

    References
    ----------
    Hinton, Sabour and Frosst, `Matrix capsules with EM routing
    <https://openreview.net/forum?id=HJWLfGWRb>`_, 2018: section 4.
    """

    def __init__(
        self,
        types: int,
        classes: int,
        *,
        coordinates: bool = True,
        iterations: int = 3,
        inverse_temperature: float = 0.001,
        min_variance: float = 5e-4,
        beta_u_start: float = 0.0,
        std: float = 0.1,
        rng: Seed = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        check_positive("ClassMatrixCaps", types=types, classes=classes)
        check_flag("ClassMatrixCaps", coordinates=coordinates)
        self.types, self.classes, self.coordinates = types, classes, coordinates
        self.votes = MatrixVotes(types, classes, std=std, rng=rng, dtype=dtype)
        self.routing = EMRouting(
            classes,
            iterations,
            inverse_temperature=inverse_temperature,
            min_variance=min_variance,
            beta_u_start=beta_u_start,
            dtype=dtype,
        )

    def forward(self, poses: Array, a: Array) -> tuple[tuple[Array, Array], Any]:
        """poses (B, H, W, types, 16), a (B, H, W, types) -> mu (B, J, 16), a' (B, J) from 0 to 1."""
        self._check_input(poses, a)
        u_hat, votes = self.votes.forward(poses)  # (B, H, W, types, J, 16)
        if self.coordinates:
            u_hat = u_hat + coordinates(u_hat)  # (B, H, W, types, J, 16)
        y, routing = self.routing.forward(
            u_hat.reshape(len(poses), -1, *u_hat.shape[-2:]),  # (B, I, J, 16), I = H·W·types
            a.reshape(len(a), -1),  # (B, I)
        )
        return y, ClassMatrixCapsCache(votes, routing)

    def backward(self, dy: tuple[Array, Array], cache: Any) -> tuple[Array, Array]:
        """(dmu (B, J, 16), da' (B, J)) -> dposes (B, H, W, types, 16), da (B, H, W, types)."""
        shape = cache.votes.poses.shape  # (B, H, W, types, 16)
        self._check_gradient(dy, len(cache.votes.poses))
        du_hat, da = self.routing.backward(dy, cache.routing)  # (B, I, J, 16), (B, I)
        dvotes = du_hat.reshape(*shape[:-1], *du_hat.shape[-2:])  # (B, H, W, types, J, 16)
        return self.votes.backward(dvotes, cache.votes), da.reshape(shape[:-1])

    def _check_input(self, poses: Array, a: Array) -> None:
        where, like = "ClassMatrixCaps.forward", self.votes.params["W"]
        grid = ("batch B", None), ("height H", None), ("width W", None), ("types", self.types)
        check_array(where, "poses", poses, *grid, ("numbers of a pose E", SIDE**2), like=like)
        sizes = zip(("batch B", "height H", "width W", "types"), poses.shape, strict=False)
        check_array(where, "a", a, *sizes, like=like)

    def _check_gradient(self, dy: tuple[Array, Array], batch: int) -> None:
        shapes = (batch, self.classes, SIDE**2), (batch, self.classes)
        check_two_gradients("ClassMatrixCaps.backward", dy, shapes, self.votes.params["W"])


def coordinates(u_hat: Array) -> Array:
    """Return what is added to votes (B, H, W, ...), the scaled row and column of each: (H, W, 1, 1, 16)."""
    xp, (H, W) = get_xp(u_hat), u_hat.shape[1:3]
    added = xp.zeros((H, W, 1, 1, SIDE, SIDE), dtype=u_hat.dtype)  # (H, W, 1, 1, 4, 4)
    added[..., 0, -1] = ((xp.arange(H, dtype=u_hat.dtype) + 0.5) / H)[:, None, None, None]  # (H, 1, 1, 1)
    added[..., 1, -1] = ((xp.arange(W, dtype=u_hat.dtype) + 0.5) / W)[:, None, None]  # (W, 1, 1)
    return added.reshape(H, W, 1, 1, -1)  # (H, W, 1, 1, 16)
