"""Presence: how much each upper capsule is there, (B, J), whatever the routing; losses look at this alone.

``Length`` is for routings whose capsules are as long as they are present, ``Line`` for those whose poses
say it otherwise, ``Given`` for those that give activations beside the poses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_array, check_gradient, check_positive
from minicaps.layers import Layer, Seed, generator, length_and_direction, uniform

POSES = ("batch B", None), ("upper capsules J", None), ("capsule dimension E", None)


class LengthCache(NamedTuple):
    e: Array  # (B, J, E), the direction of v


class Length(Layer):
    r"""Presence is length: a_j = ‖v_j‖ (Sabour et al. 2017).

    Gradient: dv_j = da_j v_j/‖v_j‖; 0 at v_j = 0.

    References
    ----------
    Sabour, Frosst and Hinton, `Dynamic routing between capsules <https://arxiv.org/abs/1710.09829>`_, 2017:
    section 2.
    """

    def forward(self, v: Array) -> tuple[Array, LengthCache]:
        """v (B, J, E) -> a (B, J), 0 or more."""
        check_array("Length.forward", "v", v, *POSES)
        n, e = length_and_direction(v)  # (B, J, 1), (B, J, E)
        return n[..., 0], LengthCache(e)

    def backward(self, da: Array, cache: LengthCache) -> Array:
        """da (B, J) -> dv (B, J, E)."""
        check_gradient("Length.backward", da, cache.e.shape[:2], cache.e)
        return da[..., None] * cache.e  # (B, J, 1) (B, J, E) -> (B, J, E)


class GivenCache(NamedTuple):
    shape: tuple[int, ...]  # of v


class Given(Layer):
    r"""Presence is the activation that the routing gave beside the pose: a_j as it is.

    Gradient: da as it is, and dv = 0.
    """

    def forward(self, v: Array, a: Array) -> tuple[Array, GivenCache]:
        """v (B, J, E), a (B, J) -> a (B, J)."""
        check_array("Given.forward", "v", v, *POSES)
        sizes = ("batch B", len(v)), ("upper capsules J", v.shape[1])
        check_array("Given.forward", "a", a, *sizes, like=v, of="v is")
        return a, GivenCache(v.shape)

    def backward(self, da: Array, cache: GivenCache) -> tuple[Array, Array]:
        """da (B, J) -> dv (B, J, E), da (B, J)."""
        check_gradient("Given.backward", da, cache.shape[:2], da)
        return get_xp(da).zeros(cache.shape, dtype=da.dtype), da


class LineCache(NamedTuple):
    v: Array  # (B, J, E)


class Line(Layer):
    r"""Presence is what one learned line reads off every capsule: z_j = ⟨w, v_j⟩ (Tsai et al. 2020).

    Any number: logits for a ``CrossEntropyLoss``. The authors' code adds a bias; the same for all capsules,
    it changes no softmax and has no gradient.

    Gradient: dv_j = dz_j w, dw = Σ_B,j dz_j v_j.

    Parameters
    ----------
    dimension : int
        E.
    rng : numpy.random.Generator or int, optional
        Source of the start values, U(±1/√E) for w (E,).
    dtype : float32 or float64

    References
    ----------
    Tsai, Srivastava, Goh and Salakhutdinov, `Capsules with inverted dot-product attention routing
    <https://arxiv.org/abs/2002.04764>`_, 2020.
    """

    def __init__(self, dimension: int, *, rng: Seed = None, dtype: Any = np.float32) -> None:
        super().__init__()
        check_positive("Line", dimension=dimension)
        self.dimension = dimension
        self.add_param("w", uniform(generator(rng), (dimension,), dimension, dtype))  # (E,)

    def forward(self, v: Array) -> tuple[Array, LineCache]:
        """v (B, J, E) -> z (B, J)."""
        w = self.params["w"]  # (E,)
        check_array("Line.forward", "v", v, *POSES[:2], ("capsule dimension E", self.dimension), like=w)
        return v @ w, LineCache(v)  # (B, J, E) @ (E,) -> (B, J)

    def backward(self, dz: Array, cache: LineCache) -> Array:
        """dz (B, J) -> dv (B, J, E)."""
        v, w = cache.v, self.params["w"]  # (B, J, E), (E,)
        check_gradient("Line.backward", dz, v.shape[:2], v)
        self.grads["w"] += (dz[..., None] * v).sum(axis=(0, 1))  # (E,)
        return dz[..., None] * w  # (B, J, 1) (E,) -> (B, J, E)
