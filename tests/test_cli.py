"""The command line as a whole: help, wrong arguments, errors and exit codes, and what it imports."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import interrupt_at

from minicaps import __version__, commands
from minicaps.cli import COMMANDS, main
from minicaps.commands import UsageError, gradcheck
from minicaps.training import Run, TrainConfig
from minicaps.training import run as run_module

pytestmark = pytest.mark.usefixtures("elsewhere")


# -- help and wrong arguments ------------------------------------------------------------------


def test_help_lists_every_command(call):
    code, text, errors = call("--help")
    assert (code, errors) == (0, "")
    listed = dict(re.findall(r"^    (\w+)\s+(\S.*(?:\n {8,}.*)*)", text, re.MULTILINE))
    assert {name: " ".join(words.split()) for name, words in listed.items()} == COMMANDS


def test_every_file_of_the_commands_is_one_and_every_command_has_its_file():
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")}
    assert files - {"__init__", "answers", "common", "ranks", "streams"} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(call, command):
    code, text, errors = call(command, "--help")
    assert code == 0 and text.startswith(f"usage: minicaps {command}") and errors == ""


def test_help_of_train_shows_every_option_with_its_default(call):
    _, text, _ = call("train", "--help")
    text = " ".join(text.split())
    for option in dataclasses.fields(TrainConfig):
        flag = option.name.replace("_", "-")
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


# -- errors and real processes -----------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["train", "--resume", "absent"], FileNotFoundError),
        (["train", "--epochs", "0"], UsageError),
        (["evaluate", "absent"], FileNotFoundError),
        (["gradcheck", "absent.py"], FileNotFoundError),
        (["experiment", "--debug", "few", "--seeds", "0"], UsageError),
        (["experiment", "few", "--seeds", "0", "--debug"], UsageError),
    ],
)
def test_debug_lets_the_exception_through(arguments, error):
    with pytest.raises(error):
        main(arguments if "--debug" in arguments else [*arguments, "--debug"])


def test_running_out_of_memory_says_what_may_help(complaint, small_folder, monkeypatch):
    def train(run, draw):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(Run, "train", train)
    line = complaint("train", "--preset", "tiny", "--data", small_folder, code=1)
    assert "out of memory (Unable to allocate 9 TiB); try a smaller --batch-size, --preset or --size" in line


def test_an_unexpected_error_is_one_line_that_names_its_type(complaint, small_folder, monkeypatch):
    def train(run, draw):
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr(Run, "train", train)
    line = complaint("train", "--preset", "tiny", "--data", small_folder, code=1)
    assert "ZeroDivisionError: a bug of ours (--debug shows where)" in line


@pytest.mark.parametrize("arguments", [["train"], ["gradcheck"]])
def test_an_interrupt_while_starting_ends_with_130(complaint, monkeypatch, arguments):
    monkeypatch.setattr(run_module, "load", interrupt_at(1))
    monkeypatch.setattr(gradcheck, "package_modules", interrupt_at(1))
    assert complaint(*arguments, code=130) == "minicaps: interrupted\n"


def test_a_closed_pipe_is_no_error_message(finished_run):
    command = [sys.executable, "-m", "minicaps", "evaluate", str(finished_run)]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert ended.stderr == "" and ended.returncode != 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("streams", [("stdout",), ("stdout", "stderr")])
@pytest.mark.parametrize(
    "command", [["evaluate", "RUN"], ["--help"], ["train", "--help"], ["evaluate", "absent"]]
)
def test_closed_pipes_end_a_command_quietly(finished_run, command, streams, unbuffered):
    command = [sys.executable, "-m", "minicaps", *(str(finished_run) if x == "RUN" else x for x in command)]
    read, write = os.pipe()
    os.close(read)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **dict.fromkeys(streams, write)}
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run(command, **pipes, env=environment, text=True, check=False)
    os.close(write)
    assert ended.returncode <= 2 and not re.search("Traceback|Exception|Broken", ended.stderr or "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no file that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_full_is_told(finished_run, unbuffered):
    command = [sys.executable, "-m", "minicaps", "evaluate", str(finished_run)]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment, text=True, check=False
        )
    assert ended.returncode == 1
    assert re.fullmatch(r"minicaps: .*No space left on device\n", ended.stderr)


def test_output_that_cannot_be_encoded_is_written_otherwise(small_folder, tmp_path):
    for k, encoding in enumerate(("ascii", "cp1251", "cp437", "utf-8")):
        options = ["--preset", "tiny", "--epochs", "1", "--data", str(small_folder), "--out", f"run-{k}"]
        ended = subprocess.run(
            [sys.executable, "-m", "minicaps", "train", *options],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        shape = "28 × 28 × 1 pixels".encode(encoding, "backslashreplace")
        assert shape in ended.stdout and b"test accuracy" in ended.stdout


def test_in_the_c_locale_too(small_folder, tmp_path):
    (tmp_path / "große Bilder").symlink_to(small_folder)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for data, code in (("große Bilder", 0), ("große Lücke", 2)):
        command = [
            sys.executable,
            "-m",
            "minicaps",
            "train",
            "--preset",
            "tiny",
            "--epochs",
            "1",
            "--data",
            data,
        ]
        ended = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stderr


@pytest.mark.parametrize("absent", [("stdout",), ("stderr",), ("stdout", "stderr")])
@pytest.mark.parametrize(
    "arguments, code", [(["evaluate", "RUN"], 0), (["evaluate"], 2), (["evaluate", "x"], 2)]
)
def test_a_program_without_a_console_runs(finished_run, monkeypatch, absent, arguments, code):
    for name in absent:
        monkeypatch.setattr(sys, name, None)
    assert main([str(finished_run) if word == "RUN" else word for word in arguments]) == code
    assert all(getattr(sys, name) is None for name in absent)


def test_a_run_without_a_console_trains(small_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert (
        main(["train", "--preset", "tiny", "--epochs", "1", "--data", str(small_folder), "--out", "run"]) == 0
    )
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_stream_that_is_no_file_is_left_as_it_is(monkeypatch):
    class Notebook:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Notebook())
    assert main(["--version"]) == 0 and sys.stdout.text == f"minicaps {__version__}\n"


def test_a_real_process_evaluates(finished_run, call, process):
    ended = process("evaluate", finished_run)
    assert (ended.returncode, ended.stdout, ended.stderr) == call("evaluate", finished_run)


def test_a_real_process_ends_with_2_and_one_line_without_a_traceback(tmp_path, process):
    ended = process("evaluate", tmp_path / "absent")
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(r"minicaps: .*absent: no such file\n", ended.stderr)


def test_a_real_process_shows_the_traceback_with_debug(tmp_path, process):
    ended = process("evaluate", tmp_path / "absent", "--debug")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback") and "FileNotFoundError" in ended.stderr


# -- what is imported --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, package",
    [
        ("main(['--version'])", "matplotlib"),
        ("main(['--help'])", "matplotlib"),
        ("main(['evaluate', '--help'])", "matplotlib"),
        ("main(['gradcheck', '--help'])", "matplotlib"),
        ("main(['train', '--help'])", "matplotlib.pyplot"),
        ("package_modules()", "matplotlib.pyplot"),  # what gradcheck begins with
    ],
)
def test_no_more_is_imported_than_a_command_needs(code, package):
    program = (
        "import sys\n"
        "from minicaps.cli import main\n"
        "from minicaps.proof import package_modules\n"
        f"{code}\n"
        f"print({package!r} in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False" and ended.stderr == ""
