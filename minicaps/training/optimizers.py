"""Optimisers, and schedules of the learning rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps.arrays import Array, get_xp, to_backend, to_numpy
from minicaps.checks import check_number, check_whole
from minicaps.fast import parallel, slices_of
from minicaps.layers import Layer

BLOCK = 1 << 17  # numbers updated together; four arrays of 512 KB in float32
Schedule = Callable[[int], float]  # step number, from 0 -> learning rate


def _warm(step: int, warmup: int) -> float:
    """Return the factor of a linear warm-up, (step + 1)/warmup up to 1."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def _check_rate(place: str, rate: float, warmup: int) -> None:
    check_number(place, rate=rate)
    if rate == 0:
        raise ValueError(f"{place}: rate is {rate!r}, expected a number above 0")
    check_whole(place, 0, warmup=warmup)


@dataclass(frozen=True)
class Constant:
    """The same rate at every step, after `warmup` steps of linear increase."""

    rate: float
    warmup: int = 0

    def __post_init__(self) -> None:
        _check_rate("Constant", self.rate, self.warmup)

    def __call__(self, step: int) -> float:
        return self.rate * _warm(step, self.warmup)


@dataclass(frozen=True)
class Exponential:
    """max(floor, rate · decay^(step/every)), after `warmup` steps of linear increase.

    The defaults of `decay`, `every` and `floor` are those of the paper's authors.
    """

    rate: float
    warmup: int = 0
    decay: float = 0.96
    every: int = 2000
    floor: float = 1e-6

    def __post_init__(self) -> None:
        _check_rate("Exponential", self.rate, self.warmup)
        if not 0 < self.decay <= 1 or self.every < 1:
            raise ValueError(
                f"Exponential: decay is {self.decay!r} every {self.every!r} steps, expected a decay "
                "above 0 and up to 1, every 1 step or more"
            )

    def __call__(self, step: int) -> float:
        decayed = max(self.floor, self.rate * self.decay ** (step / self.every))
        return decayed * _warm(step, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `rate` down to `floor` at step `steps`, after a linear `warmup`."""

    rate: float
    steps: int
    warmup: int = 0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        _check_rate("Cosine", self.rate, self.warmup)
        if self.steps < 1:
            raise ValueError(f"Cosine: steps is {self.steps!r}, expected 1 or more")

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * _warm(step, self.warmup)
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        floor = min(self.floor, self.rate)
        return floor + (self.rate - floor) * 0.5 * (1 + math.cos(math.pi * done))


class Optimizer(ABC):
    """Base of the optimisers: updates the parameters of a layer, in place, from its gradients.

    Parameters
    ----------
    layer : Layer
        Whose ``params`` are updated; its ``grads`` are read, never changed.
    rate : float or schedule
        The learning rate, or a function from the step number (from 0) to it.

    Attributes
    ----------
    steps : int
        Updates made so far.
    """

    moments: tuple[str, ...] = ()  # names of the running averages kept for every parameter

    def __init__(self, layer: Layer, rate: float | Schedule) -> None:
        self.layer = layer
        self.schedule = rate if callable(rate) else Constant(rate)
        self.steps = 0
        self.averages: dict[str, dict[str, Array]] = {
            moment: {name: get_xp(p).zeros_like(p) for name, p in layer.params.items()}
            for moment in self.moments
        }

    def step(self) -> None:
        """Update every parameter once."""
        rate = self.schedule(self.steps)
        self.steps += 1
        grads = self.layer.grads
        blocks = []
        for name, param in self.layer.params.items():
            arrays = (param, grads[name], *(self.averages[moment][name] for moment in self.moments))
            blocks += in_blocks(arrays)

        def work(block: tuple[Array, ...]) -> None:
            param, grad, *averages = block
            self.update(param, grad, rate, *averages)

        if blocks and get_xp(*blocks[0]) is not np:  # helper threads know nothing of the caller's GPU
            for block in blocks:
                work(block)
        else:
            parallel(work, blocks)

    @abstractmethod
    def update(self, param: Array, grad: Array, rate: float, *averages: Array) -> None:
        """Update a parameter, or a block of one, and its averages, in place: element by element."""

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of everything that changes from step to step, on the host."""
        state = {"steps": np.array(self.steps)}
        for moment, arrays in self.averages.items():
            state |= {f"{moment}/{name}": to_numpy(array).copy() for name, array in arrays.items()}
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state`` returned.

        Raises
        ------
        ValueError
            If the state is of another optimiser or network. Nothing is changed then.
        """
        own = {f"{moment}/{name}": array for moment, arrays in self.averages.items()
               for name, array in arrays.items()}  # fmt: skip
        if state.keys() != {"steps", *own} or any(
            np.shape(state[name]) != array.shape for name, array in own.items()
        ):
            raise ValueError(
                f"{type(self).__name__}.load_state: the state is of another optimiser or network"
            )
        for name, array in own.items():
            array[...] = to_backend(np.asarray(state[name], dtype=array.dtype), get_xp(array))
        self.steps = int(state["steps"])


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum: m ← momentum · m + dw; w ← w - rate · m.

    Parameters
    ----------
    layer, rate
        As for Optimizer.
    momentum : float
        0 to below 1.
    """

    moments = ("m",)

    def __init__(self, layer: Layer, rate: float | Schedule, *, momentum: float = 0.9) -> None:
        super().__init__(layer, rate)
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum is {momentum!r}, expected 0 to below 1")
        self.momentum = momentum

    def update(self, param: Array, grad: Array, rate: float, *averages: Array) -> None:
        (m,) = averages
        m *= self.momentum
        m += grad
        param -= rate * m


class Adam(Optimizer):
    r"""Adam (Kingma and Ba 2015, algorithm 1).

    m ← β₁ m + (1 - β₁) dw;  v ← β₂ v + (1 - β₂) dw²;
    w ← w - rate · m̂/(√v̂ + ε)  with  m̂ = m/(1 - β₁ᵗ), v̂ = v/(1 - β₂ᵗ).

    Parameters
    ----------
    layer, rate
        As for Optimizer.
    beta1, beta2 : float
        Decay of the averages, 0 to below 1.
    epsilon : float
    """

    moments = ("m", "v")

    def __init__(
        self,
        layer: Layer,
        rate: float | Schedule,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(layer, rate)
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"Adam: beta1, beta2 are {beta1!r}, {beta2!r}, expected 0 to below 1")
        check_number("Adam", epsilon=epsilon)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def update(self, param: Array, grad: Array, rate: float, *averages: Array) -> None:
        m, v = averages
        xp, scratch = get_xp(grad), (1 - self.beta1) * grad  # every line is one pass, in the cache
        m *= self.beta1
        m += scratch
        xp.multiply(grad, grad, out=scratch)
        scratch *= 1 - self.beta2
        v *= self.beta2
        v += scratch
        # m̂ and v̂ in terms of m and v: the corrections are numbers, so they cost no pass
        correct_m, correct_v = 1 - self.beta1**self.steps, (1 - self.beta2**self.steps) ** 0.5
        xp.sqrt(v, out=scratch)
        scratch += self.epsilon * correct_v
        xp.divide(m, scratch, out=scratch)
        scratch *= rate * correct_v / correct_m
        param -= scratch


def in_blocks(arrays: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """Cut arrays of one shape into flat views of at most BLOCK numbers.

    A formula of ten steps then passes ten times over numbers that are in the cache of a core. What
    lies on a GPU, or not in one piece, stays whole.
    """
    if get_xp(*arrays) is not np or not all(array.flags.c_contiguous for array in arrays):
        return [arrays]
    flat = [array.reshape(-1) for array in arrays]
    return [tuple(array[k] for array in flat) for k in slices_of(flat[0].size, BLOCK)]
