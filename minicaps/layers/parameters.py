"""What a layer holds, parameters and other layers, and how it is moved and saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from minicaps.arrays import Array, get_xp, resolve, to_backend, to_numpy
from minicaps.checks import check_float

Self = TypeVar("Self", bound="Parameters")


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
    this one's too, named ``"conv.W"``.
    """

    def __init__(self) -> None:
        self._params: dict[str, Array] = {}
        self._grads: dict[str, Array] = {}
        self._sublayers: dict[str, Parameters] = {}
        self._is_snapshot = False
        self._derived: dict[Any, Any] = {}  # of a snapshot for inference, see _kept

    # -- parameters and contained layers -------------------------------------------------------

    def add_param(self, name: str, value: Array) -> None:
        """Make a copy of `value` a parameter, with a gradient of zeros beside it.

        Raises
        ------
        TypeError
            If it is no array of float32 or float64.
        """
        xp = get_xp(value)
        check_float(type(self).__name__, f"the parameter {name}", value.dtype)
        self._params[name] = value.copy()
        self._grads[name] = xp.zeros_like(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameters):
            if "_sublayers" not in self.__dict__:
                raise AttributeError(
                    f"{type(self).__name__}: self.{name} is a layer, assigned before super().__init__() "
                    "was called; call that first"
                )
            self._sublayers[name] = value
        elif "_sublayers" in self.__dict__:
            self._refuse_collection(name, value)
            self._sublayers.pop(name, None)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._sublayers.pop(name, None)
        super().__delattr__(name)

    def _refuse_collection(self, name: str, value: Any) -> None:
        """Raise TypeError for a list, tuple or dict of layers, whose parameters would go unnoticed."""
        members = value.values() if isinstance(value, dict) else value
        if isinstance(value, (list, tuple, dict)) and name != "_sublayers":
            if any(isinstance(member, Parameters) for member in members):
                raise TypeError(
                    f"{type(self).__name__}: self.{name} is a {type(value).__name__} that holds layers, "
                    "whose parameters nobody would find; assign each to an attribute of its own, or put "
                    "them into a Sequential"
                )

    def walk(self: Self, prefix: str = "") -> Iterator[tuple[str, Self]]:
        """Yield this layer and all layers inside it, each once, with its prefix ("conv.")."""
        seen: set[int] = set()
        waiting: list[tuple[str, Any]] = [(prefix, self)]
        while waiting:
            prefix, layer = waiting.pop()
            if id(layer) not in seen:  # a layer used twice shares its weights: they count once
                seen.add(id(layer))
                yield prefix, layer
                if layer._sublayers:
                    inside = [(f"{prefix}{name}.", sublayer) for name, sublayer in layer._sublayers.items()]
                    waiting += reversed(inside)

    @property
    def params(self) -> Arrays:
        """The parameters, those of contained layers included."""
        return self._collect("_params")

    @property
    def grads(self) -> Arrays:
        """The accumulated gradients, with the keys, shapes and dtypes of `params`."""
        return self._collect("_grads")

    def _collect(self, which: str) -> Arrays:
        if not self._sublayers:
            return Arrays(vars(self)[which])
        return Arrays(
            {
                prefix + name: array
                for prefix, layer in self.walk()
                for name, array in vars(layer)[which].items()
            }
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

    # -- snapshots and copies ------------------------------------------------------------------

    def for_inference(self: Self) -> Self:
        """Return a snapshot for inference: a copy that cannot be trained, and does not follow training.

        Its parameters are read-only where the library can have that (NumPy). A copy of a snapshot is no
        snapshot: it can be trained.
        """
        snapshot = copy.deepcopy(self)
        for _, layer in snapshot.walk():
            layer._is_snapshot = True
            layer._make_read_only()
        return snapshot

    def _make_read_only(self) -> None:
        for param in self._params.values():
            if get_xp(param) is np:
                param.flags.writeable = False

    def _kept(self, key: Any, make: Callable[[], Array]) -> Array:
        """Return make(), an array derived from the parameters; a snapshot for inference keeps it."""
        if not self._is_snapshot:
            return make()
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return what ``copy`` and ``pickle`` take: what is derived and read-only stays behind."""
        own = {name: dict(vars(self)[name]) for name in ("_params", "_grads", "_sublayers")}
        return {**vars(self), **own, "_is_snapshot": False, "_derived": {}}

    def _refuse_snapshot(self, method: str) -> None:
        if self._is_snapshot:
            raise ValueError(
                f"{type(self).__name__}.{method}: a snapshot for inference is read-only; change the network "
                "that it was taken of, and take another"
            )

    # -- memory, moving, saving and loading ----------------------------------------------------

    def use_memory(self, *, params: Array | None = None, grads: Array | None = None) -> None:
        """Make the parameters, the gradients or both views of one vector (N,), in their order.

        The numbers become those of the vector. For memory that several processes share.

        Raises
        ------
        ValueError
            If a vector has another length than there are parameters, or another dtype.
        """
        self._refuse_snapshot("use_memory")
        for vector, which in ((params, "_params"), (grads, "_grads")):
            if vector is None:
                continue
            owners = [own for _, layer in self.walk() if (own := vars(layer)[which])]
            arrays = [(own, name, array) for own in owners for name, array in own.items()]
            count, dtype = sum(array.size for _, _, array in arrays), arrays[0][2].dtype
            if vector.shape != (count,) or vector.dtype != dtype:
                raise ValueError(
                    f"{type(self).__name__}.use_memory: got {vector.dtype} of shape {vector.shape}, expected "
                    f"{dtype} of shape ({count},)"
                )
            start = 0
            for own, name, array in arrays:
                own[name] = vector[start : start + array.size].reshape(array.shape)
                start += array.size

    def _convert(self, convert: Callable[[Array], Array]) -> None:
        """Replace this layer's own arrays, those of contained layers not included."""
        for arrays in (self._params, self._grads):
            for name, array in arrays.items():
                arrays[name] = convert(array)
        self._derived.clear()
        if self._is_snapshot:
            self._make_read_only()

    def _convert_all(self: Self, convert: Callable[[Array], Array]) -> Self:
        for _, layer in self.walk():
            layer._convert(convert)
        return self

    def to(self: Self, backend: str | Any) -> Self:
        """Move the parameters to "numpy", "cupy" or "auto" (or to a library), and return self.

        They become other arrays: make optimizers afterwards.

        Raises
        ------
        ValueError
            If the name is none of the three.
        RuntimeError
            If "cupy" is asked for and CuPy is missing or sees no device.
        """
        xp = resolve(backend) if isinstance(backend, str) else backend
        return self._convert_all(lambda x: to_backend(x, xp))

    def astype(self: Self, dtype: Any) -> Self:
        """Convert the parameters to float32 or float64, and return self.

        They become other arrays: make optimizers afterwards.

        Raises
        ------
        TypeError
            If the dtype is another one.
        """
        check_float(f"{type(self).__name__}.astype", "the result", np.dtype(dtype))
        return self._convert_all(lambda x: x.astype(dtype))

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter, on the host."""
        return {name: to_numpy(param).copy() for name, param in self.params.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Set every parameter, in place, from what ``state`` returned.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape is another one, or this is a snapshot for
            inference. Nothing is changed then.
        """
        self._refuse_snapshot("load_state")
        params, where = self.params, f"{type(self).__name__}.load_state"
        for word, names in (("lacks", params.keys() - state), ("has unknown", state.keys() - params.keys())):
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
