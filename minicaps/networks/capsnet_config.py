"""The options of a CapsNet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minicaps.capsules import (
    Coupling,
    Given,
    Hard,
    Leaky,
    Line,
    Routing,
    Softmax,
    Stopped,
)
from minicaps.checks import check_choice, check_flag, check_number, check_positive
from minicaps.fast import (
    DynamicRouting,
    EMRouting,
    Entmax,
    InvertedAttentionRouting,
    Prior,
    SelfAttentionRouting,
    Sparsemax,
    TopK,
)
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
MIN_VARIANCE = 5e-4  # σ²_min of EM routing, as in its paper
MAX_LAYERS = 100
STD = 0.05  # of the votes' first weights, without hidden layers
STARTS = {
    "dynamic": 1.0,
    "self-attention": 0.5,
    "inverted-attention": 0.5,
    "em": 0.5,
}  # ‖s‖/‖u‖ with hidden ones
ROUTINGS = ("dynamic", "self-attention", "inverted-attention", "em")
PRESENCES = ("own", "line")


class LayerSizes(NamedTuple):
    """The sizes of a capsule layer: I, D, J and E."""

    lower: int
    lower_dimension: int
    upper: int
    upper_dimension: int


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
    layers : tuple of (int, int)
        Capsules and dimension of every hidden capsule layer, which stand between the primary and the class
        capsules, at most 100. Each is routed to as the class capsules are, with parameters of its own.
    routing : {"dynamic", "self-attention", "inverted-attention", "em"}
    presence : {"own", "line"}
        What tells the classes. Of its own a routing has the lengths of its capsules, or activations (EM); but
        with inverted attention all lengths are alike. So there, and with "line" behind any routing, a learned
        line reads the classes off the poses, and the loss is cross-entropy.
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
    inverse_temperature : float
        λ of EM routing.
    std : float, optional
        Standard deviation of the votes' first weights. By default 0.05; with hidden layers by the sizes of
        each, k J/√(I E): as ‖s‖² is I E ‖u‖² std²/J² at first, a sum s is then k times as long as u. k is 1
        for dynamic routing, whose squash makes short ones shorter still, and ½ for the others.
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
    layers: tuple[Pair, ...] = ()
    routing: str = "dynamic"
    presence: str = "own"
    iterations: int = 3
    coupling: str = "softmax"
    prior: bool = False
    stopped_gradient: bool = False
    bias: bool = False
    inverse_temperature: float = 0.03
    std: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("CapsNetConfig", conv_channels=self.conv_channels, primary_types=self.primary_types)
        check_positive("CapsNetConfig", primary_dimension=self.primary_dimension)
        check_positive("CapsNetConfig", iterations=self.iterations)
        if self.iterations > MAX_ITERATIONS:
            raise ValueError(
                f"CapsNetConfig: iterations is {self.iterations:,}, expected at most {MAX_ITERATIONS:,}"
            )
        self._check_layers()
        check_flag("CapsNetConfig", stopped_gradient=self.stopped_gradient, bias=self.bias)
        check_flag("CapsNetConfig", prior=self.prior)
        if self.std is not None:
            check_number("CapsNetConfig", std=self.std)
        check_choice("CapsNetConfig", "coupling", self.coupling, tuple(COUPLINGS))
        check_choice("CapsNetConfig", "routing", self.routing, ROUTINGS)
        check_choice("CapsNetConfig", "presence", self.presence, PRESENCES)
        check_number("CapsNetConfig", inverse_temperature=self.inverse_temperature)
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

    @property
    def capsule_layers(self) -> list[LayerSizes]:
        """The sizes of every capsule layer; the last is that of the class capsules."""
        primary, last = (self.primary_capsules, self.primary_dimension), (self.classes, self.class_dimension)
        return [LayerSizes(*lower, *upper) for lower, upper in pairwise((primary, *self.layers, last))]

    def _check_layers(self) -> None:
        """Raise ValueError unless the hidden layers are pairs of capsules and dimension."""
        where, layers = "CapsNetConfig", self.layers
        if not isinstance(layers, tuple) or not all(isinstance(x, tuple) and len(x) == 2 for x in layers):
            raise ValueError(
                f"{where}: layers is {layers!r}, expected (capsules, dimension) of every hidden layer, such "
                "as ((32, 8), (16, 8))"
            )
        if len(layers) > MAX_LAYERS:
            raise ValueError(f"{where}: {len(layers):,} hidden layers, expected at most {MAX_LAYERS}")
        for k, (capsules, dimension) in enumerate(layers):
            check_positive(where, **{f"layers {k} (capsules)": capsules})
            check_positive(where, **{f"layers {k} (dimension)": dimension})

    def _check_combination(self) -> None:
        """Raise ValueError for options that cannot act together."""
        where, only_dynamic = "CapsNetConfig", f"has no effect on {self.routing} routing; leave it out"
        if self.bias and self.routing != "dynamic":
            raise ValueError(f"{where}: bias {only_dynamic}")
        if self.inverse_temperature != type(self).inverse_temperature and self.routing != "em":
            raise ValueError(f"{where}: inverse_temperature {only_dynamic}")
        if self.iterations != type(self).iterations and self.routing == "self-attention":
            raise ValueError(f"{where}: iterations is {self.iterations}, which {only_dynamic}")
        if self.prior and self.stopped_gradient:
            raise ValueError(
                f"{where}: prior is learned through the couplings, and stopped_gradient stops that"
            )
        chosen = COUPLINGS[self.coupling]()
        if isinstance(chosen, TopK):
            few = [f"there are {self.classes} classes"] if chosen.k > self.classes else []
            few += [f"a hidden layer has {count} capsules" for count, _ in self.layers if chosen.k > count]
            if few:
                raise ValueError(f"{where}: coupling is {self.coupling!r}, but {few[0]}")

    def std_of(self, sizes: LayerSizes) -> float:
        """Return the standard deviation of the first votes' weights of a capsule layer."""
        if self.std is not None:
            return self.std
        if not self.layers:
            return STD
        return STARTS[self.routing] * sizes.upper / (sizes.lower * sizes.upper_dimension) ** 0.5

    def build_coupling(self, sizes: LayerSizes, dtype: Any = np.float32) -> Coupling:
        """Return the coupling that is named here, for a capsule layer of these sizes."""
        coupling = COUPLINGS[self.coupling]()
        if self.prior:
            coupling = Prior(sizes.lower, sizes.upper, coupling, dtype=dtype)
        return Stopped(coupling) if self.stopped_gradient else coupling

    def build_routing(
        self, sizes: LayerSizes, coupling: Coupling | None = None, dtype: Any = np.float32
    ) -> Routing:
        """Return the routing of a capsule layer, with a coupling of one's own or the one named here."""
        coupling = coupling or self.build_coupling(sizes, dtype)
        if self.routing == "self-attention":
            pairs = (sizes.lower, sizes.upper)
            return SelfAttentionRouting(coupling=coupling, bias_shape=pairs, dtype=dtype)
        if self.routing == "inverted-attention":
            return InvertedAttentionRouting(
                sizes.upper_dimension, iterations=self.iterations, coupling=coupling, dtype=dtype
            )
        if self.routing == "em":
            return EMRouting(
                sizes.upper,
                self.iterations,
                inverse_temperature=self.inverse_temperature,
                min_variance=MIN_VARIANCE,
                beta_u_start=-0.5 * math.log(MIN_VARIANCE),  # -ln σ of first votes, so that costs start at 0
                coupling=coupling,
                dtype=dtype,
            )
        bias_shape = (sizes.upper, sizes.upper_dimension) if self.bias else None
        return DynamicRouting(self.iterations, coupling=coupling, bias_shape=bias_shape, dtype=dtype)

    def count_routed(self, sizes: LayerSizes) -> int:
        """Return how many weights a capsule layer has, those of its routing included."""
        pairs, upper = sizes.lower * sizes.upper, sizes.upper * sizes.upper_dimension
        count = sizes.lower * sizes.lower_dimension * upper + upper * self.bias + pairs * self.prior
        of_routing = {
            "self-attention": pairs,
            "inverted-attention": 2 * sizes.upper_dimension,  # of its LayerNorm
            "em": 2 * sizes.upper,
        }
        return count + of_routing.get(self.routing, 0)

    def build_presence(self, rng: Seed = None, dtype: Any = np.float32) -> Line | Given | None:
        """Return what tells the classes beside the poses; None where the lengths of these do."""
        if self.has_line:
            return Line(self.class_dimension, rng=rng, dtype=dtype)
        return Given() if self.routing == "em" else None

    @property
    def has_line(self) -> bool:
        """Whether a learned line reads the classes off the poses."""
        return self.presence == "line" or self.routing == "inverted-attention"

    def count_params(self) -> int:
        channels, outputs = self.conv_channels, self.primary_types * self.primary_dimension
        conv_window = math.prod(as_pair("CapsNet", "conv_kernel", self.conv_kernel)) * self.image_shape[2]
        primary_window = math.prod(as_pair("CapsNet", "primary_kernel", self.primary_kernel)) * channels
        count = (conv_window + 1) * channels + (primary_window + 1) * outputs
        count += sum(map(self.count_routed, self.capsule_layers)) + self.class_dimension * self.has_line
        return count + self.count_decoder_params()
