"""The bench measures what it says; the speeds themselves are no matter for a test."""

import json

import numpy as np

from minicaps.cli import main
from minicaps.networks import build
from minicaps.training import processes as data_parallel
from minicaps.training.bench import bench, multiply_adds


def test_the_stages_and_the_rest_add_up_to_the_step():
    result = bench("tiny", 8, 3)
    assert [stage.name for stage in result.stages] == [
        "conv", "relu", "primary", "capsules", "reconstruct", "Adam", "the rest",
    ]  # fmt: skip
    total = sum(stage.forward + stage.backward for stage in result.stages)
    assert np.isclose(total, result.step)
    assert result.processes == 1 and result.train_images_per_second > 0
    assert all(stage.backward > 0 for stage in result.stages[:5])


def test_training_is_timed_with_as_many_processes_as_a_run_uses(monkeypatch):
    monkeypatch.setattr(data_parallel, "threads", lambda: 2)
    one, two = bench("tiny", 8, 1), bench("tiny", 80, 1)
    assert (one.processes, two.processes) == (1, 2)
    assert two.peak_memory_mb > one.peak_memory_mb


def test_the_paper_s_network_costs_what_it_costs_directly():
    work = multiply_adds(build("capsnet", "paper", rng=0))
    assert work["primary"] == 3 * 36 * 81 * 256 * 256
    assert work["conv"] == 2 * 400 * 81 * 256
    assert work["reconstruct"] == 3 * (160 * 512 + 512 * 1024 + 1024 * 784)


def test_the_command_prints_a_table_or_json(capsys):
    arguments = ["bench", "--preset", "tiny", "--batch-size", "4", "--steps", "2"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "primary" in table and "images/s" in table and "peak memory" in table
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 4


def test_wrong_numbers_are_refused(capsys):
    assert main(["bench", "--steps", "0"]) == 2
    assert "steps is 0" in capsys.readouterr().err
