"""The ONNX format: a graph of operations and its weights as bytes, in the encoding of protocol buffers.

A message is a sequence of fields, each a number and a kind in one integer, then its value. The numbers are
those of `onnx.proto <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>`_.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaps.arrays import Array

IR_VERSION, OPSET = 8, 13  # of 2022: what every runtime of today reads
ELEMENT_TYPES = {"float32": 1, "int64": 7}


class Graph:
    """A graph in the making: each operation is added with its inputs by name, and names its output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[bytes] = []
        self._weights: dict[str, bytes] = {}
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []

    def input(self, name: str, shape: Sequence[str | int]) -> str:
        """Add a float32 input; a text among the sizes is one that is open, such as the batch."""
        self._inputs.append(_value(name, shape))
        return name

    def output(self, name: str, value: str, shape: Sequence[str | int]) -> None:
        """Make a value an output of the graph, under a name."""
        self._nodes.append(_node("Identity", [value], name, {}))
        self._outputs.append(_value(name, shape))

    def weight(self, name: str, array: Array) -> str:
        """Add an array of float32 or int64 that is a part of the graph."""
        self._weights[name] = _tensor(name, np.asarray(array))
        return name

    def constant(self, values: Any) -> str:
        """Add whole numbers, such as axes, shapes and permutations; the same ones once."""
        kind = "ints" if np.ndim(values) else "int"
        name = "_".join([kind, *map(str, np.ravel(values))])
        return self.weight(name, np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """Add a float32 number."""
        return self.weight(f"number_{value!r}", np.array(value, dtype=np.float32))

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation with its attributes (int, list of ints); return the name of its output."""
        name = f"{operation}_{len(self._nodes)}"
        self._nodes.append(_node(operation, inputs, name, attributes))
        return name

    def model(self, producer: str) -> bytes:
        """Return the whole file."""
        graph = b"".join(_field(1, node) for node in self._nodes) + _field(2, self.name)
        graph += b"".join(_field(5, weight) for weight in self._weights.values())
        graph += b"".join(_field(11, value) for value in self._inputs)
        graph += b"".join(_field(12, value) for value in self._outputs)
        opset = _field(1, "") + _field(2, OPSET)
        return _field(1, IR_VERSION) + _field(2, producer) + _field(7, graph) + _field(8, opset)


def _node(operation: str, inputs: Sequence[str], output: str, attributes: dict[str, Any]) -> bytes:
    content = b"".join(_field(1, name) for name in inputs) + _field(2, output)
    content += _field(3, output) + _field(4, operation)
    return content + b"".join(_field(5, _attribute(*item)) for item in attributes.items())


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, 2)  # of the type INT
    return _field(1, name) + b"".join(_field(8, n) for n in value) + _field(20, 7)  # INTS


def _tensor(name: str, array: Array) -> bytes:
    content = b"".join(_field(1, size) for size in array.shape) + _field(2, ELEMENT_TYPES[array.dtype.name])
    little = array.astype(array.dtype.newbyteorder("<"), order="C")
    return content + _field(8, name) + _field(9, little.tobytes())


def _value(name: str, shape: Sequence[str | int]) -> bytes:
    sizes = b"".join(_field(1, _field(2 if isinstance(n, str) else 1, n)) for n in shape)
    tensor = _field(1, ELEMENT_TYPES["float32"]) + _field(2, sizes)
    return _field(1, name) + _field(2, _field(1, tensor))


def _field(number: int, value: int | str | bytes) -> bytes:
    """Return one field: a whole number (kind 0), or bytes with their length before them (kind 2)."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return a whole number by 7 bits in each byte, the lowest first; the eighth says that more follow."""
    value &= (1 << 64) - 1  # a negative number as its two's complement
    content = b""
    while value >= 0x80:
        content += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return content + struct.pack("B", value)
