"""The command ``evaluate``."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import small_dataset, write_folder

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_evaluate_agrees_with_the_summary(call, finished_run):
    accuracy = json.loads((finished_run / "summary.json").read_text())["test_accuracy"]
    code, output, errors = call("evaluate", finished_run)
    assert code == 0 and errors == ""
    correct = round(100 * accuracy)
    assert output.splitlines()[0] == (
        f"accuracy {correct}.00 % (error {100 - correct}.00 %): {100 - correct} of 100 images wrong"
    )


def test_evaluate_shows_every_class_and_the_classes_add_up(call, finished_run):
    lines = call("evaluate", finished_run)[1].splitlines()
    rows = [re.fullmatch(r"  class (\d) +([\d.]+) % of (\d+)", line).groups() for line in lines[2:]]
    assert [int(name) for name, *_ in rows] == list(range(10))
    assert [int(count) for *_, count in rows] == np.bincount(small_dataset().test_labels).tolist()
    correct = sum(float(share) / 100 * int(count) for _, share, count in rows)
    assert f"{100 - round(correct)} of 100 images wrong" in lines[0]


def test_evaluate_takes_a_model_file_and_another_data_set(call, finished_run, tmp_path):
    other = write_folder(tmp_path / "other", small_dataset(20, 40))
    code, output, _ = call("evaluate", finished_run / "model.npz", "--data", other)
    assert code == 0 and "of 40 images wrong" in output


def test_evaluating_an_unfinished_run_ends_with_2_and_says_how_to_finish_it(complaint, unfinished_run):
    line = complaint("evaluate", unfinished_run, code=2)
    assert "the run is not finished" in line
    assert f"continue it with: python -m minicaps train --resume {unfinished_run}\n" in line


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "image.png"]])
def test_a_missing_run_ends_with_2(complaint, tmp_path, command):
    name, *rest = command
    assert "absent: no such file" in complaint(name, tmp_path / "absent", *rest, code=2)
    assert "holds no run" in complaint(name, tmp_path, *rest, code=2)


def test_a_broken_model_ends_with_1(complaint, finished_run, tmp_path):
    (tmp_path / "model.npz").write_bytes((finished_run / "model.npz").read_bytes()[:-100])
    assert "model.npz: truncated" in complaint("evaluate", tmp_path, code=1)


def test_evaluating_on_images_of_another_size_scales_them(call, finished_run, tmp_path):
    small = small_dataset(20, 10)
    cut = {name: getattr(small, name)[:, :20] for name in ("train_images", "test_images")}
    folder = write_folder(tmp_path / "cut", replace(small, **cut))
    code, said, _ = call("evaluate", finished_run, "--data", folder)
    assert code == 0 and "of 10 images wrong" in said
