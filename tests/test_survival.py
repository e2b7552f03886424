"""Runs that are killed, interrupted, locked, out of disk or out of finite numbers lose nothing."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import interrupt_at, press_ctrl_c_at, quiet, read_metrics, small_folder, tiny_config

from minicaps.networks import build, files
from minicaps.training import (
    Adam,
    DataParallel,
    Diverged,
    OneProcess,
    Run,
    backpropagate,
    guards,
    read_config,
    to_batch,
    train_step,
)
from minicaps.training import run as runs
from minicaps.training.finite import all_finite, first_not_finite, sum_of_squares
from minicaps.training.guards import CtrlC, FolderLock

BATCHES = 9  # of 30 images each, in an epoch


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two epochs of nine batches, on data in a folder, so that other processes find it too."""
    data = small_folder(tmp_path_factory.mktemp("data"), 300, 40)
    return tiny_config(epochs=2, batch_size=30, data=str(data))


@pytest.fixture(scope="module")
def straight(tmp_path_factory, config):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight")
    Run(config, folder, say=quiet).train()
    return folder


@pytest.fixture
def often(monkeypatch):
    """Save after every batch."""
    monkeypatch.setattr(runs, "SAVE_EVERY", 0)


def weights(folder):
    return {name: array.tobytes() for name, array in files.read(folder / "model.npz")[0].items()}


def without_clock(folder):
    clock = ("seconds", "images_per_second")
    return [{name: x for name, x in row.items() if name not in clock} for row in read_metrics(folder)]


def resumes_like(straight, folder):
    """Finish the run in `folder`, and compare with the one that nothing stopped."""
    Run.resume(folder, say=quiet).train()
    return weights(folder) == weights(straight) and without_clock(folder) == without_clock(straight)


def position(folder):
    """Return how many epochs and batches the checkpoint has."""
    description = files.read(folder / "checkpoint.npz")[1]
    return len(description["epochs"]), description["progress"]["batches"]


# -- killed ------------------------------------------------------------------------------------


def train_in_a_process(folder, started):
    """What the processes below do: train on, saving after every batch."""
    runs.SAVE_EVERY = 0
    run = Run.resume(folder, say=quiet)
    started.send(True)
    run.train()


@pytest.fixture(scope="module")
def start():
    """Return a function that starts ``train_in_a_process`` and waits until it trains."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["minicaps.training"])  # so that each process starts at once

    def start(folder):
        here, there = context.Pipe()
        process = context.Process(target=train_in_a_process, args=(folder, there))
        process.start()
        assert here.recv()
        return process

    return start


@pytest.fixture(scope="module")
def duration(start, config, tmp_path_factory):
    """How long such a process trains, in seconds."""
    folder = tmp_path_factory.mktemp("timed")
    Run(config, folder)
    process, before = start(folder), time.perf_counter()
    process.join()
    return time.perf_counter() - before


def test_runs_killed_at_ten_random_moments_resume_bit_for_bit(straight, config, start, duration, tmp_path):
    exits = []
    for k, moment in enumerate(np.random.default_rng(0).uniform(0, duration, 10)):
        folder = tmp_path / str(k)
        Run(config, folder)
        process = start(folder)
        process.join(moment)
        process.kill()
        process.join()
        exits.append(process.exitcode)
        if (folder / "checkpoint.npz").exists():
            files.read(folder / "checkpoint.npz")  # whole, whatever the moment
        assert resumes_like(straight, folder)
    assert any(code != 0 for code in exits)  # the others ended before, quicker than the one that was timed


KILLED_WHILE_SAVING = """
import os, signal, sys
from minicaps.training import Run
from minicaps.training import run as runs

runs.SAVE_EVERY = 0
run, replace, calls = Run.resume(sys.argv[1], say=str), os.replace, iter(range(100))
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)

def die(source, target):
    last = next(calls) == int(sys.argv[2])
    if last and sys.argv[3] == "before":
        kill()
    replace(source, target)
    if last:
        kill()

os.replace = die
run.train()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "call, file", [(12, "metrics.jsonl"), (13, "checkpoint.npz"), (21, "best.npz"), (22, "checkpoint.npz")]
)
def test_a_run_killed_while_saving_keeps_one_checkpoint_and_no_leftovers(
    straight, config, tmp_path, call, file, moment
):
    Run(config, tmp_path)
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path), str(call), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    leftovers = list(tmp_path.glob(f".{file}.*.tmp"))
    assert len(leftovers) == (moment == "before")
    batches = {12: 5, 13: 5, 21: 9, 22: 9}[call]
    done = file == "checkpoint.npz" and moment == "after"
    assert position(tmp_path) == ((1, 0) if call == 22 and done else (0, batches + done))
    assert resumes_like(straight, tmp_path)
    assert files.read(tmp_path / "best.npz")[1] == files.read(straight / "best.npz")[1]
    assert not list(tmp_path.glob(".*.tmp"))


def test_metrics_beyond_the_checkpoint_are_cut_off(straight, config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=quiet, progress=press_ctrl_c_at(BATCHES + 2)).train()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write((straight / "metrics.jsonl").read_text().splitlines()[1] + '\n{"epoch": 3, "tra')
    with pytest.raises(KeyboardInterrupt):
        Run.resume(tmp_path, progress=interrupt_at(1)).train()  # at once, so nothing more is saved
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1]
    assert resumes_like(straight, tmp_path)


# -- interrupted -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, BATCHES, BATCHES + 3, 2 * BATCHES])
def test_ctrl_c_saves_after_the_batch_and_resumes_bit_for_bit(straight, config, tmp_path, batch):
    run = Run(config, tmp_path, say=quiet, progress=press_ctrl_c_at(batch))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    epochs, batches = divmod(batch - 1, BATCHES)
    assert position(tmp_path) == (epochs, batches + 1)
    assert run.kept == f"after epoch {epochs} and {batches + 1} of {BATCHES} batches"
    assert Run.resume(tmp_path).kept == run.kept
    assert resumes_like(straight, tmp_path)


def test_ctrl_c_after_every_batch_still_resumes_bit_for_bit(straight, config, tmp_path):
    run = Run(config, tmp_path, say=quiet)
    for _ in range(2 * BATCHES):
        run.progress = press_ctrl_c_at(1)
        with pytest.raises(KeyboardInterrupt):
            run.train()
        run = Run.resume(tmp_path, say=quiet)
    assert resumes_like(straight, tmp_path)


@pytest.mark.parametrize("epoch, kept", [(1, (1, 1)), (2, (2, 0))])
def test_ctrl_c_while_validating_lets_the_epoch_be_saved(
    straight, config, tmp_path, monkeypatch, epoch, kept
):
    evaluate, press = runs.evaluate, press_ctrl_c_at(epoch)

    def pressed(*arguments):
        press()
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "evaluate", pressed)
        with pytest.raises(KeyboardInterrupt):
            Run(config, tmp_path, say=quiet).train()
    assert position(tmp_path) == kept and not (tmp_path / "summary.json").exists()
    assert resumes_like(straight, tmp_path)


def test_a_second_ctrl_c_stops_at_once_and_the_last_checkpoint_stays(straight, config, tmp_path):
    batches = iter(range(1, 100))

    def twice_in_the_fourth(line):
        if next(batches) == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second Ctrl-C did not stop the run")

    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=quiet, progress=twice_in_the_fourth).train()
    assert position(tmp_path) == (0, 0)
    assert resumes_like(straight, tmp_path)


def test_ctrl_c_has_its_usual_meaning_again_after_training(config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=quiet, progress=press_ctrl_c_at(1)).train()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    Run.resume(tmp_path, say=quiet).train()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_is_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with CtrlC() as ctrl_c:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN and not ctrl_c.pressed
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_trains_in_a_thread_too(straight, config, tmp_path):
    thread = threading.Thread(target=Run(config, tmp_path, say=quiet).train)
    thread.start()
    thread.join()
    assert weights(tmp_path) == weights(straight)


# -- saving within an epoch --------------------------------------------------------------------


def saved_positions(run, monkeypatch):
    """Train, and return the position at every save."""
    save, positions = Run.save, []

    def watched(run):
        save(run)
        positions.append(position(run.folder))

    monkeypatch.setattr(Run, "save", watched)
    run.train()
    return positions


def test_a_quick_epoch_is_saved_at_its_end_only(config, tmp_path, monkeypatch):
    assert saved_positions(Run(config, tmp_path, say=quiet), monkeypatch) == [(0, 0), (1, 0), (2, 0)]


def test_within_an_epoch_a_run_is_saved_every_minute(config, tmp_path, monkeypatch):
    class Clock:
        now = 0.0
        perf_counter = staticmethod(time.perf_counter)

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(runs, "time", clock)

    def a_batch_takes_25_seconds(line):
        clock.now += 25

    run = Run(config, tmp_path, say=quiet, progress=a_batch_takes_25_seconds)
    positions = saved_positions(run, monkeypatch)
    assert positions == [(0, 0), (0, 3), (0, 6), (0, 9), (1, 0), (1, 3), (1, 6), (1, 9), (2, 0)]


def test_saving_within_an_epoch_changes_no_bit(straight, config, tmp_path, often):
    Run(config, tmp_path, say=quiet).train()
    assert weights(tmp_path) == weights(straight)


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_of_an_older_format_is_refused_with_what_to_do(config, tmp_path, version):
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=quiet, progress=press_ctrl_c_at(3)).train()
    arrays, _ = files.read(tmp_path / "checkpoint.npz")
    arrays |= {
        "description": np.array(json.dumps({"format": version, "rng": {}, "epochs": [], "seconds": 1.0}))
    }
    if version == 2:
        text = str(arrays.pop("description"))
        arrays |= {"checksum": np.array(files.digest(arrays, text)), "description": np.array(text)}
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    with pytest.raises(ValueError) as caught:
        Run.resume(tmp_path, say=quiet)
    assert str(caught.value) == (
        f"{tmp_path / 'checkpoint.npz'}: a checkpoint of format {version}, whose order of images cannot be "
        "continued here; train again with --out, or finish the run with minicaps 0.1.0 (of a finished run, "
        "model.npz still loads)"
    )


# -- one process per folder --------------------------------------------------------------------


def test_a_second_run_in_the_same_folder_is_refused(config, tmp_path):
    other = Run(config, tmp_path, say=quiet)

    def meanwhile(line):
        for start in (lambda: Run.resume(tmp_path), other.train):
            with pytest.raises(RuntimeError, match=f"{tmp_path}: another process is training this run"):
                start()

    Run.resume(tmp_path, say=meanwhile).train()


def test_two_runs_that_begin_at_once_in_one_folder_do_not_mix(straight, config, tmp_path, monkeypatch):
    load, quicker = runs.load, []

    def load_slowly(*arguments):
        monkeypatch.setattr(runs, "load", load)
        quicker.append(Run(tiny_config(seed=7, data=config.data), tmp_path))
        return load(*arguments)

    monkeypatch.setattr(runs, "load", load_slowly)
    slower = Run(config, tmp_path, say=quiet)
    with pytest.raises(RuntimeError, match="another process has begun or trained this run meanwhile"):
        quicker[0].train()
    slower.train()
    assert read_config(tmp_path).seed == 0 and weights(tmp_path) == weights(straight)


def test_a_run_that_trained_meanwhile_is_not_begun_again(config, tmp_path, monkeypatch):
    load = runs.load

    def load_slowly(*arguments):
        monkeypatch.setattr(runs, "load", load)
        Run(tiny_config(seed=7, data=config.data), tmp_path, say=quiet).train()
        return load(*arguments)

    monkeypatch.setattr(runs, "load", load_slowly)
    with pytest.raises(FileExistsError, match="holds a run already"):
        Run(config, tmp_path)
    assert read_config(tmp_path).seed == 7


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_that_two_have_resumed_is_trained_by_one(straight, config, tmp_path, stopped):
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=quiet, progress=press_ctrl_c_at(3)).train()
    one, other = Run.resume(tmp_path, say=quiet), Run.resume(tmp_path, say=quiet)
    if stopped:
        one.progress = press_ctrl_c_at(2)
    with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
        one.train()
    with pytest.raises(RuntimeError, match="another process has begun or trained this run meanwhile"):
        other.train()
    if stopped:
        one.progress = quiet
        one.train()  # the same object may go on
    assert weights(tmp_path) == weights(straight)


def test_a_process_that_trains_keeps_others_out_until_it_is_killed(straight, config, start, tmp_path):
    Run(config, tmp_path)
    process = start(tmp_path)
    while not (tmp_path / "checkpoint.npz").exists():  # by then it holds the lock
        process.join(0.01)
    os.kill(process.pid, signal.SIGSTOP)  # it cannot finish before we have asked
    with pytest.raises(RuntimeError, match="another process is training"):
        Run.resume(tmp_path)
    process.kill()
    process.join()
    assert resumes_like(straight, tmp_path)


def test_the_lock_ends_with_its_block_and_leaves_an_empty_file(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), FolderLock(tmp_path):
            raise ZeroDivisionError
    assert (tmp_path / ".lock").read_bytes() == b""


# -- file systems that lack something ----------------------------------------------------------


def refusing(number, calls):
    """Return a function that raises an error of the system, and notes its calls."""

    def refuse(*arguments, **options):
        calls.append(arguments)
        raise OSError(number, os.strerror(number))

    return refuse


NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]


@pytest.mark.skipif(os.name == "nt", reason="flock is not of Windows")
@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_without_locks_a_run_trains_and_says_so_once(straight, config, tmp_path, monkeypatch, number):
    lines, calls = [], []
    monkeypatch.setattr(guards.fcntl, "flock", refusing(number, calls))
    Run(config, tmp_path, say=lines.append).train()
    assert len(calls) == 2 and weights(tmp_path) == weights(straight)
    assert [line for line in lines if "locks" in line] == [
        f"warning: {tmp_path}: its file system has no locks ({os.strerror(number)}), so take care that no "
        "second process trains this run"
    ]


@pytest.mark.skipif(os.name == "nt", reason="flock is not of Windows")
@pytest.mark.parametrize(
    "number, kind, words",
    [
        (errno.EAGAIN, RuntimeError, "another process is training this run; wait for it"),
        (
            errno.EACCES,
            RuntimeError,
            r"lock was refused \(Permission denied\); if another process .* on another one",
        ),
        (errno.EIO, OSError, "could not be locked"),
    ],
)
def test_a_lock_that_is_refused_is_told_as_what_it_may_mean(tmp_path, monkeypatch, number, kind, words):
    monkeypatch.setattr(guards.fcntl, "flock", refusing(number, []))
    with pytest.raises(kind, match=words) as caught, FolderLock(tmp_path):
        pass
    assert str(tmp_path) in str(caught.value)


def test_modes_that_cannot_be_set_are_no_reason_not_to_write(straight, config, tmp_path, monkeypatch):
    calls = []
    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, refusing(errno.EPERM, calls), raising=False)
    Run(config, tmp_path, say=quiet).train()
    assert weights(tmp_path) == weights(straight)


def test_a_folder_that_cannot_be_read_or_synchronised_is_written_to(tmp_path, monkeypatch):
    open_file = os.open
    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refusing(number, []))
            files.write_text(tmp_path / "a", str(number))
        assert (tmp_path / "a").read_text() == str(number)

    def only_files(path, flags, *mode):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, flags, *mode)

    monkeypatch.setattr(os, "open", only_files)
    files.write_text(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole"


@pytest.mark.skipif(os.name == "nt", reason="there is no umask on Windows")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_modes_that_the_umask_leaves(config, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        Run(config, tmp_path / "run", say=quiet).train()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir()}
    assert set(modes.values()) == {mode} and "best.npz" in modes


# -- a disk that is full or may not be written -------------------------------------------------


def one_line(folder, code, *, limit):
    """Resume in a process that may write files of `limit` bytes; return its one line of complaint."""
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from minicaps.cli import main\n"
        f"sys.exit(main(['train', '--resume', {str(folder)!r}]))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == code and re.fullmatch(r"minicaps: .*\n", ended.stderr), ended.stderr
    return ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="there are no limits of file sizes on Windows")
def test_files_that_may_not_grow_end_the_run_in_one_line_with_the_checkpoint_intact(
    straight, config, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=quiet, progress=press_ctrl_c_at(3)).train()
    before = (tmp_path / "checkpoint.npz").read_bytes()
    line = one_line(tmp_path, 1, limit=500_000)  # of the 320 and 950 kB of weights and checkpoint
    assert f"{tmp_path / 'checkpoint.npz'}: could not be written (File too large)" in line
    line = one_line(tmp_path, 1, limit=100_000)
    assert f"{tmp_path / 'best.npz'}: could not be written (File too large)" in line
    assert (tmp_path / "checkpoint.npz").read_bytes() == before and not list(tmp_path.glob(".*.tmp"))
    assert resumes_like(straight, tmp_path)


@pytest.mark.parametrize("number, words", [(errno.ENOSPC, "No space"), (errno.EACCES, "Permission denied")])
def test_a_full_or_forbidden_disk_stops_the_run_with_the_checkpoint_intact(
    straight, config, tmp_path, monkeypatch, often, number, words
):
    fdopen, calls = os.fdopen, iter(range(100))

    def fail_later(descriptor, mode):
        if next(calls) == 8:
            os.close(descriptor)
            raise OSError(number, os.strerror(number), "temporary")
        return fdopen(descriptor, mode)

    run = Run(config, tmp_path, say=quiet)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fdopen", fail_later)
        with pytest.raises(OSError, match=words) as caught:
            run.train()
    assert caught.value.filename == str(tmp_path / "metrics.jsonl") and position(tmp_path) == (0, 3)
    assert resumes_like(straight, tmp_path)


# -- other data --------------------------------------------------------------------------------


def test_a_run_refuses_to_go_on_with_other_data(config, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(config.data, data)
    with pytest.raises(KeyboardInterrupt):
        Run(tiny_config(data=str(data)), tmp_path / "run", say=quiet, progress=press_ctrl_c_at(1)).train()
    file = data / "train-labels-idx1-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"it began with other data than {data} holds now"):
        Run.resume(tmp_path / "run")


# -- numbers that are not finite ---------------------------------------------------------------


def poison(layer, method, value, call, monkeypatch):
    """Put `value` into the output, or a weight's gradient, of one layer from its `call`-th call on."""
    original, calls = getattr(type(layer), method), iter(range(1, 1000))

    def poisoned(self, *arguments):
        result = original(self, *arguments)
        if self is layer and next(calls) >= call:
            array = result[0] if method == "forward" else next(iter(layer.grads.values()))
            array[(0,) * array.ndim] = value
        return result

    monkeypatch.setattr(type(layer), method, poisoned)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name, method, message",
    [
        ("conv", "forward", r"loss is \w+ at step 12 \(first is the output of conv\)"),
        ("primary", "forward", r"loss is \w+ at step 12 \(first is the output of primary\)"),
        (
            "decoder.fc2",
            "backward",
            r"gradient is not finite at step 12 \(first is the gradient of decoder\.fc2\)",
        ),
        ("conv", "backward_params", r"gradient is not finite at step 12 \(first is the gradient of conv\)"),
    ],
)
def test_the_run_stops_before_the_update_and_names_the_first_layer_and_the_step(
    straight, config, tmp_path, monkeypatch, name, method, message, value
):
    run = Run(config, tmp_path, say=quiet)
    poison(dict(run.network.walk())[f"{name}."], method, value, 12, monkeypatch)
    with pytest.raises(Diverged) as caught:
        run.train()
    assert re.search(
        rf"^the {message}; a smaller learning rate may help \(it is 0\.004\); "
        r"the run is kept as it was after epoch 1$",
        str(caught.value),
    )
    assert run.optimizer.steps == 11 and all_finite(*run.network.params.values())
    monkeypatch.undo()
    assert position(tmp_path) == (1, 0) and resumes_like(straight, tmp_path)


def first(run, x, y):
    """What the search says of one batch."""
    network, objective = run.network, run.objective
    return first_not_finite(network, objective, lambda: backpropagate(network, objective, x, y))


def test_weights_that_are_not_finite_are_named(config, tmp_path):
    run = Run(config, tmp_path, say=quiet)
    run.network.params["capsules.votes.W"][0, 0, 0, 0] = np.nan
    with pytest.raises(RuntimeError, match=r"network/capsules\.votes\.W is not finite after step 0"):
        run.train()
    assert not (tmp_path / "checkpoint.npz").exists()
    x, y = to_batch(run.images[:5], run.labels[:5], np)
    assert first(run, x, y) == "the weights capsules.votes.W"


def test_an_update_that_overflows_is_never_saved(config, tmp_path, often):
    run = Run(config, tmp_path, say=quiet)
    update = run.optimizer.step

    def overflow():
        update()
        if run.optimizer.steps == 4:
            run.network.params["conv.bias"][0] = np.inf

    run.optimizer.step = overflow
    with pytest.raises(RuntimeError, match=r"network/conv\.bias is not finite after step 4"):
        run.train()
    assert position(tmp_path) == (0, 3)


@pytest.mark.parametrize("batch_size", [30, 300])
def test_a_far_too_large_learning_rate_ends_in_one_clear_error(config, tmp_path, batch_size):
    bold = tiny_config(learning_rate=1e30, batch_size=batch_size, data=config.data)
    with pytest.raises(RuntimeError, match=r"(loss is nan|not finite) .* \(it is 1e\+30\)") as caught:
        Run(bold, tmp_path, say=quiet).train()
    assert "\n" not in str(caught.value) and not (tmp_path / "summary.json").exists()


def test_large_gradients_that_are_finite_do_not_stop_the_run(config, tmp_path, monkeypatch):
    run = Run(config, tmp_path, say=quiet)
    monkeypatch.setattr(run.optimizer, "step", lambda: None)
    poison(run.network.conv, "backward_params", 1e30, 1, monkeypatch)
    run.train()
    assert run.finished


def test_after_the_search_every_layer_has_its_own_methods_back(config, tmp_path):
    run = Run(config, tmp_path, say=quiet)
    x, y = to_batch(run.images[:5], run.labels[:5], np)
    assert first(run, x, y) == "nothing, when computed again"
    for layer in [run.objective, *(layer for _, layer in run.network.walk())]:
        assert not {"forward", "backward", "backward_params"} & vars(layer).keys()


@pytest.mark.parametrize("schedule, learning_rate", [(0.5, "0.5"), (lambda step: 0.25, "0.25")])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_step_that_diverges_changes_no_weight_and_says_where(schedule, learning_rate, parallel):
    network, rng = build("mlp", rng=0), np.random.default_rng(0)
    x, y = rng.random((80, 28, 28, 1), dtype=np.float32), np.arange(80) % 10
    objective, optimizer = network.objective(), Adam(network, schedule)
    with DataParallel(network, objective, 80) if parallel else nullcontext(OneProcess(network)) as source:
        train_step(source, optimizer, x, y)
        before = network.state()
        x[79, 3, 3] = np.inf
        with pytest.raises(Diverged) as caught:
            train_step(source, optimizer, x, y)
    assert str(caught.value) == (
        "the loss is nan at step 2 (first is the output of chain.flatten); a smaller learning rate may help "
        f"(it is {learning_rate})"
    )
    assert optimizer.steps == 1
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_shows_in_both_checks(value):
    arrays = [np.ones((3, 4), np.float32), np.ones(5, np.float32)]
    assert sum_of_squares(arrays) == 17 and all_finite(*arrays, None, (arrays[0], None))
    arrays[1][3] = value
    assert not np.isfinite(sum_of_squares(arrays)) and not all_finite(*arrays)
    assert not all_finite(arrays[0], (None, arrays[1])) and all_finite()
