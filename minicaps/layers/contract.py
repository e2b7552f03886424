"""The contract that every layer and every loss follows.

::

    y, cache = layer.forward(x)       # pure: nothing is stored on the layer
    dx = layer.backward(dy, cache)    # adds to layer.grads, returns the gradient of every input
    y = layer(x)                      # inference: forward without keeping the cache

Axis 0 is always the batch. A layer with several inputs takes ``forward(*inputs)`` and its backward
returns a tuple, with None for integer inputs; one with several outputs takes a tuple ``dy``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minicaps.arrays import Array, get_xp, resolve, to_backend, to_numpy
from minicaps.checks import check_float

AnyLayer = TypeVar("AnyLayer", bound="Layer")


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
    """

    name: str
    layer: Any
    inputs: tuple[Any, ...]
    check_forward: Callable[..., Any] | None = None


class Arrays(dict[str, Array]):
    """Parameters or gradients by name. They change in place; a name never gets another array."""

    def __setitem__(self, name: str, array: Array) -> None:
        if self.get(name) is not array:  # it is, after grads[name] += …
            raise TypeError(f"{name} is changed in place, as in layer.grads[{name!r}] += …, or [...] = …")


class Layer(ABC):
    """Base of all layers: parameters, their gradients, and the layers that this one contains.

    A layer that is assigned to an attribute, ``self.conv = Conv2d(...)``, is contained: its parameters
    are this layer's too, named ``"conv.W"``.

    Attributes
    ----------
    params : dict of str to array
        The parameters, those of contained layers included.
    grads : dict of str to array
        The accumulated gradients, with the keys, shapes and dtypes of `params`.

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

    def __init__(self) -> None:
        self._params: dict[str, Array] = {}
        self._grads: dict[str, Array] = {}
        self._sublayers: dict[str, Layer] = {}
        self._frozen = False
        self._derived: dict[Any, Any] = {}  # of a snapshot for inference, see _kept

    @abstractmethod
    def forward(self, *inputs: Any, **options: Any) -> tuple[Any, Any]:
        """Return the output and the cache that ``backward`` needs."""

    @abstractmethod
    def backward(self, dy: Any, cache: Any) -> Any:
        """Add to ``grads`` and return the gradient of every input."""

    def backward_params(self, dy: Any, cache: Any) -> None:
        """As ``backward``, where nobody asks for the gradient of the inputs: for a first layer."""
        self.backward(dy, cache)

    def __call__(self, *inputs: Any) -> Any:
        """Return the output alone."""
        return self.forward(*inputs)[0]

    # -- parameters and contained layers -------------------------------------------------------

    def add_param(self, name: str, value: Array) -> None:
        """Make `value` a parameter, with a gradient of zeros beside it.

        Raises
        ------
        TypeError
            If it is no array of float32 or float64.
        """
        xp = get_xp(value)
        check_float(type(self).__name__, f"the parameter {name}", value.dtype)
        self._params[name] = value
        self._grads[name] = xp.zeros_like(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Layer):
            if "_sublayers" not in self.__dict__:
                raise AttributeError(
                    f"{type(self).__name__}: self.{name} is a layer, assigned before super().__init__() "
                    "was called; call that first"
                )
            self._sublayers[name] = value
        elif not name.startswith("_"):
            self._sublayers.pop(name, None)
        super().__setattr__(name, value)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield this layer and all layers inside it, each once, with its prefix ("conv.")."""
        seen: set[int] = set()
        waiting = [(prefix, self)]
        while waiting:
            prefix, layer = waiting.pop()
            if id(layer) not in seen:  # a layer used twice shares its weights: they count once
                seen.add(id(layer))
                yield prefix, layer
                inside = [(f"{prefix}{name}.", sublayer) for name, sublayer in layer._sublayers.items()]
                waiting += reversed(inside)

    @property
    def params(self) -> Arrays:
        return self._collect("_params")

    @property
    def grads(self) -> Arrays:
        return self._collect("_grads")

    def _collect(self, which: str) -> Arrays:
        if not self._sublayers:
            return Arrays(vars(self)[which])
        return Arrays(
            (prefix + name, array)
            for prefix, layer in self.walk()
            for name, array in vars(layer)[which].items()
        )

    @property
    def first_param(self) -> Array:
        """The first parameter, which stands for all where their library or dtype is asked for.

        Raises
        ------
        ValueError
            If there is none.
        """
        for _, layer in self.walk():
            for param in layer._params.values():
                return param
        raise ValueError(f"{type(self).__name__}: has no parameters")

    @property
    def xp(self) -> Any:
        """The array library, numpy or cupy, that holds the parameters."""
        return get_xp(self.first_param)

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        for _, layer in self.walk():
            for grad in layer._grads.values():
                grad[...] = 0

    def count_params(self) -> int:
        """Return how many numbers the layer learns."""
        return sum(param.size for param in self.params.values())

    # -- memory, moving, saving and loading ----------------------------------------------------

    def use_memory(self, *, params: Array | None = None, grads: Array | None = None) -> None:
        """Make the parameters, the gradients or both views of one vector (N,), in their order.

        The numbers become those of the vector. For memory that several processes share.
        """
        for vector, which in ((params, "_params"), (grads, "_grads")):
            if vector is not None:
                start = 0
                for _, layer in self.walk():
                    own = vars(layer)[which]
                    for name, array in own.items():
                        own[name] = vector[start : start + array.size].reshape(array.shape)
                        start += array.size

    def for_inference(self: AnyLayer) -> AnyLayer:
        """Return a snapshot for inference: a copy that cannot be trained, and does not follow training.

        Its parameters are read-only where the library can have that (NumPy).
        """
        snapshot = copy.deepcopy(self)
        for _, layer in snapshot.walk():
            layer._frozen = True
            for param in layer._params.values():
                if get_xp(param) is np:
                    param.flags.writeable = False
        return snapshot

    def _kept(self, key: Any, make: Callable[[], Array]) -> Array:
        """Return make(), an array derived from the parameters; a snapshot for inference keeps it."""
        if not self._frozen:
            return make()
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def _replace_arrays(self: AnyLayer, convert: Callable[[Array], Array]) -> AnyLayer:
        for _, layer in self.walk():
            layer._derived.clear()
            for arrays in (layer._params, layer._grads):
                for name, array in arrays.items():
                    arrays[name] = convert(array)
        return self

    def to(self: AnyLayer, backend: str | Any) -> AnyLayer:
        """Move the parameters to "numpy", "cupy" or "auto" (or to a library), and return self."""
        xp = resolve(backend) if isinstance(backend, str) else backend
        return self._replace_arrays(lambda x: to_backend(x, xp))

    def astype(self: AnyLayer, dtype: Any) -> AnyLayer:
        """Convert the parameters to float32 or float64, and return self."""
        check_float(f"{type(self).__name__}.astype", "the result", np.dtype(dtype))
        return self._replace_arrays(lambda x: x.astype(dtype))

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter, on the host."""
        return {name: to_numpy(param).copy() for name, param in self.params.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Set every parameter, in place, from what ``state`` returned.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape is another one. Nothing is changed then.
        """
        params, where = self.params, f"{type(self).__name__}.load_state"
        for word, names in (("lacks", params.keys() - state), ("has unknown", state - params.keys())):
            if names:
                raise ValueError(f"{where}: the state {word} {', '.join(sorted(names))}")
        for name, param in params.items():
            if np.shape(state[name]) != param.shape:
                raise ValueError(
                    f"{where}: {name} has shape {np.shape(state[name])}, expected {param.shape}; "
                    "was the state saved from another configuration?"
                )
        for name, param in params.items():
            host = np.asarray(state[name], dtype=param.dtype)
            param[...] = to_backend(host, get_xp(param))


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

    def __call__(self, prediction: Any, target: Any) -> Array:
        """Return the loss alone."""
        return self.forward(prediction, target)[0]
