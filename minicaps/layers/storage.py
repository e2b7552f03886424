"""How a layer is copied, moved, saved and loaded, with all that it holds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from minicaps.arrays import Array, get_xp, resolve, to_backend, to_numpy
from minicaps.checks import check_choice, check_float
from minicaps.layers.parameters import OWN, Parameters

Self = TypeVar("Self", bound="Storage")
FULL, MIXED = PRECISIONS = "float32", "mixed"


class Storage(Parameters):
    """Parameters that can be copied, moved to another library or dtype, saved and loaded."""

    _precision = FULL  # of products with the weights
    _is_snapshot = False  # for inference
    _derived: dict[Any, Any]  # what a snapshot keeps of what follows from its parameters

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.setdefault("_derived", {})

    # -- snapshots and copies ------------------------------------------------------------------

    def for_inference(self: Self) -> Self:
        """Return a snapshot for inference: a copy that cannot be trained, and does not follow training.

        Its parameters are read-only where the library can have that (NumPy). A deep copy of a snapshot
        is no snapshot: it can be trained. A shallow one shares its arrays, and is one too.
        """
        snapshot = copy.deepcopy(self)
        for _, layer in snapshot.walk():
            layer._is_snapshot, layer._precision = True, FULL
            layer._make_read_only()
        return snapshot

    def _make_read_only(self) -> None:
        for array in (*self._params.values(), *self._running.values()):
            if get_xp(array) is np:
                array.flags.writeable = False

    def _kept(self, key: Any, source: Array, make: Callable[[], Array]) -> Array:
        """Return make(), an array derived from the parameter `source`; a snapshot for inference keeps it.

        It is made anew when another array has taken the place of `source`.
        """
        if not self._is_snapshot:
            return make()
        kept = self._derived.get(key)
        if kept is None or kept[0] is not source:
            kept = self._derived[key] = source, make()
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return what ``deepcopy`` and ``pickle`` take: what is derived and read-only stays behind."""
        return {**vars(self), "_is_snapshot": False, "_derived": {}}

    def __copy__(self: Self) -> Self:
        """Return a layer that holds the same arrays and layers, and can come to hold others."""
        other = object.__new__(type(self))
        own = {name: dict(vars(self)[name]) for name in OWN}
        other.__dict__.update({**vars(self), **own, "_derived": {}})
        return other

    def refuse_snapshot(self, where: str) -> None:
        """Raise ValueError if this layer, or one inside it, is a snapshot for inference.

        Parameters
        ----------
        where : str
            Who would change it, for the message.
        """
        for prefix, layer in self.walk():
            if layer._is_snapshot:
                what = f"{prefix.rstrip('.')} is " if prefix else ""
                raise ValueError(
                    f"{where}: {what}a snapshot for inference{' and' if prefix else ' is'} read-only; change "
                    "the network that it was taken of, and take another"
                )

    # -- memory, moving, saving and loading ----------------------------------------------------

    def use_memory(self, *, params: Array | None = None, grads: Array | None = None) -> None:
        """Make the parameters, the gradients or both views of one vector (N,), in their order.

        The numbers become those of the vector. For memory that several processes share. After the
        gradients the vector holds what is added for running sums, which is added up as they are.

        Raises
        ------
        ValueError
            If a vector has another length than there are numbers, or another dtype, or if this is a
            snapshot for inference.
        """
        layers = [layer for _, layer in self.walk()]
        if any(layer._is_snapshot for layer in layers):
            self.refuse_snapshot(f"{type(self).__name__}.use_memory")
        for vector, stores in ((params, ("_params",)), (grads, ("_grads", "_added"))):
            if vector is None:
                continue
            owners = [own for which in stores for layer in layers if (own := vars(layer)[which])]
            arrays = [(own, name, array) for own in owners for name, array in own.items()]
            count = sum(array.size for _, _, array in arrays)
            dtype = arrays[0][2].dtype if arrays else self.first_param.dtype
            if vector.shape != (count,) or vector.dtype != dtype:
                raise ValueError(
                    f"{type(self).__name__}.use_memory: got {vector.dtype} of shape {vector.shape}, expected "
                    f"{dtype} of shape ({count},)"
                )
            start = 0
            for own, name, array in arrays:
                part = vector[start : start + array.size]  # (n,), a view
                own[name] = part.reshape(array.shape)  # of the parameter's shape
                start += array.size

    def _convert(self, convert: Callable[[Array], Array]) -> None:
        """Replace this layer's own arrays, those of contained layers not included."""
        for arrays in (self._params, self._grads, self._running, self._added):
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
            If the dtype is another one, or float64 with mixed precision.
        """
        where = f"{type(self).__name__}.astype"
        check_float(where, "the result", np.dtype(dtype))
        if np.dtype(dtype) != np.float32 and any(layer.precision == MIXED for _, layer in self.walk()):
            raise TypeError(
                f"{where}: got {np.dtype(dtype)}, expected float32 with mixed precision; first "
                'set_precision("float32")'
            )
        return self._convert_all(lambda x: x.astype(dtype))

    @property
    def precision(self) -> str:
        """How it multiplies inputs and weights in training: "mixed", or "float32" (also for float64)."""
        return self._precision

    def set_precision(self: Self, precision: str) -> Self:
        """Choose how layers multiply their inputs and weights, in training, and return self.

        Parameters
        ----------
        precision : {"float32", "mixed"}
            With "mixed" the products of matrices in the fast layers (``minicaps.fast``: dense ones,
            convolutions, votes) take and give float16 numbers; they add up in float32. All else, weights
            included, stays float32, and so do snapshots for inference.

        Raises
        ------
        ValueError
            If it is neither, or if this is a snapshot for inference.
        TypeError
            If a parameter is float64 and it is "mixed".
        """
        where = f"{type(self).__name__}.set_precision"
        check_choice(where, "precision", precision, PRECISIONS)
        self.refuse_snapshot(where)
        for name, param in self.params.items():
            if precision == MIXED and param.dtype != np.float32:
                raise TypeError(f"{where}: {name} is {param.dtype}, expected float32 for mixed")
        for _, layer in self.walk():
            layer._precision = precision
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter, and of every running sum, on the host."""
        return {name: to_numpy(array).copy() for name, array in self._held().items()}

    def _held(self) -> dict[str, Array]:
        """Return what is saved and loaded, by name: the parameters and the running sums."""
        return {**self.params, **self.running}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Set every parameter and running sum, in place, from what ``state`` returned.

        Raises
        ------
        TypeError
            If it is no mapping of names to arrays of numbers. Nothing is changed then, nor below.
        ValueError
            If a name is missing or unknown, or a shape is another one, or this is a snapshot for
            inference.
        """
        held, where = self._held(), f"{type(self).__name__}.load_state"
        self.refuse_snapshot(where)
        if not isinstance(state, Mapping):
            raise TypeError(
                f"{where}: got a {type(state).__name__}, expected a mapping of names to arrays; of a list in "
                "the order of params make one with dict(zip(layer.params, arrays))"
            )
        files = " (a file of save_network is read by load_network)" if "description" in state else ""
        for word, names in (("lacks", held.keys() - state), ("has unknown", state.keys() - held.keys())):
            if names:
                raise ValueError(f"{where}: the state {word} {', '.join(sorted(map(str, names)))}{files}")
        arrays = {name: as_param(f"{where}: {name}", state[name], array) for name, array in held.items()}
        for name, array in held.items():
            array[...] = to_backend(arrays[name], get_xp(array))


def as_param(what: str, value: Any, param: Array) -> np.ndarray:
    """Return the value on the host as a parameter has it: of its dtype, after a look at its shape."""
    host = np.asarray(value)
    if host.dtype.kind not in "fiu" or isinstance(value, np.ma.MaskedArray):
        got = "masked" if isinstance(value, np.ma.MaskedArray) else f"of dtype {host.dtype}"
        raise TypeError(f"{what} is {got}, expected an array of real numbers")
    if host.shape != param.shape:
        raise ValueError(
            f"{what} has shape {host.shape}, expected {param.shape}; was the state saved from another "
            "configuration?"
        )
    return host.astype(param.dtype)
