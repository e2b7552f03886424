"""The command ``train``: what it prints and writes, and how a run is interrupted and resumed."""

import json
import os
import re
import shutil
import sys
from dataclasses import fields

import pytest
from helpers import press_ctrl_c_at, read_metrics, small_dataset, tiny_config, write_folder

from minicaps import figures
from minicaps.commands.common import ProgressLine
from minicaps.commands.train import new_folder
from minicaps.training import TrainConfig, read_config

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(figures, "draw_run", lambda folder, **shown: None)


QUICK = ["train", "--preset", "tiny", "--epochs", 1, "--limit", 50]


def test_train_writes_a_run_and_says_what_it_does(call, small_folder, tmp_path):
    code, output, errors = call(*QUICK, "--seed", 3, "--data", small_folder, "--out", tmp_path / "run")
    assert code == 0 and errors == ""
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("config.json", "metrics.jsonl", "model.npz", "checkpoint.npz", "summary.json", ".lock"),
        *("learning_curves.png", "mistakes.png", "confusion_matrix.png", "reconstructions.png"),
    }
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["seed"] == 3 and summary["preset"] == "tiny" and summary["train_images"] == 50
    assert "preset=tiny" in output and "seed=3" in output and f"data={small_folder}" in output
    assert "50 images to train on, 30 to validate, 100 to test, 10 classes, 28 × 28 × 1 pixels" in output
    assert re.search(r"^capsules +CapsuleLayer +10 × 8 +20,480$", output, re.MULTILINE)
    assert re.search(r"^total +79,568$", output, re.MULTILINE)
    assert len(re.findall(r"^epoch 1/1 .* images/s", output, re.MULTILINE)) == 1
    assert f"test accuracy {100 * summary['test_accuracy']:.2f} %" in output


def test_every_option_reaches_the_configuration(call, small_folder, tmp_path, no_figures):
    options = {
        "model": "capsnet",
        "preset": "tiny",
        "size": 28,
        "limit": 40,
        "epochs": 1,
        "batch_size": 20,
        "learning_rate": 0.01,
        "schedule": "exponential",
        "warmup": 2,
        "shift": 1,
        "routing": "inverted-attention",
        "coupling": "entmax",
        "routing_iterations": 2,
        "seed": 7,
        "backend": "numpy",
        "data": str(small_folder),
    }
    assert {*options, "decoder"} == {field.name for field in fields(TrainConfig)}
    flags = [x for name, value in options.items() for x in (f"--{name.replace('_', '-')}", value)]
    assert call("train", *flags, "--no-decoder", "--out", tmp_path / "run")[0] == 0
    assert read_config(tmp_path / "run") == TrainConfig(**options, decoder=False)


def test_figures_that_cannot_be_drawn_are_a_warning_and_the_run_is_complete(
    call, small_folder, tmp_path, monkeypatch
):
    def draw_run(folder, **shown):
        raise OSError("no room for a picture")

    monkeypatch.setattr(figures, "draw_run", draw_run)
    code, output, _ = call(*QUICK, "--data", small_folder, "--out", tmp_path / "run")
    assert code == 0 and "no room for a picture" in output and "test accuracy" in output
    assert (tmp_path / "run" / "summary.json").exists()


def test_train_without_out_numbers_the_folders(tmp_path):
    config = tiny_config(model="cnn")
    assert str(new_folder(config)) == os.path.join("runs", "cnn-001")
    (tmp_path / "runs" / "cnn-001").mkdir(parents=True)
    assert str(new_folder(config)) == os.path.join("runs", "cnn-002")
    assert str(new_folder(tiny_config())) == os.path.join("runs", "capsnet-tiny-001")


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


def test_resuming_a_missing_run_ends_with_2(complaint, tmp_path):
    assert "absent: holds no run" in complaint("train", "--resume", tmp_path / "absent", code=2)


@pytest.mark.parametrize(
    "options, named",
    [
        (["--epochs", "9"], "--epochs"),
        (["--epochs", "4", "--batch-size", "100"], "--batch-size, --epochs"),
        (["--no-decoder"], "--no-decoder"),
        (["--out", "elsewhere"], "--out"),
    ],
)
def test_resume_takes_no_other_options(complaint, unfinished_run, options, named):
    line = complaint("train", "--resume", unfinished_run, *options, code=2)
    assert line.endswith(f"leave out {named}\n")


def test_resuming_with_a_broken_checkpoint_ends_with_1(complaint, unfinished_run, tmp_path):
    shutil.copytree(unfinished_run, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.npz").write_bytes(b"PK\x03\x04 nothing")
    assert "checkpoint.npz: truncated" in complaint("train", "--resume", tmp_path / "run", code=1)
