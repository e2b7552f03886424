"""``export``: a trained network for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from minicaps.commands.common import OK, UsageError, add_run, load_run
from minicaps.networks import save_network, to_onnx


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    text = "write an ONNX graph: images (B, H, W, C), 0 to 1, to lengths, v and the reconstruction"
    parser.add_argument("--onnx", metavar="FILE", type=Path, help=text)
    text = "write the weights as safetensors, which RUN can name later, too"
    parser.add_argument("--safetensors", metavar="FILE", type=Path, help=text)


def command(options: argparse.Namespace) -> int:
    """Write what is asked for, and say where."""
    if options.onnx is None and options.safetensors is None:
        raise UsageError("name what to write: --onnx FILE or --safetensors FILE")
    if options.safetensors is not None and options.safetensors.suffix != ".safetensors":
        raise UsageError(f"--safetensors: {options.safetensors}, expected a name that ends with .safetensors")
    network, class_names = load_run(options.run)
    if options.onnx is not None:
        to_onnx(options.onnx, network)
        outputs = "lengths, v and, with a decoder, reconstruction"
        print(f"written: {options.onnx} (ONNX; input images, outputs {outputs})")
    if options.safetensors is not None:
        save_network(options.safetensors, network, class_names)
        print(f"written: {options.safetensors} ({len(network.state())} arrays)")
    return OK
