"""minicaps beside PyTorch, JAX and ONNX Runtime on the same CPU: first the same numbers, then the time.

    python tests/benchmarks/against_torch.py            # everything, a quarter of an hour
    python tests/benchmarks/against_torch.py --quick    # small and paper, training only
    python tests/benchmarks/against_torch.py --growth   # how the cost of an image grows, alone
    python tests/benchmarks/against_torch.py --routings # training with every routing, alone
    python tests/benchmarks/against_torch.py --json results.json

A PyTorch twin gets the same weights. Outputs, loss and every gradient must agree before anything is
timed. Then every contender runs in a process of its own; they take turns, round by round, and the
table shows the median of the ratios of each round with the smallest and the largest. Above 1,
minicaps is faster.

They are yardsticks only: minicaps needs none. Install them with: pip install torch jax onnxruntime.
Where JAX or ONNX Runtime is missing, the script says so and goes on without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from minicaps.fast import keep_freed_memory, own_the_cores, thread_count
from minicaps.networks import build
from minicaps.training import Adam, DataParallel, train_step
from minicaps.training.bench import sgemm_rate

TRAINING = ("eager", "channels_last", "compile", "jax")
INFERENCE = ("eager", "compile", "jax", "onnxruntime")
GROWTH = ("eager", "compile")
ROUTINGS = {  # options of a CapsNet
    "dynamic": {},
    "top-2": {"coupling": "top-2"},
    "self-attention": {"routing": "self-attention"},
    "inverted-attention": {"routing": "inverted-attention"},
}
MULTIPLY_ADDS_DIRECT = 0.609e9  # of an image in the paper's network by direct convolution, both ways


# -- the twin ---------------------------------------------------------------------------------


def make_twin(net):
    """Return a torch module with the weights of the CapsNet `net`, and a map of its parameters."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch_routings import squash, twin_of

    config, has_line, route = net.config, net.has_line, twin_of(net.capsules.routing)
    of_routing = {name: f"capsules_routing_{name.replace('.', '_')}" for name in net.capsules.routing.params}

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterDict(
                {name.replace(".", "_"): torch_layout(name, value) for name, value in net.state().items()}
            )

        def forward(self, images, labels=None):
            """images (B, C, H, W) -> v (B, J, E), or z (B, J), and reconstruction (B, H·W·C) or None."""
            w, batch = self.weights, len(images)
            x = F.relu(F.conv2d(images, w["conv_W"], w["conv_bias"], stride=config.conv_stride))
            x = F.conv2d(x, w["primary_conv_W"], w["primary_conv_bias"], stride=config.primary_stride)
            # as in minicaps: capsule (p, q, type), its dimensions are neighbouring channels
            u = squash(x.permute(0, 2, 3, 1).reshape(batch, -1, config.primary_dimension))
            u_hat = torch.einsum("bid,idje->bije", u, w["capsules_votes_W"])
            (v,) = route({name: w[key] for name, key in of_routing.items()}, u_hat)
            y = v @ w["presence_w"] if has_line else v
            if not config.decoder:
                return y, None
            scores = y if has_line else (v * v).sum(-1)
            chosen = scores.argmax(1) if labels is None else labels
            x = (F.one_hot(chosen, net.classes)[..., None] * v).reshape(batch, -1)
            for layer in ("fc1", "fc2", "fc3"):
                x = x @ w[f"decoder_{layer}_W"] + w[f"decoder_{layer}_bias"]
                x = x.sigmoid() if layer == "fc3" else F.relu(x)
            return y, x

    def torch_layout(name, value):
        value = torch.from_numpy(value.copy())
        return nn.Parameter(
            value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 and "conv" in name else value
        )

    return Twin()


def twin_loss(net, y, reconstruction, images, labels):
    """Return the loss that minicaps trains with, on what the twin computed."""
    from torch.nn import functional as F

    if net.has_line:
        loss = F.cross_entropy(y, labels, reduction="sum")
    else:
        T, n = F.one_hot(labels, net.classes), y.norm(dim=-1)
        loss = (T * F.relu(0.9 - n) ** 2 + 0.5 * (1 - T) * F.relu(n - 0.1) ** 2).sum()
    flat = images.permute(0, 2, 3, 1).reshape(reconstruction.shape)
    return (loss + net.config.reconstruction_scale * ((reconstruction - flat) ** 2).sum()) / len(y)


def images_for(net, batch, dtype=np.float32):
    rng = np.random.default_rng(1)
    images = rng.random((batch, *net.image_shape)).astype(dtype)
    return images, rng.integers(0, net.classes, batch)


def prove_that_the_twins_agree():
    """Raise AssertionError unless outputs, loss and gradients agree."""
    import torch

    for dtype, allowed in ((np.float32, 1e-4), (np.float64, 1e-9)):
        for options in (
            {"preset": "small"},
            {"preset": "paper"},
            {"preset": "small", "stopped_gradient": True},
            *({"preset": "small", **routing} for routing in ROUTINGS.values() if routing),
        ):
            net = build("capsnet", **options, rng=0, dtype=dtype)
            net.params["capsules.votes.W"][...] *= 5  # couplings that are not near uniform
            images, labels = images_for(net, 4, dtype)
            (scores, reconstruction), cache = net.forward(images, labels)
            loss, loss_cache = net.objective().forward((scores, reconstruction), (labels, images))
            net.backward(net.objective().backward(loss_cache), cache)

            twin = make_twin(net)
            x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            y = torch.from_numpy(labels)
            twin_scores, twin_reconstruction = twin(x, y)
            value = twin_loss(net, twin_scores, twin_reconstruction, x, y)
            value.backward()
            pairs = {
                "v or z": (scores, twin_scores),
                "reconstruction": (reconstruction.reshape(len(scores), -1), twin_reconstruction),
                "loss": (loss, value),
            }
            for name, grad in net.grads.items():
                theirs = twin.weights[name.replace(".", "_")].grad
                theirs = theirs.permute(2, 3, 1, 0) if theirs.ndim == 4 and "conv" in name else theirs
                pairs["d " + name] = (grad, theirs)
            worst = {}
            for name, (ours, theirs) in pairs.items():
                theirs = theirs.detach().numpy()
                worst[name] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
                assert worst[name] <= allowed, (
                    f"{options} {dtype.__name__}: {name} differs by {worst[name]:.1e}"
                )
            name = max(worst, key=worst.get)
            print(f"agree: {options} {dtype.__name__}: {len(worst)} arrays, worst {worst[name]:.1e} ({name})")


def prove_that_the_others_agree():
    """Raise AssertionError unless JAX and ONNX Runtime, where they are, give the same numbers."""
    for preset in ("small", "paper"):
        net = build("capsnet", preset, rng=0)
        net.params["capsules.votes.W"][...] *= 5  # couplings that are not near uniform
        images, labels = images_for(net, 4)
        if is_here("jax"):
            import jax_twin

            (v, reconstruction), cache = net.forward(images, labels)
            loss, loss_cache = net.objective().forward((v, reconstruction), (labels, images))
            net.zero_grad()
            net.backward(net.objective().backward(loss_cache), cache)
            value, grads, (their_v, theirs) = jax_twin.gradient(net, images, labels)
            pairs = {"v": (v, their_v), "reconstruction": (reconstruction.reshape(theirs.shape), theirs)}
            pairs |= {"loss": (loss, value)} | {"d " + k: (g, grads[k]) for k, g in net.grads.items()}
            agree(f"jax {preset}", pairs, 1e-4)
        if is_here("onnxruntime"):
            lengths = onnx_session(net).run(None, {"images": images})[0]
            agree(f"onnxruntime {preset}", {"lengths": (net.scores(net(images)), lengths)}, 1e-4)


def agree(what, pairs, allowed):
    worst = {
        name: float(np.abs(np.asarray(one) - np.asarray(other)).max() / np.abs(np.asarray(other)).max())
        for name, (one, other) in pairs.items()
    }
    name = max(worst, key=worst.get)
    assert worst[name] <= allowed, f"{what}: {name} differs by {worst[name]:.1e}"
    print(f"agree: {what}: {len(worst)} arrays, worst {worst[name]:.1e} ({name})")


def is_here(package):
    return importlib.util.find_spec(package) is not None


def onnx_session(net):
    """Return the session of ONNX Runtime for the file that ``export --onnx`` writes."""
    import onnxruntime

    from minicaps.networks.export import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx(path, net)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# -- one contender in a process of its own ----------------------------------------------------


def worker(repeat):
    """Answer every line "N" on standard input with the seconds of repeat(N), and "memory" with MB."""
    repeat(2)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(peak_memory(), flush=True)
            continue
        count = int(line)
        start = time.perf_counter()
        repeat(count)
        print((time.perf_counter() - start) / count, flush=True)


def peak_memory():
    """Return the most memory that this process and those it started have held, in MB."""
    children = open("/proc/thread-self/children").read().split()
    statuses = "".join(open(f"/proc/{process}/status").read() for process in ["self", *children])
    peaks = [line.split()[1] for line in statuses.splitlines() if line.startswith("VmHWM")]
    return sum(map(int, peaks)) / 1024


def prepare(contender, options, task, batch):
    options = {
        name: tuple(x) if isinstance(x, list) else x for name, x in options.items()
    }  # as JSON had them
    net = build("capsnet", **options, rng=0)
    images, labels = images_for(net, batch)
    if contender == "minicaps":
        own_the_cores()
        keep_freed_memory()
        return prepare_minicaps(net, task, images, labels)
    if contender == "jax":
        import jax_twin

        return jax_twin.prepare(net, task, images, labels)
    if contender == "onnxruntime":
        session = onnx_session(net)
        return lambda count: [session.run(None, {"images": images}) for _ in range(count)]
    return prepare_torch(net, contender, task, images, labels)


def prepare_minicaps(net, task, images, labels):
    if task == "infer":
        ready = net.for_inference()
        return lambda count: [ready(images) for _ in range(count)]
    optimizer = Adam(net, 1e-3)
    source = DataParallel(net, net.objective(), len(images))  # what a run uses

    def train(count):
        for _ in range(count):
            train_step(source, optimizer, images, labels)

    return train


def prepare_torch(net, contender, task, images, labels):
    import torch

    torch.set_num_threads(thread_count())
    twin = make_twin(net)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    if contender == "channels_last":
        twin, x = twin.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    run = torch.compile(twin) if contender == "compile" else twin
    if task == "infer":

        def infer(count):
            with torch.inference_mode():
                for _ in range(count):
                    run(x)

        return infer
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3)

    def train(count):
        for _ in range(count):
            optimizer.zero_grad()
            twin_loss(net, *run(x, y), x, y).backward()
            optimizer.step()

    return train


class Process:
    """A worker that waits for its turn."""

    def __init__(self, contender, options, task, batch, script=__file__):
        command = [sys.executable, script, "--worker", contender, json.dumps(options), task, str(batch)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while (line := self.process.stdout.readline()).strip() != "ready":
            if not line:
                raise RuntimeError(f"the worker {contender} for {options} died")

    def ask(self, question):
        print(question, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


# -- the tables -------------------------------------------------------------------------------


def compare(options, task, batch, contenders, rounds, seconds=1.0, script=__file__):
    """Return {contender: (seconds of a step, ratios to minicaps by round, MB)}, in turns."""
    names = ("minicaps", *contenders)
    workers = {name: Process(name, options, task, batch, script) for name in names}
    counts = {name: max(1, round(seconds / w.ask(1))) for name, w in workers.items()}
    times = {name: [] for name in names}
    for k in range(rounds):
        order = names if k % 2 == 0 else names[::-1]
        for name in order:
            times[name].append(workers[name].ask(counts[name]))
    memory = {name: w.ask("memory") for name, w in workers.items()}
    for w in workers.values():
        w.end()
    ours = np.array(times["minicaps"])
    return {
        name: (float(np.median(times[name])), np.array(times[name]) / ours, memory[name]) for name in names
    }


def show(label, results):
    for name, (seconds, ratios, memory) in results.items():
        spread = (
            ""
            if name == "minicaps"
            else (f"{np.median(ratios):6.2f}  ({ratios.min():.2f} to {ratios.max():.2f})")
        )
        print(f"{label:<34} {name:<14} {1e3 * seconds:9.2f} ms {memory:7.0f} MB  {spread}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", help="write every ratio there, under a plain name")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: 7)")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--quick", action="store_true", help="training of small and paper only")
    some.add_argument("--growth", action="store_true", help="how the cost of an image grows, only")
    some.add_argument("--routings", action="store_true", help="training with every routing, only")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("against_torch: PyTorch is missing; install it with: pip install torch")
    own_the_cores()
    print(f"torch {torch.__version__}, numpy {np.__version__}, {thread_count()} threads")
    prove_that_the_twins_agree()
    prove_that_the_others_agree()
    missing = [name for name in ("jax", "onnxruntime") if not is_here(name)]
    if missing:
        print(f"not here, and left out: {', '.join(missing)}")
    training, inference = ([x for x in names if x not in missing] for names in (TRAINING, INFERENCE))
    figures = {}

    def note(name, value):
        figures[name] = round(float(value), 3)

    if not (options.growth or options.routings):
        peers(note, training, inference, options)
    if not options.quick and not options.routings:
        grow(note, options.rounds)
    if options.routings:
        routings(note, options.rounds)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=2)
            file.write("\n")


def peers(note, training, inference, options):
    """Show training and inference of the presets small and paper beside those that are named."""
    print(f"\n{'task':<34} {'who':<14} {'a step':>12} {'peak':>10}  ratio: median (smallest to largest)")
    for preset, batch in (("small", 100), ("paper", 128)):
        results = compare({"preset": preset}, "train", batch, training, options.rounds)
        show(f"train {preset}, batch {batch}", results)
        for name in training:
            note(f"{preset}_train_vs_{name}", np.median(results[name][1]))
        note(f"{preset}_memory_vs_eager", results["eager"][2] / results["minicaps"][2])
        if preset == "paper":
            bound = 2 * MULTIPLY_ADDS_DIRECT * batch / sgemm_rate()
            ratio = bound / results["minicaps"][0]
            note("sgemm_bound_ratio", ratio)
            print(
                f"{'':<34} the direct method at the machine's sgemm rate: {1e3 * bound:.1f} ms, "
                f"ratio {ratio:.2f}"
            )
    if not options.quick:
        for preset, batch in (("small", 100), ("paper", 128)):
            stopped = {"preset": preset, "stopped_gradient": True}
            results = compare(stopped, "train", batch, ("eager",), options.rounds)
            show(f"train {preset}, stopped gradient", results)
            note(f"{preset}_stopped_train_vs_eager", np.median(results["eager"][1]))
        for preset in ("small", "paper"):
            for batch in (1, 32, 256):
                results = compare({"preset": preset}, "infer", batch, inference, options.rounds)
                show(f"infer {preset}, batch {batch}", results)
                for name in inference:
                    note(f"{preset}_infer{batch}_vs_{name}", np.median(results[name][1]))
        alone = [name for name in inference if name != "jax"]
        results = compare({"preset": "small", "decoder": False}, "infer", 1, alone, options.rounds)
        show("infer small, batch 1, no decoder", results)
        note("small_infer1_no_decoder_us", 1e6 * results["minicaps"][0])
        for name in alone:
            note(f"small_infer1_no_decoder_vs_{name}", np.median(results[name][1]))


def routings(note, rounds):
    """Show training of the presets small and paper with every routing beside PyTorch eager."""
    print(f"\n{'task':<34} {'who':<14} {'a step':>12} {'peak':>10}  ratio: median (smallest to largest)")
    for preset, batch in (("small", 100), ("paper", 128)):
        for name, routing in ROUTINGS.items():
            results = compare({"preset": preset, **routing}, "train", batch, ("eager",), rounds)
            show(f"train {preset}, {name}", results)
            note(f"{preset}_{name}_train_vs_eager", np.median(results["eager"][1]))


def grow(note, rounds):
    """Show how the cost of an image grows with batch, side, types, classes and iterations."""
    print(f"\n{'training, ms an image':<34} " + " ".join(f"{who:>14}" for who in ("minicaps", *GROWTH)))
    cases = [(f"small, batch {b}", {}, b, f"batch{b}") for b in (1, 4, 16, 32, 128, 512)]
    grown = {
        "side": ("image_shape", (28, 40, 64, 96)),
        "types": ("primary_types", (8, 32, 64, 128)),
        "classes": ("classes", (10, 50, 100, 200)),
        "iterations": ("iterations", (1, 3, 5, 7)),
    }
    for what, (option, sizes) in grown.items():
        for n in sizes:
            cases.append(
                (f"small, {what} {n}", {option: [n, n, 1] if what == "side" else n}, 32, f"{what}{n}")
            )
    for label, extra, batch, name in cases:
        results = compare({"preset": "small", **extra}, "train", batch, GROWTH, rounds, seconds=0.5)
        per_image = {who: 1e3 * seconds / batch for who, (seconds, _, _) in results.items()}
        print(f"{label:<34} " + " ".join(f"{x:>14.3f}" for x in per_image.values()), flush=True)
        note(f"small_{name}_ms_per_image", per_image["minicaps"])
        for who in GROWTH:
            note(f"small_{name}_train_vs_{who}", np.median(results[who][1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, who, choice, what, size = sys.argv
        worker(prepare(who, json.loads(choice), what, int(size)))
    else:
        main()
