"""What a layer holds: its own parameters, and other layers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from minicaps.arrays import Array, get_xp
from minicaps.checks import check_float

Self = TypeVar("Self", bound="Parameters")
# the attributes in which a layer holds what it holds
OWN = ("_params", "_grads", "_sublayers", "_running", "_added")


class Arrays(Mapping[str, Array]):
    """Parameters or gradients by name. They change in place; a name never gets another array."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, array: Array) -> None:
        if self._arrays.get(name) is not array:  # it is, after grads[name] += …
            raise TypeError(f"{name} is changed in place, as in layer.grads[{name!r}] += …, or [...] = …")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: {array.shape}' for name, array in self.items())}}}"


class Parameters:
    """The base of ``Layer``: whatever has parameters, and contains others that have.

    One that is assigned to an attribute, ``self.conv = Conv2d(...)``, is contained: its parameters are
    this one's too, named ``"conv.W"``. So are those in lists, tuples and dictionaries: ``"convs.0.W"``,
    ``"heads.left.W"``. What is in them is looked up each time, so they may change.
    """

    _params: dict[str, Array]
    _grads: dict[str, Array]
    _sublayers: dict[str, Any]  # what is a layer, and what can hold some
    _running: dict[str, Array]  # running sums, which follow the batches and no gradient
    _added: dict[str, Array]  # what backward has added for them since zero_grad, as it adds to _grads

    def __init__(self) -> None:
        if "_sublayers" not in self.__dict__:  # a second call, by a second base class, takes nothing away
            self.__dict__.update({name: {} for name in OWN})

    if not TYPE_CHECKING:  # or a type checker would take any attribute for granted

        def __getattr__(self, name: str) -> Any:
            """Tell that ``super().__init__()`` was forgotten, where that is why `name` is missing."""
            if name in OWN:
                where = type(self).__name__
                raise AttributeError(f"{where}: call super().__init__() first, before parameters and layers")
            return super().__getattribute__(name)  # raises the error that brought us here

    # -- what is put in ------------------------------------------------------------------------

    def add_param(self, name: str, value: Array) -> None:
        """Make a copy of `value` a parameter, with a gradient of zeros beside it.

        Raises
        ------
        TypeError
            If it is no array of float32 or float64.
        ValueError
            If there is a parameter or a layer of this name already, or a dot in it.
        """
        self._add("parameter", name, value, self._params, self._grads)

    def add_running(self, name: str, value: Array) -> None:
        """Make a copy of `value` a running sum: a state that follows the batches, and no gradient.

        It is copied, moved, saved and loaded with the parameters. ``forward`` leaves it alone; ``backward``
        adds the batch's share to ``self.added[name]``, which is cleared, and added up over processes, as
        gradients are; and ``after_step`` moves it.

        Raises
        ------
        TypeError, ValueError
            As ``add_param``.
        """
        self._add("running sum", name, value, self._running, self._added)

    def _add(
        self, what: str, name: str, value: Array, values: dict[str, Array], added: dict[str, Array]
    ) -> None:
        where = type(self).__name__
        try:
            xp = get_xp(value)
        except TypeError as error:
            raise TypeError(f"{where}: the {what} {name}: {error}") from None
        check_float(where, f"the {what} {name}", value.dtype)
        layers = [held for held, value in self._sublayers.items() if any(layers_in(held, value))]
        self._check_name(what, name, [*self._params, *self._running, *layers])
        values[name] = xp.array(value, order="C")
        added[name] = xp.zeros_like(values[name])

    def __setattr__(self, name: str, value: Any) -> None:
        """Contain `value` if it is a layer, or something that can hold some.

        Raises
        ------
        TypeError
            If it is a set that holds layers: they would have no names.
        ValueError
            If the name hides a method, is that of a parameter, or has a dot in it.
        """
        if not can_hold_layers(value):
            self.__dict__.get("_sublayers", {}).pop(name, None)
        elif name in OWN or any(layers_in(name, value)):
            self._contain(name, value)
        else:
            self._sublayers[name] = value  # empty so far
        super().__setattr__(name, value)

    def _contain(self, name: str, value: Any) -> None:
        self._check_name("layer", name, [*self._params, *self._running])
        hidden = next((vars(each)[name] for each in type(self).__mro__ if name in vars(each)), None)
        if name in OWN or callable(hidden) or isinstance(hidden, property):
            raise ValueError(
                f"{type(self).__name__}: a layer named {name!r} would hide what every such layer has under "
                "this name; give it another one"
            )
        self._sublayers[name] = value

    def _check_name(self, what: str, name: str, taken: Any) -> None:
        where = f"{type(self).__name__}: a {what} is named {name!r}"
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(
                f"{where}, expected a name without a dot: dots stand between layers, as in conv.W"
            )
        if name in taken:
            raise ValueError(f"{where}, but there is one already; give it another name")

    def __delattr__(self, name: str) -> None:
        self._sublayers.pop(name, None)
        super().__delattr__(name)

    # -- what is held --------------------------------------------------------------------------

    def sublayers(self) -> Iterator[tuple[str, Parameters]]:
        """Yield the layers directly inside this one, by name: "conv", "convs.0"."""
        for name, value in self._sublayers.items():
            if isinstance(value, Parameters):  # as most are: this is called many times in a step
                yield name, value
            else:
                yield from layers_in(name, value)

    def walk(self: Self, prefix: str = "") -> Iterator[tuple[str, Self]]:
        """Yield this layer and all layers inside it, each once, with its prefix ("conv.", "convs.0.")."""
        seen: set[int] = set()
        waiting: list[tuple[str, Any]] = [(prefix, self)]
        while waiting:
            prefix, layer = waiting.pop()
            if id(layer) not in seen:  # a layer used twice shares its weights: they count once
                seen.add(id(layer))
                yield prefix, layer
                if layer._sublayers:
                    waiting += reversed([(f"{prefix}{name}.", inside) for name, inside in layer.sublayers()])

    @property
    def params(self) -> Arrays:
        """The parameters, those of contained layers included."""
        return self._collect("_params")

    @property
    def grads(self) -> Arrays:
        """The accumulated gradients, with the keys, shapes and dtypes of `params`."""
        return self._collect("_grads")

    @property
    def running(self) -> Arrays:
        """The running sums, those of contained layers included: what is saved beside the parameters."""
        return self._collect("_running")

    @property
    def added(self) -> Arrays:
        """What backward has added for running sums, with their keys, shapes and dtypes."""
        return self._collect("_added")

    def _collect(self, which: str) -> Arrays:
        if not self._sublayers:
            return Arrays(vars(self)[which])
        arrays: dict[str, Array] = {}
        for prefix, layer in self.walk():
            for name, array in getattr(layer, which).items():
                if prefix + name in arrays:  # of keys such as 1 and "1", or "a.b" and "a"
                    raise ValueError(
                        f"{type(self).__name__}: two parameters are called {prefix + name}; give their "
                        "layers other names"
                    )
                arrays[prefix + name] = array
        return Arrays(arrays)

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
        """Set every gradient to zero, in place, and what is added for running sums."""
        for _, layer in self.walk():
            for array in (*layer._grads.values(), *layer._added.values()):
                array[...] = 0

    def count_params(self) -> int:
        """Return how many numbers the layer learns."""
        return sum(param.size for param in self.params.values())


def can_hold_layers(value: Any) -> bool:
    """Whether a value is a layer, or a collection that holds some or may come to."""
    if isinstance(value, tuple):
        return any(map(can_hold_layers, value))
    return isinstance(value, (Parameters, list, dict, set, frozenset, deque))


def layers_in(name: str, value: Any) -> Iterator[tuple[str, Parameters]]:
    """Yield the layers of nested collections with their names: "convs.0", "heads.left"."""
    if isinstance(value, Parameters):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from layers_in(f"{name}.{key}", part)
    elif isinstance(value, (list, tuple, deque)):
        for k, part in enumerate(value):
            yield from layers_in(f"{name}.{k}", part)
    elif isinstance(value, (set, frozenset)) and any(isinstance(part, Parameters) for part in value):
        raise TypeError(
            f"{name} is a {type(value).__name__} that holds layers: without an order they have no names; "
            "make it a list or a dictionary"
        )
