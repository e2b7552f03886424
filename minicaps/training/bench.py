"""Where the time of a training step goes: ``python -m minicaps bench``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicaps import arrays as backend
from minicaps.networks import CapsNet, build
from minicaps.training.optimizers import Adam
from minicaps.training.processes import DataParallel
from minicaps.training.step import train_step


@dataclass
class StageTime:
    """Seconds of one stage in a training step, and the multiplications that it stands for."""

    name: str
    forward: float
    backward: float
    multiply_adds: int  # of the direct method, for the batch, forward and backward


@dataclass
class Bench:
    """What ``bench`` measured. Times are medians over the steps, in seconds."""

    preset: str
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
        lines = [f"{'stage':<12} {'forward':>10} {'backward':>10} {'share':>7} {'GFLOP/s':>9}"]
        for stage in self.stages:
            seconds = stage.forward + stage.backward
            rate = f"{2 * stage.multiply_adds / seconds / 1e9:9.1f}" if stage.multiply_adds else f"{'':9}"
            lines.append(f"{stage.name:<12} {1e3 * stage.forward:7.1f} ms {1e3 * stage.backward:7.1f} ms "
                         f"{100 * seconds / self.step:5.1f} % {rate}")  # fmt: skip
        lines.append(
            f"a step of {self.batch_size} images: {1e3 * self.step:.1f} ms in one process of "
            f"{self.threads} threads\n"
            f"training {self.train_images_per_second:,.0f} images/s by {self.processes} processes, inference "
            f"{self.infer_images_per_second:,.0f} images/s, peak memory {self.peak_memory_mb:,.0f} MB\n"
            f"GFLOP/s counts the direct method's arithmetic; a matrix product reaches "
            f"{self.sgemm_gflops:.0f} GFLOP/s on this machine in this run"
        )
        return "\n".join(lines)


def bench(preset: str = "small", batch_size: int = 100, steps: int = 10) -> Bench:
    """Time training steps of a CapsNet on random images, stage by stage.

    Parameters
    ----------
    preset : {"tiny", "small", "paper"}
    batch_size, steps : int
    """
    net = build("capsnet", preset, rng=0)
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, *net.image_shape), dtype=np.float32)  # (B, H, W, C)
    labels = rng.integers(0, net.classes, batch_size)  # (B,)
    optimizer, objective = Adam(net, 1e-3), net.objective()
    clock = Clock()
    for name, stage in net.stages():
        clock.watch(stage, "forward", f"{name} forward")
        clock.watch(stage, "backward", f"{name} backward")
        clock.watch(stage, "backward_params", f"{name} backward")
    clock.watch(optimizer, "step", "Adam forward")
    run = clock.timed("step", train_step)
    for _ in range(2):
        run(net, objective, optimizer, images, labels)
    clock.seconds.clear()
    for _ in range(steps):
        run(net, objective, optimizer, images, labels)
    work = multiply_adds(net)
    stages = [
        StageTime(name, clock.median(f"{name} forward"), clock.median(f"{name} backward"),
                  batch_size * work.get(name, 0))
        for name in [name for name, _ in net.stages()] + ["Adam"]
    ]  # fmt: skip
    clock.unwatch()
    step = clock.median("step")
    rest = step - sum(stage.forward + stage.backward for stage in stages)
    stages.append(StageTime("the rest", rest, 0.0, 0))
    processes, train_rate = training_rate(net, images, labels, steps)
    return Bench(preset, batch_size, thread_count(), processes, stages, step, train_rate,
                 inference_rate(net, images, steps), sgemm_rate() / 1e9, peak_memory(processes))  # fmt: skip


class Clock:
    """Times calls by wrapping methods of objects, from outside."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._watched: list[tuple[Any, str]] = []

    def timed(self, label: str, function: Callable) -> Callable:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            self.seconds.setdefault(label, []).append(time.perf_counter() - start)
            return result

        return call

    def watch(self, thing: Any, method: str, label: str) -> None:
        setattr(thing, method, self.timed(label, getattr(thing, method)))
        self._watched.append((thing, method))

    def unwatch(self) -> None:
        for thing, method in self._watched:
            delattr(thing, method)  # the class's own method shows again
        self._watched.clear()

    def median(self, label: str) -> float:
        return float(np.median(self.seconds[label])) if label in self.seconds else 0.0


def multiply_adds(net: CapsNet) -> dict[str, int]:
    """Return the multiply-adds of one image, forward and backward, by stage and the direct method.

    Backward costs twice the forward, but for the first convolution, which needs no gradient of the
    image. Routing adds its 2R - 1 passes over û forward and 4R - 3 backward.
    """
    rows, columns = net.conv.output_size(net.image_shape[:2])
    lower, dimension, upper, size = net.capsules.prediction.params["W"].shape
    predictions = lower * dimension * upper * size
    passes = (2 * net.iterations - 1) + (4 * net.iterations - 3)
    work = {
        "conv": 2 * rows * columns * net.conv.params["W"].size,
        "primary": 3 * math.prod(net.grid) * net.primary.conv.params["W"].size,
        "capsules": 4 * predictions + passes * lower * upper * size,
    }
    if net.decoder:
        dense = [p.size for name, p in net.reconstruct.params.items() if name.endswith(".W")]
        work["reconstruct"] = 3 * sum(dense)
    return work


def training_rate(net: CapsNet, images: np.ndarray, labels: np.ndarray, repeat: int) -> tuple[int, float]:
    """Return how many processes share a batch in a run, and how many images per second they train."""
    optimizer, times = Adam(net, 1e-3), []
    with DataParallel(net, net.objective(), len(images)) as parallel:
        for _ in range(repeat + 2):
            start = time.perf_counter()
            parallel.gradients(images, labels)
            optimizer.step()
            times.append(time.perf_counter() - start)
        return len(parallel.workers) + 1, len(images) / float(np.median(times[2:]))


def inference_rate(net: CapsNet, images: np.ndarray, repeat: int) -> float:
    """Return how many images per second the network classifies and draws."""
    ready, times = net.for_inference(), []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        ready(images)
        times.append(time.perf_counter() - start)
    return len(images) / float(np.median(times[1:]))


def sgemm_rate(rounds: int = 5) -> float:
    """Return the machine's rate of float32 matrix products, in floating-point operations a second."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((2048, 2048), dtype=np.float32) for _ in range(2))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        backend.matmul(a, b)
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / float(np.median(times))


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
