"""Mixed precision: products of weights by float16 numbers, added up in float32; all else stays float32.

NumPy's own products of float16 are hundreds of times slower than those of float32, so here float16 is
simulated: operands and results are rounded to it, and the product itself is that of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicaps.arrays import Array, get_xp
from minicaps.layers import MIXED

EXPONENT = 0x7F800000  # the bits of a float32 that say 2^⌊log₂|x|⌋
SMALLEST, LARGEST = 2.0**-14, 65504.0  # of float16, with all of its eleven digits


def half(x: Array) -> Array:
    """Round to the nearest numbers of float16; the shape and the dtype stay.

    Halves go to the even neighbour, what is below 2⁻²⁵ to 0, and what is 65,520 or more to ±inf.
    """
    if get_xp(x) is np and x.dtype == np.float32:
        # NumPy's conversion takes 3 times as long, and 60 times where numbers are below SMALLEST.
        shape, x = x.shape, np.ascontiguousarray(x)  # which makes a vector of a single number
        step = (x.view(np.int32) & EXPONENT).view(np.float32)  # of the shape of x
        np.clip(step, SMALLEST, 2.0**15, out=step)
        step *= np.float32(2.0**-10)  # between two neighbours in float16
        y = x / step
        np.rint(y, out=y)
        y *= step
        beyond = np.abs(y) > LARGEST
        if beyond.any():
            y[beyond] *= np.inf
        return y.reshape(shape)
    return x.astype(np.float16).astype(x.dtype)


def operand(layer: Any, x: Array) -> Array:
    """Return x as a product of two matrices takes it: rounded, where the layer's precision is mixed.

    On a GPU it becomes float16, which it multiplies fastest.
    """
    if layer.precision != MIXED:
        return x
    return half(x) if get_xp(x) is np else x.astype(np.float16)


def result(layer: Any, y: Array) -> Array:
    """Return a product of operands: rounded, where the layer's precision is mixed, and float32 again."""
    if layer.precision != MIXED:
        return y
    return half(y) if get_xp(y) is np else y.astype(np.float32)


def rounded(layer: Any, x: Array) -> Array:
    """Return x rounded, where the layer's precision is mixed, but in its own dtype on a GPU too.

    It is for products of three axes or more, which CuPy has in float32 only, and for their results.
    """
    return half(x) if layer.precision == MIXED else x


def multiply(layer: Any, a: Array, b: Array, out: Array) -> None:
    """Set out (M, N) to the product of two operands (M, K) @ (K, N)."""
    if layer.precision == MIXED:
        out[...] = result(layer, a @ b)  # (M, N)
    else:
        get_xp(a, b).matmul(a, b, out=out)
