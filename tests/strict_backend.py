"""A stand-in for a GPU's arrays: correct, but it refuses what would be slow or wrong on a device.

It refuses to mix with NumPy arrays, to become one silently, and to hand single values to Python.
Only ``asnumpy`` leaves the device, and it counts. The library has no name and no keyword that CuPy lacks.
"""

import operator

import cupy_names
import numpy as np

CUPY = cupy_names.read()


class StrictArray:
    __array_priority__ = 1000
    __array_ufunc__ = None  # numpy_array + strict_array is a TypeError

    def __init__(self, value):
        self._value = value

    def __array__(self, *args, **kwargs):
        raise TypeError("a strict array was turned into a NumPy array behind the scenes")

    def __array_function__(self, function, *args):
        raise TypeError(f"a strict array was handed to numpy.{function.__name__}")

    def _refuse(self, *args):
        raise TypeError("a strict array was copied to the host to become a Python value")

    __float__ = __int__ = __bool__ = __index__ = __iter__ = __contains__ = _refuse

    def __len__(self):
        return len(self._value)

    def __getitem__(self, key):
        return _wrap(self._value[_unwrap(key)])

    def __setitem__(self, key, value):
        self._value[_unwrap(key)] = _unwrap(value)

    def __repr__(self):
        return f"StrictArray({self._value!r})"

    shape = property(lambda self: self._value.shape)
    ndim = property(lambda self: self._value.ndim)
    size = property(lambda self: self._value.size)
    nbytes = property(lambda self: self._value.nbytes)
    dtype = property(lambda self: self._value.dtype)
    strides = property(lambda self: self._value.strides)
    T = property(lambda self: _wrap(self._value.T))


def _unwrap(value):
    if isinstance(value, StrictArray):
        return value._value
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array was mixed with strict arrays")
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(part) for part in value)
    return value


def _wrap(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return StrictArray(np.asarray(value))
    return value


def _call(name, function, args, kwargs):
    if name not in CUPY:
        raise AttributeError(f"CuPy has no {name}")
    if unknown := kwargs.keys() - CUPY[name]:
        raise TypeError(f"{name} of CuPy takes no keyword {', '.join(unknown)}")
    kwargs = {key: _unwrap(value) for key, value in kwargs.items()}
    return _wrap(function(*map(_unwrap, args), **kwargs))


def _method(name):
    def method(self, *args, **kwargs):
        return _call(f"cupy.ndarray.{name}", getattr(self._value, name), args, kwargs)

    return method


def _unary(function):
    return lambda self: _wrap(function(self._value))


def _binary(function):
    def method(self, other):
        return _wrap(function(self._value, _unwrap(other)))

    def reflected(self, other):
        return _wrap(function(_unwrap(other), self._value))

    return method, reflected


def _in_place(function):
    def method(self, other):
        self._value = function(self._value, _unwrap(other))
        return self

    return method


for _name in "sum max min argmax astype copy reshape transpose swapaxes fill all any mean".split():
    setattr(StrictArray, _name, _method(_name))
for _name in "add sub mul truediv pow matmul floordiv mod and_ or_".split():
    _forward, _reflected = _binary(getattr(operator, _name))
    _dunder = _name.strip("_")
    setattr(StrictArray, f"__{_dunder}__", _forward)
    setattr(StrictArray, f"__r{_dunder}__", _reflected)
    setattr(StrictArray, f"__i{_dunder}__", _in_place(getattr(operator, f"i{_dunder}")))
for _name in "eq ne lt le gt ge".split():
    setattr(StrictArray, f"__{_name}__", _binary(getattr(operator, _name))[0])
for _name in "neg abs invert".split():
    setattr(StrictArray, f"__{_name}__", _unary(getattr(operator, _name)))


class Library:
    """What plays the part of the module ``cupy``."""

    __name__ = "strict"
    transfers = 0  # copies from the device to the host

    def __getattr__(self, name):
        return lambda *args, **kwargs: _call(f"cupy.{name}", getattr(np, name), args, kwargs)

    def asarray(self, value, dtype=None):
        return _wrap(np.array(_unwrap(value) if isinstance(value, StrictArray) else value, dtype=dtype))

    def asnumpy(self, value):
        self.transfers += 1
        return value._value.copy()

    @property
    def lib(self):
        class lib:
            class stride_tricks:
                @staticmethod
                def as_strided(x, shape, strides):
                    return _wrap(np.lib.stride_tricks.as_strided(_unwrap(x), shape, strides))

        return lib


strict = Library()
