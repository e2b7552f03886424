"""The command ``train``: what it prints and writes, and how a run is interrupted and resumed."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import PRETRAINED, press_ctrl_c_at, read_metrics, small_dataset, tiny_config, write_folder
from PIL import Image

from minicaps import figures
from minicaps.commands.common import ProgressLine
from minicaps.datasets import Dataset
from minicaps.networks import save_network
from minicaps.training import Run, TrainConfig, read_config
from minicaps.training.folder import take_new_folder

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def no_figures(monkeypatch):
    for name in ("draw_run", "write_report"):
        monkeypatch.setattr(figures, name, lambda folder, **shown: None)


QUICK = ["train", "--preset", "tiny", "--epochs", 1, "--limit", 50]


def test_train_writes_a_run_and_says_what_it_does(call, small_folder, tmp_path):
    code, output, errors = call(*QUICK, "--seed", 3, "--data", small_folder, "--out", tmp_path / "run")
    assert code == 0 and errors == ""
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("config.json", "metrics.jsonl", "model.npz", "best.npz", "checkpoint.npz", "summary.json", ".lock"),
        *("learning_curves.png", "mistakes.png", "confusion_matrix.png", "reconstructions.png"),
        *("scores.png", "report.html"),
    }
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["seed"] == 3 and summary["preset"] == "tiny" and summary["train_images"] == 50
    assert "preset=tiny" in output and "seed=3" in output and f"data={small_folder}" in output
    assert "50 images to train on, 30 to validate, 100 to test, 10 classes, 28 × 28 × 1 pixels" in output
    assert re.search(r"^capsules +CapsuleLayer, DynamicRouting +10 × 8 +20,480$", output, re.MULTILINE)
    assert re.search(r"^total +79,568$", output, re.MULTILINE)
    assert len(re.findall(r"^epoch 1/1 .* images/s", output, re.MULTILINE)) == 1
    assert f"test accuracy {100 * summary['test_accuracy']:.2f} %" in output


def test_every_option_reaches_the_configuration(call, small_folder, tmp_path, no_figures):
    save_network(tmp_path / "tiny.npz", tiny_config().network(small_dataset()))
    options = {
        "recipe": "default",
        "model": "capsnet",
        "preset": "tiny",
        "size": 28,
        "limit": 40,
        "epochs": 1,
        "batch_size": 20,
        "slices": 2,
        "learning_rate": 0.01,
        "schedule": "exponential",
        "warmup": 2,
        "shift": 1,
        "warp": 0.25,
        "test_shift": 1,
        "layers": ((6, 5), (4, 3)),
        "routing": "inverted-attention",
        "presence": "line",
        "coupling": "entmax",
        "routing_iterations": 2,
        "precision": "mixed",
        "seed": 7,
        "backend": "numpy",
        "data": str(small_folder),
        "channels": 1,
        "init": str(tmp_path / "tiny.npz"),
    }
    assert {*options, "decoder", "validate"} == {field.name for field in fields(TrainConfig)}
    written = {**options, "layers": "6x5,4x3"}
    flags = [x for name, value in written.items() for x in (f"--{name.replace('_', '-')}", value)]
    assert call("train", *flags, "--no-decoder", "--validate", "--out", tmp_path / "run")[0] == 0
    assert read_config(tmp_path / "run") == TrainConfig(**options, decoder=False, validate=True)


def test_figures_that_cannot_be_drawn_are_a_warning_and_the_run_is_complete(
    call, small_folder, tmp_path, monkeypatch
):
    def draw_run(folder, **shown):
        raise OSError("no room for a picture")

    monkeypatch.setattr(figures, "draw_run", draw_run)
    code, output, _ = call(*QUICK, "--data", small_folder, "--out", tmp_path / "run")
    assert code == 0 and "no room for a picture" in output and "test accuracy" in output
    assert (tmp_path / "run" / "summary.json").exists()


def test_train_without_out_numbers_the_folders(small_folder, tmp_path):
    (tmp_path / "runs" / "capsnet-tiny-001").mkdir(parents=True)
    config = tiny_config(data=str(small_folder), limit=50)
    folders = [
        Run(config).folder,
        Run(config).folder,
        Run(replace(config, model="mlp", preset="small")).folder,
    ]
    names = ("capsnet-tiny-002", "capsnet-tiny-003", "mlp-001")
    assert list(map(str, folders)) == [os.path.join("runs", name) for name in names]


def test_a_new_folder_is_taken_by_making_it_not_by_a_look(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)  # what a look may say that comes too early
    taken = [take_new_folder(tiny_config()) for _ in range(3)]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [path.name for path in taken]


@pytest.mark.parametrize("out", [[], ["--out", "run"]])
def test_trainings_started_together_take_a_folder_each_or_one_trains(small_folder, tmp_path, out):
    command = [sys.executable, "-m", "minicaps", *map(str, QUICK), "--data", str(small_folder), *out]
    started = [
        subprocess.Popen(
            [*command, "--seed", str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for seed in range(3)
    ]
    errors = [process.communicate()[1] for process in started]
    trained = [process.returncode == 0 for process in started]
    if out:
        assert sum(trained) == 1
        for error in (error for error, well in zip(errors, trained, strict=True) if not well):
            assert re.fullmatch(r"minicaps: run: (another process|holds a run already).*\n", error)
        assert read_config(tmp_path / "run").seed == trained.index(True)
    else:
        seeds = {read_config(folder).seed for folder in (tmp_path / "runs").iterdir()}
        assert all(trained) and seeds == {0, 1, 2}


def test_a_missing_data_folder_ends_with_2(complaint, tmp_path):
    line = complaint("train", "--data", tmp_path / "absent", "--out", tmp_path / "run", code=2)
    assert "absent: no such folder" in line and not (tmp_path / "run").exists()


def test_a_missing_data_file_ends_with_2_and_is_named(complaint, tmp_path):
    folder = write_folder(tmp_path / "set", small_dataset(20, 10))
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert "set: holds no t10k-labels-idx1-ubyte" in complaint("train", "--data", folder, code=2)


def test_a_broken_idx_file_ends_with_1_and_is_named(complaint, tmp_path):
    folder = write_folder(tmp_path / "set", small_dataset(20, 10))
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    assert "train-images-idx3-ubyte: truncated" in complaint("train", "--data", folder, code=1)


def test_an_out_that_cannot_be_written_ends_with_1(complaint, small_folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    line = complaint(*QUICK, "--data", small_folder, "--out", tmp_path / "file" / "run", code=1)
    assert "Not a directory" in line and "run" in line


def test_an_out_that_holds_a_run_ends_with_2_and_says_how_to_resume(complaint, small_folder, finished_run):
    line = complaint(*QUICK, "--data", small_folder, "--out", finished_run, code=2)
    assert f"continue it with --resume {finished_run}" in line


def test_an_out_where_a_run_only_began_is_taken_again(call, small_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Run, "train", lambda run, draw: run.save() or 1 / 0)
        assert call(*QUICK, "--seed", 1, "--data", small_folder, "--out", "run")[0] == 1
    assert (tmp_path / "run" / "config.json").exists() and (tmp_path / "run" / "checkpoint.npz").exists()
    assert call(*QUICK, "--seed", 2, "--data", small_folder, "--out", "run")[0] == 0
    assert read_config("run").seed == 2


@pytest.mark.parametrize("file", ["model.npz", "summary.json", "checkpoint.npz"])
def test_an_out_with_anything_that_was_trained_is_not(complaint, finished_run, small_folder, tmp_path, file):
    (tmp_path / "run").mkdir()
    content = (finished_run / file).read_bytes()
    for whole in (content, content[:100]):
        (tmp_path / "run" / file).write_bytes(whole)
        line = complaint(*QUICK, "--data", small_folder, "--out", "run", code=2)
        assert "holds a run already" in line and (tmp_path / "run" / file).read_bytes() == whole


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data="],
        ["train", "--out="],
        ["train", "--resume="],
        ["train", "--init="],
        ["evaluate", ""],
        ["evaluate", "pretrained", "--data="],
        ["explore", "pretrained", "--out="],
        ["experiment", "rotate", "--run="],
        ["experiment", "few", "--out="],
        ["experiment", "few", "--data="],
    ],
)
def test_an_empty_path_is_refused_in_one_line(complaint, tmp_path, command):
    line = complaint(*command, code=2)
    assert "expected" in line and ("is empty" in line or "is ''" in line)
    assert list(tmp_path.iterdir()) == []


def test_the_tilde_is_ones_home(call, small_folder, tmp_path, monkeypatch, no_figures):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    shutil.copytree(small_folder, tmp_path / "home" / "mine")
    assert call(*QUICK, "--data=~/mine", "--out=~/run")[0] == 0
    assert read_config(tmp_path / "home" / "run").data == str(tmp_path / "home" / "mine")
    for command in (
        ["train", "--resume=~/run"],
        ["evaluate", "~/run"],
        ["evaluate", "~/run", "--data=~/mine"],
    ):
        assert call(*command)[0] == 0
    assert call(*QUICK, "--data=~/mine", "--init=~/run", "--out=~/two")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    "size, shape", [("20", "20 × 20 × 3"), ("20x24", "20 × 24 × 3"), ("20×24", "20 × 24 × 3")]
)
def test_sizes_are_written_as_a_number_or_two(call, tmp_path, no_figures, size, shape):
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "mine" / name).mkdir(parents=True)
        for k in range(5):
            pixels = rng.integers(0, 256, (28, 28, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{k}.png")
    code, output, _ = call(*QUICK, "--data", "mine", "--size", size, "--out", "run")
    assert code == 0 and f"{shape} pixels" in output
    assert call("evaluate", "run")[0] == 0  # the same images again


@pytest.mark.parametrize("size", ["", "x", "20x", "20x30x3", "20.5", "-3x4", "0x4", "0"])
def test_other_sizes_are_refused_in_one_line(complaint, size):
    assert "size" in complaint("train", f"--size={size}", code=2)


@pytest.mark.parametrize(
    "options, reason",
    [
        (
            ["--model", "mlp", "--routing-iterations", 9],
            "routing_iterations is 9, but mlp has no such option",
        ),
        (["--model", "cnn", "--no-decoder"], "decoder is False, but cnn has no such option"),
        (["--model", "mlp", "--preset", "paper"], "preset is 'paper', but mlp has no such option"),
        (
            ["--model", "matrix", "--routing", "dynamic"],
            "routing is 'dynamic', but matrix has no such option",
        ),
        (
            ["--model", "efficient", "--presence", "own"],
            "presence is 'own', but efficient has no such option",
        ),
        (["--routing-iterations", 1001], "iterations is 1,001, expected at most 1,000"),
        (["--model", "cnn", "--decoder"], "decoder is True, but cnn has no such option"),
        (["--preset", "tiny", "--warmup", 100_000], "warmup is 100,000, but the training has 18 steps only"),
        (["--preset", "tiny", "--shift", 100], "shift is 100, which moves images of 28×28 out of sight"),
        (
            ["--preset", "tiny", "--test-shift", 28],
            "test_shift is 28, which moves images of 28×28 out of sight",
        ),
        (
            ["--preset", "medium"],
            "preset is 'medium', expected one of tiny, small, paper for the network capsnet",
        ),
        (["--init", "pretrained", "--model", "mlp"], "the weights of a CapsNet, expected those of a MLP"),
    ],
)
def test_options_that_cannot_act_or_undo_the_training_are_refused(
    complaint, small_folder, tmp_path, options, reason
):
    code = 1 if "--init" in options else 2
    assert reason in complaint("train", *options, "--data", small_folder, code=code)
    assert list(tmp_path.iterdir()) == []


def test_what_is_odd_about_the_data_is_said(call, small_folder, monkeypatch, no_figures):
    monkeypatch.setattr(
        Dataset, "remarks", lambda dataset, limit, validate: ["class 7 has no images", "all are grey"]
    )
    output = call(
        *QUICK, "--data", small_folder, "--init", "pretrained", "--preset", "small", "--out", "run"
    )[1]
    assert "warning: class 7 has no images\nwarning: all are grey\n" in output
    assert f"start: weights of {PRETRAINED}: conv, primary.conv, capsules.votes, decoder.fc1" in output


def test_a_gpu_that_is_not_there_ends_with_1(complaint, small_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "pip install 'minicaps[gpu]'" in complaint(
        *QUICK, "--backend", "cupy", "--data", small_folder, code=1
    )


def test_a_run_whose_loss_explodes_ends_with_1_in_one_line(process, small_folder):
    options = ["--learning-rate", "1e30", "--data", small_folder, "--out", "run"]
    ended = process(*QUICK, *options)
    assert ended.returncode == 1
    assert re.fullmatch(r"minicaps: the .*loss is nan .* a smaller learning rate may help .*\n", ended.stderr)


# -- interrupting and resuming -----------------------------------------------------------------


def test_an_interrupted_run_ends_with_130_and_says_how_to_resume(
    complaint, small_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(ProgressLine, "show", press_ctrl_c_at(2))
    options = ["--batch-size", 10, "--data", small_folder, "--out", tmp_path / "run"]
    line = complaint(*QUICK, *options, code=130)
    assert "interrupted; the run is kept as it was after epoch 0 and 2 of 5 batches." in line
    assert f"Continue with: python -m minicaps train --resume {tmp_path / 'run'}\n" in line


def test_resume_finishes_an_interrupted_run(call, unfinished_run, tmp_path, no_figures):
    shutil.copytree(unfinished_run, tmp_path / "run")
    code, output, errors = call("train", "--resume", tmp_path / "run")
    assert code == 0 and errors == "" and "run, after epoch 1\n" in output
    assert "epoch 2/2" in output and "epoch 1/2" not in output
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == [1, 2]


def test_resuming_a_complete_run_does_nothing_and_ends_with_0(call, finished_run):
    before = {path.name: path.stat().st_mtime_ns for path in finished_run.iterdir()}
    code, output, errors = call("train", "--resume", finished_run)
    assert code == 0 and errors == "" and "this run is complete; see summary.json" in output
    assert {path.name: path.stat().st_mtime_ns for path in finished_run.iterdir()} == before


def test_a_finished_run_is_trained_further_on_data_that_have_moved(
    call, complaint, finished_run, small_folder, tmp_path, no_figures
):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copytree(small_folder, tmp_path / "moved")
    config = json.loads((tmp_path / "run" / "config.json").read_text()) | {"data": str(tmp_path / "mine")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    line = complaint("train", "--resume", "run", "--epochs", 5, code=2)
    assert "mine: no such folder or file; if the data have moved, name their folder with --data" in line
    code, output, errors = call("train", "--resume", "run", "--epochs", 5, "--data", "moved")
    assert (code, errors) == (0, "") and f"data: {tmp_path / 'moved'}: 270 images" in output
    assert "epochs: 5, where it was to have 4; from here on the learning rate is that of a run of 5" in output
    assert "epoch 5/5" in output and "epoch 4/" not in output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 5
    assert "has begun its epoch 5 already" in complaint("train", "--resume", "run", "--epochs", 4, code=2)


def test_ctrl_c_among_the_figures_says_that_the_run_is_complete(complaint, small_folder, monkeypatch):
    def draw_run(folder, **shown):
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "draw_run", draw_run)
    line = complaint(*QUICK, "--data", small_folder, "--out", "run", code=130)
    assert "the run is complete, but for its figures; see run/summary.json" in line


def test_resuming_a_missing_run_ends_with_2(complaint, tmp_path):
    assert "absent: holds no run" in complaint("train", "--resume", tmp_path / "absent", code=2)


@pytest.mark.parametrize(
    "options, named",
    [
        (["--epochs", "4", "--batch-size", "100"], "--batch-size"),
        (["--seed", "4", "--batch-size", "100"], "--batch-size, --seed"),
        (["--no-decoder"], "--no-decoder"),
        (["--init", "pretrained"], "--init"),
        (["--out", "elsewhere"], "--out"),
    ],
)
def test_resume_takes_no_other_options(complaint, unfinished_run, options, named):
    line = complaint("train", "--resume", unfinished_run, *options, code=2)
    assert line.endswith(f"leave out {named}\n")


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--epochs", "0"], "epochs is 0, expected"),
        (["--data", ""], "data is '', expected"),
    ],
)
def test_what_resume_takes_is_checked(complaint, unfinished_run, options, reason):
    assert reason in complaint("train", "--resume", unfinished_run, *options, code=2)


def test_resuming_with_a_broken_checkpoint_ends_with_1(complaint, unfinished_run, tmp_path):
    shutil.copytree(unfinished_run, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.npz").write_bytes(b"PK\x03\x04 nothing")
    assert "checkpoint.npz: truncated" in complaint("train", "--resume", tmp_path / "run", code=1)
