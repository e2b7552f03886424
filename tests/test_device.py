"""The array switch: the arrays decide, nothing leaves the device unseen, and CuPy has what we call.

No test here needs a GPU: a strict stand-in plays its part (``strict_backend.py``). Where CuPy sees a
GPU, the tests with the fixture ``device`` run there too.
"""

import ast
import re
import sys
import threading
import types
from pathlib import Path

import helpers
import numpy as np
import pytest
from strict_backend import CUPY, StrictArray, strict

import minicaps
from minicaps import Conv2d, Dense, cli
from minicaps.arrays import get_xp, resolve, to_backend, to_numpy
from minicaps.networks import build, files, load_network
from minicaps.training import (
    SGD,
    Adam,
    DataParallel,
    LossScale,
    OneProcess,
    Run,
    backpropagate,
    evaluate,
    train_step,
)
from minicaps.training import run as runs
from minicaps.training.guards import CtrlC

NETWORKS = {
    "capsnet": {"model": "capsnet"},
    "capsnet without decoder": {"model": "capsnet", "decoder": False},
    "cnn": {"model": "cnn"},
    "efficient": {"model": "efficient"},
    "matrix": {"model": "matrix"},
    "mlp": {"model": "mlp"},
}
every_network = pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS.keys())


def test_the_arrays_decide(device):
    assert get_xp(np.zeros(2), np.float32(1)) is np
    assert get_xp(device.asarray(np.zeros(2))) is device


def test_a_mixture_is_refused_with_the_cure(device):
    with pytest.raises(TypeError, match=r"are mixed; move the network with network.to"):
        get_xp(np.zeros(2), device.asarray(np.zeros(2)))
    with pytest.raises(TypeError, match=r"Dense.forward: x: arrays of \w+ and numpy are mixed"):
        Dense(2, 2, rng=0)(device.asarray(np.zeros((1, 2), np.float32)))


@pytest.mark.parametrize("value", [[1.0], 1.0, "text", None])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array, got"):
        get_xp(value)


@pytest.mark.parametrize(
    "offence",
    [
        lambda x: np.sum(x),
        lambda x: np.asarray(x),
        lambda x: np.ones(3) * x,
        lambda x: x + np.ones(3),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: list(x),
        lambda x: strict.put_along_axis(x),
        lambda x: strict.exp(x, where=x > 0),
    ],
)
def test_the_stand_in_refuses_what_a_device_cannot_or_should_not_do(device, offence):
    with pytest.raises((TypeError, AttributeError)):
        offence(strict.asarray(np.ones(3)))


# -- training and evaluation ------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@every_network
def test_gradients_and_updates_give_the_same_numbers_and_copy_nothing_back(device, options, optimizer):
    options = dict(options)
    name, rng = options.pop("model"), np.random.default_rng(0)
    images, labels = rng.random((5, 28, 28, 1)), rng.integers(0, 10, 5)
    results = []
    for xp in (np, device):
        net = build(name, "tiny", rng=0, dtype=np.float64, **options).to(xp)
        opt, objective = optimizer(net, 1e-2), net.objective()
        strict.transfers = 0
        for _ in range(3):
            x, y = to_backend(images, xp), to_backend(labels, xp)
            loss, correct = backpropagate(net, objective, x, y)
            opt.step()
        assert strict.transfers == 0
        results.append([to_numpy(loss), to_numpy(correct), *net.state().values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@every_network
def test_a_training_step_copies_once_and_gives_the_same_numbers(device, options):
    options = dict(options)
    name, rng = options.pop("model"), np.random.default_rng(0)
    images, labels = rng.random((5, 28, 28, 1)), rng.integers(0, 10, 5)
    results = []
    for xp in (np, device):
        net = build(name, "tiny", rng=0, dtype=np.float64, **options).to(xp)
        source, adam = OneProcess(net), Adam(net, 1e-2)
        strict.transfers = 0
        for _ in range(3):
            result = train_step(source, adam, to_backend(images, xp), to_backend(labels, xp))
        assert strict.transfers == (3 if xp is strict else 0)
        results.append([*result, *net.state().values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@every_network
def test_the_run_copies_once_for_each_step_and_learns_the_same(
    device, options, tmp_path, small_folder, monkeypatch
):
    config = helpers.tiny_config(data=str(small_folder), limit=100, batch_size=30, **options)
    epochs = []
    for xp in (np, device):
        monkeypatch.setattr(runs, "resolve", lambda name, xp=xp: xp)
        run = Run(config, tmp_path / xp.__name__, say=helpers.quiet)
        strict.transfers = 0
        run._train_epoch(DataParallel(run.network, run.objective, 30), CtrlC())
        epochs.append(run.current)
        assert strict.transfers == (run.steps_per_epoch if xp is strict else 0)
    assert np.isclose(epochs[0].loss_sum, epochs[1].loss_sum, rtol=1e-4)
    assert epochs[0].correct == epochs[1].correct


@every_network
def test_evaluation_copies_the_loss_and_the_scores_of_each_batch_and_what_is_correct_once(device, options):
    options = dict(options)
    rng, net = np.random.default_rng(0), build(options.pop("model"), "tiny", rng=0, **options)
    images, labels = rng.integers(0, 256, (7, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 7)
    expected = evaluate(net, images, labels, 3)
    net.to(device)
    strict.transfers = 0
    result = evaluate(net, images, labels, 3)
    assert strict.transfers == (2 * 3 + 1 if device is strict else 0)
    assert result.accuracy == expected.accuracy
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-4, atol=1e-6)
    assert np.isclose(result.loss, expected.loss, rtol=1e-4)


def test_a_whole_run_on_a_device_writes_what_a_run_on_numpy_reads(
    device, tmp_path, small_folder, monkeypatch
):
    monkeypatch.setattr(runs, "resolve", lambda name: device)
    config = helpers.tiny_config(data=str(small_folder), limit=60, batch_size=30, epochs=2)
    summary = Run(config, tmp_path / "run", say=helpers.quiet).train()
    resumed = Run.resume(tmp_path / "run")
    assert resumed.optimizer.steps == 4
    assert type(resumed.network.first_param) is not np.ndarray
    monkeypatch.undo()
    net = load_network(tmp_path / "run" / "model.npz")[0]
    assert net.count_params() == summary["parameters"]


# -- mixed precision ---------------------------------------------------------------------------


@pytest.fixture
def products(monkeypatch):
    """The operands of every product of matrices on the stand-in, in order: (shape, dtype) of both."""
    found, multiply = [], StrictArray.__matmul__

    def noting(a, b):
        found.append(((a.shape, a.dtype), (b.shape, b.dtype)))
        return multiply(a, b)

    monkeypatch.setattr(StrictArray, "__matmul__", noting)
    return found


def multiplied_as_matrices(network):
    """The shapes, as matrices, of the weights of dense layers and convolutions, in both directions."""
    found = set()
    for _, layer in network.walk():
        if isinstance(layer, (Dense, Conv2d)):
            *_, columns = shape = layer.params["W"].shape
            rows = int(np.prod(shape)) // columns
            found |= {(rows, columns), (columns, rows)}
    return found


@every_network
def test_mixed_precision_hands_a_device_matrices_of_float16_and_gives_the_numbers_of_the_host(
    device, options, products
):
    options, found = dict(options), []
    name, rng = options.pop("model"), np.random.default_rng(0)
    images, labels = rng.random((5, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, 5)
    for xp in (np, device):
        net = build(name, "tiny", rng=0, **options).to(xp).set_precision("mixed")
        source, scale, adam = OneProcess(net), LossScale(2.0**10), Adam(net, 1e-3)
        products.clear()
        result = train_step(source, adam, to_backend(images, xp), to_backend(labels, xp), scale)
        assert scale.skipped_steps == 0
        found.append((result.loss, {name: to_numpy(grad) for name, grad in net.grads.items()}))
        assert {to_numpy(array).dtype for array in (*net.params.values(), *net.grads.values())} == {
            np.dtype(np.float32)
        }
    assert np.isclose(found[0][0], found[1][0], rtol=1e-2)
    for name, expected in found[0][1].items():  # on a device convolutions multiply all, and round more often
        assert np.linalg.norm(found[1][1][name] - expected) <= 0.05 * np.linalg.norm(expected), name
    if device is not strict:
        return
    halves = [pair for pair in products if {dtype for _, dtype in pair} == {np.dtype(np.float16)}]
    others = [pair for pair in products if pair not in halves]
    assert not [pair for pair in others if np.dtype(np.float16) in {dtype for _, dtype in pair}]
    assert halves and all(len(shape) == 2 for pair in halves for shape, _ in pair)
    missing = multiplied_as_matrices(net) - {b for _, (b, _) in halves}
    assert len(missing) <= 1  # the first layer's, as nobody asks for the gradient of the images
    assert not [(a, b) for (a, _), (b, _) in others if len(a) == len(b) == 2]


@every_network
def test_a_mixed_run_copies_once_for_each_step_and_once_more_where_it_is_skipped(
    device, options, tmp_path, small_folder, monkeypatch
):
    config = helpers.tiny_config(
        data=str(small_folder), limit=100, batch_size=10, **options, precision="mixed"
    )
    monkeypatch.setattr("minicaps.training.loss_scale.LossScale", lambda: LossScale(2.0**23, grow_after=2))
    found = []
    for xp in (np, device):
        monkeypatch.setattr(runs, "resolve", lambda name, xp=xp: xp)
        run = Run(config, tmp_path / xp.__name__, say=helpers.quiet)
        strict.transfers = 0
        run._train_epoch(DataParallel(run.network, run.objective, 10), CtrlC())
        found.append((run.current, run.loss_scale, run.optimizer.steps))
        if xp is strict:
            assert strict.transfers == run.steps_per_epoch + run.loss_scale.skipped_steps
    (one, _, steps), (other, scale, its_steps) = found
    assert 0 < scale.skipped_steps < run.steps_per_epoch == 10 and its_steps == 10 - scale.skipped_steps
    assert steps > 0 and np.isclose(one.loss_sum, other.loss_sum, rtol=0.1)


def test_a_whole_mixed_run_on_a_device_goes_on_from_its_checkpoint(
    device, tmp_path, small_folder, monkeypatch
):
    monkeypatch.setattr(runs, "resolve", lambda name: device)
    monkeypatch.setattr("minicaps.training.loss_scale.LossScale", lambda: LossScale(2.0**23, grow_after=2))
    config = helpers.tiny_config(data=str(small_folder), limit=60, batch_size=6, epochs=2, precision="mixed")
    Run(config, tmp_path / "whole", say=helpers.quiet).train()
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path / "run", say=helpers.quiet, progress=helpers.press_ctrl_c_at(7)).train()
    resumed = Run.resume(tmp_path / "run", say=helpers.quiet)
    assert type(resumed.network.first_param) is not np.ndarray and resumed.network.precision == "mixed"
    assert resumed.loss_scale.skipped_steps == 7 - resumed.optimizer.steps > 0
    resumed.train()
    if device is strict:  # whose sums are always in one order
        states = [files.read(tmp_path / name / "checkpoint.npz")[0] for name in ("run", "whole")]
        assert all((states[0][name] == array).all() for name, array in states[1].items())


def test_the_optimizer_stays_on_the_thread_that_knows_the_gpu(device, monkeypatch):
    monkeypatch.setattr("minicaps.training.optimizers.parallel", None)  # calling it would fail
    net, threads = Dense(3, 2, rng=0).to(device), []
    optimizer = SGD(net, 0.1)
    update = optimizer.update
    optimizer.update = lambda *args: (threads.append(threading.current_thread()), update(*args))
    optimizer.step()
    assert threads == [threading.current_thread()] * 2


def test_moving_a_network_there_and_back_keeps_every_bit(device):
    net = build("capsnet", "tiny", rng=0)
    before = net.state()
    assert net.to(device).xp is device
    after = net.to("numpy").state()
    assert all((after[name] == value).all() for name, value in before.items())


# -- what the source says ---------------------------------------------------------------------

# What may touch arrays of a device.
LAYER_FOLDERS = ("layers", "capsules", "fast", "networks")
LAYER_FILES = (
    "checks.py",
    *(f"training/{name}.py" for name in ("optimizers", "step", "finite", "evaluation")),
)
# Files within these folders: of weights, and of threads, which work on the host.
HOST_FILES = ("weights.py", "files.py", "export.py", "onnx.py", "safetensors.py", "platform.py", "threads.py")
# Types, constants and state of the process; no function of data among them.
HARMLESS = set(
    "float16 float32 float64 uint8 int32 int64 ndarray integer number bool_ dtype "
    "pi inf errstate random".split()
)
# Functions that handle data of the host only: first weights, examples, files, constant matrices, and the
# end of a prediction or an evaluation, after its copies.
ON_THE_HOST = set(
    "__init__ examples state load_state as_param _matrices by_points by_frequencies predict evaluate "
    "_evaluate_as_they_are".split()
)


def trees():
    package = Path(minicaps.__file__).parent
    paths = [
        path
        for folder in LAYER_FOLDERS
        for path in sorted((package / folder).glob("*.py"))
        if path.name not in HOST_FILES
    ]
    assert len(paths) > 10
    for path in [*paths, *(package / name for name in LAYER_FILES)]:
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def numpy_on_device_data(node):
    """Yield each np.name, outside ON_THE_HOST and outside what is reached only where ``xp is np``."""
    if isinstance(node, ast.FunctionDef) and node.name in ON_THE_HOST:
        return
    if (
        isinstance(node, ast.Attribute)
        and getattr(node.value, "id", "") == "np"
        and node.attr not in HARMLESS
    ):
        yield node
    skipped = []
    if isinstance(node, ast.If):
        first = node.test.values[0] if isinstance(node.test, ast.BoolOp) else node.test
        if re.fullmatch(r"(xp|get_xp\(\w+\)) is np", ast.unparse(first)):
            skipped = [node.test, *node.body]
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from numpy_on_device_data(child)


def test_layer_code_calls_no_numpy_function_on_what_may_lie_on_a_device():
    found = [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for name, tree in trees()
        for node in numpy_on_device_data(tree)
    ]
    assert not found


@pytest.mark.parametrize(
    "source, offences",
    [
        ("def forward(x):\n return np.exp(x)", 1),
        ("def forward(x):\n if xp is np:\n  np.exp(x)\n else:\n  np.exp(x)", 1),
        ("def forward(x):\n if x.size and xp is np:\n  np.exp(x)", 1),
        ("def forward(x):\n if get_xp(x) is np:\n  np.exp(x)", 0),
        ("def forward(x):\n if get_xp(x) is cp:\n  np.exp(x)", 1),
        ("def forward(x):\n return xp.exp(x).astype(np.float32)", 0),
        ("def load_state(x):\n return np.asarray(x)", 0),
    ],
)
def test_the_look_at_the_source_sees(source, offences):
    assert len(list(numpy_on_device_data(ast.parse(source)))) == offences


def names_taken_from_the_library(tree):
    """Yield (dotted name, keywords, line) of each xp.name and get_xp(...).name."""
    calls = {
        id(node.func): [k.arg for k in node.keywords] for node in ast.walk(tree) if isinstance(node, ast.Call)
    }
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        path, root = [], node
        while isinstance(root, ast.Attribute):
            path, root = [root.attr, *path], root.value
        if isinstance(root, ast.Call):
            library = ast.unparse(root.func) == "get_xp"
        else:
            library = isinstance(root, ast.Name) and root.id == "xp"
        if path and library and id(node) not in inner:
            yield "cupy." + ".".join(path), calls.get(id(node), []), node.lineno


def test_cupy_has_every_name_and_keyword_that_is_taken_from_the_library():
    taken = []
    for path in sorted(Path(minicaps.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        taken += [(path.name, *use) for use in names_taken_from_the_library(tree)]
    assert len({name for _, name, _, _ in taken}) > 20
    for file, name, keywords, line in taken:
        assert name in CUPY, f"{file}:{line}: {name}"
        assert set(keywords) <= CUPY[name], f"{file}:{line}: {name}({keywords})"


def test_the_stand_in_has_no_method_and_no_attribute_that_cupy_lacks():
    own = {name for name in vars(StrictArray) if not name.startswith("_")}
    assert own <= {name.removeprefix("cupy.ndarray.") for name in CUPY}


# -- CuPy missing, without a device, out of memory --------------------------------------------


def test_names_of_backends():
    assert resolve("numpy") is np
    with pytest.raises(ValueError, match="expected 'numpy', 'cupy' or 'auto'"):
        resolve("torch")


@pytest.fixture
def fake_cupy(monkeypatch):
    """Put a module ``cupy`` in place that sees some devices, or fails with a message."""

    class CUDARuntimeError(RuntimeError):
        pass

    class OutOfMemoryError(MemoryError):  # CuPy's is one too
        pass

    def put(devices):
        def count():
            if isinstance(devices, str):
                raise CUDARuntimeError(devices)
            return devices

        def asarray(x):
            raise OutOfMemoryError(f"Out of memory allocating {x.nbytes} bytes")

        runtime = types.SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
        cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime), asarray=asarray)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return cupy

    return put


def test_cupy_is_taken_where_it_sees_a_device(fake_cupy):
    cupy = fake_cupy(1)
    assert resolve("cupy") is cupy and resolve("auto") is cupy


@pytest.mark.parametrize("devices", [0, "no driver"])
def test_cupy_without_a_device_is_told_and_auto_falls_back(fake_cupy, devices):
    fake_cupy(devices)
    with pytest.raises(RuntimeError, match="finds no"):
        resolve("cupy")
    assert resolve("auto") is np


def test_missing_cupy_is_told_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes the import fail
    with pytest.raises(RuntimeError, match=r"pip install 'minicaps\[gpu\]'"):
        resolve("cupy")
    assert resolve("auto") is np


@pytest.mark.parametrize(
    "devices, line",
    [
        (
            None,
            "minicaps: backend 'cupy' needs CuPy (import of cupy halted; None in sys.modules); install it "
            "with: pip install 'minicaps[gpu]'",
        ),
        (0, "minicaps: backend 'cupy': CuPy finds no GPU"),
        ("no driver", "minicaps: backend 'cupy': CuPy finds no usable GPU (no driver)"),
        (
            1,
            "minicaps: out of memory (Out of memory allocating 800 bytes); try a smaller --batch-size, "
            "--preset or --size",
        ),
    ],
)
def test_the_command_line_says_in_one_line_why_a_gpu_does_not_serve(
    devices, line, fake_cupy, monkeypatch, small_folder, tmp_path, capsys
):
    if devices is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        fake_cupy(devices)
    arguments = ["train", "--backend", "cupy", "--preset", "tiny", "--data", str(small_folder)]
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == cli.FAILED
    assert capsys.readouterr().err.splitlines() == [line]
    assert not (tmp_path / "run").exists()
