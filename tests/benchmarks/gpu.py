"""minicaps on a GPU: is it right, what does it copy, how fast is it beside PyTorch, how does it fail?

    python tests/benchmarks/gpu.py --out gpu            # everything, below ten minutes: gpu.json, gpu.md
    python tests/benchmarks/gpu.py --parts agreement,transfers

It needs CUDA, CuPy and, for the comparison, PyTorch; no network. Where CuPy sees no GPU, the parts that
need none run on the stand-in of the tests, and the table says what did not run. A part that breaks is
told in its row, and the next one begins. It exits with 1 if a row is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import against_torch  # noqa: E402, it lies beside this file
import strict_backend  # noqa: E402

import minicaps  # noqa: E402
from minicaps import arrays  # noqa: E402
from minicaps.arrays import to_backend, to_numpy  # noqa: E402
from minicaps.layers import Loss, ScaledLoss  # noqa: E402
from minicaps.networks import build  # noqa: E402
from minicaps.proof.cases import Outcome, arrays_in, cases_of, map_arrays, run, upstream  # noqa: E402
from minicaps.proof.discovery import find_classes, package_modules  # noqa: E402
from minicaps.training import Adam, LossScale, OneProcess, backpropagate, train_step  # noqa: E402

ROUNDS = 5  # of each timing; contenders take turns
SECONDS = 0.5  # of one contender in one round
STEPS = {"small": (100, 1000), "paper": (128, 512)}  # batch sizes
OUTPUTS, GRADIENTS, EXACT = 1e-4, 1e-3, 1e-10  # allowed: in float32, in float32, in float64
POINTS = 0.3  # allowed between the accuracies of an epoch on the device and on the host
MIXED = 1e-2  # allowed between gradients in mixed precision: a dozen roundings of 2⁻¹¹, one after another
SCALE = 2.0**10  # of the loss there


class Row(NamedTuple):
    """One line of the table."""

    part: str
    what: str
    value: str
    ok: bool | None  # None: nothing to hold it to


class Device(NamedTuple):
    """The array library that plays the device, and whether there is one."""

    xp: Any
    real: bool
    why: str = ""  # there is none


def find_device() -> Device:
    try:
        return Device(arrays.resolve("cupy"), real=True)
    except RuntimeError as error:
        arrays.register(strict_backend.StrictArray, strict_backend.strict)
        return Device(strict_backend.strict, real=False, why=str(error))


def relative(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest number of each array."""
    worst = 0.0
    for one, other in zip(arrays_in(found), arrays_in(expected), strict=True):
        scale = max(float(np.abs(other).max()), 1e-30)
        worst = max(worst, float(np.abs(np.asarray(one, float) - other).max()) / scale)
    return worst


# -- 1: the tests -----------------------------------------------------------------------------


def tests(device: Device) -> Iterator[Row]:
    """The tests that have the fixture ``device``, and whole runs from the command line."""
    files = [str(TESTS / "test_device.py"), str(TESTS / "test_contract.py")]
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-k", "device or array_library", *files]
    result = subprocess.run(words, capture_output=True, text=True, cwd=TESTS.parent, env=environment())
    lines = result.stdout.strip().splitlines()
    said = lines[-1].strip("= ") if lines else result.stderr.strip()[-200:]
    yield Row("tests", "those with the fixture device", said, result.returncode == 0)
    if not device.real:
        return
    with tempfile.TemporaryDirectory() as folder:
        short = ["--preset", "tiny", "--limit", "2000", "--epochs", "1"]
        for backend in ("cupy", "auto"):
            out = Path(folder) / backend
            yield command_row(
                f"train --backend {backend}", "train", *short, "--backend", backend, "--out", out
            )
            yield command_row(
                f"resume it with two epochs ({backend})", "train", "--resume", out, "--epochs", "2"
            )
            yield command_row(f"evaluate it ({backend})", "evaluate", out)
        mixed, out = ["--precision", "mixed", "--backend", "cupy"], Path(folder) / "mixed"
        yield command_row("train --precision mixed", "train", *short, *mixed, "--out", out)
        yield command_row("resume it with two epochs (mixed)", "train", "--resume", out, "--epochs", "2")


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(minicaps.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path} | more


def command(*arguments: Any, **more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "minicaps", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment(**more))


def command_row(what: str, *arguments: Any) -> Row:
    result = command(*arguments)
    last = (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines()
    return Row("tests", what, last[-1] if last else "", result.returncode == 0)


# -- 2: agreement with the host ---------------------------------------------------------------


def agreement(device: Device) -> Iterator[Row]:
    """Outputs and gradients of every example, of a step of each preset, and the accuracy of an epoch."""
    for dtype, allowed in ((np.float64, (EXACT, EXACT)), (np.float32, (OUTPUTS, GRADIENTS))):
        worst: dict[str, tuple[float, str]] = {"outputs": (0.0, "none"), "gradients": (0.0, "none")}
        broken: list[str] = []
        cases = [case for cls in find_classes(package_modules()) for case in cases_of(cls)]
        for case in cases:
            try:
                differences = compare_example(case, dtype, device.xp)
            except Exception as error:
                broken.append(f"{case.label}: {type(error).__name__}: {error}")
                continue
            for kind, value in zip(worst, differences, strict=True):
                worst[kind] = max(worst[kind], (value, case.label))
        name = np.dtype(dtype).name
        for (kind, (value, where)), limit in zip(worst.items(), allowed, strict=True):
            what = f"{kind} of {len(cases) - len(broken)} examples, {name}"
            yield Row("agreement", what, f"{value:.1e} at worst ({where})", value <= limit)
        yield Row("agreement", f"examples that break, {name}", "; ".join(broken) or "none", not broken)
    for preset in STEPS:
        value = compare_step(preset, device.xp)
        yield Row("agreement", f"gradient of a step of {preset}, float32", f"{value:.1e}", value <= GRADIENTS)
    yield from mixed_agreement(device)
    if device.real:
        yield from accuracy()


def compare_example(case: Any, dtype: Any, xp: Any) -> tuple[float, float]:
    """Return by how much outputs and gradients of an example on the device differ from the host's."""
    _, layer, inputs, *_ = case.make(dtype)
    expected = run(layer, inputs)
    inputs = map_arrays(lambda x: to_backend(x, xp), inputs)
    if isinstance(layer, Loss):
        y, cache = layer.forward(*inputs)
        found = Outcome(y, layer.backward(cache), {})
    else:
        layer.to(xp)
        y, cache = layer.forward(*inputs)
        layer.zero_grad()
        dx = layer.backward(map_arrays(lambda part: to_backend(part, xp), upstream(expected.y)), cache)
        found = Outcome(y, dx, {name: to_numpy(grad) for name, grad in layer.grads.items()})
    y, dx = map_arrays(to_numpy, (found.y, found.dx))
    return relative(y, expected.y), relative((dx, found.grads), (expected.dx, expected.grads))


def compare_step(preset: str, xp: Any) -> float:
    """Return by how much the gradients of four images differ between device and host."""
    return relative(*(gradients_of(preset, library, "float32") for library in (xp, np)))


def gradients_of(preset: str, xp: Any, precision: str) -> dict[str, np.ndarray]:
    """Return the gradient of the parameters for four images, on the host."""
    network = build("capsnet", preset, rng=0).to(xp).set_precision(precision)
    images, labels = (to_backend(array, xp) for array in against_torch.images_for(network, 4))
    backpropagate(network, ScaledLoss(network.objective(), SCALE), images, labels)
    return {name: to_numpy(grad) / SCALE for name, grad in network.grads.items()}


def mixed_agreement(device: Device) -> Iterator[Row]:
    """Mixed precision on the device, simulated on the host, in PyTorch's AMP, and beside float32."""
    torch = find_torch()
    for preset in STEPS if device.real else ("small",):  # NumPy's own products of float16 are slow
        full, host, found = (
            gradients_of(preset, *how) for how in ((np, "float32"), (np, "mixed"), (device.xp, "mixed"))
        )
        differences = by_norm(found, host), by_norm(found, full)
        value = "{:.1e} from the host, {:.1e} from float32".format(*differences)
        label = f"gradient of a step of {preset}"
        yield Row("agreement", f"{label}, mixed", value, max(differences) <= MIXED)
        if torch is None:
            yield Row("agreement", f"{label}, AMP", "not run: PyTorch is missing", None)
            continue
        theirs = amp_gradients(torch, preset, "cuda" if device.real else "cpu")
        differences = by_norm(found, theirs), by_norm(theirs, full)
        value = "{:.1e} from ours, {:.1e} from float32".format(*differences)
        yield Row("agreement", f"{label}, AMP", value, max(differences) <= MIXED)
    if torch is not None:
        same = follows_grad_scaler(torch, "cuda" if device.real else "cpu")
        value = "the same scales" if same else "other scales"
        yield Row("agreement", "LossScale and GradScaler in 200 steps", value, same)


def by_norm(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest distance of an array from the expected one, relative to its norm."""
    return max(
        float(np.linalg.norm(found[name] - array) / np.linalg.norm(array)) for name, array in expected.items()
    )


def amp_gradients(torch: Any, preset: str, where: str) -> dict[str, np.ndarray]:
    """Return what ``gradients_of`` does, by PyTorch's automatic mixed precision."""
    network = build("capsnet", preset, rng=0)
    images, labels = against_torch.images_for(network, 4)
    with torch.device(where):  # for what the twin makes on its way
        twin = against_torch.make_twin(network).to(where)
        x = torch.from_numpy(images).to(where).permute(0, 3, 1, 2).contiguous()
        y = torch.from_numpy(labels).to(where)
        with torch.autocast(where, dtype=torch.float16):
            loss = against_torch.twin_loss(network, *twin(x, y), x, y)
        (SCALE * loss).backward()
    found = {}
    for name in network.grads:
        grad = twin.weights[name.replace(".", "_")].grad.float().cpu()
        convolution = grad.ndim == 4 and "conv" in name
        found[name] = (grad.permute(2, 3, 1, 0) if convolution else grad).numpy() / SCALE
    return found


def follows_grad_scaler(torch: Any, where: str) -> bool:
    """Whether LossScale has the scale of PyTorch's GradScaler after each step, a third of which overflow."""
    ours, theirs = LossScale(grow_after=3), torch.amp.GradScaler(where, growth_interval=3)
    param = torch.nn.Parameter(torch.zeros(2, device=where))
    optimizer, rng = torch.optim.SGD([param], 0.1), np.random.default_rng(0)
    for _ in range(200):
        finite = ours.scale < 4 or rng.random() < 0.67  # below 1 ours ends the training
        optimizer.zero_grad()
        theirs.scale((param * (1.0 if finite else np.inf)).sum()).backward()
        theirs.step(optimizer)
        theirs.update()
        ours.note(finite)
        if (ours.scale, ours.good_steps) != (theirs.get_scale(), theirs._get_growth_tracker()):
            return False
    return True


def find_torch() -> Any:
    """Return PyTorch, or None where it is missing."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def accuracy() -> Iterator[Row]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (
            ("host", ["--backend", "numpy"]),
            ("device", ["--backend", "cupy"]),
            ("device, mixed", ["--backend", "cupy", "--precision", "mixed"]),
        ):
            out = Path(folder) / name
            result = command("train", "--epochs", "1", *options, "--out", out)
            if result.returncode:
                yield Row("agreement", f"an epoch, {name}", result.stderr.strip()[-200:], False)
                return
            found[name] = 100 * json.loads((out / "summary.json").read_text())["test_accuracy"]
    host = found.pop("host")
    for name, percent in found.items():
        value = f"{percent:.2f} and {host:.2f} %"
        yield Row(
            "agreement", f"accuracy after an epoch, {name} and host", value, abs(percent - host) <= POINTS
        )


# -- 3: what is copied ------------------------------------------------------------------------


def transfers(device: Device) -> Iterator[Row]:
    """Copies from the device in a training step, and whether the host waits within it."""
    steps = [(preset, "float32") for preset in STEPS] + [("small", "mixed")]
    for preset, precision in steps + [("paper", "mixed")] * device.real:  # NumPy's float16 is slow
        step, counted = counted_steps(preset, device.xp, precision)
        step()
        before = counted()
        for _ in range(5):
            step()
        copies = (counted() - before) / 5
        label = preset if precision == "float32" else f"{preset}, {precision}"
        yield Row("transfers", f"copies to the host in a step of {label}", f"{copies:g}", copies <= 1)
    if device.real:
        yield from waiting(device.xp)


def counted_steps(preset: str, xp: Any, precision: str) -> tuple[Callable[[], Any], Callable[[], int]]:
    """Return what makes a step, and what says how many copies to the host there have been."""
    network = build("capsnet", preset, rng=0).to(xp).set_precision(precision)
    images, labels = (to_backend(x, xp) for x in against_torch.images_for(network, 8))
    source, optimizer = OneProcess(network), Adam(network, 1e-3)
    scale = LossScale(SCALE) if precision == "mixed" else None  # too small for a step to be skipped
    if xp is strict_backend.strict:
        return lambda: train_step(source, optimizer, images, labels, scale), lambda: xp.transfers
    count = [0]
    asnumpy = xp.asnumpy

    def counting(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        return asnumpy(*arguments, **options)

    xp.asnumpy = counting
    return lambda: train_step(source, optimizer, images, labels, scale), lambda: count[0]


def waiting(xp: Any) -> Iterator[Row]:
    """Whether calls return before the device is done: the time to ask for a gradient, and to have it."""
    for preset, (batch, _) in STEPS.items():
        network = build("capsnet", preset, rng=0).to(xp)
        images, labels = (to_backend(x, xp) for x in against_torch.images_for(network, batch))
        objective = network.objective()

        def gradient(network=network, objective=objective, images=images, labels=labels) -> None:
            backpropagate(network, objective, images, labels)

        gradient()
        asked, had = [], []
        for _ in range(ROUNDS):
            xp.cuda.Device().synchronize()
            start = time.perf_counter()
            gradient()
            asked.append(time.perf_counter() - start)
            xp.cuda.Device().synchronize()
            had.append(time.perf_counter() - start)
        value = f"{1e3 * np.median(asked):.1f} of {1e3 * np.median(had):.1f} ms"
        yield Row("transfers", f"{preset}: asked for a gradient after", value, None)


# -- 4 and 5: speed and memory ----------------------------------------------------------------


def speed(device: Device) -> Iterator[Row]:
    """Images a second beside PyTorch on the same card, in turns, and the memory that each took."""
    torch = find_torch()
    if torch is None:
        yield Row("speed", "beside PyTorch", "not run: PyTorch is missing", None)
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # CuPy's default
    for preset, batches in STEPS.items():
        for batch in batches:
            for task in ("train", "infer"):
                names = ["minicaps"] + ["minicaps mixed"] * (task == "train")
                if torch is not None:
                    names += ["eager", "channels_last", "compile"] + ["amp"] * (task == "train")
                yield from compare(device.xp, torch, preset, batch, task, names)


def compare(xp: Any, torch: Any, preset: str, batch: int, task: str, names: list[str]) -> Iterator[Row]:
    label = f"{task} {preset}, batch {batch}"
    ready: dict[str, Callable[[], Any]] = {}
    memory: dict[str, float] = {}
    for name in names:
        try:
            ready[name], memory[name] = prepared(xp, torch, preset, batch, task, name)
        except Exception as error:
            yield Row("speed", f"{label}, {name}", f"{type(error).__name__}: {error}"[:200], False)
    times: dict[str, list[float]] = {name: [] for name in ready}
    for k in range(ROUNDS):
        for name in list(ready)[:: 1 if k % 2 else -1]:
            times[name].append(seconds_of(xp, ready[name]))
    for name, measured in times.items():
        value = f"{batch / np.median(measured):,.0f} images/s, {memory[name]:,.0f} MB"
        ok = None
        ours = "minicaps mixed" if name == "amp" else "minicaps"  # like beside like
        if name != ours and ours in times:
            ratios = np.array(measured) / np.array(times[ours])
            spread = f"({ratios.min():.2f} to {ratios.max():.2f})"
            value += f"; {ours} is {np.median(ratios):.2f} times as fast {spread}"
            if name == "eager" and preset == "paper" and task == "train":
                ok = bool(np.median(ratios) >= 0.5)
        yield Row("speed", f"{label}, {name}", value, ok)


def seconds_of(xp: Any, work: Callable[[], Any]) -> float:
    """Return the seconds of one call, the mean of as many as fill SECONDS."""
    count, spent = 0, 0.0
    xp.cuda.Device().synchronize()
    start = time.perf_counter()
    while spent < SECONDS:
        work()
        xp.cuda.Device().synchronize()
        count, spent = count + 1, time.perf_counter() - start
    return spent / count


def prepared(
    xp: Any, torch: Any, preset: str, batch: int, task: str, name: str
) -> tuple[Callable[[], Any], float]:
    """Return what makes a step or a pass, and the MB that a first one took."""
    network = build("capsnet", preset, rng=0)
    images, labels = against_torch.images_for(network, batch)
    if name.startswith("minicaps"):
        pool = xp.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        network.to(xp)
        x, y = to_backend(images, xp), to_backend(labels, xp)
        if task == "infer":
            snapshot = network.for_inference()
            work: Callable[[], Any] = lambda: snapshot(x)  # noqa: E731
        else:
            scale = LossScale() if name == "minicaps mixed" else None
            network.set_precision("float32" if scale is None else "mixed")
            source, optimizer = OneProcess(network), Adam(network, 1e-3)
            work = lambda: train_step(source, optimizer, x, y, scale)  # noqa: E731
        work()
        return work, (pool.total_bytes() - before) / 1e6
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work = torch_work(torch, network, images, labels, task, name)
    for _ in range(3):  # the first compiles
        work()
    torch.cuda.synchronize()
    return work, (torch.cuda.max_memory_allocated() - before) / 1e6


def torch_work(torch: Any, network: Any, images: Any, labels: Any, task: str, name: str) -> Callable[[], Any]:
    """Return a step or a pass of the twin of ``against_torch.py`` on the card."""
    torch.set_default_device("cuda")  # for what the twin makes on its way
    twin = against_torch.make_twin(network).cuda()
    x, y = torch.from_numpy(images).cuda().permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).cuda()
    if name == "channels_last":
        twin, x = twin.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    forward = torch.compile(twin) if name == "compile" else twin

    def infer() -> None:
        with torch.inference_mode():
            forward(x)

    if task == "infer":
        return infer
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cuda", enabled=name == "amp")

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16, enabled=name == "amp"):
            loss = against_torch.twin_loss(network, *forward(x, y), x, y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return train


# -- 6: how it fails --------------------------------------------------------------------------


def failures(device: Device) -> Iterator[Row]:
    """No memory left, and no device to be seen: one clear line each, and the checkpoint is kept."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command(
            "train", "--preset", "tiny", "--limit", "2000", "--epochs", "1", "--backend", "cupy", "--out", out
        )
        before = (out / "checkpoint.npz").read_bytes()
        limit = {"CUPY_GPU_MEMORY_LIMIT": str(1 << 20)}  # bytes
        yield one_line("no memory left", command("train", "--resume", out, "--epochs", "2", **limit))
        kept = (out / "checkpoint.npz").read_bytes() == before
        yield Row("failures", "the checkpoint is kept", "the same bytes" if kept else "changed", kept)
        arguments = ("train", "--preset", "tiny", "--backend", "cupy", "--out", Path(folder) / "none")
        yield one_line("no device to be seen", command(*arguments, CUDA_VISIBLE_DEVICES=""))


def one_line(what: str, result: subprocess.CompletedProcess[str]) -> Row:
    lines = result.stderr.strip().splitlines()
    ok = result.returncode != 0 and len(lines) == 1 and "Traceback" not in result.stderr
    return Row("failures", what, " / ".join(lines)[-300:] or "nothing was said", ok)


# -- the table --------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Device], Iterator[Row]]] = {
    "tests": tests,
    "agreement": agreement,
    "transfers": transfers,
    "speed": speed,
    "failures": failures,
}
NEED_A_DEVICE = ("speed", "failures")


def machine(device: Device) -> dict[str, str]:
    """Return what the figures depend on, by name."""
    found = {"python": platform.python_version(), "numpy": np.__version__, "minicaps": minicaps.__version__}
    if device.real:
        properties = device.xp.cuda.runtime.getDeviceProperties(0)
        found["card"] = properties["name"].decode()
        found["driver"] = str(device.xp.cuda.runtime.driverGetVersion())
        found["cupy"] = device.xp.__version__
    torch = find_torch()
    found["torch"] = "missing" if torch is None else torch.__version__
    return found


def measure(parts: list[str], device: Device) -> Iterator[Row]:
    """Yield the rows of every part; one that breaks is a row too."""
    for name in parts:
        if name in NEED_A_DEVICE and not device.real:
            yield Row(name, "needs a GPU", f"not run: {device.why}", None)
            continue
        start = time.perf_counter()
        try:
            yield from PARTS[name](device)
        except Exception:
            yield Row(name, "broke", traceback.format_exc().strip().splitlines()[-1], False)
        yield Row(name, "took", f"{time.perf_counter() - start:.0f} s", None)


def as_table(rows: list[Row], about: dict[str, str]) -> str:
    """Return the rows as Markdown."""
    signs = {True: "yes", False: "**no**", None: ""}
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines += ["| part | what | value | as it should be |", "|---|---|---|---|"]
    for part, what, value, ok in rows:
        lines.append(f"| {part} | {what} | {value.replace('|', '/')} | {signs[ok]} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="NAME", help="write NAME.json and NAME.md")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="A,B", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"--parts has {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    device = find_device()
    about = machine(device)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    if not device.real:
        print(f"no GPU ({device.why}); the stand-in of the tests plays its part")
    rows = []
    for row in measure(parts, device):
        rows.append(row)
        sign = {True: "ok", False: "NO", None: ""}[row.ok]
        print(f"{row.part:<10} {row.what:<50} {sign:<3} {row.value}", flush=True)
    if options.out:
        content = {"machine": about, "device": device.real, "rows": [row._asdict() for row in rows]}
        options.out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
        options.out.with_suffix(".md").write_text(as_table(rows, about))
    return int(any(row.ok is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
