"""The bench measures what it says; the speeds themselves are no matter for a test."""

import json
import sys

import numpy as np
import pytest

from minicaps.cli import main
from minicaps.networks import build
from minicaps.training import bench, processes
from minicaps.training.bench import Clock, multiply_adds
from minicaps.training.watch import watched

benches = sys.modules["minicaps.training.bench"]  # the function has its name


def test_the_stages_and_the_rest_add_up_to_the_step():
    result = bench("tiny", 8, 3)
    names = [stage.name for stage in result.stages]
    assert names == ["conv", "relu", "primary", "capsules", "decoder", "Adam", "the rest"]
    assert np.isclose(sum(stage.seconds for stage in result.stages), result.step)
    assert result.processes == 1 and result.train_images_per_second > 0
    for stage in result.stages[:5]:
        assert stage.forward > 0 and stage.backward > 0
        assert stage.seconds == stage.forward + stage.backward
    adam, rest = result.stages[5:]
    assert adam.seconds > 0 and adam.forward is adam.backward is rest.forward is rest.backward is None


def test_a_watched_method_is_the_object_s_own_again_afterwards():
    class Thing:
        def double(self, x):
            return 2 * x

    one, other, clock = Thing(), Thing(), Clock()
    with pytest.raises(ZeroDivisionError), watched(one, "double", lambda method: clock.timed("a", method)):
        assert one.double(3) == other.double(3) == 6
        raise ZeroDivisionError
    assert one.double(4) == 8 and not vars(one)
    assert len(clock.seconds["a"]) == 1 and clock.median("a") > 0 and clock.median("b") == 0


def test_training_is_timed_with_as_many_processes_as_a_run_uses(monkeypatch):
    monkeypatch.setattr(processes, "thread_count", lambda: 2)
    one, two = bench("tiny", 8, 1), bench("tiny", 80, 1)
    assert (one.processes, two.processes) == (1, 2)
    assert two.peak_memory_mb > one.peak_memory_mb


def test_the_paper_s_network_costs_what_it_costs_directly():
    work = multiply_adds(build("capsnet", "paper", rng=0))
    assert work["primary"] == 3 * 36 * 81 * 256 * 256
    assert work["conv"] == 2 * 400 * 81 * 256
    assert work["decoder"] == 3 * (160 * 512 + 512 * 1024 + 1024 * 784)


def test_the_command_prints_a_table_or_json(capsys):
    arguments = ["bench", "--preset", "tiny", "--batch-size", "4", "--steps", "2"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "primary" in table and "images/s" in table and "peak memory" in table
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 4


def test_training_is_timed_in_the_precision_that_is_asked_for(monkeypatch, capsys):
    found, whole = [], benches.train_step

    def noting(source, adam, images, labels, scale):
        found.append((source.network.precision, scale and scale.scale))
        return whole(source, adam, images, labels, scale)

    monkeypatch.setattr(benches, "train_step", noting)
    arguments = ["bench", "--preset", "tiny", "--batch-size", "4", "--steps", "1", "--json"]
    for options, expected in ([], ("float32", None)), (["--precision", "mixed"], ("mixed", 65536)):
        assert main([*arguments, *options]) == 0
        assert json.loads(capsys.readouterr().out)["precision"] == expected[0]
        assert set(found) == {expected} and len(found) == 6  # twice two to begin with, and one
        found.clear()
    assert main([*arguments, "--precision", "half"]) == 2
    assert "invalid choice: 'half'" in capsys.readouterr().err


def test_wrong_numbers_are_refused(capsys):
    assert main(["bench", "--steps", "0"]) == 2
    assert "steps is 0" in capsys.readouterr().err
