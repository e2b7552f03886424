"""What commands share: the word pretrained, and the progress line."""

import sys

import pytest
from helpers import small_dataset
from PIL import Image

from minicaps import figures
from minicaps.commands import common
from minicaps.networks import find_pretrained

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
