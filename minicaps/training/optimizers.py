"""Optimizers: they update the parameters of a layer from its gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minicaps.arrays import Array, get_xp, to_backend, to_numpy
from minicaps.checks import check_number, is_alike
from minicaps.fast import parallel, slices_of
from minicaps.layers import Layer
from minicaps.training.schedules import Constant, Schedule

BLOCK = 1 << 17  # numbers updated together: what a formula makes on its way stays in the cache of a core


class Optimizer(ABC):
    """Base of the optimizers: updates the parameters of a layer, in place, from its gradients.

    Parameters
    ----------
    layer : Layer
        Whose ``params`` are updated; its ``grads`` are read, never changed.
    learning_rate : float or schedule
        The same for every step, or a function from the step number (from 0) to it.

    Attributes
    ----------
    schedule : schedule
    steps : int
        Updates made so far.

    Raises
    ------
    ValueError
        If the layer has no parameters, or is a snapshot for inference.
    """

    moments: tuple[str, ...] = ()  # names of the running averages kept for every parameter

    def __init__(self, layer: Layer, learning_rate: float | Schedule) -> None:
        layer.refuse_snapshot(type(self).__name__)
        if not layer.params:
            raise ValueError(
                f"{type(self).__name__}: {type(layer).__name__} has no parameters, so nothing to update; are "
                "its layers attributes of it, or in lists or dictionaries that are?"
            )
        self.layer = layer
        self._owners = owners_of(layer)
        self.schedule = learning_rate if callable(learning_rate) else Constant(learning_rate)
        self.steps = 0
        self.averages: dict[str, dict[str, Array]] = {
            moment: {name: get_xp(p).zeros_like(p) for name, p in layer.params.items()}
            for moment in self.moments
        }

    def step(self) -> None:
        """Update every parameter once, and let the layers move their running sums.

        Raises
        ------
        RuntimeError
            If the parameters are no longer those that the optimizer was made for. Nothing is changed then.
        """
        blocks = [block for arrays in self._arrays() for block in in_blocks(arrays)]
        blocks.sort(key=lambda block: -block[0].size)  # so that no thread is left with a large one
        learning_rate = self.schedule(self.steps)
        self.steps += 1

        def work(block: tuple[Array, ...]) -> None:
            param, grad, *averages = block
            self.update(param, grad, learning_rate, *averages)

        if get_xp(*blocks[0]) is not np:  # helper threads know nothing of the caller's GPU
            for block in blocks:
                work(block)
        else:
            parallel(work, blocks)
        for _, layer in self._owners:
            layer.after_step()

    def _arrays(self) -> Iterator[tuple[Array, ...]]:
        """Return each parameter with its gradient and its averages.

        Raise RuntimeError if layers were added or replaced, or moved to another library or dtype.
        """
        owners = owners_of(self.layer)
        names = [prefix + name for prefix, layer in owners for name in layer._params]
        params = [param for _, layer in owners for param in layer._params.values()]
        grads = [grad for _, layer in owners for grad in layer._grads.values()]
        averages = [list(arrays.values()) for arrays in self.averages.values()]
        same = owners == self._owners and all(list(arrays) == names for arrays in self.averages.values())
        if not (same and all(all(map(is_alike, params, arrays)) for arrays in averages)):
            raise RuntimeError(
                f"{type(self).__name__}.step: the parameters of {type(self.layer).__name__} are others than "
                "when the optimizer was made (a layer was added or replaced, or to() or astype() called); "
                "make it anew"
            )
        return zip(params, grads, *averages, strict=True)

    @abstractmethod
    def update(self, param: Array, grad: Array, learning_rate: float, *averages: Array) -> None:
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
            If the state is of another optimizer or network. Nothing is changed then.
        """
        own = {
            f"{moment}/{name}": array
            for moment, arrays in self.averages.items()
            for name, array in arrays.items()
        }
        if state.keys() != {"steps", *own} or any(
            np.shape(state[name]) != array.shape for name, array in own.items()
        ):
            raise ValueError(
                f"{type(self).__name__}.load_state: the state is of another optimizer or network"
            )
        for name, array in own.items():
            array[...] = to_backend(np.asarray(state[name], dtype=array.dtype), get_xp(array))
        self.steps = int(state["steps"])


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum: m ← momentum · m + g; w ← w - learning_rate · m.

    Parameters
    ----------
    layer, learning_rate
        As for Optimizer.
    momentum : float
        0 to below 1.

    Raises
    ------
    ValueError
        If `momentum` is not in its range, or the learning rate not above 0.
    """

    moments = ("m",)

    def __init__(self, layer: Layer, learning_rate: float | Schedule, *, momentum: float = 0.9) -> None:
        super().__init__(layer, learning_rate)
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum is {momentum!r}, expected 0 to below 1")
        self.momentum = momentum

    def update(self, param: Array, grad: Array, learning_rate: float, *averages: Array) -> None:
        (m,) = averages
        m *= self.momentum
        m += grad
        param -= learning_rate * m


class Adam(Optimizer):
    r"""Adam (Kingma and Ba 2015, algorithm 1).

    m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;
    w ← w - learning_rate · m̂/(√v̂ + ε)  with  m̂ = m/(1 - β₁ᵗ), v̂ = v/(1 - β₂ᵗ).

    The last line is written as at the end of the paper's section 2, the same number without two passes:
    w ← w - α m/(√v + ε √(1 - β₂ᵗ))  with  α = learning_rate √(1 - β₂ᵗ)/(1 - β₁ᵗ).

    Parameters
    ----------
    layer, learning_rate
        As for Optimizer.
    beta1, beta2 : float
        β₁ and β₂, decay of the averages, 0 to below 1.
    epsilon : float
        ε.

    Raises
    ------
    ValueError
        If a value is not in its range.

    References
    ----------
    Kingma and Ba, `Adam: a method for stochastic optimization <https://arxiv.org/abs/1412.6980>`_, 2015.
    """

    moments = ("m", "v")

    def __init__(
        self,
        layer: Layer,
        learning_rate: float | Schedule,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(layer, learning_rate)
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"Adam: beta1, beta2 are {beta1!r}, {beta2!r}, expected 0 to below 1")
        check_number("Adam", epsilon=epsilon)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def update(self, param: Array, grad: Array, learning_rate: float, *averages: Array) -> None:
        (m, v), t = averages, self.steps
        m *= self.beta1
        m += (1 - self.beta1) * grad  # m ← β₁ m + (1 - β₁) g
        v *= self.beta2
        v += (1 - self.beta2) * grad**2  # v ← β₂ v + (1 - β₂) g²
        root = (1 - self.beta2**t) ** 0.5
        alpha = learning_rate * root / (1 - self.beta1**t)
        param -= alpha * m / (get_xp(grad).sqrt(v) + self.epsilon * root)


def owners_of(layer: Layer) -> list[tuple[str, Layer]]:
    """Return the layers that have parameters or running sums of their own, with their prefixes."""
    return [(prefix, part) for prefix, part in layer.walk() if part._params or part._running]


def in_blocks(arrays: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """Slice arrays of one shape into flat views of at most BLOCK numbers.

    A formula of a dozen operations then passes a dozen times over numbers that are in the cache of a
    core. What lies on a GPU, or is not contiguous, stays whole.
    """
    if get_xp(*arrays) is not np or not all(array.flags.c_contiguous for array in arrays):
        return [arrays]
    flat = [array.reshape(-1) for array in arrays]
    return [tuple(array[k] for array in flat) for k in slices_of(flat[0].size, BLOCK)]
