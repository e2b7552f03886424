"""What the checks of inputs cost: their time alone beside that of a training step.

    python tests/benchmarks/checks.py                      # the preset small, batches of 100
    python tests/benchmarks/checks.py --preset paper

It trains one step and notes every call of a check with its arguments. Then it makes the same calls
again, alone, many times, and so with steps. It fails if the checks of shapes, dtypes and ranges take
1 % of a step or more; the check for numbers that are not finite is shown beside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

import minicaps.checks
from minicaps.fast import own_the_cores
from minicaps.networks import PRESETS, build
from minicaps.training import Adam, OneProcess, train_step
from minicaps.training.finite import sum_of_squares

CHECKS = ("check_array", "check_shape", "check_gradient", "check_labels")
ALLOWED = 0.01  # of a step


def recorded(step: Callable[[], object]) -> list[Callable[[], object]]:
    """Run a step, and return the outermost calls of checks in it, each to be made again."""
    calls, inside, replaced = [], [], []

    def watched(check: Callable) -> Callable:
        def call(*arguments, **options):
            if not inside:
                calls.append(lambda: check(*arguments, **options))
            inside.append(check)
            try:
                return check(*arguments, **options)
            finally:
                inside.pop()

        return call

    modules = [module for name, module in list(sys.modules.items()) if name.startswith("minicaps")]
    for name in CHECKS:
        check = getattr(minicaps.checks, name)
        for module in modules:
            if getattr(module, name, None) is check:
                replaced.append((module, name, check))
                setattr(module, name, watched(check))
    try:
        step()
    finally:
        for module, name, check in replaced:
            setattr(module, name, check)
    return calls


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median time of `work`."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch-size", type=int, default=100, metavar="N")
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    options = parser.parse_args()
    network, rng = build("capsnet", options.preset, rng=0), np.random.default_rng(0)
    images = rng.random((options.batch_size, *network.image_shape), dtype=np.float32)  # (B, H, W, C)
    labels = rng.integers(0, network.classes, options.batch_size)  # (B,)
    source, optimizer = OneProcess(network), Adam(network, 1e-3)
    own_the_cores()

    def step() -> None:
        train_step(source, optimizer, images, labels)

    calls = recorded(step)
    whole = seconds(step, options.rounds)
    checks = seconds(lambda: [call() for call in calls], 10 * options.rounds)
    finite = seconds(lambda: float(sum_of_squares(network.grads.values())), 10 * options.rounds)
    print(f"a step of {options.preset}, {options.batch_size} images: {1e3 * whole:.1f} ms")
    for name, part in ((f"{len(calls)} checks of inputs", checks), ("finite gradients", finite)):
        print(f"{name:<24} {1e3 * part:8.3f} ms  {100 * part / whole:6.3f} % of it")
    return int(checks >= ALLOWED * whole)


if __name__ == "__main__":
    sys.exit(main())
