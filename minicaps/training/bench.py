"""Where the time of a training step goes: ``python -m minicaps bench``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from minicaps.arrays import Array
from minicaps.fast import matmul, own_the_cores, thread_count
from minicaps.layers import FULL, MIXED
from minicaps.networks import CapsNet, build
from minicaps.training.fast_adam import Adam
from minicaps.training.loss_scale import LossScale
from minicaps.training.processes import DataParallel
from minicaps.training.step import OneProcess, train_step
from minicaps.training.watch import Method, watched


@dataclass
class StageTime:
    """Seconds of one stage in a training step, and the multiplications that it stands for."""

    name: str
    seconds: float
    forward: float | None  # of them; None where there is no such thing, as in the optimizer
    backward: float | None
    multiply_adds: int  # of the direct method, for the batch, forward and backward


@dataclass
class Bench:
    """What ``bench`` measured. Times are medians over the steps, in seconds."""

    preset: str
    precision: str  # of training; inference is float32
    batch_size: int
    threads: int
    processes: int  # that share a batch in training
    stages: list[StageTime]
    step: float  # of a whole batch in one process
    train_images_per_second: float
    infer_images_per_second: float
    sgemm_gflops: float
    peak_memory_mb: float

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {**vars(self), "stages": [vars(stage) for stage in self.stages]}

    def __str__(self) -> str:
        lines = [
            f"{'stage':<12} {'forward':>10} {'backward':>10} {'together':>10} {'share':>7} {'GFLOP/s':>9}"
        ]
        for stage in self.stages:
            times = (stage.forward, stage.backward, stage.seconds)
            columns = " ".join(f"{'':10}" if t is None else f"{1e3 * t:7.1f} ms" for t in times)
            gflops = 2 * stage.multiply_adds / stage.seconds / 1e9
            lines.append(
                f"{stage.name:<12} {columns} {100 * stage.seconds / self.step:5.1f} % "
                + (f"{gflops:9.1f}" if stage.multiply_adds else f"{'':9}")
            )
        lines.append(
            f"a step of {self.batch_size} images: {1e3 * self.step:.1f} ms in one process of "
            f"{self.threads} threads\n"
            f"training {self.train_images_per_second:,.0f} images/s by {self.processes} processes, inference "
            f"{self.infer_images_per_second:,.0f} images/s, peak memory {self.peak_memory_mb:,.0f} MB\n"
            f"GFLOP/s counts the direct method's arithmetic; a matrix product reaches "
            f"{self.sgemm_gflops:.0f} GFLOP/s on this machine in this run"
        )
        return "\n".join(lines)


class Clock:
    """Notes the seconds of calls, by label."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def timed(self, label: str, function: Method) -> Method:
        """Return a function that does the same and whose calls are timed."""

        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.seconds.setdefault(label, []).append(time.perf_counter() - start)
            return result

        return call

    def median(self, label: str) -> float:
        """Return the median of the calls, 0 if there was none."""
        return float(np.median(self.seconds[label])) if label in self.seconds else 0.0


def bench(preset: str = "small", batch_size: int = 100, steps: int = 10, precision: str = FULL) -> Bench:
    """Time training steps of a CapsNet on random images, stage by stage.

    It calls ``own_the_cores``, as a training run does.

    Parameters
    ----------
    preset : {"tiny", "small", "paper"}
    batch_size, steps : int
    precision : {"float32", "mixed"}
        Of the products in training.
    """
    own_the_cores()
    network = build("capsnet", preset, rng=0).set_precision(precision)
    assert isinstance(network, CapsNet)
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, *network.image_shape), dtype=np.float32)  # (B, H, W, C)
    labels = rng.integers(0, network.classes, batch_size)  # (B,)
    stages, step = time_stages(network, images, labels, steps)
    processes, train_rate = training_speed(network, images, labels, steps)
    return Bench(
        preset=preset,
        precision=precision,
        batch_size=batch_size,
        threads=thread_count(),
        processes=processes,
        stages=stages,
        step=step,
        train_images_per_second=train_rate,
        infer_images_per_second=inference_speed(network, images, steps),
        sgemm_gflops=sgemm_rate() / 1e9,
        peak_memory_mb=peak_memory(processes),
    )


def time_stages(network: CapsNet, images: Array, labels: Array, steps: int) -> tuple[list[StageTime], float]:
    """Return the times of a step's stages, with what is left over, and of the whole step."""
    source, adam, clock = OneProcess(network), Adam(network, 1e-3), Clock()
    step, scale = clock.timed("step", train_step), loss_scale_of(network)
    with ExitStack() as stack:
        for name, stage in network.stages():
            for method in ("forward", "backward", "backward_params"):
                label = f"{name} {method.removesuffix('_params')}"
                stack.enter_context(watched(stage, method, partial(clock.timed, label)))
        stack.enter_context(watched(adam, "step", partial(clock.timed, "Adam")))
        for _ in range(2):
            step(source, adam, images, labels, scale)
        clock.seconds.clear()
        for _ in range(steps):
            step(source, adam, images, labels, scale)
    work, times = multiply_adds(network), []
    for name, _ in network.stages():
        forward, backward = clock.median(f"{name} forward"), clock.median(f"{name} backward")
        multiplications = len(images) * work.get(name, 0)
        times.append(StageTime(name, forward + backward, forward, backward, multiplications))
    times.append(StageTime("Adam", clock.median("Adam"), None, None, 0))
    rest = clock.median("step") - sum(stage.seconds for stage in times)
    times.append(StageTime("the rest", rest, None, None, 0))
    return times, clock.median("step")


def multiply_adds(network: CapsNet) -> dict[str, int]:
    """Return the multiply-adds of one image, forward and backward, by stage and the direct method.

    Backward costs twice the forward, but for the first convolution, which needs no gradient of the
    image. Routing adds its 2R - 1 passes over û forward and 4R - 3 backward.
    """
    config = network.config
    passes = (2 * config.iterations - 1) + (4 * config.iterations - 3)
    work = {
        "conv": 2 * math.prod(config.conv_grid) * network.conv.params["W"].size,
        "primary": 3 * math.prod(config.grid) * network.primary.conv.params["W"].size,
    }
    for name, layer in network.capsule_layers().items():
        lower, dimension, upper, size = layer.votes.params["W"].shape  # (I, D, J, E)
        work[name] = (4 * dimension + passes) * lower * upper * size
    if network.decoder is not None:
        dense = [p.size for name, p in network.decoder.params.items() if name.endswith(".W")]
        work["decoder"] = 3 * sum(dense)
    return work


def training_speed(network: CapsNet, images: Array, labels: Array, repeat: int) -> tuple[int, float]:
    """Return how many processes share a batch in a run, and how many images per second they train."""
    adam, scale = Adam(network, 1e-3), loss_scale_of(network)
    with DataParallel(network, network.objective(), len(images)) as source:
        seconds = median_seconds(lambda: train_step(source, adam, images, labels, scale), repeat, first=2)
        return len(source.workers) + 1, len(images) / seconds


def loss_scale_of(network: CapsNet) -> LossScale | None:
    """Return what a run scales the loss of this network by."""
    return LossScale() if network.precision == MIXED else None


def inference_speed(network: CapsNet, images: Array, repeat: int) -> float:
    """Return how many images per second the network classifies and reconstructs."""
    ready = network.for_inference()
    return len(images) / median_seconds(lambda: ready(images), repeat)


def sgemm_rate(rounds: int = 5) -> float:
    """Return the machine's rate of float32 matrix products, in floating-point operations a second."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((2048, 2048), dtype=np.float32) for _ in range(2))
    return 2 * 2048**3 / median_seconds(lambda: matmul(a, b), rounds, first=0)


def median_seconds(work: Callable[[], Any], repeat: int, first: int = 1) -> float:
    """Return the median time of `work`, after so many `first` calls that allocate."""
    times = []
    for _ in range(first + repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times[first:]))


def peak_memory(processes: int = 1) -> float:
    """Return the most memory that so many processes have held, in MB, or NaN where that is not known.

    Those beside this one count like the largest of them that has ended.
    """
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    own, other = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return (own + (processes - 1) * other) * unit / 2**20
