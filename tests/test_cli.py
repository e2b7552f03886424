"""The command line: what it prints, what it writes, and with which code it ends."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    interrupt_at,
    press_ctrl_c_at,
    read_metrics,
    small_dataset,
    small_folder,
    tiny_config,
    write_folder,
)
from PIL import Image

from minicaps import __version__, cli
from minicaps.cli import main
from minicaps.networks import weights as checkpoint
from minicaps.training import run as runs

COMMANDS = ["train", "evaluate", "predict", "explore", "gradcheck"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run every command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINICAPS_DATA", raising=False)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(runs.Run, "_draw", lambda run, test: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(small_folder(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """The folder of a complete run that knows its digits somewhat."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    options = ["--preset", "tiny", "--epochs", "4", "--batch-size", "30", "--learning-rate", "0.005"]
    assert main(["train", *options, "--data", data, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, data):
    """The folder of a run that was stopped after the first of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "unfinished"
    with pytest.raises(KeyboardInterrupt):
        runs.Run(tiny_config(epochs=2, data=data), folder, say=interrupt_at(1)).train()
    return folder


@pytest.fixture
def call(capsys):
    """Return a function that runs a command and returns (exit code, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def complaint(call):
    """Return a function that runs a command that must fail, and returns its one line on stderr."""

    def complaint(*arguments, code):
        found, _, errors = call(*arguments)
        assert found == code, errors
        assert errors.startswith("minicaps: ") and errors.count("\n") == 1
        return errors

    return complaint


def save(path, image, dark_on_light=False):
    """Write an image (H, W, 1) as PNG and return its path."""
    pixels = 255 - image[..., 0] if dark_on_light else image[..., 0]
    Image.fromarray(pixels).save(path)
    return path


# -- help and wrong arguments ------------------------------------------------------------------


def test_help_lists_every_command(call):
    code, text, _ = call("--help")
    assert code == 0 and all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(call, command):
    code, text, errors = call(command, "--help")
    assert code == 0 and text.startswith(f"usage: minicaps {command}") and errors == ""


def test_help_of_train_shows_every_option_with_its_default(call):
    _, text, _ = call("train", "--help")
    text = " ".join(text.split())
    for name, option in runs.TrainConfig.__dataclass_fields__.items():
        flag = name.replace("_", "-")
        assert f"--no-{flag}" in text if option.default is True else f"--{flag} " in text
        if option.default not in (None, True):
            assert f"{option.metadata['help']} (default: {option.default})" in text


def test_version(call):
    assert call("--version")[:2] == (0, f"minicaps {__version__}\n")


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ("", "required: COMMAND"),
        ("fly", "invalid choice: 'fly'"),
        ("train --wings", "unrecognized arguments: --wings"),
        ("train extra", "unrecognized arguments: extra"),
        ("train --epochs x", "--epochs: invalid int value: 'x'"),
        ("train --epochs", "--epochs: expected one argument"),
        ("train --learning-rate fast", "--learning-rate: invalid float value: 'fast'"),
        ("train --preset huge", "--preset: invalid choice: 'huge'"),
        ("train --model svm", "--model: invalid choice: 'svm'"),
        ("evaluate", "required: RUN"),
        ("predict somewhere", "required: IMAGE"),
        ("explore", "required: RUN"),
        ("explore run --image x", "--image: invalid int value: 'x'"),
        ("gradcheck --seed x", "--seed: invalid int value: 'x'"),
    ],
)
def test_arguments_that_cannot_be_read_end_with_2_and_the_usage(call, arguments, reason):
    code, output, errors = call(*arguments.split())
    assert code == 2 and output == ""
    assert errors.startswith("usage: minicaps") and reason in errors


@pytest.mark.parametrize(
    "option, value, name",
    [
        ("--epochs", 0, "epochs"),
        ("--batch-size", -1, "batch_size"),
        ("--limit", 0, "limit"),
        ("--learning-rate", "nan", "learning_rate"),
        ("--shift", -1, "shift"),
        ("--seed", -1, "seed"),
        ("--routing-iterations", 0, "routing_iterations"),
    ],
)
def test_values_that_are_not_allowed_end_with_2_in_one_line(complaint, tmp_path, option, value, name):
    assert f"{name} is {value}, expected" in complaint("train", option, value, code=2)
    assert list(tmp_path.iterdir()) == []


# -- train -------------------------------------------------------------------------------------

QUICK = ["train", "--preset", "tiny", "--epochs", 1, "--limit", 50]


def test_train_writes_a_run_and_says_what_it_does(call, data, tmp_path):
    code, output, errors = call(*QUICK, "--seed", 3, "--data", data, "--out", tmp_path / "run")
    assert code == 0 and errors == ""
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json", "metrics.jsonl", "model.npz", "checkpoint.npz", "summary.json",
        "learning_curves.png", "mistakes.png", "confusion_matrix.png", "reconstructions.png", ".lock",
    }  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["seed"] == 3 and summary["preset"] == "tiny" and summary["train_images"] == 50
    assert "preset=tiny" in output and "seed=3" in output and f"data={data}" in output
    assert "50 images to train on, 30 to validate, 100 to test, 10 classes, 28 × 28 × 1 pixels" in output
    assert re.search(r"^capsules +CapsuleLayer +10 × 8 +20,480$", output, re.MULTILINE)
    assert re.search(r"^total +79,568$", output, re.MULTILINE)
    assert len(re.findall(r"^epoch 1/1 .* images/s", output, re.MULTILINE)) == 1
    assert f"test accuracy {100 * summary['test_accuracy']:.2f} %" in output


def test_every_option_reaches_the_configuration(call, data, tmp_path, no_figures):
    options = {"model": "capsnet", "preset": "tiny", "size": 28, "limit": 40, "epochs": 1, "batch_size": 20,
               "learning_rate": 0.01, "schedule": "exponential", "warmup": 2, "shift": 1,
               "routing_iterations": 2, "seed": 7, "backend": "numpy", "data": data}  # fmt: skip
    flags = [x for name, value in options.items() for x in (f"--{name.replace('_', '-')}", value)]
    assert call("train", *flags, "--no-decoder", "--out", tmp_path / "run")[0] == 0
    assert runs.read_config(tmp_path / "run") == runs.TrainConfig(**options, decoder=False)


def test_train_without_out_numbers_the_folders(tmp_path):
    config = tiny_config(model="cnn")
    assert str(cli.new_folder(config)) == os.path.join("runs", "cnn-001")
    (tmp_path / "runs" / "cnn-001").mkdir(parents=True)
    assert str(cli.new_folder(config)) == os.path.join("runs", "cnn-002")
    assert str(cli.new_folder(tiny_config())) == os.path.join("runs", "capsnet-tiny-001")


def test_a_missing_data_folder_ends_with_2(complaint, tmp_path):
    line = complaint("train", "--data", tmp_path / "absent", "--out", tmp_path / "run", code=2)
    assert "absent: no such folder" in line and not (tmp_path / "run").exists()


def test_a_missing_data_file_ends_with_2_and_is_named(complaint, tmp_path):
    folder = small_folder(tmp_path / "set", 20, 10)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert "set: holds no t10k-labels-idx1-ubyte" in complaint("train", "--data", folder, code=2)


def test_a_broken_idx_file_ends_with_1_and_is_named(complaint, tmp_path):
    folder = small_folder(tmp_path / "set", 20, 10)
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    assert "train-images-idx3-ubyte: truncated" in complaint("train", "--data", folder, code=1)


def test_an_out_that_cannot_be_written_ends_with_1(complaint, data, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    line = complaint(*QUICK, "--data", data, "--out", tmp_path / "file" / "run", code=1)
    assert "Not a directory" in line and "run" in line


def test_an_out_that_holds_a_run_ends_with_2_and_says_how_to_resume(complaint, data, finished):
    line = complaint(*QUICK, "--data", data, "--out", finished, code=2)
    assert f"continue it with --resume {finished}" in line


def test_a_gpu_that_is_not_there_ends_with_1(complaint, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "pip install 'minicaps[gpu]'" in complaint(*QUICK, "--backend", "cupy", "--data", data, code=1)


def test_a_run_whose_loss_explodes_ends_with_1_in_one_line(data):
    options = ["--learning-rate", "1e30", "--preset", "tiny", "--epochs", "1", "--data", data, "--out", "run"]
    ended = python("train", *options)
    assert ended.returncode == 1
    assert re.fullmatch(r"minicaps: the .*loss is nan .* a smaller learning rate may help .*\n", ended.stderr)


def test_running_out_of_memory_says_what_may_help(complaint, data, monkeypatch):
    def train(run):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(runs.Run, "train", train)
    line = complaint(*QUICK, "--data", data, code=1)
    assert "out of memory (Unable to allocate 9 TiB); try a smaller --batch-size, --preset or --size" in line


def test_an_unexpected_error_is_one_line_that_names_its_type(complaint, data, monkeypatch):
    def train(run):
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr(runs.Run, "train", train)
    line = complaint(*QUICK, "--data", data, code=1)
    assert "ZeroDivisionError: a bug of ours (--debug shows where)" in line


# -- interrupting and resuming -----------------------------------------------------------------


def test_an_interrupted_run_ends_with_130_and_says_how_to_resume(complaint, data, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.ProgressLine, "show", press_ctrl_c_at(2))
    options = ["--batch-size", 10, "--data", data, "--out", tmp_path / "run"]
    line = complaint(*QUICK, *options, code=130)
    assert "interrupted; the run is kept as it was after epoch 0 and 2 of 5 batches." in line
    assert f"Continue with: python -m minicaps train --resume {tmp_path / 'run'}\n" in line


@pytest.mark.parametrize("arguments", [["train"], ["gradcheck"]])
def test_an_interrupt_while_starting_ends_with_130(complaint, monkeypatch, arguments):
    monkeypatch.setattr(runs, "load", interrupt_at(1))
    monkeypatch.setattr(
        importlib.import_module("minicaps.proof.discovery"), "package_modules", interrupt_at(1)
    )
    assert complaint(*arguments, code=130) == "minicaps: interrupted\n"


def test_resume_finishes_an_interrupted_run(call, unfinished, tmp_path, no_figures):
    shutil.copytree(unfinished, tmp_path / "run")
    code, output, errors = call("train", "--resume", tmp_path / "run")
    assert code == 0 and errors == "" and "run, after epoch 1\n" in output
    assert "epoch 2/2" in output and "epoch 1/2" not in output
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == [1, 2]


def test_resuming_a_complete_run_does_nothing_and_ends_with_0(call, finished):
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    code, output, errors = call("train", "--resume", finished)
    assert code == 0 and errors == "" and "this run is complete; see summary.json" in output
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


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
def test_resume_takes_no_other_options(complaint, unfinished, options, named):
    line = complaint("train", "--resume", unfinished, *options, code=2)
    assert line.endswith(f"leave out {named}\n")


def test_resuming_with_a_broken_checkpoint_ends_with_1(complaint, unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.npz").write_bytes(b"PK\x03\x04 nothing")
    assert "checkpoint.npz: truncated" in complaint("train", "--resume", tmp_path / "run", code=1)


# -- evaluate ----------------------------------------------------------------------------------


def test_evaluate_agrees_with_the_summary(call, finished):
    accuracy = json.loads((finished / "summary.json").read_text())["test_accuracy"]
    code, output, errors = call("evaluate", finished)
    assert code == 0 and errors == ""
    hits = round(100 * accuracy)
    assert output.splitlines()[0] == (
        f"accuracy {hits}.00 % (error {100 - hits}.00 %): {100 - hits} of 100 images wrong"
    )


def test_evaluate_shows_every_class_and_the_classes_add_up(call, finished):
    lines = call("evaluate", finished)[1].splitlines()
    rows = [re.fullmatch(r"  class (\d) +([\d.]+) % of (\d+)", line).groups() for line in lines[1:]]
    assert [int(name) for name, *_ in rows] == list(range(10))
    assert [int(count) for *_, count in rows] == np.bincount(small_dataset().test_labels).tolist()
    right = sum(float(share) / 100 * int(count) for _, share, count in rows)
    assert f"{100 - round(right)} of 100 images wrong" in lines[0]


def test_evaluate_takes_a_model_file_and_another_data_set(call, finished, tmp_path):
    other = small_folder(tmp_path / "other", 20, 40)
    code, output, _ = call("evaluate", finished / "model.npz", "--data", other)
    assert code == 0 and "of 40 images wrong" in output


def test_evaluating_an_unfinished_run_ends_with_2_and_says_how_to_finish_it(complaint, unfinished):
    line = complaint("evaluate", unfinished, code=2)
    assert "the run is not finished" in line
    assert f"continue it with: python -m minicaps train --resume {unfinished}\n" in line


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "image.png"]])
def test_a_missing_run_ends_with_2(complaint, tmp_path, command):
    name, *rest = command
    assert "absent: no such file" in complaint(name, tmp_path / "absent", *rest, code=2)
    assert "holds no run" in complaint(name, tmp_path, *rest, code=2)


def test_a_broken_model_ends_with_1(complaint, finished, tmp_path):
    (tmp_path / "model.npz").write_bytes((finished / "model.npz").read_bytes()[:-100])
    assert "model.npz: truncated" in complaint("evaluate", tmp_path, code=1)


def test_evaluating_on_images_of_another_size_ends_with_1(complaint, finished, tmp_path):
    small = small_dataset(20, 10)
    cut = {name: getattr(small, name)[:, :20] for name in ("train_images", "test_images")}
    folder = write_folder(tmp_path / "cut", replace(small, **cut))
    line = complaint("evaluate", finished, "--data", folder, code=1)
    assert "cut: IDX files of 20×28 pixels, expected 28×28; only pictures are scaled" in line


# -- predict -----------------------------------------------------------------------------------


def test_predict_prints_class_length_and_runner_up_of_every_image(call, finished, tmp_path):
    images = small_dataset().test_images[:3]
    paths = [save(tmp_path / f"{k}.png", image) for k, image in enumerate(images)]
    code, output, errors = call("predict", finished, *paths)
    assert code == 0 and errors == ""
    network, names = checkpoint.load_network(finished / "model.npz")
    scores = network.scores(network(images.astype(np.float32) / 255))
    for path, row, line in zip(paths, scores, output.splitlines(), strict=True):
        best, second = np.argsort(-row)[:2]
        first, then = f"{names[best]} (length {row[best]:.3f})", f"{names[second]} ({row[second]:.3f})"
        assert line == f"{path}: {first}, then {then}"


def test_predict_of_another_network_prints_a_probability(call, data, tmp_path, no_figures):
    options = ["--model", "mlp", "--epochs", 1, "--limit", 50, "--data", data, "--out", "run"]
    assert call("train", *options)[0] == 0
    output = call("predict", "run", save(tmp_path / "a.png", small_dataset().test_images[0]))[1]
    assert re.search(r"a\.png: \d \(probability 0\.\d{3}\), then \d \(0\.\d{3}\)\n", output)


def test_a_missing_image_ends_with_2_and_the_others_are_answered(call, finished, tmp_path):
    good = save(tmp_path / "good.png", small_dataset().test_images[0])
    code, output, errors = call("predict", finished, tmp_path / "absent.png", good)
    assert code == 2 and output.startswith(f"{good}: ")
    assert errors == f"minicaps: {tmp_path / 'absent.png'}: no such file\n"


def test_a_broken_image_ends_with_1_and_the_others_are_answered(call, finished, tmp_path):
    good = save(tmp_path / "good.png", small_dataset().test_images[0])
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:60])
    code, output, errors = call("predict", finished, tmp_path / "broken.png", good)
    assert code == 1 and output.startswith(f"{good}: ")
    assert "broken.png: damaged image" in errors and errors.count("\n") == 1


def test_dark_on_light_is_warned_about_and_inverting_helps(call, finished, tmp_path):
    image = small_dataset().test_images[0]
    light = save(tmp_path / "light.png", image, dark_on_light=True)
    code, _, errors = call("predict", finished, light)
    assert code == 0 and errors == (
        f"minicaps: warning: {light}: its border is light; MNIST is light on dark, try --invert\n"
    )
    _, inverted, errors = call("predict", finished, "--invert", light)
    plain = call("predict", finished, save(tmp_path / "plain.png", image))[1]
    assert errors == "" and inverted.split(": ")[1] == plain.split(": ")[1]


def test_inverting_light_on_dark_is_warned_about(call, finished, tmp_path):
    path = save(tmp_path / "a.png", small_dataset().test_images[0])
    assert (
        "its border is light; MNIST is light on dark, try without --invert"
        in call("predict", finished, "--invert", path)[2]
    )


@pytest.mark.parametrize("size", [(28, 60), (60, 28)])
def test_dark_on_light_is_warned_about_whatever_the_aspect_ratio(call, finished, tmp_path, size):
    path = save(tmp_path / "wide.png", np.full((*size, 1), 255, np.uint8))
    assert "its border is light" in call("predict", finished, path)[2]


# -- gradcheck ---------------------------------------------------------------------------------

CUBE = """
import numpy as np

class Cube:
    def forward(self, x):
        return x**3, x

    def backward(self, dy, x):
        return FACTOR * x**2 * dy

    @classmethod
    def examples(cls, rng, dtype):
        yield "small", cls(), (rng.normal(size=(2, 3)).astype(dtype),)
"""


@pytest.fixture
def cube(tmp_path):
    """Return a function that writes a layer x³ with the derivative factor · x²."""

    def cube(factor):
        path = tmp_path / f"cube_{str(factor).replace('.', '_')}.py"
        path.write_text(CUBE.replace("FACTOR", str(factor)))
        return path

    yield cube
    for name in [name for name in sys.modules if name.startswith("cube_")]:
        del sys.modules[name]


def test_gradcheck_passes_a_correct_layer(call, cube):
    code, output, errors = call("gradcheck", cube(3))
    assert code == 0 and errors == ""
    assert re.search(r"^Cube \(small\) .* x \de-", output, re.MULTILINE) and "all pass" in output


def test_gradcheck_fails_a_wrong_layer_and_says_where(call, cube):
    code, output, _ = call("gradcheck", "--seed", 5, cube(3.01))
    assert code == 1 and output.splitlines()[-1].endswith("FAILED")
    failure = re.search(
        r"Cube \(small\): gradient of x at \[\d, \d\]: backward says (?P<backward>\S+), central differences "
        r"say (?P<differences>\S+); relative error 3\.\de-03, allowed 1e-06 \(seed 5\)",
        output,
    )
    assert float(failure["backward"]) / float(failure["differences"]) == pytest.approx(3.01 / 3)


def test_gradcheck_checks_every_file_and_one_failure_is_enough(call, cube):
    code, output, _ = call("gradcheck", cube(3), cube(3.01))
    assert code == 1 and "2 examples of 2 classes" in output


def test_gradcheck_of_a_missing_file_ends_with_2(complaint):
    assert "absent.py: no such file" in complaint("gradcheck", "absent.py", code=2)


def test_gradcheck_of_a_file_without_layers_ends_with_1(complaint, tmp_path):
    (tmp_path / "cube_empty.py").write_text("from minicaps import Dense\n")
    line = complaint("gradcheck", tmp_path / "cube_empty.py", code=1)
    assert "cube_empty.py: no class with forward, backward and examples" in line


@pytest.mark.parametrize(
    "name, text, reason",
    [
        ("cube_syntax.py", "def (:\n", "SyntaxError: "),
        ("cube_import.py", "import a_package_that_is_not_there\n", "a_package_that_is_not_there"),
        ("notes.txt", "not Python", "notes.txt: not a Python file"),
    ],
)
def test_gradcheck_of_a_file_that_cannot_be_imported_ends_with_1(complaint, tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    assert reason in complaint("gradcheck", tmp_path / name, code=1)


BARE = """
from minicaps import Layer

class Bare(Layer):
    def forward(self, x):
        return x, x

    def backward(self, dy, cache):
        return dy
"""


def test_gradcheck_of_a_layer_without_examples_ends_with_1(complaint, tmp_path):
    (tmp_path / "cube_bare.py").write_text(BARE)
    assert "Bare has no examples" in complaint("gradcheck", tmp_path / "cube_bare.py", code=1)


def test_gradcheck_of_a_file_named_like_a_module_does_not_replace_the_module(
    call, cube, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "json", json)
    cube(3).rename(tmp_path / "json.py")
    assert call("gradcheck", tmp_path / "json.py")[0] == 0
    assert sys.modules["json"] is json


# -- errors and real processes -----------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["train", "--resume", "absent"], FileNotFoundError),
        (["train", "--epochs", "0"], cli.UsageError),
        (["evaluate", "absent"], FileNotFoundError),
        (["gradcheck", "absent.py"], FileNotFoundError),
    ],
)
def test_debug_lets_the_exception_through(arguments, error):
    with pytest.raises(error):
        main([*arguments, "--debug"])


def test_a_closed_pipe_is_no_error_message(finished):
    command = [sys.executable, "-m", "minicaps", "evaluate", str(finished)]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert ended.stderr == "" and ended.returncode != 0


def python(*arguments):
    """Run `python -m minicaps` in a process of its own."""
    command = [sys.executable, "-m", "minicaps", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_real_process_evaluates(finished, call):
    ended = python("evaluate", finished)
    assert (ended.returncode, ended.stdout, ended.stderr) == call("evaluate", finished)


def test_a_real_process_ends_with_2_and_one_line_without_a_traceback(tmp_path):
    ended = python("evaluate", tmp_path / "absent")
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(r"minicaps: .*absent: no such file\n", ended.stderr)


def test_a_real_process_shows_the_traceback_with_debug(tmp_path):
    ended = python("evaluate", tmp_path / "absent", "--debug")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback") and "FileNotFoundError" in ended.stderr


# -- the progress line -------------------------------------------------------------------------


class Terminal:
    def __init__(self, interactive):
        self.text, self.interactive = "", interactive

    def isatty(self):
        return self.interactive

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; add to it to let time pass."""
    now = [0.0]
    monkeypatch.setattr(cli.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("interactive, pause", [(True, 0.2), (False, 30.0)])
def test_progress_is_shown_at_most_so_often(monkeypatch, clock, interactive, pause):
    monkeypatch.setattr(sys, "stderr", Terminal(interactive))
    progress = cli.ProgressLine()
    for name in ("first", "second", "third"):
        clock[0] += 0.6 * pause
        progress.show(name)
    assert "second" in sys.stderr.text
    assert "first" not in sys.stderr.text and "third" not in sys.stderr.text


def test_progress_in_a_terminal_is_written_over_and_wiped(monkeypatch, clock, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    progress = cli.ProgressLine()
    for line in ("a long line", "short"):
        clock[0] += 1
        progress.show(line)
    progress.say("epoch 1")
    assert sys.stderr.text == "\ra long line\rshort      \r     \r" and capsys.readouterr().out == "epoch 1\n"
