"""The contract that every layer and every loss follows.

::

    y, cache = layer.forward(x)       # pure: nothing is stored on the layer
    dx = layer.backward(dy, cache)    # adds to layer.grads, returns the gradient of every input
    y = layer(x)                      # inference: forward without keeping the cache

Axis 0 is always the batch. A layer with several inputs takes ``forward(*inputs)`` and its backward
returns a tuple, with None for integer inputs; one with several outputs takes a tuple ``dy``.

What a layer learns without a gradient are running sums (``add_running``): backward adds to
``layer.added`` what the batch has for them, and ``after_step`` moves them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from minicaps.arrays import Array
from minicaps.layers.storage import Storage


class Example(NamedTuple):
    """A small layer with inputs for it: what the proof is run on.

    Attributes
    ----------
    name : str
    layer : Layer or Loss
    inputs : tuple
        The arguments of ``forward``.
    check_forward : callable, optional
        What finite differences look at, if not ``layer.forward``: for a backward that is meant to be
        the gradient of something else, such as stopped gradients.
    zero_gradient : bool
        Whether the gradient is 0 on purpose; elsewhere 0 against 0 proves nothing.
    """

    name: str
    layer: Any
    inputs: tuple[Any, ...]
    check_forward: Callable[..., Any] | None = None
    zero_gradient: bool = False


class Layer(Storage, ABC):
    """Base of all layers: parameters, their gradients, and the layers that this one contains.

    A layer that is assigned to an attribute, ``self.conv = Conv2d(...)``, is contained: its parameters
    are this layer's too, named ``"conv.W"``. So are those in lists, tuples and dictionaries, however
    nested: ``self.convs = [Conv2d(...), Conv2d(...)]`` holds ``"convs.0.W"``.

    An output may share memory with the inputs or the cache (that of ``Reshape`` does): nobody changes
    them in place.

    Attributes
    ----------
    params : mapping of str to array
        The parameters, those of contained layers included. They change in place only.
    grads : mapping of str to array
        The accumulated gradients, with the keys, shapes and dtypes of `params`.
    mixes_samples : bool
        Whether ``forward`` lets the samples of a batch act on each other, as ``BatchNorm`` does. The call
        and snapshots for inference never do: they answer for each sample alone.

    Examples
    --------
    A layer of your own, with one parameter, and its proof:

    >>> import numpy as np
    >>> from minicaps import Layer, gradcheck
    >>> class Scale(Layer):
    ...     def __init__(self, a):
    ...         super().__init__()
    ...         self.add_param("a", a)
    ...     def forward(self, x):
    ...         return self.params["a"] * x, x
    ...     def backward(self, dy, x):
    ...         self.grads["a"] += (dy * x).sum(axis=0)
    ...         return self.params["a"] * dy
    >>> gradcheck(Scale(np.array([2.0, 3.0])), [np.array([[1.0, -1.0], [0.5, 2.0]])]).ok
    True
    """

    mixes_samples: ClassVar[bool] = False

    @abstractmethod
    def forward(self, *inputs: Any, **options: Any) -> tuple[Any, Any]:
        """Return the output and the cache that ``backward`` needs."""

    @abstractmethod
    def backward(self, dy: Any, cache: Any) -> Any:
        """Add to ``grads`` and return the gradient of every input."""

    def backward_params(self, dy: Any, cache: Any) -> None:
        """As ``backward``, where nobody asks for the gradient of the inputs: for a first layer."""
        self.backward(dy, cache)

    def after_step(self) -> None:
        """Move the running sums: an optimizer calls it once it has updated the layer's parameters."""

    def __call__(self, *inputs: Any) -> Any:
        """Return the output alone; where samples act on each other, as a snapshot for inference gives it."""
        mixes = not self._is_snapshot and any(layer.mixes_samples for _, layer in self.walk())
        return (self.for_inference() if mixes else self).forward(*inputs)[0]


class Loss(ABC):
    """Base of all losses: the mean over the batch of a sum over each sample.

    ``loss, cache = L.forward(prediction, target)`` and ``dprediction = L.backward(cache)``. A loss
    of several predictions takes tuples and returns a tuple.
    """

    @abstractmethod
    def forward(self, prediction: Any, target: Any) -> tuple[Array, Any]:
        """Return the loss, a scalar array, and the cache that ``backward`` needs."""

    @abstractmethod
    def backward(self, cache: Any) -> Any:
        """Return the gradient of the prediction."""

    def at(self, done: float) -> Loss:
        """Return the loss to train with when so much of the training is done, 0 to 1: by default this one.

        A loss that changes in the course of a training returns another one; it does not change itself.
        """
        return self

    def __call__(self, prediction: Any, target: Any) -> Array:
        """Return the loss alone."""
        return self.forward(prediction, target)[0]
