"""The slices of a batch, and the memory in which processes share its images, weights and gradients."""

from __future__ import annotations

import os
import tempfile
from typing import Any, NamedTuple

import numpy as np

from minicaps.arrays import Array
from minicaps.checks import check_array
from minicaps.fast import slices_of
from minicaps.layers import Loss
from minicaps.networks import Network, check_network_labels
from minicaps.training.step import Result, backpropagate

MIN_IMAGES = 40  # of a batch slice; what does not depend on their number would be repeated for too few
MAX_PARAMETERS = 2_000_000  # beyond it a step works on weights and gradients as much as on images

NumberedSlices = list[tuple[int, slice]]  # some of a batch's slices, each with its number


def batch_slices(network: Network, batch_size: int, slices: int | None = None) -> list[slice]:
    """Slice a batch into `slices` slices, or fewer if they would have no image each.

    By default into 1, 2, 4, … slices of at least MIN_IMAGES images; a network of more than MAX_PARAMETERS
    parameters has one. On a GPU a batch stays whole.
    """
    count = 1
    if network.xp is np and slices is not None:
        count = slices
    elif network.xp is np and network.count_params() <= MAX_PARAMETERS:
        while 2 * count * MIN_IMAGES <= batch_size:
            count *= 2
    return slices_of(batch_size, -(-batch_size // count))


class Shared(NamedTuple):
    """What lies in the memory that all processes see: S batch slices, N parameters, M running sums."""

    params: Array  # (N,), all parameters one after another
    grads: Array  # (S, N + M), after the gradients what is added for running sums
    images: Array  # (B, H, W, C), or what else the network's ``sample_shapes`` says
    labels: Array  # (B,)
    results: Array  # (S, 2), the loss of a slice and how many of its images are classified correctly


def check_batch(where: str, images: Array, labels: Array, network: Network, batch_size: int) -> None:
    """Check that a batch, of `batch_size` images at most, is what `network` learns."""
    if len(images) > batch_size:
        raise ValueError(f"{where}: {len(images)} images, expected at most {batch_size}, the batch_size")
    axes = [(f"axis {k}", n) for k, n in enumerate(network.sample_shapes()[0], 1)]
    check_array(where, "images", images, ("batch B", None), *axes, like=network.first_param)
    check_network_labels(where, labels, network, len(images))


def shared_arrays(
    network: Network, batch_size: int, slices: int | None = None, memory: Any = None
) -> tuple[Shared, int]:
    """Return the arrays in `memory` (without one: in memory of this process) and their bytes."""
    count, numbers = len(batch_slices(network, batch_size, slices)), network.count_params()
    sums = sum(array.size for array in network.running.values())
    dtype, (image, label) = network.first_param.dtype, network.sample_shapes()
    layout: list[tuple[tuple[int, ...], Any]] = [
        ((numbers,), dtype),
        ((count, numbers + sums), dtype),
        ((batch_size, *image), dtype),
        ((batch_size, *label), np.int64),
        ((count, 2), np.float64),
    ]
    arrays: list[Array] = []
    end = 0
    for shape, kind in layout:
        arrays.append(np.ndarray(shape, kind, memory, end) if memory else np.zeros(shape, kind))
        end += -(-arrays[-1].nbytes // 64) * 64  # every array begins on a cache line
    return Shared(*arrays), end


def backpropagate_slices(
    network: Network, objective: Loss, shared: Shared, own: NumberedSlices, count: int
) -> None:
    """Compute the gradients and results of some slices of a batch of `count` images, into `shared`.

    The first slice comes last: ``network.grads`` lie in the memory of its gradient from then on.
    """
    for k, batch_slice in reversed(own):
        network.use_memory(grads=shared.grads[k])
        images, labels = shared.images[batch_slice], shared.labels[batch_slice]  # (b, H, W, C), (b,)
        shared.results[k] = backpropagate(network, objective, images, labels, len(images) / count)


def result_of(slices: list[slice], results: Array) -> Result:
    """Return the result of a batch from those of its slices (S, 2)."""
    count = slices[-1].stop
    shares = [(k.stop - k.start) / count for k in slices]  # (S,)
    return Result(np.dot(shares, results[:, 0]), results[:, 1].sum())


def shared_file(size: int) -> int:
    """Return the descriptor of a nameless file that vanishes with the last process that has it."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("minicaps")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file
