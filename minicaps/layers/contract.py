"""The layer contract that every component follows.

::

    y, cache = layer.forward(x)       # pure: nothing is stored on the layer
    dx = layer.backward(dy, cache)    # adds to layer.grads, returns the gradient of every input
    y = layer(x)                      # inference: forward without keeping the cache

Axis 0 is always the batch. A layer with several inputs takes ``forward(*inputs)`` and its backward
returns a tuple, with None for integer inputs; one with several outputs takes a tuple ``dy``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array, get_xp, to_backend, to_numpy
from minicaps.checks import check_float


class Example(NamedTuple):
    """A small layer with inputs for it, as ``Layer.examples`` yields them for the tests."""

    name: str
    layer: Any  # a Layer or a Loss
    inputs: tuple
    check_forward: Callable | None = None  # what finite differences look at, if not layer.forward


class Layer(ABC):
    """Base of all layers: parameters, their gradients, and the layers that this one contains.

    Attributes
    ----------
    params : mapping of str to array
        The parameters. Those of a contained layer are named ``"sublayer.parameter"``.
    grads : mapping of str to array
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

    @abstractmethod
    def forward(self, *inputs: Array) -> tuple[Any, Any]:
        """Return the output and the cache that ``backward`` needs."""

    @abstractmethod
    def backward(self, dy: Any, cache: Any) -> Any:
        """Add to ``grads`` and return the gradient of every input."""

    def backward_params(self, dy: Any, cache: Any) -> None:
        """As ``backward``, where nobody asks for the gradient of the inputs: for a first layer."""
        self.backward(dy, cache)

    def __call__(self, *inputs: Array) -> Any:
        """Return the output alone."""
        return self.forward(*inputs)[0]

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        """Yield small instances with inputs, at least one for every option that the class has."""
        raise TypeError(f"{cls.__name__} has no examples, so no test can reach it; write them")

    # -- parameters ----------------------------------------------------------------------------

    def add_param(self, name: str, value: Array) -> None:
        """Make `value` a parameter, with a gradient of zeros beside it.

        Raises
        ------
        TypeError
            If it is no array of float32 or float64.
        """
        get_xp(value)
        check_float(type(self).__name__, f"the parameter {name}", value.dtype)
        self._params[name] = value
        self._grads[name] = get_xp(value).zeros_like(value)

    def add_sublayers(self, **sublayers: Layer) -> None:
        """Contain layers: each becomes an attribute, its parameters become ``name.parameter``."""
        for name, layer in sublayers.items():
            setattr(self, name, layer)
            self._sublayers[name] = layer

    def stages(self) -> list[tuple[str, Layer]]:
        """Return the layers directly inside this one by name, in order."""
        return list(self._sublayers.items())

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield this layer and all layers inside it, each once, with its prefix."""
        seen: set[int] = set()
        for name, layer in self._leaves(prefix):
            if id(layer) not in seen:  # a layer used twice shares its weights: they count once
                seen.add(id(layer))
                yield name, layer

    def _leaves(self, prefix: str) -> Iterator[tuple[str, Layer]]:
        yield prefix, self
        for name, layer in self._sublayers.items():
            yield from layer._leaves(f"{prefix}{name}.")

    @property
    def params(self) -> Mapping[str, Array]:
        return self._collect("_params")

    @property
    def grads(self) -> Mapping[str, Array]:
        return self._collect("_grads")

    def _collect(self, attribute: str) -> Mapping[str, Array]:
        if not self._sublayers:
            return getattr(self, attribute)
        return MappingProxyType(
            {
                prefix + key: value
                for prefix, layer in self.leaves()
                for key, value in getattr(layer, attribute).items()
            }
        )

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        for grad in self.grads.values():
            grad[...] = 0

    def count_params(self) -> int:
        """Return how many numbers the layer learns."""
        return sum(param.size for param in self.params.values())

    def freeze(self) -> Layer:
        """Make the parameters read-only, where the library can (NumPy), and return self.

        For snapshots that hold another form of their weights, which would not follow a change.
        """
        for param in self.params.values():
            if get_xp(param) is np:
                param.flags.writeable = False
        return self

    # -- moving, saving and loading ------------------------------------------------------------

    def _replace_arrays(self, convert: Callable[[Array], Array]) -> Layer:
        for _, layer in self.leaves():
            for arrays in (layer._params, layer._grads):
                for key, value in arrays.items():
                    arrays[key] = convert(value)
        return self

    def to(self, backend: str | Any) -> Layer:
        """Move the parameters to "numpy", "cupy" or "auto" (or to a library), and return self."""
        from minicaps.arrays import resolve

        xp = resolve(backend) if isinstance(backend, str) else backend
        return self._replace_arrays(lambda x: to_backend(x, xp))

    def astype(self, dtype: Any) -> Layer:
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
        params = self.params
        for word, names in (("lacks", params.keys() - state), ("has unknown", state - params.keys())):
            if names:
                raise ValueError(f"{type(self).__name__}.load_state: the state {word} "
                                 f"{', '.join(sorted(names))}")  # fmt: skip
        for name, param in params.items():
            if np.shape(state[name]) != param.shape:
                raise ValueError(
                    f"{type(self).__name__}.load_state: {name} has shape {np.shape(state[name])}, "
                    f"expected {param.shape}; was the state saved from another configuration?"
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

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        """Yield small instances with (prediction, target), one at least for every option."""
        raise TypeError(f"{cls.__name__} has no examples, so no test can reach it; write them")


class Sequential(Layer):
    """Layers one after another: y = f_n(… f_2(f_1(x))).

    Gradient (chain rule): dx = f_1'ᵀ(… f_n'ᵀ dy), so backward walks the layers in reverse.

    Parameters
    ----------
    **layers : Layer
        In order; the keyword is the layer's name, as in ``Sequential(fc=Dense(3, 2), relu=ReLU())``.
    """

    def __init__(self, **layers: Layer) -> None:
        super().__init__()
        if not layers:
            raise ValueError("Sequential: got no layers, expected at least one, as in fc=Dense(3, 2)")
        self.add_sublayers(**layers)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._sublayers.values())

    def forward(self, x: Array) -> tuple[Array, list]:
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x)
            caches.append(cache)
        return x, caches

    def backward(self, dy: Array, cache: list) -> Array:
        dy = self._backward_to_first(dy, cache)
        return self.layers[0].backward(dy, cache[0])

    def backward_params(self, dy: Array, cache: list) -> None:
        dy = self._backward_to_first(dy, cache)
        self.layers[0].backward_params(dy, cache[0])

    def _backward_to_first(self, dy: Array, cache: list) -> Array:
        for layer, layer_cache in zip(self.layers[:0:-1], cache[:0:-1], strict=True):
            dy = layer.backward(dy, layer_cache)
        return dy

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x

    @classmethod
    def examples(cls, rng: np.random.Generator, dtype: Any) -> Iterator[Example]:
        from minicaps.layers.dense import Dense, Sigmoid

        x = rng.normal(size=(3, 5)).astype(dtype)
        chain = cls(fc1=Dense(5, 4, rng=rng, dtype=dtype), sigmoid=Sigmoid(),
                    fc2=Dense(4, 2, rng=rng, dtype=dtype))  # fmt: skip
        yield Example("chain", chain, (x,))
        shared = Dense(5, 5, rng=rng, dtype=dtype)
        yield Example("shared weights", cls(a=shared, sigmoid=Sigmoid(), b=shared), (x,))
