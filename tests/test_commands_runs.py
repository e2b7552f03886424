"""The command ``runs``: which runs it finds, what it says of them, and what it says of everything else."""

import json
import os
import re
import shutil

import pytest
from helpers import quiet, small_dataset, tiny_config

from minicaps.training import Run, differing_options, find_runs
from minicaps.training import run as runs

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with three runs, two of them complete, trained one after another; one lies deeper."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load", lambda *given: small_dataset(60, 20))
        Run(tiny_config(epochs=2, size=(28, 28)), folder / "z first", say=quiet).train()
        Run(
            tiny_config(epochs=2, seed=5, learning_rate=0.01), folder / "deep" / "er" / "b", say=quiet
        ).train()
        stopped = Run(tiny_config(model="mlp", epochs=3), folder / "a", say=stop_after_an_epoch)
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
    for k, name in enumerate(("z first", "deep/er/b", "a")):
        for path in (folder / name).iterdir():
            os.utime(path, (1e9 + k, 1e9 + k))
    return folder


def stop_after_an_epoch(line):
    raise KeyboardInterrupt


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def table(text):
    """Return the cells of each line, split where two spaces or more are."""
    return [re.split(r" {2,}", line) for line in text.splitlines()]


def test_a_table_of_all_runs_the_one_trained_last_at_the_end(call, folder):
    code, output, errors = call("runs")
    assert code == 0 and errors == ""
    head, *rows = table(output)
    assert head[:7] == ["run", "model", "accuracy", "of", "epochs", "seconds", "trained"]
    assert [row[0] for row in rows] == [
        os.path.join("runs", *name) for name in (["z first"], ["deep", "er", "b"], ["a"])
    ]
    assert [row[1] for row in rows] == ["capsnet tiny", "capsnet tiny", "mlp"]
    assert [row[3:5] for row in rows] == [["test", "2/2"], ["test", "2/2"], ["validation", "1/3"]]
    summary = json.loads((folder / "z first" / "summary.json").read_text())
    assert rows[0][2] == f"{100 * summary['test_accuracy']:.2f} %"


def test_only_options_that_differ_are_columns(call, folder):
    head, *rows = table(call("runs", folder)[1])
    assert head[7:] == ["--size", "--learning-rate", "--seed"]
    assert [row[7:] for row in rows] == [["28", "0.004", "0"], ["None", "0.01", "5"], ["None", "0.004", "0"]]
    assert table(call("runs", folder / "deep")[1])[0][7:] == []


def test_options_that_a_network_lacks_are_no_difference(folder):
    records, _ = find_runs(folder)
    assert "decoder" not in records[-1].options() and "decoder" in records[0].options()
    assert differing_options(records[::2]) == ["size"] and differing_options([]) == []


def test_json_has_all_of_it(call, folder):
    (folder / "z first" / "report.html").write_text("")
    code, output, errors = call("runs", folder, "--json")
    document = json.loads(output)
    assert code == 0 and errors == "" and document["differ"] == ["size", "learning_rate", "seed"]
    first, second, third = document["runs"]
    assert first["finished"] and first["options"]["size"] == 28 and second["options"]["seed"] == 5
    assert first["report"].endswith("report.html") and second["report"] is None
    assert third["test_accuracy"] is None and 0 <= third["validation_accuracy"] <= 1
    assert (third["epochs"], third["of_epochs"]) == (1, 3) and third["trained"].startswith("2001-09-09")


def test_a_run_is_shown_too_whatever_lies_in_it(call, folder):
    (folder / "z first" / "figures").mkdir()
    code, output, errors = call("runs", folder / "z first")
    assert code == 0 and errors == "" and len(output.splitlines()) == 2


def test_a_run_that_goes_on_counts_as_not_finished(call, folder):
    path = folder / "z first" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 9}))
    line = call("runs", folder / "z first")[1].splitlines()[1]
    assert "validation" in line and "2/9" in line


# -- what is no run ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file, content, reason",
    [
        ("config.json", b"{}x", "config.json: damaged, or of another version"),
        ("config.json", b'{"architectures": ["Bert"]}', "config.json: damaged, or of another version"),
        ("config.json", b"[" * 60_000, "config.json: damaged, or of another version"),
        ("config.json", b"\xff\xfe", "config.json: damaged, or of another version"),
        ("metrics.jsonl", b'{"epoch": 1}\n', "metrics.jsonl: line 1 is damaged"),
        ("metrics.jsonl", b"\xff\n", "metrics.jsonl: line 1 is damaged"),
        ("metrics.jsonl", b"[1]\n", "metrics.jsonl: line 1 is damaged"),
        ("summary.json", b'{"epochs": 2}', "summary.json: damaged, or of another version"),
        ("summary.json", b'{"epochs": 2, "test_accuracy": "good"}', "summary.json: damaged"),
    ],
)
def test_a_run_that_is_damaged_is_told_in_a_line_and_the_others_are_shown(
    call, folder, file, content, reason
):
    (folder / "z first" / file).write_bytes(content)
    code, output, errors = call("runs", folder)
    assert code == 0 and len(output.splitlines()) == 3
    assert errors.startswith("minicaps: ") and errors.count("\n") == 1 and reason in errors
    document = json.loads(call("runs", folder, "--json")[1])
    assert list(document["not_read"]) == [str(folder / "z first")]


def test_a_summary_that_cannot_be_read_is_that_of_an_unfinished_run(call, folder):
    (folder / "z first" / "summary.json").write_text("[")
    assert "validation" in call("runs", folder)[1].splitlines()[1]


def test_folders_of_others_are_told(call, folder):
    (folder / "notes").mkdir()
    (folder / "weights").mkdir()
    (folder / "weights" / "model.npz").write_text("")
    (folder / ".git").mkdir()
    (folder / "a.txt").write_text("no folder")
    code, output, errors = call("runs", folder)
    assert code == 0 and len(output.splitlines()) == 4
    told = [f"minicaps: {folder / name}: holds no run (no config.json)\n" for name in ("notes", "weights")]
    assert errors == "".join(told)


def test_a_folder_that_cannot_be_looked_into_is_told(folder, monkeypatch):
    whole = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    records, others = find_runs(folder)
    assert len(records) == 2 and list(others) == [folder / "deep"]


def test_odd_names_stay_in_their_line(call, folder):
    (folder / "a").rename(folder / "a\n\x1b[31m")
    code, output, _ = call("runs", folder)
    assert code == 0 and len(output.splitlines()) == 4 and "\x1b" not in output


def test_without_runs_it_says_how_to_make_one(call, complaint, tmp_path):
    assert call("runs") == (0, "no runs in runs: python -m minicaps train makes one\n", "")
    assert json.loads(call("runs", "--json")[1])["runs"] == []
    (tmp_path / "empty").mkdir()
    assert call("runs", "empty")[1].startswith("no runs in empty")
    assert "absent: no such folder" in complaint("runs", "absent", code=2)
    assert "FOLDER is empty" in complaint("runs", "", code=2)
