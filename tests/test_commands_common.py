"""What commands share: the word pretrained, the data of a run, and the progress line."""

import json
import shutil
import sys

import pytest
from helpers import quiet, small_dataset, tiny_config, write_folder
from PIL import Image

from minicaps import figures
from minicaps.commands import common
from minicaps.networks import find_pretrained
from minicaps.training import Run

pytestmark = pytest.mark.usefixtures("elsewhere")

# -- the word pretrained -----------------------------------------------------------------------


def test_pretrained_is_the_network_that_comes_along(call, small_folder, tmp_path):
    Image.fromarray(small_dataset().test_images[0, ..., 0]).save(tmp_path / "a.png")
    for command in (["predict", "a.png"], ["evaluate", "--data", small_folder]):
        name, *rest = command
        code, output, errors = call(name, "pretrained", *rest)
        assert (code, errors) == (0, "")
        assert output == call(name, find_pretrained(), *rest)[1]
    assert output.startswith("accuracy 100.00 %")


def test_explore_of_pretrained_writes_its_figures_here(call, small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "find_window", lambda network: (None, "there is no display"))
    code, _, errors = call("explore", "pretrained", "--data", small_folder)
    assert (code, errors) == (0, "")
    assert (tmp_path / "figures" / "couplings.png").exists()


def test_a_folder_called_pretrained_is_named_with_its_path(complaint, tmp_path):
    (tmp_path / "pretrained").mkdir()
    assert "pretrained: holds no run" in complaint("evaluate", "./pretrained", code=2)


@pytest.mark.parametrize("command", ["evaluate", "predict", "explore", "experiment rotate"])
def test_the_help_says_so(call, command):
    assert "the word pretrained" in " ".join(call(*command.split(), "--help")[1].split())


# -- the data of a run -------------------------------------------------------------------------


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def default_run(call, small_folder, monkeypatch, tmp_path):
    """A run that was trained on what MINICAPS_DATA named."""
    with monkeypatch.context() as patch:
        patch.setenv("MINICAPS_DATA", str(small_folder))
        Run(tiny_config(), tmp_path / "run", say=quiet).train()
    return tmp_path / "run"


EVALUATE, EXPLORE, ROTATE = ["evaluate"], ["explore"], ["experiment", "rotate", "--run"]


@pytest.fixture
def no_window(monkeypatch):
    monkeypatch.setattr(figures, "find_window", lambda network: (None, "there is no display"))
    monkeypatch.setattr(figures, "write_figures", lambda *given: [])


@pytest.mark.parametrize("command", [EVALUATE, EXPLORE, ROTATE], ids=" ".join)
@pytest.mark.parametrize("file", ["", "model.npz", "best.npz"])
def test_other_data_than_the_run_s_are_refused_unless_they_are_named(
    call, complaint, default_run, small_folder, monkeypatch, no_window, tmp_path, command, file
):
    other = write_folder(tmp_path / "other", small_dataset(300, 99))
    monkeypatch.setenv("MINICAPS_DATA", str(other))
    line = complaint(*command, default_run / file, code=1)
    assert f"{other}: not the data that {default_run} was trained on (they lay in {small_folder})" in line
    for named in (other, small_folder):
        out = ["--out", tmp_path / f"study-{named.name}"] if command == ROTATE else []
        code, output, errors = call(*command, default_run / file, "--data", named, *out)
        assert (code, errors) == (0, "")
        assert command == EVALUATE or f"data: {named}\n" in output


def test_the_data_of_a_run_are_known_by_their_content_not_by_their_place(
    call, default_run, small_folder, monkeypatch, tmp_path
):
    shutil.copytree(small_folder, tmp_path / "moved")
    monkeypatch.setenv("MINICAPS_DATA", str(tmp_path / "moved"))
    code, output, errors = call("evaluate", default_run)
    assert (code, errors) == (0, "") and "of 100 images wrong" in output


def test_a_run_on_data_that_changed_meanwhile_is_told(complaint, run, small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "mine")
    config = json.loads((run / "config.json").read_text()) | {"data": str(tmp_path / "mine")}
    (run / "config.json").write_text(json.dumps(config))
    labels = tmp_path / "mine" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    assert f"{tmp_path / 'mine'}: not the data that {run} was" in complaint("evaluate", run, code=1)
    shutil.rmtree(tmp_path / "mine")
    assert "if the data have moved, name their folder with --data" in complaint("evaluate", run, code=2)


@pytest.mark.parametrize("kept", ["summary.json", "checkpoint.npz"])
def test_one_file_that_says_so_is_enough(complaint, default_run, monkeypatch, tmp_path, kept):
    for name in {"summary.json", "checkpoint.npz"} - {kept}:
        (default_run / name).write_bytes(b"damaged")
    monkeypatch.setenv("MINICAPS_DATA", str(write_folder(tmp_path / "other", small_dataset(300, 99))))
    assert "not the data that" in complaint("evaluate", default_run, code=1)


def test_where_nothing_says_what_a_network_was_trained_on_the_data_are_said(
    call, default_run, small_folder, monkeypatch, tmp_path
):
    shutil.copy(default_run / "model.npz", tmp_path / "bare.npz")
    for name in ("summary.json", "checkpoint.npz"):
        (default_run / name).unlink()
    monkeypatch.setenv("MINICAPS_DATA", str(small_folder))
    for path in ("bare.npz", default_run, default_run / "model.npz"):
        code, output, errors = call("evaluate", path)
        assert code == 0 and "of 100 images wrong" in output
        named = default_run if path == default_run / "model.npz" else path
        assert errors == (
            f"minicaps: {named}: does not say what it was trained on; taken: the data in {small_folder}\n"
        )


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
    monkeypatch.setattr(common.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("interactive, pause", [(True, 0.2), (False, 30.0)])
def test_progress_is_shown_at_most_so_often(monkeypatch, clock, interactive, pause):
    monkeypatch.setattr(sys, "stderr", Terminal(interactive))
    progress = common.ProgressLine()
    for name in ("first", "second", "third"):
        clock[0] += 0.6 * pause
        progress.show(name)
    assert "second" in sys.stderr.text
    assert "first" not in sys.stderr.text and "third" not in sys.stderr.text


def test_progress_in_a_terminal_is_written_over_and_wiped(monkeypatch, clock, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    progress = common.ProgressLine()
    for line in ("a long line", "short"):
        clock[0] += 1
        progress.show(line)
    progress.say("epoch 1")
    assert sys.stderr.text == "\ra long line\rshort      \r     \r" and capsys.readouterr().out == "epoch 1\n"
