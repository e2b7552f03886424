"""What training by ranks of MPI costs and gains: what is sent, a model, a simulation, and this machine.

    python tests/benchmarks/mpi.py                             # the model, and up to 64 simulated ranks
    python tests/benchmarks/mpi.py --preset paper --quick
    mpiexec -n 2 python -m mpi4py tests/benchmarks/mpi.py      # scaling on the cores here

The model: one rank computes a slice of b images in a + c b seconds (both are measured here) and makes an
update in u. Of P ranks with one slice each, a rank sends P - 1 messages, and N/P numbers in each, and then
as many again; so a step takes a + c B/P + u + 2 (P - 1) (latency + 4 N / (P bandwidth)), and a batch is
large enough where that is less than the a + c B + u of one rank.

The simulation runs ``MPIParallel`` itself, in threads that sleep for as long as its arithmetic and its
messages would take (all of it stretched, so that the arithmetic of the sums does not count).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_ranks import Link, in_ranks

from minicaps.fast import own_the_cores
from minicaps.networks import PRESETS, Network, build
from minicaps.training import (
    Adam,
    MPIParallel,
    OneProcess,
    Result,
    all_ranks,
    gradient_source,
    mpi,
    train_step,
)

LINKS = {  # latencies as they are common; bandwidths by name
    "1 Gbit/s": Link(50e-6, 1e9 / 8),
    "10 Gbit/s": Link(20e-6, 1e10 / 8),
    "100 Gbit/s": Link(2e-6, 1e11 / 8),
    "shared memory": Link(1e-6, 4e9),
}
RANKS = (2, 4, 8, 16, 32, 64)


class Costs(NamedTuple):
    """Seconds on one core here, and the size of the gradient."""

    slice: float  # a, whatever its images
    image: float  # c
    update: float  # u
    numbers: int  # N

    def step(self, batch: int, ranks: int = 1, link: Link | None = None) -> float:
        """Return the seconds of a step."""
        own = self.slice + self.image * batch / ranks + self.update
        return own if link is None else own + self.exchange(ranks, link)

    def exchange(self, ranks: int, link: Link) -> float:
        part = 4 * self.numbers / ranks
        return 2 * link.seconds(ranks - 1, (ranks - 1) * part) + 3 * math.log2(ranks) * link.latency

    def break_even(self, ranks: int, link: Link) -> int:
        """Return the smallest batch that so many ranks train sooner than one."""
        return max(ranks, math.ceil(self.exchange(ranks, link) / (self.image * (1 - 1 / ranks))))


def batch_of(network: Network, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((count, *network.image_shape), dtype=np.float32), rng.integers(0, 10, count)


def median(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def measure(preset: str, repeat: int) -> Costs:
    """Measure in this process: a slice of 10 images, one of 50, and an update."""
    network = build("capsnet", preset, rng=0)
    source, adam, seconds = OneProcess(network), Adam(network, 1e-3), []
    for count in (10, 50):
        images, labels = batch_of(network, count)
        seconds.append(median(lambda x=images, y=labels: source.backpropagate(x, y), repeat))
    image = (seconds[1] - seconds[0]) / 40
    return Costs(max(0, seconds[0] - 10 * image), image, median(adam.step, repeat), network.count_params())


def show_model(costs: Costs, preset: str) -> None:
    print(
        f"`{preset}`: {costs.numbers:,} numbers; here {1e3 * costs.slice:.2f} ms a slice, "
        f"{1e3 * costs.image:.3f} ms an image, {1e3 * costs.update:.2f} ms an update\n"
    )
    print(f"| ranks | MB sent by each | messages of each | {' | '.join(LINKS)} |")
    print("|---" * (3 + len(LINKS)) + "|")
    for ranks in RANKS:
        sent = 2 * 4 * costs.numbers * (ranks - 1) / ranks / 1e6
        cells = [
            f"{1e3 * costs.exchange(ranks, link):.1f} ms, {costs.break_even(ranks, link):,} images"
            for link in LINKS.values()
        ]
        print(f"| {ranks} | {sent:.2f} | {2 * (ranks - 1)} | {' | '.join(cells)} |")
    print("\nWhat the exchange adds to a step, and from which batch on it is sooner than one rank.\n")


def simulate(costs: Costs, ranks: int, batch: int, link: Link, stretch: float, steps: int = 3) -> float:
    """Return the seconds of a step by simulated ranks, without stretching."""
    slow = Link(link.latency * stretch, link.bandwidth / stretch)

    def compute(network, objective, images, labels, share=1.0):
        time.sleep((costs.slice + costs.image * len(images)) * stretch)
        network.zero_grad()
        return Result(0.0, 0.0)

    def train(those) -> float:
        network = build("mlp", hidden=64, rng=0)  # its gradient stands for one of N numbers
        images, labels = batch_of(network, batch)
        heavier = costs.numbers / network.count_params()
        those.world.group.link = Link(slow.latency, slow.bandwidth / heavier)
        source = MPIParallel(network, network.objective(), batch, ranks, those)
        those.world.allgather(None)
        start = time.perf_counter()
        for _ in range(steps):
            source.backpropagate(images, labels)
            time.sleep(costs.update * stretch)
        return (time.perf_counter() - start) / steps / stretch

    whole, mpi.backpropagate = mpi.backpropagate, compute
    try:
        return max(in_ranks(ranks, train, slow))
    finally:
        mpi.backpropagate = whole


def show_simulation(costs: Costs, quick: bool) -> None:
    """Compare simulated steps with the model: strong scaling (640 images), weak (40 images a rank)."""
    stretch = max(20.0, 0.02 / costs.image / 10)
    print("| network | ranks | batch | model | simulated | times one rank |\n|---|---|---|---|---|---|")
    for name in ("1 Gbit/s", "10 Gbit/s") if quick else LINKS:
        for ranks in (4, 64) if quick else RANKS:
            for batch in (640, 40 * ranks):
                found = simulate(costs, ranks, batch, LINKS[name], stretch)
                model, alone = costs.step(batch, ranks, LINKS[name]), costs.step(batch)
                print(
                    f"| {name} | {ranks} | {batch:,} | {1e3 * model:.1f} ms | {1e3 * found:.1f} ms | "
                    f"{alone / found:.2f} |"
                )


def show_scaling(preset: str, repeat: int) -> None:
    """Time whole steps by the ranks that this was started with."""
    with all_ranks() as ranks:
        for batch, kind in ((160, "strong"), (80 * ranks.size, "weak")):
            network = build("capsnet", preset, rng=0)
            images, labels = batch_of(network, batch)
            step = partial(train_step, optimizer=Adam(network, 1e-3), images=images, labels=labels)
            with gradient_source(network, network.objective(), batch, max(4, ranks.size)) as source:
                seconds = median(partial(step, source), repeat)
            if ranks.first:
                print(
                    f"{kind} scaling, {ranks.size} ranks, {batch} images: {1e3 * seconds:.1f} ms a step",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and few simulated ranks")
    options = parser.parse_args()
    own_the_cores()
    repeat = 5 if options.quick else 30
    if "mpi4py" in sys.modules:
        show_scaling(options.preset, repeat)
        return
    costs = measure(options.preset, repeat)
    show_model(costs, options.preset)
    show_simulation(costs, options.quick)


if __name__ == "__main__":
    main()
