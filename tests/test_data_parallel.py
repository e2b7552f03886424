"""Data-parallel training: the gradient of the whole batch, and the same bits for any processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import quiet, tiny_config

import minicaps
from minicaps.fast import platform
from minicaps.networks import PRESETS, CapsNet, OverlapCapsNet, build
from minicaps.training import Adam, DataParallel, OneProcess, Run, backpropagate, processes, train_step
from minicaps.training.processes import batch_slices


def batch(network, count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((count, *network.image_shape)).astype(network.first_param.dtype)
    return images, rng.integers(0, network.classes, count)


def tiny(name="capsnet", **options):
    return build(name, "tiny", rng=0, **options)


@pytest.mark.parametrize("name", ["capsnet", "cnn", "matrix", "mlp"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_gradient_is_that_of_the_whole_batch(name, count, with_threads):
    with_threads(count)
    network, plain = tiny(name, dtype=np.float64), tiny(name, dtype=np.float64)
    images, labels = batch(network, 170)
    loss, correct = backpropagate(plain, plain.objective(), images, labels)
    with DataParallel(network, network.objective(), 170) as parallel:
        assert len(batch_slices(network, 170)) == 4 and len(parallel.workers) == count - 1
        for _ in range(2):  # the second call must not add to the first
            found = parallel.backpropagate(images, labels)
        np.testing.assert_allclose(found[0], loss, rtol=1e-12)
        assert found[1] == correct
        for key, grad in plain.grads.items():
            np.testing.assert_allclose(network.grads[key], grad, rtol=1e-9, atol=1e-15)


def test_an_objective_that_changes_reaches_the_other_processes(with_threads):
    with_threads(2)
    network, plain = tiny("matrix", dtype=np.float64), tiny("matrix", dtype=np.float64)
    images, labels = batch(network, 90)
    with DataParallel(network, network.objective(), 90) as parallel:
        assert len(parallel.workers) == 1
        for done in (0.0, 0.7):
            parallel.objective = network.objective().at(done)
            loss, _ = backpropagate(plain, parallel.objective, images, labels)
            np.testing.assert_allclose(parallel.backpropagate(images, labels)[0], loss, rtol=1e-12)
            for key, grad in plain.grads.items():
                np.testing.assert_allclose(network.grads[key], grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("count", [1, 79, 80, 97, 170])
def test_batches_of_any_size_up_to_the_largest(count, with_threads):
    with_threads(2)
    network, plain = tiny(dtype=np.float64), tiny(dtype=np.float64)
    images, labels = batch(network, count)
    loss, _ = backpropagate(plain, plain.objective(), images, labels)
    with DataParallel(network, network.objective(), 170) as parallel:
        np.testing.assert_allclose(parallel.backpropagate(images, labels)[0], loss, rtol=1e-12)
        for key, grad in plain.grads.items():
            np.testing.assert_allclose(network.grads[key], grad, rtol=1e-9, atol=1e-15)


def test_the_number_of_processes_does_not_change_a_bit(with_threads):
    results = []
    for count in (1, 2, 4):
        with_threads(count)
        network = tiny()
        optimizer = Adam(network, 0.01)
        with DataParallel(network, network.objective(), 160) as parallel:
            for step, size in enumerate((160, 160, 81, 40, 160)):
                parallel.backpropagate(*batch(network, size, seed=step))
                optimizer.step()
        results.append(network.state())
    for other in results[1:]:
        for key, value in results[0].items():
            np.testing.assert_array_equal(value, other[key])


def test_a_run_ends_with_the_same_bits_for_any_processes(with_threads, small_folder, tmp_path):
    config = tiny_config(data=str(small_folder), limit=170, batch_size=100, epochs=2)
    networks = []
    for count in (1, 2):
        with_threads(count)
        run = Run(config, tmp_path / str(count), say=quiet)
        run.train()
        networks.append(run.network)
    for name, value in networks[0].params.items():
        np.testing.assert_array_equal(value, networks[1].params[name])


def test_the_network_can_be_used_on_after_the_end(with_threads):
    with_threads(2)
    network = tiny()
    images, labels = batch(network, 80)
    with DataParallel(network, network.objective(), 80) as parallel:
        parallel.backpropagate(images, labels)
        worker = parallel.workers[0]
    assert worker.process.returncode == 0
    before = network.state()
    train_step(OneProcess(network), Adam(network, 0.01), images, labels)
    assert all((before[key] != value).any() for key, value in network.params.items())


def test_how_a_batch_is_sliced():
    network = tiny()
    assert [len(batch_slices(network, n)) for n in (1, 79, 80, 159, 160, 320)] == [1, 1, 2, 2, 4, 8]
    for count in (80, 97, 163, 321):
        slices = batch_slices(network, count)
        assert [k for each in slices for k in range(count)[each]] == list(range(count))
        assert max(k.stop - k.start for k in slices) <= -(-count // len(slices))
    assert len(batch_slices(build("capsnet", "paper", rng=0), 128)) == 1


def test_the_network_moves_to_shared_memory_with_its_numbers(with_threads):
    with_threads(1)
    network = tiny()
    before = network.state()
    with DataParallel(network, network.objective(), 80) as parallel:
        assert list(network.params) == list(before)
        for name, value in network.params.items():
            np.testing.assert_array_equal(value, before[name])
            assert np.shares_memory(value, parallel.shared.params)
            assert np.shares_memory(network.grads[name], parallel.shared.grads[0])


def test_it_takes_the_cores_from_numpy(monkeypatch):
    monkeypatch.setattr(platform, "_owned", False)
    DataParallel(tiny(), tiny().objective(), 8).close()
    assert platform.owns_the_cores()


def test_wrong_input_is_refused_where_copying_would_hide_it(with_threads):
    with_threads(2)
    network = tiny()
    images, labels = batch(network, 90)
    with DataParallel(network, network.objective(), 80) as parallel:
        with pytest.raises(ValueError, match="90 images, expected at most 80"):
            parallel.backpropagate(images, labels)
        images, labels = images[:80], labels[:80]
        with pytest.raises(TypeError, match="images has dtype float64, but the parameters are float32"):
            parallel.backpropagate(images.astype(np.float64), labels)
        with pytest.raises(ValueError, match=r"images has shape \(80, 28, 28\)"):
            parallel.backpropagate(images[..., 0], labels)
        with pytest.raises(TypeError, match="labels have dtype float64, expected integers"):
            parallel.backpropagate(images, labels + 0.5)
        parallel.backpropagate(images, labels)


def test_a_failure_in_another_process_is_told(with_threads):
    with_threads(2)
    network = tiny()
    images, labels = batch(network, 80)
    images[40:] = 1e38  # the second slice overflows
    with DataParallel(network, network.objective(), 80) as parallel:
        with np.errstate(over="raise", invalid="raise"), pytest.raises(FloatingPointError) as raised:
            parallel.backpropagate(images, labels)
        assert "backpropagate_slices" in str(raised.value.__cause__)  # the traceback of the other process
        images[40:] = 0
        parallel.backpropagate(images, labels)  # it lives on


@pytest.mark.parametrize("count", [20, 80])
def test_labels_that_are_one_hot_are_refused_by_name(with_threads, count):
    with_threads(2)
    network = tiny()
    images, labels = batch(network, count)
    with DataParallel(network, network.objective(), 80) as parallel:
        with pytest.raises(ValueError, match=r"backpropagate: labels has shape .*labels.argmax\(axis=1\)"):
            parallel.backpropagate(images, np.eye(10, dtype=int)[labels])


def test_a_process_that_was_killed_is_told(with_threads):
    with_threads(2)
    network = tiny()
    images, labels = batch(network, 80)
    with DataParallel(network, network.objective(), 80) as parallel:
        parallel.workers[0].process.kill()
        parallel.workers[0].process.wait()
        with pytest.raises(RuntimeError, match=r"ended with status -9; MINICAPS_THREADS=1"):
            parallel.backpropagate(images, labels)


def test_ctrl_c_is_left_to_the_first_process(with_threads):
    with_threads(2)
    network = tiny()
    images, labels = batch(network, 80)
    with DataParallel(network, network.objective(), 80) as parallel:
        expected = parallel.backpropagate(images, labels)  # now the other process is ready
        parallel.workers[0].process.send_signal(signal.SIGINT)
        assert parallel.backpropagate(images, labels) == expected


def test_the_error_state_of_the_first_process_holds_in_all(with_threads):
    with_threads(2)
    network = tiny()
    network.params["conv.W"][...] = 1e38
    images, labels = batch(network, 80)
    images[:40] = 0  # only the second slice overflows
    with DataParallel(network, network.objective(), 80) as parallel:
        with np.errstate(over="ignore", invalid="ignore"):
            assert not np.isfinite(parallel.backpropagate(images, labels)[0])
        with np.errstate(over="raise", invalid="raise"), pytest.raises(FloatingPointError):
            parallel.backpropagate(images, labels)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_no_process_outlives_the_first(with_threads):
    with_threads(2)
    program = (
        "import sys, time\n"
        "from minicaps.networks import build\n"
        "from minicaps.training import DataParallel\n"
        "network = build('capsnet', 'tiny', rng=0)\n"
        "parallel = DataParallel(network, network.objective(), 80)\n"
        "print(parallel.workers[0].process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    first = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=subprocess.PIPE, text=True)
    other = int(first.stdout.readline())
    assert alive(other)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    end = time.monotonic() + 20
    while alive(other) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(other)


def test_it_works_in_one_process_where_python_cannot_start_another(with_threads, monkeypatch):
    with_threads(2)
    monkeypatch.setattr(processes.sys, "executable", "")
    network, plain = tiny(dtype=np.float64), tiny(dtype=np.float64)
    images, labels = batch(network, 80)
    backpropagate(plain, plain.objective(), images, labels)
    with DataParallel(network, network.objective(), 80) as parallel:
        assert not parallel.workers
        parallel.backpropagate(images, labels)
        for key, grad in plain.grads.items():
            np.testing.assert_allclose(network.grads[key], grad, rtol=1e-9, atol=1e-15)


def test_pairs_of_images_are_shared_too(with_threads):
    with_threads(2)
    network, plain = (OverlapCapsNet(PRESETS["tiny"], rng=0) for _ in range(2))
    rng = np.random.default_rng(0)
    parts = rng.random((80, 2, *network.image_shape), dtype=np.float32)
    labels = np.stack([np.arange(80) % 10, (np.arange(80) + 3) % 10], axis=1)
    loss, correct = backpropagate(plain, plain.objective(), parts, labels)
    with DataParallel(network, network.objective(), 80) as parallel:
        assert parallel.workers
        found = parallel.backpropagate(parts, labels)
        assert found == (pytest.approx(loss, rel=1e-5), correct)
        for key, grad in plain.grads.items():
            np.testing.assert_allclose(network.grads[key], grad, rtol=1e-3, atol=1e-4 * np.abs(grad).max())


# -- a class of one's own ------------------------------------------------------------------------

PROGRAM = """\
import sys, numpy as np
from minicaps.networks import PRESETS, CapsNet
from minicaps.training import DataParallel
{define}
x, y = np.random.default_rng(0).random((80, 28, 28, 1), dtype=np.float32), np.arange(80) % 10
network = MyCapsNet(PRESETS["tiny"], rng=0)
with DataParallel(network, network.objective(), 80) as parallel:
    result = parallel.backpropagate(x, y)
    parallel.backpropagate(x, y)
    print(len(parallel.workers), result.loss.hex(), hash(network.grads["conv.W"].tobytes()))
"""
DEFINITION = "class MyCapsNet(CapsNet):\n    pass\n"
IN_A_FUNCTION = (
    "def make():\n    class MyCapsNet(CapsNet):\n        pass\n    return MyCapsNet\nMyCapsNet = make()\n"
)
OWN = {  # how the class is defined -> how many other processes work, and what the warning says
    "in a module beside the script": ("from mynets import MyCapsNet", 1, ""),
    "in the script": (DEFINITION, 0, "Can't get attribute 'MyCapsNet'"),
    "in a function": (IN_A_FUNCTION, 0, "make.<locals>.MyCapsNet"),
    "in a module that was made at run time": (
        "import types\nsys.modules['made'] = types.ModuleType('made')\nfrom mynets import MyCapsNet\n"
        "MyCapsNet.__module__ = 'made'\nsys.modules['made'].MyCapsNet = MyCapsNet",
        0,
        "No module named 'made'",
    ),
}


def run_program(folder, define, threads, *arguments, elsewhere=None):
    """Run a script that trains a class of its own, in a folder with a wrong minicaps."""
    scripts, wrong = folder / "scripts", folder / "here" / "minicaps"
    scripts.mkdir(exist_ok=True)
    wrong.mkdir(parents=True, exist_ok=True)
    (wrong / "__init__.py").write_text("raise SystemExit('the wrong minicaps')")
    (scripts / "mynets.py").write_text(f"from minicaps.networks import CapsNet\n{DEFINITION}")
    (scripts / "train_mine.py").write_text(PROGRAM.format(define=define))
    package = str(Path(minicaps.__file__).parents[1])
    environment = {"MINICAPS_THREADS": str(threads), "PYTHONPATH": package, "PYTHONHASHSEED": "0"}
    command = [sys.executable, *(arguments or [scripts / "train_mine.py"])]
    return subprocess.run(
        command, cwd=elsewhere or wrong.parent, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("kind", OWN)
def test_a_class_of_ones_own_is_trained_by_any_number_of_processes(kind, tmp_path):
    define, others, reason = OWN[kind]
    alone, shared = (run_program(tmp_path, define, count) for count in (1, 2))
    assert (alone.returncode, alone.stderr) == (0, "")
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.split() == [str(others), *alone.stdout.split()[1:]]  # the same bits
    if others:
        assert shared.stderr == ""
    else:
        assert shared.stderr.count("RuntimeWarning: data-parallel training goes on in one process") == 1
        assert reason in shared.stderr and "Traceback" not in shared.stderr
        assert "train_mine.py:" in shared.stderr  # the warning points to the caller


def test_what_an_interactive_session_defines_is_trained_in_one_process(tmp_path):
    for_session = PROGRAM.format(define=DEFINITION)  # no file: as in a notebook
    run = run_program(tmp_path, DEFINITION, 2, "-c", for_session, elsewhere=tmp_path)
    assert run.returncode == 0 and run.stdout.startswith("0 "), run.stderr
    assert run.stderr.count("RuntimeWarning") == 1


def test_another_process_looks_where_the_first_began_and_not_in_the_current_folder(tmp_path):
    program = f"import os, minicaps, mynets\nos.chdir({str(tmp_path / 'here')!r})\n" + PROGRAM.format(
        define="from mynets import MyCapsNet"
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "mynets.py").write_text(f"from minicaps.networks import CapsNet\n{DEFINITION}")
    run = run_program(tmp_path, "", 2, "-c", program, elsewhere=tmp_path / "scripts")
    assert (run.returncode, run.stderr) == (0, "") and run.stdout.startswith("1 ")


def test_another_process_has_this_minicaps_though_the_path_no_longer_leads_to_it(tmp_path):
    package = str(Path(minicaps.__file__).parents[1])
    if (Path(package) / "numpy").exists():
        pytest.skip("minicaps is installed beside NumPy: without its folder there would be none of the two")
    program = (
        f"import sys, minicaps.training\nsys.path = [each for each in sys.path if each != {package!r}]\n"
    )
    program += "import numpy\n" + PROGRAM.format(define="from mynets import MyCapsNet")
    run_program(tmp_path, "", 2, "-c", "")
    (tmp_path / "scripts" / "own_path.py").write_text(program)
    run = run_program(tmp_path, "", 2, tmp_path / "scripts" / "own_path.py")
    assert run.stdout.startswith("1 "), run.stderr


class Unwilling(CapsNet):
    """A network that cannot be sent to another process."""

    def __reduce__(self):
        raise ValueError("no copies of me")


def test_a_network_that_cannot_be_sent_is_trained_in_one_process(with_threads):
    with_threads(2)
    network, plain = Unwilling(PRESETS["tiny"], rng=0), tiny()
    images, labels = batch(network, 80)
    with pytest.warns(RuntimeWarning, match="ValueError: no copies of me"):
        parallel = DataParallel(network, network.objective(), 80)
    assert not parallel.workers
    expected = backpropagate(plain, plain.objective(), images, labels)
    assert parallel.backpropagate(images, labels).loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_after_a_slice_that_failed_the_gradient_is_looked_at_where_it_is(fails_at, with_threads, monkeypatch):
    with_threads(1)
    network = tiny()
    images, labels = batch(network, 170)
    with DataParallel(network, network.objective(), 170) as source:
        forward, calls = network.objective().forward, []

        def failing(*arguments):
            calls.append(None)
            if len(calls) > fails_at:
                raise RuntimeError("on purpose")
            return forward(*arguments)

        monkeypatch.setattr(source.objective, "forward", failing)
        with pytest.raises(RuntimeError, match="on purpose"):
            source.backpropagate(images, labels)
        monkeypatch.undo()
        source.backpropagate(images[:30], labels[:30])  # one slice: straight into the network's gradients
        (vector,) = source.gradient()
        np.testing.assert_array_equal(vector, np.concatenate([g.ravel() for g in network.grads.values()]))
        assert vector.any()
