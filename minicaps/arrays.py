"""The array switch: the arrays decide whether NumPy or CuPy does the work.

This is the only file that imports CuPy. Layers write ``xp = get_xp(x)`` and then use ``xp`` where
they would have used ``np``. Random numbers are always drawn on the host, so one seed gives the
same weights on every backend.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]  # or a CuPy array, which has the same methods

_LIBRARIES: dict[type, Any] = {np.ndarray: np, np.memmap: np}  # array type -> the library that made it


def register(array_type: type, library: Any) -> None:
    """Make ``get_xp`` answer `library` for arrays of type `array_type`."""
    _LIBRARIES[array_type] = library


def _library_of(x: Any) -> Any:
    library = _LIBRARIES.get(type(x))
    if library is not None:
        return library
    if isinstance(x, np.generic):  # a scalar
        return np
    if isinstance(x, np.ndarray):  # * is a matrix product in numpy.matrix, and a MaskedArray skips numbers
        raise TypeError(
            f"got a {type(x).__name__}, whose operators can mean something else than those of a plain array; "
            "make it one first, with numpy.asarray(x), or x.filled(...) of a masked one"
        )
    if type(x).__module__.split(".")[0] == "cupy":
        register(type(x), sys.modules["cupy"])
        return sys.modules["cupy"]
    raise TypeError(
        f"expected a NumPy or CuPy array, got {type(x).__name__}; "
        "make it one first, for example numpy.asarray(x, dtype=numpy.float32)"
    )


def get_xp(*arrays: Array) -> Any:
    """Return the library, ``numpy`` or ``cupy``, that all `arrays` belong to.

    Parameters
    ----------
    *arrays : arrays

    Raises
    ------
    TypeError
        If an argument is no array, or if the arrays belong to different libraries.
    """
    library = None
    for x in arrays:
        found = _LIBRARIES.get(type(x)) or _library_of(x)  # as nearly always, the first answers
        if library is not None and found is not library:
            raise TypeError(
                f"arrays of {library.__name__} and {found.__name__} are mixed; move the network with "
                "network.to(...) and the data with minicaps.arrays.to_backend(x, xp)"
            )
        library = found
    if library is None:
        raise TypeError("expected at least one NumPy or CuPy array, got none")
    return library


def resolve(name: str) -> Any:
    """Turn a backend's name into its library.

    Parameters
    ----------
    name : {"numpy", "cupy", "auto"}
        "auto" is CuPy where it is installed and sees a device, else NumPy.

    Raises
    ------
    ValueError
        If the name is none of the three.
    RuntimeError
        If "cupy" is asked for and CuPy is missing or sees no device.
    """
    if name == "numpy":
        return np
    if name not in ("cupy", "auto"):
        raise ValueError(f"backend is {name!r}, expected 'numpy', 'cupy' or 'auto'")
    try:
        return _cupy_with_a_device()
    except RuntimeError:
        if name == "auto":
            return np
        raise


def _cupy_with_a_device() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            f"backend 'cupy' needs CuPy ({error}); install it with: pip install 'minicaps[gpu]'"
        ) from None
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"backend 'cupy': CuPy finds no usable GPU ({error})") from None
    if devices == 0:
        raise RuntimeError("backend 'cupy': CuPy finds no GPU")
    return cupy


def to_numpy(x: Array) -> np.ndarray:
    """Copy `x` to the host (a NumPy array is returned as it is)."""
    library = _library_of(x)
    return np.asarray(x) if library is np else library.asnumpy(x)


def to_backend(x: Array, xp: Any) -> Array:
    """Copy the array `x` to the library `xp` (returned as it is where it is there already)."""
    return x if _library_of(x) is xp else xp.asarray(to_numpy(x))
