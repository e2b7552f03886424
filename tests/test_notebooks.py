"""Lessons as notebooks: the form of what is made, with or without what runs it, and what fails."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "lessons" / "notebooks.py"
TEXT = """# %% [markdown]
# # 1. A title
#
#     x = 1
# ends.

# %% Solution 1
def f(x):
    # a comment
    return x


print(f(1))
# %%
# %% [markdown]
# The end
"""


def load(path=SCRIPT):
    spec = importlib.util.spec_from_file_location("notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = load()
every_lesson = pytest.mark.parametrize("path", notebooks.lessons(), ids=lambda path: path.stem)


@pytest.fixture
def main(capsys):
    """Return a function that runs the script and returns (exit code, stdout, stderr)."""

    def main(*words):
        try:
            code = notebooks.main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return main


def installed(name):
    return importlib.util.find_spec(name) is not None


def test_cells_of_text_and_of_code():
    made = notebooks.to_notebook(TEXT)
    assert [(cell["cell_type"], cell["source"]) for cell in made["cells"]] == [
        ("markdown", "# 1. A title\n\n    x = 1\nends."),
        ("code", "def f(x):\n    # a comment\n    return x\n\n\nprint(f(1))"),
        ("code", ""),
        ("markdown", "The end"),
    ]
    assert made["cells"][1]["metadata"] == {"title": "Solution 1"}


@every_lesson
def test_every_lesson_is_a_valid_notebook_and_loses_no_line(path):
    text = path.read_text(encoding="utf-8")
    made = notebooks.to_notebook(text)
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5) and len(made["cells"]) > 10
    assert made["cells"][0]["cell_type"] == "markdown"
    back = []
    for cell in made["cells"]:
        names = {"cell_type", "id", "metadata", "source"}
        assert cell.keys() == (
            names if cell["cell_type"] == "markdown" else names | {"execution_count", "outputs"}
        )
        lines = cell["source"].splitlines()
        if cell["cell_type"] == "markdown":
            back += [f"# {line}".rstrip() for line in lines]
        else:
            compile(cell["source"], path.name, "exec")
            back += lines
    kept = [line for line in text.splitlines() if line and not line.startswith("# %%")]
    assert [line for line in back if line] == kept
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    assert made == notebooks.to_notebook(text)


@pytest.mark.skipif(not installed("jupytext"), reason="needs pip install jupytext")
@every_lesson
def test_the_cells_are_those_of_jupytext(path):
    import jupytext

    made, theirs = notebooks.to_notebook(path.read_text(encoding="utf-8")), jupytext.read(path)
    assert [(cell["cell_type"], cell["source"]) for cell in made["cells"]] == [
        (cell.cell_type, cell.source) for cell in theirs.cells
    ]


def test_a_cell_of_text_with_code_in_it_is_refused():
    with pytest.raises(ValueError, match="the line 'x = 1', expected a comment"):
        notebooks.to_notebook("# %% [markdown]\n# text\nx = 1\n")


def test_what_lessons_read_beside_them_is_where_a_notebook_looks(tmp_path):
    notebooks.copy_results(tmp_path)
    named = {
        name
        for path in notebooks.lessons()
        for name in re.findall(r"\d\d_\w+\.json", path.read_text("utf-8"))
    }
    assert "12_full_result.json" in named
    assert named <= {path.name for path in (tmp_path / "lessons").iterdir()}


def test_all_are_written_without_running_where_nothing_is_installed(main, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NEEDED", ("absent_package",))
    code, output, errors = main("--no-run", "--out", tmp_path / "a" / "b")
    assert code == 0 and errors == "" and len(output.splitlines()) == len(notebooks.lessons()) >= 13
    for path in notebooks.lessons():
        written = json.loads((tmp_path / "a" / "b" / f"{path.stem}.ipynb").read_text(encoding="utf-8"))
        assert written == notebooks.to_notebook(path.read_text(encoding="utf-8"))


def test_what_is_missing_to_run_them_is_said_before_anything_is_written(main, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NEEDED", ("absent_package", "json"))
    code, _, errors = main("3", "--out", tmp_path / "out")
    assert code == 2 and not (tmp_path / "out").exists()
    assert "takes absent_package: pip install -e '.[notebooks]'" in errors


@pytest.mark.parametrize(
    "words, said", [(["99"], "there is no lesson 99"), (["x"], "invalid int value"), (["0"], "0")]
)
def test_lessons_that_are_not_there_are_told(main, words, said):
    code, _, errors = main(*words, "--no-run")
    assert code == 2 and said in errors


def test_some_are_written_in_order_and_once(main, tmp_path):
    code, output, _ = main("3", "1", "3", "--no-run", "--out", tmp_path)
    assert code == 0 and [Path(line).name[:2] for line in output.splitlines()] == ["01", "03"]


def test_a_lesson_that_fails_is_told_and_the_others_are_written(main, tmp_path, monkeypatch):
    def run(notebook):
        if "# 2. " in notebook["cells"][0]["source"]:
            raise RuntimeError("of the kernel\n\x1b[31mValueError\x1b[39m: no such thing\n")
        return notebook

    monkeypatch.setattr(notebooks, "run", run)
    monkeypatch.setattr(notebooks, "NEEDED", ())
    code, output, errors = main("1", "2", "3", "--out", tmp_path)
    assert code == 1 and len(output.splitlines()) == 2 == len(list(tmp_path.iterdir()))
    assert errors == "02_squash_vectors.py: not written (RuntimeError: ValueError: no such thing)\n"


@pytest.mark.skipif(not all(map(installed, notebooks.NEEDED)), reason="needs pip install '.[notebooks]'")
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
def test_a_notebook_holds_what_its_cells_print_and_draw_and_no_path_of_this_machine(main, tmp_path):
    code, _, errors = main("3", "--out", tmp_path)
    assert code == 0, errors
    text = (tmp_path / "03_check_gradients.ipynb").read_text(encoding="utf-8")
    outputs = [each for cell in json.loads(text)["cells"] for each in cell.get("outputs", [])]
    assert {each["output_type"] for each in outputs} >= {"stream", "display_data"}
    assert any("image/png" in each.get("data", {}) for each in outputs)
    assert str(Path(sys.prefix)) not in text and "/tmp" not in text
