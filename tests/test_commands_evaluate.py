"""The command ``evaluate``."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import quiet, small_dataset, tiny_config, write_folder
from PIL import Image

from minicaps.networks import load_network
from minicaps.training import Run, read_config

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_evaluate_agrees_with_the_summary(call, finished_run):
    accuracy = json.loads((finished_run / "summary.json").read_text())["test_accuracy"]
    code, output, errors = call("evaluate", finished_run)
    assert code == 0 and errors == ""
    correct = round(100 * accuracy)
    assert output.splitlines()[0] == (
        f"accuracy {correct}.00 % (error {100 - correct}.00 %): {100 - correct} of 100 images wrong"
    )


@pytest.fixture(scope="module")
def run_of_copies(tmp_path_factory, small_folder):
    """The folder of a run that was tested by shifted copies."""
    folder = tmp_path_factory.mktemp("runs") / "copies"
    config = tiny_config(epochs=4, batch_size=30, learning_rate=0.005, data=str(small_folder), test_shift=1)
    Run(config, folder, say=quiet).train()
    return folder


def test_a_run_is_evaluated_by_copies_as_it_was_tested(call, run_of_copies):
    summary = json.loads((run_of_copies / "summary.json").read_text())
    with_copies, without = (round(100 * summary[f"{name}test_accuracy"]) for name in ("", "unshifted_"))
    first, _, third, *rows = call("evaluate", run_of_copies)[1].splitlines()
    assert first.startswith(f"accuracy {with_copies}.00 %") and len(rows) == 10
    assert third == (
        "by the mean scores of 9 copies of every image, shifted by up to 1 pixel; "
        f"without them {without}.00 %"
    )
    plain = call("evaluate", run_of_copies, "--test-shift", 0)
    assert plain == call("evaluate", run_of_copies / "model.npz", "--data", read_config(run_of_copies).data)
    assert plain[1].startswith(f"accuracy {without}.00 %") and "copies" not in plain[1]
    told = json.loads(call("evaluate", run_of_copies, "--json")[1])
    assert told["test_shift"] == 1 and told["unshifted_accuracy"] == summary["unshifted_test_accuracy"]
    assert told["accuracy"] == summary["test_accuracy"] and told["wrong"] == 100 - with_copies


def test_other_copies_may_be_asked_for(call, complaint, finished_run):
    output = call("evaluate", finished_run, "--test-shift", 2)[1]
    assert "of 25 copies of every image, shifted by up to 2 pixels" in output
    assert "test_shift is -1, expected a whole number, 0 or more" in complaint(
        "evaluate", finished_run, "--test-shift", -1, code=2
    )
    assert "test_shift is 28, which moves images of 28×28 out of sight" in complaint(
        "evaluate", finished_run, "--test-shift", 28, code=2
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


# -- all that is there -------------------------------------------------------------------------


def write_pngs(folder, images, labels, mode="L", first=0):
    """Write images as PNGs into a subfolder for each class, numbered, and return the folder."""
    for k, (image, label) in enumerate(zip(images, labels, strict=True), first):
        path = folder / str(label) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).convert(mode).save(path)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """The first 13 test images as PNGs; some classes have one of them only."""
    small = small_dataset(20, 13)
    return write_pngs(tmp_path / "new", small.test_images, small.test_labels)


def test_all_pictures_of_a_folder_are_tested_on(call, finished_run, pictures):
    code, output, errors = call("evaluate", finished_run, "--data", pictures)
    assert code == 0 and errors == ""
    counts = np.bincount(small_dataset(20, 13).test_labels)
    first, source, *rows = output.splitlines()
    assert "of 13 images wrong" in first
    assert source == f"data: {pictures}: 13 test images of {np.count_nonzero(counts)} classes"
    assert [int(row.split()[-1]) for row in rows] == [count for count in counts if count]


def test_pictures_in_colour_are_tested_on_in_grey(call, finished_run, pictures, tmp_path):
    small = small_dataset(20, 13)
    colour = write_pngs(tmp_path / "colour", small.test_images, small.test_labels, "RGB")
    said, again = (call("evaluate", finished_run, "--data", data)[1] for data in (pictures, colour))
    assert said.replace("new", "colour") == again


def test_several_folders_and_patterns_are_tested_on_together(call, finished_run, pictures):
    assert "of 26 images wrong" in call("evaluate", finished_run, "--data", pictures, pictures)[1]
    assert "of 26 images wrong" in call("evaluate", finished_run, "--data", pictures, "--data", "ne*")[1]
    said = call("evaluate", finished_run, "--data", "new/*")[1]
    assert "of 13 images wrong" in said and "data: new/*: 13 test images" in said
    assert "of 1 image wrong" in call("evaluate", finished_run, "--data", "new/7/0.png")[1]


def test_the_run_may_stand_behind_the_data(call, finished_run, pictures):
    assert call("evaluate", "--data", pictures, finished_run) == call(
        "evaluate", finished_run, "--data", pictures
    )


def test_the_data_without_a_run_are_refused(call, pictures):
    code, _, errors = call("evaluate", "--data", pictures)
    assert code == 2 and "the following arguments are required: RUN" in errors


def test_an_empty_path_is_refused(complaint, finished_run):
    assert "--data is empty" in complaint("evaluate", finished_run, "--data", "", code=2)


def test_json_is_one_document_that_agrees_with_the_report(call, finished_run, pictures):
    told = json.loads(call("evaluate", finished_run, "--data", pictures, "--json")[1])
    report = call("evaluate", finished_run, "--data", pictures)[1]
    assert f"accuracy {100 * told['accuracy']:.2f} %" in report and told["images"] == 13
    assert f": {told['wrong']} of 13 images wrong" in report
    assert sum(not each["correct"] for each in told["predictions"]) == told["wrong"]
    for each in told["predictions"]:
        assert each["image"].startswith(f"{pictures}/{each['label']}/")
        assert max(each["scores"], key=each["scores"].get) == each["prediction"]
        assert each["correct"] == (each["prediction"] == each["label"]) and len(each["scores"]) == 10
    for each in told["classes"]:
        row = next(line for line in report.splitlines() if line.startswith(f"  class {each['name']} "))
        assert row.endswith(f" {100 * each['accuracy']:.2f} % of {each['images']}")


def test_csv_has_a_line_for_every_image_of_the_run(call, finished_run):
    code, output, errors = call("evaluate", finished_run, "--csv")
    head, *rows = csv.DictReader(io.StringIO(output)).fieldnames, *csv.DictReader(io.StringIO(output))
    small = small_dataset()
    assert code == 0 and errors == "" and head[:4] == ["image", "label", "prediction", "correct"]
    assert [int(row["label"]) for row in rows] == small.test_labels.tolist()
    assert [row["image"].rpartition("#")[2] for row in rows] == [str(k) for k in range(100)]
    network, names = load_network(finished_run / "model.npz")
    scores = network.scores(network(small.test_images.astype(np.float32) / 255))
    found = np.array([[float(row[f"score {name}"]) for name in names] for row in rows])
    np.testing.assert_allclose(found, scores, rtol=1e-5)
    assert [row["correct"] == "1" for row in rows] == [row["label"] == row["prediction"] for row in rows]


def test_pictures_that_show_nothing_are_told(call, finished_run, tmp_path):
    write_pngs(tmp_path / "flat", np.full((3, 28, 28, 1), 90, np.uint8), [1, 1, 2])
    code, _, errors = call("evaluate", finished_run, "--data", "flat")
    assert code == 0 and errors == (
        "minicaps: warning: flat: all 3 test images are of one colour, so they show nothing\n"
    )


def test_photographs_are_read_by_a_network_that_has_learnt_mnist(call, tmp_path):
    small = small_dataset(20, 8)
    photographs = 255 - np.pad(small.test_images, ((0, 0), (30, 10), (20, 20), (0, 0))) // 2  # dark on light
    write_pngs(tmp_path / "photos", photographs, small.test_labels)
    code, output, errors = call("evaluate", "pretrained", "--data", "photos")
    assert code == 0 and "0 of 8 images wrong" in output and "8 pictures were brought into" in errors
    assert "accuracy 100.00" not in call("evaluate", "pretrained", "--data", "photos", "--as-is")[1]


def test_idx_files_of_the_test_alone_are_enough(call, finished_run, tmp_path):
    whole = write_folder(tmp_path / "whole", small_dataset(20, 40))
    said = call("evaluate", finished_run, "--data", whole)[1]
    for path in whole.glob("train-*"):
        path.unlink()
    assert call("evaluate", finished_run, "--data", whole)[1] == said and "of 40 images wrong" in said
