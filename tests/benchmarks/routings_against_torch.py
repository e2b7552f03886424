"""Every routing family beside an eager PyTorch twin on the same CPU: first the same numbers, then the time.

    python tests/benchmarks/routings_against_torch.py                   # a few minutes
    python tests/benchmarks/routings_against_torch.py --json results.json

One capsule layer, votes and routing, forward and backward, on a batch of 100. The twin gets the same
weights; outputs and every gradient must agree before anything is timed. Then each of the two runs in a
process of its own, and they take turns. The table shows medians with quartiles, the most memory that each
process has held, and PyTorch's time divided by ours, round by round: above 1, minicaps is faster. The column
behind it divides that by the same for dynamic routing. minicaps keeps freed memory, PyTorch hands large
blocks back to the system and asks for them again; a third process runs PyTorch with freed memory kept, too.

PyTorch is a yardstick only: minicaps does not need it. Install it with: pip install torch
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
from against_torch import peak_memory

from minicaps import (
    CapsuleLayer,
    DynamicRouting,
    EMRouting,
    Entmax,
    InvertedAttentionRouting,
    SelfAttentionRouting,
    TopK,
)
from minicaps.fast import keep_freed_memory, own_the_cores, thread_count

SIZES = {"paper": (1152, 8, 10, 16), "small": (128, 8, 10, 16)}  # I, D, J, E
YARDSTICKS = {"torch": "PyTorch", "torch-kept": "memory kept"}
WIDTHS = (20, 25, 28, 28, 6, 6, 6, 22, 10, 22, 10)
BATCH, ITERATIONS, CHOSEN, EM_ITERATIONS = 100, 3, 2, 2
FAMILIES = {
    "dynamic": lambda I, J, E, dtype: DynamicRouting(ITERATIONS),
    "top-k": lambda I, J, E, dtype: DynamicRouting(ITERATIONS, coupling=TopK(CHOSEN)),
    "entmax": lambda I, J, E, dtype: DynamicRouting(ITERATIONS, coupling=Entmax()),
    "self-attention": lambda I, J, E, dtype: SelfAttentionRouting(bias_shape=(I, J), dtype=dtype),
    "inverted-attention": lambda I, J, E, dtype: InvertedAttentionRouting(E, dtype=dtype),
    "em": lambda I, J, E, dtype: EMRouting(J, EM_ITERATIONS, inverse_temperature=0.01, dtype=dtype),
}


def layer_and_inputs(family, size, dtype=np.float32, batch=BATCH):
    """Return the capsule layer, its inputs u (B, I, D) and for EM a (B, I), and upstream gradients."""
    I, D, J, E = SIZES[size]
    rng = np.random.default_rng(1)
    routing = FAMILIES[family](I, J, E, dtype)
    layer = CapsuleLayer(I, D, J, E, routing=routing, std=2 / E**0.5, rng=0, dtype=dtype)
    for param in routing.params.values():
        param += 0.1 * rng.normal(size=param.shape).astype(dtype)  # biases that are not 0
    u = rng.normal(size=(batch, I, D)).astype(dtype) / D**0.5
    inputs = (u, rng.uniform(0.1, 0.9, size=(batch, I)).astype(dtype)) if family == "em" else (u,)
    upstream = (rng.normal(size=(batch, J, E)).astype(dtype),)
    upstream += (rng.normal(size=(batch, J)).astype(dtype),) if family == "em" else ()
    return layer, inputs, upstream


# -- the twins --------------------------------------------------------------------------------


def make_twin(layer):
    """Return a function of inputs that computes what the layer does in PyTorch, and its weights."""
    import torch
    from torch_routings import twin_of

    weights = {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in layer.params.items()}
    of_routing = {name.removeprefix("routing."): x for name, x in weights.items() if name != "votes.W"}
    route = twin_of(layer.routing)

    def twin(u, *a):
        return route(of_routing, torch.einsum("bid,idje->bije", u, weights["votes.W"]), *a)

    return twin, weights


def as_tensors(arrays, grad=False):
    import torch

    return [torch.from_numpy(x).requires_grad_(grad) for x in arrays]


def forward_and_backward(twin, inputs, upstream):
    """Return the outputs of a twin, with gradients in every leaf."""
    import torch

    outputs = twin(*inputs)
    torch.autograd.backward(outputs, upstream)
    return outputs


def several(x):
    return x if isinstance(x, tuple) else (x,)


def prove_that_the_twins_agree(family, size):
    """Raise AssertionError unless outputs and gradients agree."""
    for dtype, allowed in ((np.float32, 5e-4), (np.float64, 1e-9)):
        layer, inputs, upstream = layer_and_inputs(family, size, dtype, batch=7)
        y, cache = layer.forward(*inputs)
        d = layer.backward(upstream if family == "em" else upstream[0], cache)
        twin, weights = make_twin(layer)
        x = as_tensors([array.copy() for array in inputs], grad=True)
        theirs = forward_and_backward(twin, x, as_tensors(upstream))
        pairs = {f"output {k}": pair for k, pair in enumerate(zip(several(y), theirs, strict=True))}
        pairs |= {f"d input {k}": pair for k, pair in
                  enumerate(zip(several(d), (each.grad for each in x), strict=True))}  # fmt: skip
        pairs |= {f"d {name}": (grad, weights[name].grad) for name, grad in layer.grads.items()}
        worst = {}
        for name, (ours, other) in pairs.items():
            other = other.detach().numpy()
            worst[name] = float(np.abs(ours - other).max() / np.abs(other).max())
            assert worst[name] <= allowed, (
                f"{family} {size} {dtype.__name__}: {name} differs by {worst[name]:.1e}"
            )
        name = max(worst, key=worst.get)
        print(
            f"agree: {family} {size} {dtype.__name__}: {len(worst)} arrays, worst {worst[name]:.1e} ({name})"
        )


# -- one of the two in a process of its own -----------------------------------------------------


def worker(who, family, size):
    """Answer every line "N" on standard input with the seconds of N passes, and "memory" with MB."""
    if who == "torch-kept":
        keep_freed_memory()
    step = (our_step if who == "minicaps" else their_step)(family, size)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(peak_memory(), flush=True)
            continue
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print((time.perf_counter() - start) / int(line), flush=True)


def our_step(family, size):
    own_the_cores()
    keep_freed_memory()
    layer, inputs, upstream = layer_and_inputs(family, size)
    dy = upstream if family == "em" else upstream[0]

    def step():
        layer.zero_grad()
        _, cache = layer.forward(*inputs)
        layer.backward(dy, cache)

    return step


def their_step(family, size):
    import torch

    torch.set_num_threads(thread_count())
    layer, inputs, upstream = layer_and_inputs(family, size)
    twin, weights = make_twin(layer)
    x, dy = as_tensors(inputs, grad=True), as_tensors(upstream)

    def step():
        for leaf in [*x, *weights.values()]:
            leaf.grad = None
        forward_and_backward(twin, x, dy)

    return step


class Process:
    """A worker that waits for its turn."""

    def __init__(self, *task):
        command = [sys.executable, __file__, "--worker", *task]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the worker {' '.join(task)} died")

    def ask(self, question):
        print(question, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


# -- the table ----------------------------------------------------------------------------------


def compare(family, size, rounds, seconds=0.3):
    """Return {who: seconds of a pass in each round}, in turns, and {who: MB}, of three processes."""
    workers = {who: Process(who, family, size) for who in ("minicaps", *YARDSTICKS)}
    counts = {who: max(1, round(seconds / each.ask(1))) for who, each in workers.items()}
    times = {who: [] for who in workers}
    for k in range(rounds):
        for who in list(workers)[:: 1 if k % 2 == 0 else -1]:
            times[who].append(workers[who].ask(counts[who]))
    memory = {who: each.ask("memory") for who, each in workers.items()}
    for each in workers.values():
        each.end()
    return {who: np.array(each) for who, each in times.items()}, memory


def quartiles(x, digits):
    low, median, high = np.percentile(x, (25, 50, 75))
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def line(*cells):
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", help="write every figure there, under a plain name")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="(default: 15)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="(default: all)")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("routings_against_torch: PyTorch is missing; install it with: pip install torch")
    print(f"torch {torch.__version__}, numpy {np.__version__}, {thread_count()} threads, batch {BATCH}")
    own_the_cores()
    for size in options.sizes:
        for family in FAMILIES:
            prove_that_the_twins_agree(family, size)
    figures = {}
    for size in options.sizes:
        I, D, J, E = SIZES[size]
        print(f"\n{I}×{D} -> {J}×{E}, forward and backward")
        whom = ["minicaps", *YARDSTICKS.values()]
        ratio_heads = [head for name in YARDSTICKS.values() for head in (f"by {name}", "/ dynamic")]
        heads = ["routing", *(f"{each}, ms" for each in whom), *("MB" for _ in whom), *ratio_heads]
        print(line(*heads))
        for family in FAMILIES:
            times, memory = compare(family, size, options.rounds)
            ratios = {who: times[who] / times["minicaps"] for who in YARDSTICKS}
            found = {
                **{f"{who}_ms": float(1e3 * np.median(each)) for who, each in times.items()},
                **{f"{who}_mb": each for who, each in memory.items()},
                **{f"{who}_ratio": float(np.median(each)) for who, each in ratios.items()},
            }
            figures |= {f"{size}_{family}_{name}": round(value, 3) for name, value in found.items()}
            spans = [quartiles(1e3 * each, 2) for each in times.values()]
            cells = [f"{each:.0f}" for each in memory.values()]
            for who, each in ratios.items():
                relative = found[f"{who}_ratio"] / figures[f"{size}_dynamic_{who}_ratio"]
                cells += [quartiles(each, 2), f"{relative:.2f}"]
            print(line(family, *spans, *cells), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
