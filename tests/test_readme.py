"""The pages for people are true: the example prints what it says, links lead somewhere, lists are whole."""

import ast
import re
import sys
from pathlib import Path

import pytest

from minicaps import __version__
from minicaps.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXPERIMENTS = ROOT / "data" / "experiments" / "README.md"
PAGES = [
    "README.md",
    "README.zh.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "BIBLIOGRAPHY.md",
    "data/README.md",
    "minicaps/training/README.md",
    "data/experiments/README.md",
    "tests/README.md",
]

in_the_repository = pytest.mark.skipif(
    not (ROOT / "CONTRIBUTING.md").exists(), reason="an installed package is tested without its repository"
)


def blocks(text):
    """Return the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(code):
    """Run code and return what it printed, and the comment behind each print, by the number of the line."""
    said = {
        node.lineno: code.splitlines()[node.lineno - 1].rpartition("  # ")[2]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    printed = {}

    def note(*values):
        printed[sys._getframe(1).f_lineno] = " ".join(map(str, values))

    exec(compile(code, "README.md", "exec"), {"print": note, "__name__": "page"})
    return printed, said


def anchors(text):
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text, head):
    """Return the cells of every row of the table whose first cell of the head is `head`."""
    table = re.search(rf"^\| {head} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]


def test_the_example_prints_what_its_comments_say():
    (code,) = blocks(README)
    printed, said = run(code)
    assert printed == said and len(said) >= 4


@in_the_repository
@pytest.mark.parametrize("page", PAGES)
def test_every_example_of_a_page_prints_what_its_comments_say(page):
    for code in blocks((ROOT / page).read_text(encoding="utf-8")):
        printed, said = run(code)
        assert printed == said


def test_a_comment_that_is_wrong_is_noticed():
    printed, said = run("x = 1\nprint(x + 1)  # 3\n")
    assert printed == {2: "2"} and said == {2: "3"}


@in_the_repository
@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{page}: {link} leads nowhere"
            if anchor:
                assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link} is no heading"


@in_the_repository
def test_every_command_and_lesson_is_in_the_readme(capsys):
    main(["--help"])
    commands = set(re.findall(r"^    (\w+)(?: {2,}|$)", capsys.readouterr().out, re.MULTILINE))
    assert {
        cells[0].split("minicaps ")[1].split()[0].strip("`") for cells in rows(README, "command")
    } == commands
    lessons = {re.search(r"\((.*)\)", cells[0])[1] for cells in rows(README, "lesson")}
    assert lessons == {f"lessons/{path.name}" for path in (ROOT / "lessons").glob("[0-9]*.py")}


@in_the_repository
def test_every_folder_and_only_those_stand_on_the_map():
    shown = set(re.findall(r"^  (\w+)/ ", README, re.MULTILINE))
    assert shown == {path.parent.name for path in (ROOT / "minicaps").glob("*/__init__.py")}


@in_the_repository
def test_the_figures_in_the_readme_stand_on_the_page_of_what_was_measured():
    measured = EXPERIMENTS.read_text(encoding="utf-8")
    results = README.partition("## Results")[2].partition("## The map")[0]
    figures = re.findall(r"(?<![\d.])\d+\.\d+(?: ± \d+\.\d+)?", results)
    assert len(figures) > 20 and [figure for figure in figures if figure not in measured] == []


@in_the_repository
def test_the_lines_from_equations_to_code_name_classes_that_are_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = rows(page, "in the paper")
    assert len(lines) >= 10
    for _, file, names, _ in lines:
        source = (ROOT / re.search(r"\((.*)\)", file)[1]).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(?:class|def) {name}\b", source, re.MULTILINE), f"{name} is not in {file}"


@in_the_repository
@pytest.mark.parametrize("page", PAGES)
def test_every_test_file_that_a_page_names_is_there(page):
    named = set(re.findall(r"test_\w+\.py", (ROOT / page).read_text(encoding="utf-8")))
    assert named <= {path.name for path in (ROOT / "tests").glob("test_*.py")}


@in_the_repository
def test_every_test_file_is_described_once():
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    described = [name for cells in rows(page, "file") for name in re.findall(r"test_\w+\.py", cells[0])]
    assert sorted(described) == sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))  # once each


@in_the_repository
def test_the_version_is_the_same_everywhere():
    for name, form in (("pyproject.toml", r'^version = "(.*)"'), ("CITATION.cff", r"^version: (.*)")):
        assert re.findall(form, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE) == [__version__]
