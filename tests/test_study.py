"""What the experiments share: the one way of training, the result that grows, tables."""

import json

import numpy as np
import pytest
from helpers import mnist, quiet
from matplotlib.figure import Figure

from minicaps.experiments import Settings, Study, tables, training
from minicaps.experiments import study as studies
from minicaps.experiments.training import endless, fit, learn, prepared
from minicaps.networks import build
from minicaps.training import Adam, Diverged, OneProcess, Result, batches, train_step


def some_images(count=60):
    return mnist().train_images[:count], mnist().train_labels[:count]


def fit_alone(network, optimizer, drawn, steps):
    with prepared(network, drawn) as (source, drawn):
        return fit(source, optimizer, drawn, steps)


def test_fit_makes_the_steps_of_the_training_loop():
    images, labels = some_images()
    fitted, looped = build("mlp", rng=0), build("mlp", rng=0)
    adam = Adam(fitted, 1e-3)
    loss = fit_alone(fitted, adam, endless(images, labels, 20, np.random.default_rng(1)), 5)
    rng, other, losses = np.random.default_rng(1), Adam(looped, 1e-3), []
    for chosen in [*batches(60, 20, rng), *batches(60, 20, rng)][:5]:
        x = images[chosen].astype(np.float32) / np.float32(255)
        losses.append(train_step(OneProcess(looped), other, x, labels[chosen]).loss)
    assert adam.steps == 5 and loss == pytest.approx(np.mean(losses))
    for name, param in fitted.params.items():
        np.testing.assert_array_equal(param, looped.params[name])


def test_a_loss_that_is_not_finite_ends_the_training():
    network = build("mlp", rng=0)
    network.params["chain.fc2.bias"][0] = np.nan
    adam = Adam(network, 1e-3)
    with pytest.raises(Diverged):
        fit_alone(network, adam, endless(*some_images(), 20, np.random.default_rng(1)), 3)
    assert adam.steps == 0


def test_endless_batches_go_through_all_images_again_and_again():
    images, labels = np.arange(7).reshape(7, 1, 1, 1), np.arange(7) + 10
    drawn = endless(images, labels, 3, np.random.default_rng(0), lambda x: 2 * x)
    for _ in range(2):
        epoch = [next(drawn) for _ in range(3)]
        assert [len(x) for x, _ in epoch] == [3, 3, 1]
        x, y = (np.concatenate(part).ravel() for part in zip(*epoch, strict=True))
        assert sorted(x) == [0, 2, 4, 6, 8, 10, 12]
        np.testing.assert_array_equal(x, 2 * (y - 10))


def test_learn_examines_after_equal_parts_and_trains_as_fit_does():
    images, labels = some_images()
    whole, parts = build("mlp", rng=0), build("mlp", rng=0)
    fit_alone(whole, Adam(whole, 1e-3), endless(images, labels, 20, np.random.default_rng(1)), 7)
    adam, lines = Adam(parts, 1e-3), []
    drawn = endless(images, labels, 20, np.random.default_rng(1))
    curve = learn(parts, adam, drawn, 7, lambda network: {"seen": adam.steps}, 3, lines.append)
    assert [(point["step"], point["seen"]) for point in curve] == [(2, 2), (4, 4), (7, 7)]
    assert np.all(np.diff([point["seconds"] for point in curve]) > 0)
    assert len(lines) == 7 and lines[-1].startswith("step 7/7  loss ") and lines[-1].endswith("0:00 left")
    for name, param in whole.params.items():
        np.testing.assert_array_equal(param, parts.params[name])


def test_there_are_no_more_rounds_than_steps():
    network = build("mlp", rng=0)
    drawn = endless(*some_images(), 20, np.random.default_rng(1))
    curve = learn(network, Adam(network, 1e-3), drawn, 2, lambda network: {}, 5)
    assert [point["step"] for point in curve] == [1, 2]


# -- the study ---------------------------------------------------------------------------------


def a_study(folder, **settings):
    return Study("few", Settings(**settings), folder, quiet)


def test_the_seconds_are_those_of_training_and_not_of_the_examinations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def step(*_):
        now[0] += 2
        adam.steps += 1
        return Result(0.25, 1)

    def examine(network):
        now[0] += 100
        return {}

    monkeypatch.setattr(training, "train_step", step)
    network, lines = build("mlp", rng=0), []
    adam = Adam(network, 1e-3)
    drawn = endless(*some_images(), 20, np.random.default_rng(1))
    curve = learn(network, adam, drawn, 40, examine, 2, lines.append)
    assert [(point["seconds"], point["loss"]) for point in curve] == [(40, 0.25), (80, 0.25)]
    assert lines[0] == "step 1/40  loss 0.2500  1:18 left" and lines[-2].endswith("0:02 left")


def test_a_figure_that_fails_is_a_warning_and_the_table_is_written(tmp_path):
    lines = []
    study = Study("few", Settings(), tmp_path, lines.append)
    study.draw("broken", lambda value: 1 / value, 0)
    study.draw("whole", lambda width: Figure(figsize=(width, 1)), 2)
    study.finish("the table")
    assert lines == [
        f"warning: {tmp_path / 'broken.png'} could not be drawn (ZeroDivisionError: division by zero)",
        "the table",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"whole.png", "table.md", "result.json"}


def test_a_row_is_written_at_once_and_never_made_twice(tmp_path):
    study, made = a_study(tmp_path), []

    def work(network, seed):
        made.append((network, seed))
        return {"accuracy": 0.5, "curve": ({"step": 1},)}

    row = study.row(work, network="cnn", seed=0)
    assert row == {"network": "cnn", "seed": 0, "accuracy": 0.5, "curve": [{"step": 1}]}
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == [row]
    assert study.row(work, network="cnn", seed=0) == row and made == [("cnn", 0)]
    again = a_study(tmp_path)  # as after a kill
    assert again.row(work, network="cnn", seed=0) == row and len(made) == 1
    again.row(work, network="cnn", seed=1)
    assert made == [("cnn", 0), ("cnn", 1)]
    assert again.values("seed", network="cnn") == [0, 1] and again.rows(network="mlp") == []


def test_rows_of_one_key_are_told_apart_by_their_kind(tmp_path):
    study = a_study(tmp_path)
    first = study.row(lambda seed: {"loss": 3}, "training", seed=0)
    second = study.row(lambda seed: {"loss": 5}, "test", seed=0)
    assert first == {"kind": "training", "seed": 0, "loss": 3}
    assert study.rows(kind="test", seed=0) == [second] and study.values("loss", seed=0) == [3, 5]
    assert study.row(lambda seed: pytest.fail("made twice"), "training", seed=0) == first


def test_a_row_that_would_not_be_found_again_is_refused(tmp_path):
    study = Study("few", Settings(), tmp_path)
    with pytest.raises(
        ValueError, match=r"Study\.row: the work returned another loss than the row is known by"
    ):
        study.row(lambda loss: {"loss": 0.3, "accuracy": 0.9}, loss="margin")
    with pytest.raises(ValueError, match="the work returned another kind than"):
        study.row(lambda **key: {"kind": "other"}, "test", seed=0)
    assert study.result["rows"] == []


def test_the_result_of_a_version_with_fewer_settings_is_continued(tmp_path):
    study = Study("few", Settings(networks=("cnn",)), tmp_path)
    study.row(lambda seed: {"accuracy": 0.5}, seed=0)
    result = json.loads((tmp_path / "result.json").read_text())
    del result["settings"]["arms"], result["settings"]["folds"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    again = Study("few", Settings(networks=("cnn",)), tmp_path, say=lambda line: None)
    assert again.values("accuracy") == [0.5]


def test_a_row_that_fails_leaves_the_others(tmp_path):
    study = a_study(tmp_path)
    study.row(dict, seed=0)
    with pytest.raises(ZeroDivisionError):
        study.row(lambda seed: {"x": seed / 0}, seed=1)
    assert [row["seed"] for row in a_study(tmp_path).rows()] == [0]


def test_a_folder_of_other_settings_is_left_alone(tmp_path):
    a_study(tmp_path, steps=5).row(dict, seed=0)
    before = (tmp_path / "result.json").read_text()
    with pytest.raises(FileExistsError, match="other settings; name another folder with --out"):
        a_study(tmp_path, steps=6)
    with pytest.raises(FileExistsError, match="other settings"):
        Study("compare", Settings(steps=5), tmp_path, quiet)
    assert (tmp_path / "result.json").read_text() == before


@pytest.mark.parametrize("text", ["{", "[]", '{"experiment": "few"}'])
def test_a_damaged_result_is_told(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result\.json: damaged"):
        a_study(tmp_path)


def trial():
    return build("mlp", rng=0), endless(*some_images(), 20, np.random.default_rng(1))


def test_steps_win_over_minutes_and_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "seconds_per_step", lambda train: pytest.fail("nothing is to be timed"))
    study = a_study(tmp_path, steps=12, minutes=3.0)
    assert study.fix_steps(*trial()) == 12
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == 12


def test_minutes_become_steps_once(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "seconds_per_step", lambda train: 0.5)
    assert a_study(tmp_path, minutes=2.0).fix_steps(*trial()) == 240
    monkeypatch.setattr(studies, "seconds_per_step", lambda train: 0.1)
    assert a_study(tmp_path, minutes=2.0).fix_steps(*trial()) == 240  # gone on with, at another speed


def test_without_steps_and_minutes_the_default_is_taken(tmp_path):
    assert a_study(tmp_path).fix_steps(*trial(), 77) == 77


def test_the_time_of_a_step_is_measured_after_the_first_steps(monkeypatch):
    now, counts = [0.0], []
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def train(count):
        now[0] += 100 if not counts else 0.25 * count  # the first call is slow
        counts.append(count)

    assert training.seconds_per_step(train, minimum=2.0) == pytest.approx(0.25)
    assert counts[0] == 3 and sum(counts[1:]) * 0.25 >= 2


@pytest.mark.parametrize("wrong, message", [
    ({"seeds": 0}, "seeds"), ({"steps": 0}, "steps"), ({"seed": -1}, "seed is -1"),
    ({"minutes": 0.0}, "minutes is 0.0"), ({"minutes": float("nan")}, "minutes is nan"),
    ({"preset": "huge"}, "preset"),
])  # fmt: skip
def test_wrong_settings_are_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


# -- tables ------------------------------------------------------------------------------------


def test_a_table_is_markdown():
    assert tables.table(["a", "b"], [[1, "x"], [2, "y"]]) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"


def test_mean_and_spread_are_those_of_a_sample():
    assert tables.mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert tables.mean_and_spread([0.7]) == (0.7, 0.0)
    assert tables.percent([0.985, 0.987]) == "98.60 ± 0.14"
    assert tables.percent([0.987]) == "98.70"
    assert tables.percent([-0.02], sign=True) == "-2.00" and tables.percent([0.02], sign=True) == "+2.00"
