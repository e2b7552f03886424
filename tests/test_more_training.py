"""More of the same run: further epochs, its best weights, given first weights, and data that have moved."""

import json
import os
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from helpers import (
    interrupt_at,
    mnist,
    press_ctrl_c_at,
    quiet,
    read_metrics,
    small_dataset,
    small_folder,
    tiny_config,
    write_folder,
)

from minicaps.networks import build, files, load_network, save_network
from minicaps.training import BadOption, Run, TrainConfig, fingerprint, read_config, start_from, trained_on
from minicaps.training import run as runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(small_folder(tmp_path_factory.mktemp("data"), 150, 40))


def run_to_the_end(folder, config):
    Run(config, folder, say=quiet).train()
    return folder


def weights(folder, name="model.npz"):
    return {name: array.tobytes() for name, array in files.read(folder / name)[0].items()}


def summary_of(folder):
    clock = ("seconds", "images_per_second")
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in clock}


def without_clock(folder, *more):
    clock = ("seconds", "images_per_second", *more)
    return [{name: x for name, x in row.items() if name not in clock} for row in read_metrics(folder)]


# -- further epochs ----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "exponential"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_trained_further_equals_a_longer_one_bit_for_bit(data, tmp_path, schedule, finished):
    config = tiny_config(data=data, epochs=2, schedule=schedule, warmup=4)
    long = run_to_the_end(tmp_path / "long", replace(config, epochs=4))
    if finished:
        run_to_the_end(tmp_path / "run", config)
    else:
        with pytest.raises(KeyboardInterrupt):
            Run(config, tmp_path / "run", say=quiet, progress=press_ctrl_c_at(4)).train()
    run = Run.resume(tmp_path / "run", epochs=4, say=quiet)
    assert not run.finished
    run.train()
    assert run.finished and read_config(tmp_path / "run").epochs == 4
    for name in ("model.npz", "best.npz"):
        assert weights(tmp_path / "run", name) == weights(long, name)
    assert summary_of(tmp_path / "run") == summary_of(long)
    assert without_clock(tmp_path / "run", "epochs") == without_clock(long, "epochs")


def test_a_cosine_goes_on_as_that_of_the_longer_run_and_metrics_tell(data, tmp_path):
    config = tiny_config(data=data, epochs=2)
    long = run_to_the_end(tmp_path / "long", replace(config, epochs=4))
    run_to_the_end(tmp_path / "run", config)
    lines = []
    run = Run.resume(tmp_path / "run", epochs=4, say=lines.append)
    expected = config.learning_rates(4 * run.steps_per_epoch)(2 * run.steps_per_epoch)
    run.train()
    assert lines[0].startswith("epochs: 4, where it was to have 2;") and f"({expected:.2g} next)" in lines[0]
    metrics = read_metrics(tmp_path / "run")
    assert [row["epochs"] for row in metrics] == [2, 2, 4, 4]
    rates = [row["learning_rate"] for row in read_metrics(long)]
    assert [row["learning_rate"] for row in metrics][2:] == rates[2:]


def test_a_run_trained_further_that_is_stopped_goes_on_bit_for_bit(data, tmp_path):
    run_to_the_end(tmp_path / "one", tiny_config(data=data, epochs=1))
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    Run.resume(tmp_path / "one", epochs=3, say=quiet).train()
    with pytest.raises(KeyboardInterrupt):
        Run.resume(tmp_path / "other", epochs=3, say=quiet, progress=press_ctrl_c_at(4)).train()
    assert not Run.resume(tmp_path / "other").finished
    Run.resume(tmp_path / "other", say=quiet).train()
    assert weights(tmp_path / "other") == weights(tmp_path / "one")


def test_fewer_epochs_end_a_run_sooner_but_not_before_where_it_is(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Run(tiny_config(data=data, epochs=9), tmp_path, say=interrupt_at(2)).train()
    with pytest.raises(BadOption, match="epochs is 1, but the run has begun its epoch 2 already"):
        Run.resume(tmp_path, epochs=1)
    assert read_config(tmp_path).epochs == 9
    assert Run.resume(tmp_path, epochs=2, say=quiet).train()["epochs"] == 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 3}, {"init": "x"}])
def test_nothing_else_of_a_run_may_change(data, tmp_path, change):
    Run(tiny_config(data=data), tmp_path)
    with pytest.raises(BadOption, match="a run is resumed with its own"):
        Run.resume(tmp_path, **change)


# -- a stop at every write ---------------------------------------------------------------------


def stopping_at(call, after):
    """Return what stands for os.replace, and stops at its `call`-th call, before or after the work."""
    replace_file, calls = os.replace, iter(range(1000))

    def stop(source, target):
        last = next(calls) == call
        if last and not after:
            raise KeyboardInterrupt
        replace_file(source, target)
        if last:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("after", [False, True])
def test_a_stop_at_any_write_of_a_run_leaves_one_that_ends_the_same(data, tmp_path, monkeypatch, after):
    config = tiny_config(data=data, epochs=2)
    straight = run_to_the_end(tmp_path / "straight", config)
    for call in range(100):
        folder = tmp_path / str(call)
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", stopping_at(call, after))
            try:
                run_to_the_end(folder, config)
                break
            except KeyboardInterrupt:
                pass
        if (folder / "config.json").exists():
            Run.resume(folder, say=quiet).train()
        else:  # not even begun
            run_to_the_end(folder, config)
        assert summary_of(folder) == summary_of(straight), call
        for name in ("model.npz", "best.npz"):
            assert weights(folder, name) == weights(straight, name), call
    assert call >= 10


@pytest.mark.parametrize("after", [False, True])
def test_a_stop_at_any_write_of_further_epochs_too(data, tmp_path, monkeypatch, after):
    begun = run_to_the_end(tmp_path / "begun", tiny_config(data=data, epochs=1))
    shutil.copytree(begun, tmp_path / "straight")
    Run.resume(tmp_path / "straight", epochs=2, say=quiet).train()
    for call in range(100):
        folder = tmp_path / str(call)
        shutil.copytree(begun, folder)
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", stopping_at(call, after))
            try:
                Run.resume(folder, epochs=2, say=quiet).train()
                break
            except KeyboardInterrupt:
                pass
        run = Run.resume(folder, epochs=2, say=quiet)
        assert run.finished == (summary_of(folder)["epochs"] == 2), call  # that is written last
        if not run.finished:
            run.train()
        assert summary_of(folder) == summary_of(tmp_path / "straight"), call
        assert weights(folder) == weights(tmp_path / "straight"), call
    assert call >= 5


# -- the best weights --------------------------------------------------------------------------


def test_the_best_weights_are_those_of_the_epoch_that_validates_best(data, tmp_path, monkeypatch):
    config = tiny_config(data=data, epochs=4, schedule="constant")
    run_to_the_end(tmp_path / "two", replace(config, epochs=2))
    found = iter([(0.3, 1.0), (0.9, 0.5), (0.9, 0.5), (0.7, 0.1)])  # accuracy and loss; the first of equals
    evaluate = runs.evaluate

    def validate(network, images, *rest):
        result = evaluate(network, images, *rest)
        if len(images) == 40:  # those of the test
            return result
        accuracy, loss = next(found)
        return replace(result, accuracy=accuracy, loss=loss)

    monkeypatch.setattr(runs, "evaluate", validate)
    run_to_the_end(tmp_path / "run", config)
    summary = summary_of(tmp_path / "run")
    assert (summary["best_epoch"], summary["best_validation_accuracy"]) == (2, 0.9)
    assert summary["validation_accuracy"] == 0.7
    assert weights(tmp_path / "run", "best.npz") == weights(tmp_path / "two")
    network = load_network(tmp_path / "run" / "model.npz")[0]  # of the last epoch: that is what was tested
    images, labels = mnist().test_images[:40], mnist().test_labels[:40]
    assert summary["test_accuracy"] == (network.predict(images) == labels).mean()


def test_a_run_of_an_older_version_without_best_weights_claims_none(data, tmp_path):
    config = tiny_config(data=data, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=interrupt_at(2)).train()
    (tmp_path / "best.npz").unlink()
    summary = Run.resume(tmp_path, say=quiet).train()
    assert summary["best_epoch"] is summary["best_validation_accuracy"] is None


# -- first weights -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A file of weights that differ from any that a seed gives."""
    network = build("capsnet", "tiny", rng=99)
    save_network(tmp_path_factory.mktemp("given") / "model.npz", network, tuple("0123456789"))
    return network, tmp_path_factory.getbasetemp() / "given0" / "model.npz"


DECODER = ("decoder.fc2", "decoder.fc3")


@pytest.mark.parametrize(
    "options, class_names, fresh",
    [
        ({}, "0123456789", ()),
        ({}, "abcdefghij", ("capsules.votes", "decoder.fc1")),  # as many classes, but others
        ({"classes": 3}, "012", ("capsules.votes", "decoder.fc1")),
        ({"image_shape": (28, 28, 3)}, "0123456789", ("conv", "decoder.fc3")),
        ({"image_shape": (40, 28, 1)}, "0123456789", ("capsules.votes", "decoder.fc3")),
        ({"decoder": False}, "0123456789", ()),
    ],
)
def test_layers_that_fit_are_taken_and_the_others_begin_afresh(given, options, class_names, fresh):
    source, path = given
    network = build("capsnet", "tiny", rng=0, **options)
    before = network.state()
    start = start_from(network, str(path), tuple(class_names))
    assert start.fresh == fresh and not set(start.taken) & set(fresh)
    for name, array in network.state().items():
        layer = name.rpartition(".")[0]
        assert layer in start.taken + fresh
        np.testing.assert_array_equal(array, source.state()[name] if layer in start.taken else before[name])
    assert all(layer in str(start) for layer in start.taken + fresh)


def test_another_kind_of_network_and_one_that_fits_nowhere_are_refused(given):
    for name, options, reason in [
        ("mlp", {}, "the weights of a CapsNet, expected those of a MLP"),
        ("capsnet", {"preset": "paper"}, "no layer of its network"),
    ]:
        network = build(name, rng=0, **options)
        before = network.state()
        with pytest.raises(ValueError, match=reason):
            start_from(network, str(given[1]), tuple("0123456789"))
        assert all((array == before[name]).all() for name, array in network.state().items())


def test_a_run_begins_with_given_weights_and_resumes_without_them(given, data, tmp_path):
    file = tmp_path / "given.npz"
    shutil.copy(given[1], file)
    config = tiny_config(data=data, epochs=2, init=str(file))
    straight = run_to_the_end(tmp_path / "straight", config)
    assert weights(straight) != weights(run_to_the_end(tmp_path / "fresh", replace(config, init=None)))
    run = Run(config, tmp_path / "run", say=quiet, progress=press_ctrl_c_at(2))
    assert all((run.network.state()[name] == array).all() for name, array in given[0].state().items())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    file.unlink()
    resumed = Run.resume(tmp_path / "run", say=quiet)
    assert resumed.start is None
    resumed.train()
    assert weights(tmp_path / "run") == weights(straight)


def test_weights_may_come_from_a_run_and_not_from_one_without(data, tmp_path):
    run_to_the_end(tmp_path / "first", tiny_config(data=data))
    run = Run(tiny_config(data=data, init=str(tmp_path / "first")), tmp_path / "second")
    assert run.start.path == tmp_path / "first" / "model.npz" and run.start.fresh == ()
    for init in ("second", "absent"):
        with pytest.raises(FileNotFoundError):
            Run(tiny_config(data=data, init=str(tmp_path / init)), tmp_path / "third")
    assert not (tmp_path / "third").exists()


# -- data that have moved ----------------------------------------------------------------------


@pytest.fixture
def stopped(data, tmp_path, monkeypatch):
    """A run that was stopped in its first epoch, on data named by a path that is relative."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "mine")
    with pytest.raises(KeyboardInterrupt):
        Run(tiny_config(data="mine"), "run", say=quiet, progress=press_ctrl_c_at(1)).train()
    return tmp_path / "run"


def test_a_run_finds_its_data_wherever_one_stands(stopped, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Run.resume(stopped).dataset.source == str(tmp_path / "mine")


def test_a_run_goes_on_with_its_data_at_another_place_and_remembers_it(stopped, tmp_path):
    os.rename("mine", "moved")
    with pytest.raises(FileNotFoundError, match=r"if the data have moved, name their folder with --data"):
        Run.resume(stopped)
    Run.resume(stopped, data="moved", say=quiet).train()
    assert read_config(stopped).data == str(tmp_path / "moved")
    assert Run.resume(stopped).finished
    origin = trained_on(stopped)
    assert origin.source == str(tmp_path / "moved")
    assert origin.fingerprint == fingerprint(Run.resume(stopped).dataset)


def test_other_data_are_refused_and_change_nothing(stopped, tmp_path):
    write_folder("other", small_dataset(150, 41))
    before = (stopped / "config.json").read_text()
    lay = f"it began with other data than {tmp_path / 'other'} holds now, in {tmp_path / 'mine'}"
    with pytest.raises(ValueError, match=lay):
        Run.resume(stopped, data="other")
    assert (stopped / "config.json").read_text() == before


def test_a_run_moves_with_all_that_belongs_to_it(stopped, tmp_path):
    (tmp_path / "machine").mkdir()
    for name in ("run", "mine"):
        os.rename(name, os.path.join("machine", name))
    Run.resume("machine/run", data="machine/mine", say=quiet).train()
    assert Run.resume("machine/run").finished


def test_a_checkpoint_that_does_not_say_where_its_data_lay_still_resumes(stopped):
    arrays, description = files.read(stopped / "checkpoint.npz")
    del description["source"]
    for option in ("channels", "init"):  # younger than it
        del description["config"][option]
    files.write(stopped / "checkpoint.npz", arrays, description)
    assert trained_on(stopped).source == ""
    Run.resume(stopped, say=quiet).train()


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size, held", [(28, 28), ((60, 80), (60, 80)), ([60, 80], (60, 80)), ((28, 28), 28)])
def test_a_size_is_a_number_or_a_pair_and_comes_back_from_the_file(size, held):
    config = TrainConfig(size=size)
    assert config.size == held
    assert TrainConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert f"size={held if isinstance(held, int) else '60x80'}  " in str(config)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "28", (28,), (28, 0), (1, 2, 3), [28, "x"]])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="train: size"):
        TrainConfig(size=size)


def test_a_configuration_from_before_an_option_was_there_is_read(tmp_path):
    old = asdict(TrainConfig(size=32))
    for option in ("channels", "init"):
        del old[option]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert read_config(tmp_path) == TrainConfig(size=32)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("option", [{"preset": "tiny"}, {"routing_iterations": 3}, {"decoder": False}])
def test_options_that_only_a_capsnet_has_are_refused_of_others_but_read_in_old_files(tmp_path, model, option):
    ((name, value),) = option.items()
    with pytest.raises(BadOption, match=f"train: {name} is {value!r}, but {model} has no such option"):
        TrainConfig(model=model, **option)
    (tmp_path / "config.json").write_text(json.dumps(asdict(TrainConfig(model=model)) | option))
    assert read_config(tmp_path) == TrainConfig(model=model)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"warmup": 4}, "warmup is 4, but the training has 3 steps only"),
        ({"warmup": 4, "schedule": "constant"}, "warmup is 4, but the training has 3 steps only"),
        ({"warmup": 4, "schedule": "exponential", "limit": 101}, "has 3 steps only"),
        ({"shift": 28}, "shift is 28, which moves images of 28×28 out of sight"),
    ],
)
def test_options_that_undo_the_training_are_refused_before_there_is_a_folder(data, tmp_path, options, reason):
    with pytest.raises(BadOption, match=reason):
        Run(tiny_config(data=data, **options), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    near = {name: value - 1 if name in ("warmup", "shift") else value for name, value in options.items()}
    Run(tiny_config(data=data, **near), tmp_path / "run")


@pytest.mark.parametrize("name", ["data", "init"])
def test_an_empty_path_is_refused(name):
    with pytest.raises(ValueError, match=f"train: {name} is '', expected the path"):
        TrainConfig(**{name: ""})


def test_another_backend_is_no_other_run_and_is_said(data, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "resolve", lambda name: np)
    config = tiny_config(data=data, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=interrupt_at(1)).train()
    lines = []
    run = Run.resume(tmp_path, backend="cupy", say=lines.append)
    run.train()
    assert lines[0] == "backend: cupy, where it was numpy; the last bits may differ"
    assert read_config(tmp_path).backend == "cupy" and run.finished
