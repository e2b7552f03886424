"""Layers one after another."""

from __future__ import annotations

from typing import Any, cast

from minicaps.arrays import Array
from minicaps.layers.contract import Layer


class Sequential(Layer):
    r"""Layers one after another: y = f_n(… f_2(f_1(x))).

    Gradient (chain rule): dx = f_1'ᵀ(… f_n'ᵀ dy), so backward walks the layers in reverse.

    Parameters
    ----------
    **layers : Layer
        In order; the keyword is the layer's name, as in ``Sequential(fc=Dense(3, 2), relu=ReLU())``.
    """

    def __init__(self, /, **layers: Layer) -> None:
        super().__init__()
        if not layers:
            raise ValueError("Sequential: got no layers, expected at least one, as in fc=Dense(3, 2)")
        for name, layer in layers.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: {name} is {layer!r}, expected a layer such as Dense(3, 2)")
            self._contain(name, layer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order."""
        return tuple(layer for _, layer in self.items())

    def items(self) -> list[tuple[str, Layer]]:
        """Return the layers by name, in order."""
        return [(name, cast(Layer, layer)) for name, layer in self.sublayers()]

    def __getitem__(self, name: str) -> Layer:
        """Return the layer of this name."""
        return dict(self.items())[name]

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        """x of the shape that the first layer takes -> y of the shape that the last one returns."""
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x)
            caches.append(cache)
        return x, caches

    def backward(self, dy: Array, cache: list[Any]) -> Array:
        """dy of the shape of y -> dx of the shape of x."""
        dy = self._backward_to_first(dy, cache)
        return self.layers[0].backward(dy, cache[0])

    def backward_params(self, dy: Array, cache: list[Any]) -> None:
        dy = self._backward_to_first(dy, cache)
        self.layers[0].backward_params(dy, cache[0])

    def _backward_to_first(self, dy: Array, cache: list[Any]) -> Array:
        for layer, layer_cache in zip(self.layers[:0:-1], cache[:0:-1], strict=True):
            dy = layer.backward(dy, layer_cache)
        return dy

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x
