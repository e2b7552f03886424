"""Recipes of ``train``, warped training images, and runs that hold no images back to validate."""

import json
import shlex
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import press_ctrl_c_at, quiet, read_metrics, small_dataset, small_folder, tiny_config

from minicaps.cli import build_parser
from minicaps.datasets import augment
from minicaps.figures import learning_curves
from minicaps.networks import files
from minicaps.training import Run, TrainConfig, commands_of, find_runs, read_config, to_batch
from minicaps.training import run as runs
from minicaps.training.progress import best_epoch, epoch_batches
from minicaps.training.recipes import RECIPES, flags_of

FAST = {"model": "capsnet", "preset": "tiny", "epochs": 1, "batch_size": 50}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(small_folder(tmp_path_factory.mktemp("data"), 150, 40))


def weights(folder):
    return {name: array.tobytes() for name, array in files.read(folder / "model.npz")[0].items()}


# -- recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_options_of_train_that_can_be_together(name):
    config = TrainConfig.from_recipe(name)
    assert config == TrainConfig(recipe=name, **RECIPES[name])
    for option in fields(TrainConfig):
        assert getattr(config, option.name) == {"recipe": name, **RECIPES[name]}.get(
            option.name, option.default
        )


def test_without_a_recipe_it_is_the_default_one():
    assert TrainConfig.from_recipe("default") == TrainConfig() and RECIPES["default"] == {}


def test_what_is_given_wins_even_where_it_is_the_default_elsewhere():
    config = TrainConfig.from_recipe("accurate", shift=1, validate=True, seed=3)
    expected = {**RECIPES["accurate"], "shift": 1, "validate": True, "seed": 3}
    assert config == TrainConfig(recipe="accurate", **expected)


def test_what_the_network_does_not_have_is_not_said_of_it():
    for model, idle in (("matrix", "routing"), ("efficient", "coupling"), ("mlp", "preset")):
        config = TrainConfig(model=model)
        assert idle not in config.options() and f"{idle}=" not in str(config)
        assert f"model={model}" in str(config) and "batch_size=" in str(config)
    assert {"routing", "coupling", "preset", "decoder"} <= set(TrainConfig().options())


@pytest.mark.parametrize("given", [{}, {"epochs": 3, "seed": 1}, {"shift": 3}])
def test_the_name_of_a_recipe_alone_is_refused_since_it_would_train_something_else(given):
    with pytest.raises(ValueError, match=r"recipe is 'accurate', but no option is as in it; TrainConfig"):
        TrainConfig(recipe="accurate", **given)
    TrainConfig(recipe="accurate", **given, warp=RECIPES["accurate"]["warp"])


def test_a_recipe_that_is_not_there_is_refused(call):
    with pytest.raises(ValueError, match=r"recipe is 'best', expected 'default' or 'accurate'"):
        TrainConfig.from_recipe("best")
    with pytest.raises(ValueError, match=r"recipe is 'best'"):
        TrainConfig(recipe="best")
    code, _, errors = call("train", "--recipe", "best")
    assert code == 2 and "invalid choice: 'best'" in errors


@pytest.mark.usefixtures("elsewhere")
def test_the_help_shows_the_options_of_every_recipe(call):
    words = " ".join(call("train", "--help")[1].split())
    for name in RECIPES:
        assert flags_of(name) in words
    assert "--model efficient" in flags_of("accurate") and "--no-validate" in flags_of("accurate")


@pytest.mark.usefixtures("elsewhere")
def test_the_run_keeps_its_recipe_and_what_it_stands_for(call, data):
    given = {**FAST, "validate": True}
    words = [word for name, value in FAST.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, output, _ = call(
        "train", "--recipe", "accurate", *words, "--validate", "--data", data, "--out", "run"
    )
    assert "by the mean scores of 9 copies of every image" in output  # the recipe tests so
    assert "test accuracy without shifted copies" in Path("run/report.html").read_text(encoding="utf-8")
    assert code == 0 and "recipe=accurate" in output and "15 to validate" in output
    expected = TrainConfig(recipe="accurate", **{**RECIPES["accurate"], **given, "data": data})
    assert read_config("run") == expected
    (record,), _ = find_runs(".")
    assert (
        record.options()["recipe"] == "accurate" and record.options()["warp"] == RECIPES["accurate"]["warp"]
    )
    assert "leave out --recipe" in call("train", "--resume", "run", "--recipe", "accurate")[2]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"shift": 1, "validate": True},
        {"epochs": 6, "learning_rate": 0.004, "decoder": False},
        {"model": "capsnet", "preset": "small", "warp": 0.0, "seed": 2},
    ],
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_command_that_repeats_a_run_names_its_recipe_and_what_differs(recipe, given):
    config = TrainConfig.from_recipe(recipe, **given)
    words = shlex.split(commands_of(config, [])[0])[3:]
    assert ("--recipe" in words) == (recipe != "default")
    parsed = vars(build_parser(words).parse_args(words))
    names = {field.name for field in fields(TrainConfig)} - {"recipe"}
    options = {name: value for name, value in parsed.items() if name in names}
    assert TrainConfig.from_recipe(recipe, **options) == config
    assert set(options) <= set(given)  # nothing that the recipe says already


def test_a_rate_that_suits_the_network_instead_of_the_recipes_is_written_as_a_number():
    (line,) = commands_of(TrainConfig.from_recipe("accurate", learning_rate=None), [])
    assert line.endswith("--recipe accurate --learning-rate 0.004")


def test_an_older_run_knows_no_recipe(data, tmp_path):
    config = tiny_config(data=data)
    Run(config, tmp_path / "run", say=quiet).train()
    path = tmp_path / "run" / "config.json"
    options = json.loads(path.read_text())
    for name in ("recipe", "warp", "test_shift", "validate"):
        del options[name]
    path.write_text(json.dumps(options))
    assert read_config(tmp_path / "run") == config
    assert Run.resume(tmp_path / "run", say=quiet).finished


# -- warped training images --------------------------------------------------------------------


def test_without_a_warp_images_are_shifted_as_before():
    images = small_dataset().train_images[:50]
    shifted = augment.shift(images, 2, np.random.default_rng(3))
    np.testing.assert_array_equal(augment.vary(images, 2, 0, np.random.default_rng(3)), shifted)


def test_a_warp_turns_and_moves_within_its_bounds():
    draws = augment.Warps.random(4000, np.random.default_rng(0), 0.5)
    for values, low, high in [(draws.angle, -10, 10), (draws.shear, -0.1, 0.1), (draws.scale, 0.9, 1.1)]:
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high
    dot = np.zeros((2000, 15, 15, 1))
    dot[:, 7, 7] = 1  # at the centre, which nothing but the move takes away
    moved = augment.vary(dot, 3, 0.5, np.random.default_rng(1))[..., 0]  # (B, H, W)
    mass = moved.sum(axis=(1, 2))
    down = (moved.sum(axis=2) * np.arange(15)).sum(axis=1) / mass - 7
    across = (moved.sum(axis=1) * np.arange(15)).sum(axis=1) / mass - 7
    for move in (down, across):
        assert -3.3 < move.min() < -2.7 and 2.7 < move.max() < 3.3 and abs(move.mean()) < 0.15
    assert abs(np.corrcoef(down, across)[0, 1]) < 0.1


def test_a_run_warps_its_training_images_and_no_others(data, tmp_path, monkeypatch):
    seen = []

    def note(images, *rest):
        seen.append(images)
        return to_batch(images, *rest)

    monkeypatch.setattr(runs, "to_batch", note)
    config = tiny_config(data=data, warp=1.5, shift=2)
    run = Run(config, tmp_path / "run", say=quiet)
    run.train()
    chosen, rng = next(epoch_batches(config.seed, 1, len(run.images), config.batch_size))
    np.testing.assert_array_equal(seen[0], augment.vary(run.images[chosen], 2, 1.5, rng))
    assert len(seen) == run.steps_per_epoch  # validation and test take theirs elsewhere
    assert not np.array_equal(seen[0], run.images[chosen])


def test_a_run_with_warps_goes_on_bit_for_bit(data, tmp_path):
    config = tiny_config(data=data, warp=0.5, epochs=2)
    Run(config, tmp_path / "whole", say=quiet).train()
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path / "parts", say=quiet, progress=press_ctrl_c_at(4)).train()
    Run.resume(tmp_path / "parts", say=quiet).train()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    Run(replace(config, warp=0.0), tmp_path / "upright", say=quiet).train()
    assert weights(tmp_path / "upright") != weights(tmp_path / "whole")


@pytest.mark.parametrize("strength, expected", [(-0.1, "0 or more"), (5, "less than 5"), ("x", "a number")])
def test_a_warp_that_cannot_be_is_refused(strength, expected):
    with pytest.raises(ValueError, match=rf"train: warp is {strength!r}, expected .*{expected}"):
        TrainConfig(warp=strength)


def test_any_number_is_a_warp_and_is_written_as_one(data, tmp_path):
    config = tiny_config(data=data, warp=np.float32(0.5))
    Run(config, tmp_path / "run", say=quiet)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["warp"] == 0.5


# -- without validation ------------------------------------------------------------------------


def test_all_training_images_are_trained_on(data):
    whole = small_dataset(150, 40)
    images, labels, none, no_labels = whole.split(validate=False)
    np.testing.assert_array_equal(images, whole.train_images)
    np.testing.assert_array_equal(labels, whole.train_labels)
    assert len(none) == len(no_labels) == 0
    assert len(whole.split(40, validate=False)[0]) == 40
    assert not any("validation" in line for line in whole.remarks(validate=False))


@pytest.mark.usefixtures("elsewhere")
def test_a_run_without_validation_trains_resumes_and_reports(call, data, tmp_path):
    words = ["--preset", "tiny", "--epochs", 2, "--batch-size", 50, "--no-validate", "--data", data]
    code, output, errors = call("train", *words, "--out", "run")
    assert code == 0 and errors == ""
    assert "150 images to train on, 0 to validate" in output
    assert "validation" not in output.split("data:")[1].replace("0 to validate", "")
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 2 and not any("validation" in name for row in rows for name in row)
    assert not (tmp_path / "run" / "best.npz").exists()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["train_images"] == 150 and summary["best_epoch"] is summary["validation_accuracy"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "best.npz" not in page and "--no-validate" in page
    assert "validation" not in page.replace(str(tmp_path), "")  # neither images, nor numbers, nor words
    listed = json.loads(call("runs", "--json", ".")[1])
    assert [run["validation_accuracy"] for run in listed["runs"]] == [None]
    assert call("train", "--resume", "run", "--epochs", 3)[0] == 0
    assert len(read_metrics(tmp_path / "run")) == 3
    assert f"{100 * summary['test_accuracy']:.2f} %" in output


def test_an_unfinished_run_without_validation_is_listed_without_accuracy(data, tmp_path):
    config = tiny_config(data=data, epochs=3, validate=False)
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path / "run", say=quiet, progress=press_ctrl_c_at(5)).train()
    (record,), others = find_runs(tmp_path)
    assert not others and len(record.epochs) >= 1 and record.validation_accuracy is None
    Run.resume(tmp_path / "run", say=quiet).train()
    Run(config, tmp_path / "whole", say=quiet).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize("missing", ["validation_loss", "validation_accuracy"])
def test_half_a_validation_is_damage(data, tmp_path, missing):
    Run(tiny_config(data=data), tmp_path / "run", say=quiet).train()
    rows = read_metrics(tmp_path / "run")
    del rows[0][missing]
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    records, others = find_runs(tmp_path / "run")
    assert records == [] and "line 1 is damaged" in str(others[tmp_path / "run"])


def test_no_epoch_is_the_best_of_those_that_do_not_validate():
    assert best_epoch([{"train_loss": 1.0}, {"train_loss": 0.5}]) is None


@pytest.mark.parametrize("validated", [True, False])
def test_curves_show_the_parts_that_there_are(validated):
    more = {"validation_loss": 0.2, "validation_accuracy": 0.9} if validated else {}
    rows = [{"epoch": k, "train_loss": 0.3, "train_accuracy": 0.8, **more} for k in (1, 2)]
    for axes in learning_curves(rows).axes:
        assert len(axes.lines) == 1 + validated
        assert ("on validation" if validated else "in training") in axes.get_title(loc="left")
