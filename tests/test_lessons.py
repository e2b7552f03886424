"""Every lesson is found, has the form that the lessons share, and runs as a reader would run it."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "lessons").glob("[0-9]*.py"))
EXPERIMENTS = ROOT / "data" / "experiments"
LABELS = ("You will do:", "You will learn:", "You need:", "Figures:")
RUN_WITHOUT_NETWORK = """
import runpy, socket, sys

def refuse(*args):
    raise OSError("a lesson asked for the network")

socket.socket.connect = socket.getaddrinfo = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

in_the_repository = pytest.mark.skipif(
    not (ROOT / "README.md").exists() or not EXPERIMENTS.exists(),
    reason="pages and stored results are not in a wheel",
)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])


def cells(text):
    """Return the cells of a lesson as (its first line, its text)."""
    parts = re.split(r"^(# %%.*)$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def declared_figures(text):
    return re.findall(r"`(\w+)`", re.search(r"\*\*Figures:\*\*((?:.*\n)*?)(?:# *\n|\n)", text)[1])


def faults(name, text):
    """Return what a lesson lacks of the common form, in words."""
    number, found = int(name[:2]), []
    lines, parts = text.splitlines(), cells(text)
    if len(lines) < 120:
        found.append(f"{len(lines)} lines, expected 120 or more")
    if not parts or parts[0][0] != "# %% [markdown]" or f"# # {number}. " not in parts[0][1]:
        found.append("the first cell is not a header with the lesson's number and title")
    found += [f"the header has no **{label}**" for label in LABELS if f"**{label}**" not in parts[0][1]]
    asserts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    if len(asserts) < 5:
        found.append(f"{len(asserts)} asserts, expected 5 or more")
    titles = [line for line in lines if line.startswith("# ## ")]
    if titles[-3:] != ["# ## Summary", "# ## Exercises", "# ## Solutions"]:
        found.append("it does not end with summary, exercises and solutions")
    exercises = text.partition("# ## Exercises")[2].partition("# ## Solutions")[0]
    numbers = re.findall(r"^# (\d)\. ", exercises, re.MULTILINE)
    if numbers != [str(k) for k in range(1, len(numbers) + 1)] or not 3 <= len(numbers) <= 5:
        found.append(f"exercises numbered {numbers}, expected 1 to 3, 4 or 5")
    if not re.search(r"\bbreak\b", exercises, re.IGNORECASE):
        found.append("no exercise asks to break something")
    solutions = {head: body for head, body in parts if head.startswith("# %% Solution")}
    if list(solutions) != [f"# %% Solution {n}" for n in numbers]:
        found.append(f"solutions {list(solutions)} for exercises {numbers}")
    blanks = re.findall(r"^def (my_\w+)", text, re.MULTILINE)
    graded = len(re.findall(r"\bassert cmp\(", text))
    if len(blanks) > graded:
        found.append(f"blanks {blanks}, but {graded} solutions that pass cmp")
    found += [f"{head} has no code" for head, body in solutions.items() if not ast.parse(body).body]
    return found


@every_lesson
def test_a_lesson_has_the_common_form(path):
    assert faults(path.name, path.read_text()) == []


@every_lesson
def test_a_lesson_runs_from_any_folder_without_display_or_network(path, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MINICAPS_FIGURES")}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", RUN_WITHOUT_NETWORK, str(path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    saved = sorted((tmp_path / "figures").iterdir())
    assert [figure.stem for figure in saved] == sorted(declared_figures(path.read_text()))
    for figure in saved:
        assert figure.stem[:2] == path.name[:2]
        assert shows_something(matplotlib.image.imread(figure)), f"{figure.name} is blank"


def shows_something(image):
    """Whether at least one pixel in a hundred differs from the one in the corner."""
    return (np.abs(image - image[0, 0]).max(axis=-1) > 0.1).mean() > 0.01


def test_the_lessons_are_numbered_from_1_without_a_gap():
    assert [path.name[:3] for path in LESSONS] == [f"{k:02}_" for k in range(1, len(LESSONS) + 1)]
    assert len(LESSONS) >= 12


def quoted(text):
    """Return what a lesson quotes from the stored experiments, as "ablation: -1.31 ± 0.19", in pairs."""
    names = "|".join(path.name for path in EXPERIMENTS.iterdir() if path.is_dir())
    return re.findall(rf"\b({names}): ([+-]?\d+\.\d+ ± \d+\.\d+)", re.sub(r"\s+(# +)?", " ", text))


def in_the_table(name, figure):
    return figure in re.split(r" *\| *", (EXPERIMENTS / name / "table.md").read_text(encoding="utf-8"))


@in_the_repository
def test_what_lessons_quote_from_experiments_stands_in_their_tables():
    texts = {path.name: path.read_text(encoding="utf-8") for path in LESSONS}
    quotes = {name: quoted(text) for name, text in texts.items()}
    assert {name: len(each) for name, each in quotes.items()} == {n: t.count("±") for n, t in texts.items()}
    assert sum(map(len, quotes.values())) >= 10
    assert [(path, *quote) for path in quotes for quote in quotes[path] if not in_the_table(*quote)] == []


@in_the_repository
@pytest.mark.parametrize("figure", ["-1.13 ± 0.19", "-1.31 ± 0.1", "1.31 ± 0.19"])
def test_a_figure_that_is_not_in_the_table_is_noticed(figure):
    ((name, found),) = quoted(f"(ablation: {figure})")
    assert found == figure and not in_the_table(name, found)
    assert in_the_table(name, "-1.31 ± 0.19")


@in_the_repository
def test_the_readme_says_how_long_a_lesson_takes_as_the_lesson_does():
    seconds = {
        p.name: re.search(r"\*\*You need:\*\*[^.]*?(\d+) seconds", p.read_text(encoding="utf-8"))
        for p in LESSONS
    }
    rows = re.findall(
        r"^\| .*\(lessons/(\w+\.py)\) \|.*\| (\d+) \|$", (ROOT / "README.md").read_text("utf-8"), re.M
    )
    assert dict(rows) == {name: found[1] for name, found in seconds.items()}


@pytest.mark.parametrize(
    "old, new, fault",
    [
        (r"^# # 2\.", "# # 3.", "the first cell is not a header"),
        (r"\*\*You need:\*\*", "", "the header has no"),
        (r"\bassert ", "1 and ", "0 asserts"),
        (r"^# ## Summary", "# Summary", "does not end with summary"),
        (r"^# 2\. ", "# 4. ", "exercises numbered"),
        (r"\b[Bb]reak\b", "bend", "no exercise asks to break something"),
        (r"^# %% Solution 1$", "# %%", "for exercises"),
        (r"^# %% Solution 1$", "def my_x(): ...\n\n\n# %% Solution 1", "blanks ['my_x'], but 0 solutions"),
        (r"(?<=^# %% Solution 1\n)(.|\n)*?(?=# %%)", "# nothing\n", "Solution 1 has no code"),
    ],
)
def test_what_a_lesson_lacks_is_noticed(old, new, fault):
    (path,) = (path for path in LESSONS if path.name.startswith("02_"))
    text, count = re.subn(old, new, path.read_text(), flags=re.MULTILINE)
    assert count > 0
    found = faults(path.name, text)
    assert any(fault in one for one in found), found


def test_a_blank_figure_is_noticed():
    assert not shows_something(np.ones((40, 40, 4)))
    assert shows_something(np.pad(np.zeros((20, 20, 4)), ((10, 10), (10, 10), (0, 0)), constant_values=1.0))
