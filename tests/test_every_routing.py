"""Whatever routes: a run that is stopped and resumed, by other processes, ends with the same bits."""

import os

import pytest
from helpers import press_ctrl_c_at, quiet, small_folder, tiny_config

from minicaps.networks import files
from minicaps.networks.capsnet_config import COUPLINGS, ROUTINGS
from minicaps.training import Run, processes

FAMILIES = {
    **{f"routing {name}": {"routing": name} for name in ROUTINGS},
    **{f"coupling {name}": {"coupling": name} for name in COUPLINGS if name != "softmax"},
    "line": {"presence": "line"},
    "two hidden layers": {"layers": ((12, 4), (8, 4))},
    "matrix capsules": {"model": "matrix"},
    "EfficientCapsNet": {"model": "efficient", "preset": "tiny"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(small_folder(tmp_path_factory.mktemp("data"), 200, 40))


def weights(folder):
    return {name: array.tobytes() for name, array in files.read(folder / "model.npz")[0].items()}


@pytest.mark.skipif(os.name != "posix", reason="other processes are started on POSIX only")
@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_stopped_resumed_and_shared_out_otherwise_it_ends_with_the_same_bits(
    options, data, tmp_path, with_threads, monkeypatch
):
    config = tiny_config(epochs=2, batch_size=100, data=data, **options)
    with_threads(2)
    started = []
    worker = processes.Worker
    monkeypatch.setattr(processes, "Worker", lambda *args: started.append(args) or worker(*args))
    Run(config, tmp_path / "straight", say=quiet).train()
    assert len(started) == 1  # a second process took half of each batch
    with_threads(1)
    stopped = Run(config, tmp_path / "stopped", say=quiet, progress=press_ctrl_c_at(3))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert not (tmp_path / "stopped" / "model.npz").exists()
    Run.resume(tmp_path / "stopped", say=quiet).train()
    found = weights(tmp_path / "stopped")
    assert len(found) > 3 and found == weights(tmp_path / "straight")
    first = Run(config, tmp_path / "first", say=quiet).network.state()
    same = [name for name, array in first.items() if array.tobytes() == found[name]]
    assert not [name for name in same if name.endswith("W")]  # it was trained, all of it
