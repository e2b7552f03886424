"""A CapsNet as an ONNX graph, with the iterations of its routing spelled out, for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minicaps.arrays import to_numpy
from minicaps.capsules import DynamicRouting, Leaky, Softmax, Squash, Stopped
from minicaps.networks import files
from minicaps.networks.capsnet import CapsNet
from minicaps.networks.network import Network
from minicaps.networks.onnx import Graph


def to_onnx(path: str | Path, network: Network) -> None:
    """Write a CapsNet as an ONNX file.

    Its input is ``images`` (B, H, W, C), 0 to 1, for any batch; its outputs are the ``lengths`` (B, J), the
    class capsules ``v`` (B, J, E) and, with a decoder, ``reconstruction`` (B, H, W, C), that of the longest.
    Every iteration of the routing is spelled out.

    Raises
    ------
    ValueError
        If the network is no CapsNet, its routing is not procedure 1 with a softmax, leaky or not, or a line
        reads its classes.
    """
    if not isinstance(network, CapsNet):
        raise ValueError(f"to_onnx: a network of class {type(network).__name__}, expected a CapsNet")
    leaky = _is_leaky(network)
    if network.presence is not None:
        raise ValueError(
            "to_onnx: a network with presence 'line' cannot be written; one whose lengths tell classes can"
        )
    graph, config = Graph("capsnet"), network.config
    weights = {name: to_numpy(param).astype(np.float32) for name, param in network.params.items()}
    images = graph.input("images", ["batch", *config.image_shape])  # (B, H, W, C)
    u = _primary_capsules(graph, images, weights, network)  # (B, I, D)
    for name in network.capsule_layers():
        u = _routed(graph, _votes(graph, u, weights, name), weights, name, config.iterations, leaky)
    v = u  # (B, J, E)
    squares = graph.add("ReduceSum", graph.add("Mul", v, v), graph.constant([2]), keepdims=0)  # (B, J)
    lengths = graph.add("Sqrt", squares)  # (B, J)
    graph.output("lengths", lengths, ["batch", config.classes])
    graph.output("v", v, ["batch", config.classes, config.class_dimension])
    if network.decoder is not None:
        drawn = _drawn(graph, v, lengths, weights, config.classes * config.class_dimension)  # (B, H·W·C)
        shaped = graph.add("Reshape", drawn, graph.constant([0, *config.image_shape]))  # (B, H, W, C)
        graph.output("reconstruction", shaped, ["batch", *config.image_shape])
    files.write_bytes(path, graph.model("minicaps"))


def _is_leaky(network: CapsNet) -> bool:
    """Return whether the routing is leaky, if it is one that can be written."""
    leaky = [_is_leaky_routing(layer.routing) for layer in network.capsule_layers().values()]
    return leaky[-1]


def _is_leaky_routing(routing: Any) -> bool:
    coupling = getattr(routing, "coupling", None)
    if isinstance(coupling, Stopped):
        coupling = coupling.inner  # which matters to gradients alone
    inner = coupling.inner if isinstance(coupling, Leaky) else coupling
    squash = getattr(routing, "squash", None)
    squashes = isinstance(squash, Squash) and squash.offset == 1  # as in the paper
    if not isinstance(routing, DynamicRouting) or type(inner) is not Softmax or not squashes:
        inside = [type(layer).__name__ for _, layer in routing.walk()]  # DynamicRouting, TopK, Squash
        raise ValueError(
            f"to_onnx: a routing of {', '.join(inside)} cannot be written; DynamicRouting with a Softmax, "
            "leaky or not, and the paper's Squash can"
        )
    return isinstance(coupling, Leaky)


def _primary_capsules(graph: Graph, images: str, weights: dict[str, Any], network: CapsNet) -> str:
    x = graph.add("Transpose", images, perm=[0, 3, 1, 2])  # (B, C, H, W), as ONNX has images
    for name, layer in (("conv", network.conv), ("primary.conv", network.primary.conv)):
        W = graph.weight(f"{name}.W", weights[f"{name}.W"].transpose(3, 2, 0, 1))  # (K, C, KH, KW)
        bias = graph.weight(f"{name}.bias", weights[f"{name}.bias"])  # (K,)
        above, left = layer.padding
        x = graph.add("Conv", x, W, bias, strides=list(layer.stride), pads=[above, left, above, left])
        x = graph.add("Relu", x) if name == "conv" else x
    x = graph.add("Transpose", x, perm=[0, 2, 3, 1])  # (B, P, Q, types·D)
    return _squash(graph, graph.add("Reshape", x, graph.constant([0, -1, network.primary.dimension])))


def _squash(graph: Graph, s: str) -> str:
    """v = n/(1 + n²) s: no division by n, so none by 0."""
    n2 = graph.add("ReduceSum", graph.add("Mul", s, s), graph.constant([-1]), keepdims=1)
    factor = graph.add("Div", graph.add("Sqrt", n2), graph.add("Add", n2, graph.number(1.0)))
    return graph.add("Mul", s, factor)


def _votes(graph: Graph, u: str, weights: dict[str, Any], name: str) -> str:
    """û_ij = u_i W_ij of the capsule layer of this name: u (B, I, D) -> (B, I, J, E)."""
    W = weights[f"{name}.votes.W"]  # (I, D, J, E)
    I, D, J, E = W.shape
    by_capsule = graph.add("Transpose", u, perm=[1, 0, 2])  # (I, B, D)
    matrices = graph.weight(f"{name}.votes.W", W.reshape(I, D, J * E))  # (I, D, J·E)
    votes = graph.add("MatMul", by_capsule, matrices)  # (I, B, D) @ (I, D, J·E) -> (I, B, J·E)
    votes = graph.add("Transpose", votes, perm=[1, 0, 2])  # (B, I, J·E)
    return graph.add("Reshape", votes, graph.constant([0, I, J, E]))


def _routed(
    graph: Graph, u_hat: str, weights: dict[str, Any], name: str, iterations: int, leaky: bool
) -> str:
    """Procedure 1 in the capsule layer of this name: u_hat (B, I, J, E) -> v (B, J, E)."""
    b = graph.add("Mul", graph.add("ReduceSum", u_hat, graph.constant([3]), keepdims=0), graph.number(0.0))
    bias = weights.get(f"{name}.routing.bias")  # (J, E)
    for r in range(iterations):
        shares = graph.add("Unsqueeze", _softmax(graph, b, leaky), graph.constant([3]))  # (B, I, J, 1)
        s = graph.add("ReduceSum", graph.add("Mul", shares, u_hat), graph.constant([1]), keepdims=0)
        if bias is not None:
            s = graph.add("Add", s, graph.weight(f"{name}.routing.bias", bias))  # (B, J, E)
        v = _squash(graph, s)  # (B, J, E)
        if r < iterations - 1:
            beside = graph.add("Unsqueeze", v, graph.constant([1]))  # (B, 1, J, E)
            products = graph.add("Mul", u_hat, beside)  # (B, I, J, E)
            b = graph.add("Add", b, graph.add("ReduceSum", products, graph.constant([3]), keepdims=0))
    return v


def _softmax(graph: Graph, b: str, leaky: bool) -> str:
    """c (B, I, J) of the logits; a leaky one has a logit of 0 beside them, whose share goes to nobody."""
    if not leaky:
        return graph.add("Softmax", b, axis=2)
    ends = graph.constant([0]), graph.constant([1]), graph.constant([2])
    zero = graph.add("Mul", graph.add("Slice", b, *ends), graph.number(0.0))  # (B, I, 1)
    c = graph.add("Softmax", graph.add("Concat", zero, b, axis=2), axis=2)  # (B, I, 1 + J)
    return graph.add("Slice", c, graph.constant([1]), graph.constant([2**31 - 1]), graph.constant([2]))


def _drawn(graph: Graph, v: str, lengths: str, weights: dict[str, Any], features: int) -> str:
    """Return the decoder's image (B, H·W·C) of the longest capsule."""
    count = graph.add("Shape", v)  # (3,): B, J, E
    J = graph.add("Gather", count, graph.constant(1), axis=0)
    values = graph.weight("off_on", np.array([0, 1], dtype=np.float32))
    longest = graph.add("ArgMax", lengths, axis=1, keepdims=0)  # (B,)
    chosen = graph.add("Unsqueeze", graph.add("OneHot", longest, J, values), graph.constant([2]))  # (B, J, 1)
    x = graph.add("Reshape", graph.add("Mul", v, chosen), graph.constant([0, features]))  # (B, J·E)
    for name, activation in (("fc1", "Relu"), ("fc2", "Relu"), ("fc3", "Sigmoid")):
        W, bias = (
            graph.weight(f"decoder.{name}.{part}", weights[f"decoder.{name}.{part}"])
            for part in ("W", "bias")
        )
        x = graph.add(activation, graph.add("Gemm", x, W, bias))
    return x
