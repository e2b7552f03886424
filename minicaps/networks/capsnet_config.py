"""The options of a CapsNet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.capsules import (
    Coupling,
    Entmax,
    Hard,
    InvertedAttentionRouting,
    Leaky,
    Line,
    Prior,
    Routing,
    SelfAttentionRouting,
    Softmax,
    Sparsemax,
    Stopped,
    TopK,
)
from minicaps.checks import check_choice, check_flag, check_number, check_positive
from minicaps.fast import DynamicRouting
from minicaps.layers import Pair, Seed, as_pair
from minicaps.networks.network import window_grid
from minicaps.networks.vector_capsnet import VectorCapsNetConfig

MAX_ITERATIONS = 1000  # each takes time and memory, and three are enough
COUPLINGS: dict[str, Callable[[], Coupling]] = {
    "softmax": Softmax,
    "leaky": Leaky,
    "hard": Hard,
    "leaky hard": lambda: Leaky(Hard()),
    "top-2": lambda: TopK(2),
    "top-3": lambda: TopK(3),
    "sparsemax": Sparsemax,
    "entmax": Entmax,
}
ROUTINGS = ("dynamic", "self-attention", "inverted-attention")


@dataclass(frozen=True)
class CapsNetConfig(VectorCapsNetConfig):
    """The options of a CapsNet; the defaults are the network of the paper (Sabour et al. 2017, §4).

    Attributes
    ----------
    image_shape : (int, int, int)
        Height, width and channels.
    classes : int
        J.
    conv_channels, conv_kernel, conv_stride
        The first convolution.
    primary_types, primary_dimension, primary_kernel, primary_stride
        The primary capsules; their dimension is D.
    class_dimension : int
        E.
    routing : {"dynamic", "self-attention", "inverted-attention"}
        With inverted attention the poses do not tell the classes by their lengths: a learned line reads
        them, and the loss is cross-entropy.
    iterations : int
        R, of the routing, 1 to 1,000; self-attention has none.
    coupling : {"softmax", "leaky", "hard", "leaky hard", "top-2", "top-3", "sparsemax", "entmax"}
        How a capsule shares itself out among the classes.
    prior : bool
        Whether the routing begins with learned logits, one for every pair of capsules, instead of 0. With
        one iteration these are couplings without routing.
    stopped_gradient : bool
        Whether the last couplings count as constants in backward.
    bias : bool
        Whether the class capsules of dynamic routing have a learned bias.
    std : float
        Standard deviation of the votes' first weights.
    decoder : bool
        Whether there is one.
    decoder_hidden : (int, int)
        Widths of its hidden layers.
    reconstruction_scale : float
        Weight of a squared pixel error in the loss.
    """

    conv_channels: int = 256
    conv_kernel: int | Pair = 9
    conv_stride: int | Pair = 1
    primary_types: int = 32
    primary_dimension: int = 8
    primary_kernel: int | Pair = 9
    primary_stride: int | Pair = 2
    routing: str = "dynamic"
    iterations: int = 3
    coupling: str = "softmax"
    prior: bool = False
    stopped_gradient: bool = False
    bias: bool = False
    std: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("CapsNetConfig", conv_channels=self.conv_channels, primary_types=self.primary_types)
        check_positive("CapsNetConfig", primary_dimension=self.primary_dimension)
        check_positive("CapsNetConfig", iterations=self.iterations)
        if self.iterations > MAX_ITERATIONS:
            raise ValueError(
                f"CapsNetConfig: iterations is {self.iterations:,}, expected at most {MAX_ITERATIONS:,}"
            )
        check_flag("CapsNetConfig", stopped_gradient=self.stopped_gradient, bias=self.bias)
        check_flag("CapsNetConfig", prior=self.prior)
        check_number("CapsNetConfig", std=self.std)
        check_choice("CapsNetConfig", "coupling", self.coupling, tuple(COUPLINGS))
        check_choice("CapsNetConfig", "routing", self.routing, ROUTINGS)
        self._check_combination()
        _ = self.grid  # says why, where a kernel does not fit the image

    @property
    def conv_grid(self) -> Pair:
        """(rows, columns) of the first convolution's output."""
        height, width, _ = self.image_shape
        where = "CapsNet: the first convolution"
        return window_grid(where, (height, width), self.conv_kernel, self.conv_stride)

    @property
    def grid(self) -> Pair:
        """(P, Q), where the primary capsules stand."""
        where = "CapsNet: the primary capsules"
        return window_grid(where, self.conv_grid, self.primary_kernel, self.primary_stride)

    @property
    def primary_capsules(self) -> int:
        """I."""
        return math.prod(self.grid) * self.primary_types

    def _check_combination(self) -> None:
        """Raise ValueError for options that cannot act together."""
        where, only_dynamic = "CapsNetConfig", f"has no effect on {self.routing} routing; leave it out"
        if self.bias and self.routing != "dynamic":
            raise ValueError(f"{where}: bias {only_dynamic}")
        if self.iterations != type(self).iterations and self.routing == "self-attention":
            raise ValueError(f"{where}: iterations is {self.iterations}, which {only_dynamic}")
        if self.prior and self.stopped_gradient:
            raise ValueError(
                f"{where}: prior is learned through the couplings, and stopped_gradient stops that"
            )
        chosen = COUPLINGS[self.coupling]()
        if isinstance(chosen, TopK) and chosen.k > self.classes:
            raise ValueError(f"{where}: coupling is {self.coupling!r}, but there are {self.classes} classes")

    def build_coupling(self, dtype: Any = np.float32) -> Coupling:
        coupling = COUPLINGS[self.coupling]()
        if self.prior:
            coupling = Prior(self.primary_capsules, self.classes, coupling, dtype=dtype)
        return Stopped(coupling) if self.stopped_gradient else coupling

    def build_routing(self, coupling: Coupling | None = None, dtype: Any = np.float32) -> Routing:
        """Return the routing, with a coupling of one's own or the one that is named here."""
        coupling, shape = coupling or self.build_coupling(dtype), (self.classes, self.class_dimension)
        if self.routing == "self-attention":
            sizes = (self.primary_capsules, self.classes)
            return SelfAttentionRouting(coupling=coupling, bias_shape=sizes, dtype=dtype)
        if self.routing == "inverted-attention":
            return InvertedAttentionRouting(
                self.class_dimension, iterations=self.iterations, coupling=coupling, dtype=dtype
            )
        bias_shape = shape if self.bias else None
        return DynamicRouting(self.iterations, coupling=coupling, bias_shape=bias_shape, dtype=dtype)

    def build_presence(self, rng: Seed = None, dtype: Any = np.float32) -> Line | None:
        """Return what reads the classes off the poses; None where their lengths say them."""
        poses_of_one_length = self.routing == "inverted-attention"
        return Line(self.class_dimension, rng=rng, dtype=dtype) if poses_of_one_length else None

    def count_params(self) -> int:
        channels, outputs = self.conv_channels, self.primary_types * self.primary_dimension
        conv_window = math.prod(as_pair("CapsNet", "conv_kernel", self.conv_kernel)) * self.image_shape[2]
        primary_window = math.prod(as_pair("CapsNet", "primary_kernel", self.primary_kernel)) * channels
        upper = self.classes * self.class_dimension
        count = (conv_window + 1) * channels + (primary_window + 1) * outputs
        count += self.primary_capsules * self.primary_dimension * upper + upper * self.bias
        pairs = self.primary_capsules * self.classes
        count += pairs * self.prior + pairs * (self.routing == "self-attention")
        if self.routing == "inverted-attention":
            count += 3 * self.class_dimension  # LayerNorm and Line
        return count + self.count_decoder_params()
