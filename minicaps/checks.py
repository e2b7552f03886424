"""Checks of what a caller hands in; a message names the caller, the axis, what was got and expected.

A check only raises. `where` is always who asks, for the message: "CapsuleLayer.forward".
"""

from __future__ import annotations

import functools
import math
import numbers
from typing import Any

import numpy as np

from minicaps.arrays import Array, get_xp

Axis = tuple[str, int | None]  # what an axis is, its letter last, and its size (None: any)
FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))


def check_array(
    where: str, name: str, x: Array, *axes: Axis, like: Array | None = None, of: str = "the parameters are"
) -> None:
    """Check an input's library, dtype and shape.

    Parameters
    ----------
    where : str
        Who asks, for the message: "CapsuleLayer.forward".
    name : str
        The argument's name, for the message.
    x : array
    *axes : (str, int or None)
        What each axis is, its letter last, and its size (None: any), as in
        ``("batch B", None), ("capsule dimension D", 8)``.
    like : array, optional
        A parameter that `x` must agree with in library and dtype, or another array.
    of : str
        What `like` is, for the message.

    Raises
    ------
    TypeError
        If `x` is no array, not floating point, or of another library or dtype than `like`.
    ValueError
        If an axis is missing, superfluous, of another size, or empty.
    """
    if like is not None and is_alike(x, like):
        check_shape(where, name, x, *axes)
        return
    check_library(where, name, x, *([] if like is None else [like]))
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{where}: {name} has dtype {x.dtype}, expected float32 or float64; convert it first, "
            f"as in {name}.astype(numpy.float32) (and divide 8-bit pixels by 255)"
        )
    if like is not None and x.dtype != like.dtype:
        raise TypeError(
            f"{where}: {name} has dtype {x.dtype}, but {of} {like.dtype}; convert "
            f"one of them, as in {name}.astype(numpy.{like.dtype}) or layer.astype(...)"
        )
    check_shape(where, name, x, *axes)


def is_alike(x: Array, like: Array) -> bool:
    """Whether `x` is of the library and dtype of another array, one that was checked before."""
    return x is not like and type(x) is type(like) and x.dtype == like.dtype


def check_library(where: str, name: str, x: Array, *others: Array) -> None:
    """Raise TypeError unless `x` is an array, of the same library as the others."""
    try:
        get_xp(x, *others)
    except TypeError as error:
        raise TypeError(f"{where}: {name}: {error}") from None


def check_shape(where: str, name: str, x: Array, *axes: Axis) -> None:
    """Raise ValueError unless `x` has the `axes` (as for ``check_array``), none of them empty."""
    if _fits(x.shape, axes):
        return
    words = [any_size(meaning) if size is None else str(size) for meaning, size in axes]
    expected = f"({', '.join(words)}{',' if len(words) == 1 else ''})"
    message = f"{where}: {name} has shape {tuple(x.shape)}, expected {expected}"
    if len(x.shape) != len(axes):
        names = ", ".join(meaning for meaning, _ in axes)
        raise ValueError(f"{message}; it has {len(x.shape)} axes, not {len(axes)}: {names}")
    for axis, (got, (meaning, size)) in enumerate(zip(x.shape, axes, strict=True)):
        if size is None and got == 0:
            raise ValueError(f"{message}; axis {axis} ({meaning}) is empty")
        if size is not None and got != size:
            raise ValueError(f"{message}; axis {axis} ({meaning}) is {got}, not {size}")


def any_size(meaning: str) -> str:
    """Return the letter of an axis that may have any size, "B" of "batch B", or "…" of an "axis 1"."""
    letter = meaning.split()[-1]
    return "…" if letter.isdigit() else letter


@functools.lru_cache(maxsize=1024)  # in a training the same shapes come again and again
def _fits(shape: tuple[int, ...], axes: tuple[Axis, ...]) -> bool:
    return len(shape) == len(axes) and all(
        got == size if size is not None else got > 0 for got, (_, size) in zip(shape, axes, strict=True)
    )


def check_gradient(where: str, dy: Array, shape: tuple[int, ...], like: Array) -> None:
    """Check that an upstream gradient has the output's `shape`, and the library of `like`."""
    if is_alike(dy, like) and dy.shape == shape:
        return  # as nearly always, and half of all checks in a training step are of gradients
    axes = [(f"output axis {k}", size) for k, size in enumerate(shape)]
    check_array(where, "dy", dy, *axes, like=like, of="the output is")


def check_two_gradients(
    where: str, dy: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]], like: Array
) -> None:
    """Check the upstream gradients of poses and activations; raise TypeError if it is no tuple of two."""
    if not (isinstance(dy, tuple) and len(dy) == 2):
        got = f"{len(dy)} of them" if isinstance(dy, tuple) else type(dy).__name__
        raise TypeError(f"{where}: got {got}, expected two gradients, (dmu, da)")
    for gradient, shape in zip(dy, shapes, strict=True):
        check_gradient(where, gradient, shape, like)


def check_labels(
    where: str, labels: Array, batch: int, classes: int, per_sample: tuple[int, ...] = ()
) -> None:
    """Check class numbers: integers (B,), or (B, …) with several for each sample, from 0 to classes - 1.

    This is the one place that says what a label is. Values are checked on the host only: on a device that
    would wait for it in every step.

    Raises
    ------
    TypeError
        If they are no array of integers.
    ValueError
        If there is not one for each sample, or one is of no class.
    """
    if isinstance(labels, (list, tuple)):
        kind = type(labels).__name__
        raise TypeError(
            f"{where}: labels: expected an array, got {kind}; make it one first: numpy.asarray(labels)"
        )
    check_library(where, "labels", labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{where}: labels have dtype {labels.dtype}, expected integers, the class numbers")
    axes = [(f"label {k}", size) for k, size in enumerate(per_sample)]
    try:
        check_shape(where, "labels", labels, ("batch B", batch), *axes)
    except ValueError as error:
        cures = {(batch, classes): "one-hot rows become class numbers with labels.argmax(axis=1)",
                 (batch, 1): "a column becomes a vector with labels[:, 0]"}  # fmt: skip
        cure = cures.get(labels.shape)
        raise ValueError(f"{error}; {cure}" if cure else str(error)) from None
    if get_xp(labels) is np and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{where}: labels run from {labels.min()} to {labels.max()}, expected 0 to "
            f"{classes - 1}; does the network have as many classes as the data?"
        )


def check_choice(where: str, name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{where}: {name} is {value!r}, expected {expected}")


def any_axes(x: Any) -> tuple[Axis, ...]:
    """Return axes for ``check_array`` that allow any shape with a batch axis and no empty axis."""
    return _any_axes(len(getattr(x, "shape", ())))


@functools.cache
def _any_axes(count: int) -> tuple[Axis, ...]:
    return ("batch B", None), *((f"axis {k}", None) for k in range(1, count))


def check_positive(where: str, **values: int) -> None:
    """Raise ValueError unless every value is a whole number above 0."""
    check_whole(where, 1, **values)


def check_whole(where: str, least: int, **values: int) -> None:
    """Raise ValueError unless every value is a whole number, at least 0 or 1, that 64 bits hold."""
    for name, value in values.items():
        is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not (is_whole and least <= value < 1 << 63):
            expected = "a whole number above 0" if least else "a whole number, 0 or more"
            raise ValueError(f"{where}: {name} is {value!r}, expected {expected}")


def check_shift(where: str, image_shape: tuple[int, ...], **largest: int) -> None:
    """Raise ValueError unless every value is whole, 0 or more, and so many pixels leave an image in sight."""
    check_whole(where, 0, **largest)
    height, width = image_shape[:2]
    for name, value in largest.items():
        if value >= min(height, width):
            raise ValueError(
                f"{where}: {name} is {value:,}, which moves images of {height}×{width} out of sight; "
                f"expected less than {min(height, width)}"
            )


def check_number(where: str, **values: float) -> None:
    """Raise ValueError unless every value is a finite number, 0 or more."""
    for name, value in values.items():
        if not (_is_number(value) and value >= 0):
            raise ValueError(f"{where}: {name} is {value!r}, expected a number, 0 or more")


def check_above_zero(where: str, **values: float) -> None:
    """Raise ValueError unless every value is a finite number above 0."""
    for name, value in values.items():
        if not (_is_number(value) and value > 0):
            raise ValueError(f"{where}: {name} is {value!r}, expected a number above 0")


def _is_number(value: Any) -> bool:
    """Say whether `value` is a number that a float holds, other than inf and nan."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def check_flag(where: str, **values: bool) -> None:
    """Raise ValueError unless every value is True or False."""
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{where}: {name} is {value!r}, expected True or False")


def check_float(where: str, name: str, dtype: Any) -> None:
    """Raise TypeError unless `dtype` is float32 or float64."""
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{where}: {name} has dtype {dtype}, expected float32 or float64")
