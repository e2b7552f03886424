"""What a training step and an inference ask of Python: its calls, and the memory at the peak.

    python tests/benchmarks/calls.py                    # small, batches of 1 and 100
    python tests/benchmarks/calls.py --preset paper 128

Calls of functions written in Python and of those in C are counted by the interpreter, in one thread; memory
is what was asked of it beside what was there before. None of it depends on how fast a machine is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tracemalloc
from collections import Counter

import numpy as np

from minicaps.networks import NETWORKS, PRESETS, build
from minicaps.training import Adam, OneProcess, train_step


def count_calls(task):
    """Return how many calls of each kind a task makes: "call" of Python functions, "c_call" of others."""
    calls = Counter()
    sys.setprofile(lambda frame, event, arg: calls.update([event]))
    try:
        task()
    finally:
        sys.setprofile(None)
    return calls["call"], calls["c_call"]


def peak_memory(task):
    """Return the bytes that a task holds at its peak, beside those held before it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        task()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def tasks_of(network, batch):
    """Return what is counted: a training step, and an inference, of as many images."""
    rng = np.random.default_rng(1)
    images = rng.random((batch, *network.image_shape), dtype=np.float32)  # (B, H, W, C)
    labels = rng.integers(0, network.classes, batch)  # (B,)
    source, adam, ready = OneProcess(network), Adam(network, 1e-3), network.for_inference()
    return {
        "training step": lambda: train_step(source, adam, images, labels),
        "inference": lambda: ready(images),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=tuple(NETWORKS), default="capsnet")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="small")
    parser.add_argument("batches", type=int, nargs="*", default=[1, 100], metavar="BATCH")
    options = parser.parse_args()
    os.environ["MINICAPS_THREADS"] = "1"  # other threads have profilers of their own
    print(f"{'':<24} {'Python calls':>14} {'calls of C':>12} {'peak, MB':>10}")
    for batch in options.batches:
        tasks = tasks_of(build(options.model, options.preset, rng=0), batch)
        for name, task in tasks.items():
            for _ in range(3):  # what is made once
                task()
            python, c = count_calls(task)
            peak = peak_memory(task) / 1e6
            print(f"{f'{name}, batch {batch}':<24} {python:>14,} {c:>12,} {peak:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
