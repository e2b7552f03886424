"""The stored results of the experiments: their tables follow from them, and their page shows those."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import DATA

from minicaps.datasets import load
from minicaps.experiments import EXPERIMENTS, Settings, Study, affine, overlap, settings_of, training
from minicaps.experiments.ablation import Variant
from minicaps.experiments.routing_arms import ARMS
from minicaps.networks import build
from minicaps.training.notation import read_layers

PAGE = (DATA / "experiments" / "README.md").read_text(encoding="utf-8")
LESSON_12 = Path(__file__).parents[1] / "lessons" / "12_full_result.json"
STORED = sorted(path.parent for path in (DATA / "experiments").glob("*/result.json"))


def read(folder):
    return json.loads((folder / "result.json").read_text())


def command(result):
    """The command that makes a result: whatever differs from the defaults of its experiment."""
    defaults = dataclasses.asdict(settings_of(result["experiment"]))
    flags = []
    for name, value in result["settings"].items():
        if value != json.loads(json.dumps(defaults[name])):
            flags.append(f"--{name} {' '.join(value) if isinstance(value, list) else value}")
    return " ".join(["python -m minicaps experiment", result["experiment"], *flags])


def test_every_experiment_that_trains_is_stored():
    trained = {name for name, each in EXPERIMENTS.items() if each.defaults}
    assert {read(folder)["experiment"] for folder in STORED} == trained


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_the_table_follows_from_the_result(folder, tmp_path, monkeypatch):
    monkeypatch.delattr(training, "fit")  # whoever trains fails
    shutil.copy(folder / "result.json", tmp_path)
    result = read(folder)
    settings = Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in result["settings"].items()})
    name = result["experiment"]
    EXPERIMENTS[name].run(Study(name, settings, tmp_path, say=lambda line: None))
    assert (tmp_path / "table.md").read_text() == (folder / "table.md").read_text()
    assert read(tmp_path)["rows"] == result["rows"]
    assert {path.name for path in tmp_path.glob("*.png")} >= {path.name for path in folder.glob("*.png")} - {
        "reconstructions.png"  # of trained weights, which are not stored
    }


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_the_stored_networks_are_those_that_the_code_builds(folder, tmp_path):
    result = read(folder)
    chosen = Study(result["experiment"], Settings(preset=result["settings"]["preset"]), tmp_path)
    dataset = load()
    builders = {
        "overlap": lambda row: overlap.build_for_pairs(row["network"], chosen.settings.preset, 10, 0),
        "affine": lambda row: affine.build_framed(chosen, row["network"], dataset, 0),
        "folds": lambda row: chosen.build("capsnet", dataset, 0),
        "few": lambda row: chosen.build(row["network"], dataset, 0),
        "compare": lambda row: chosen.build(row["network"], dataset, 0),
        "routing": lambda row: ARMS[row["arm"]].build(chosen.settings.preset, dataset, row["loss"], 0),
        "ablation": lambda row: Variant(**row["variant"]).build(chosen.settings.preset, dataset, 0),
    }
    for row in result["rows"]:
        if "parameters" in row:
            assert builders[result["experiment"]](row).count_params() == row["parameters"]


def test_the_full_run_of_lesson_12_is_of_the_networks_that_the_code_builds():
    stored = json.loads(LESSON_12.read_text())
    networks = {"MLP": build("mlp"), "CNN": build("cnn"), "CapsNet": build("capsnet", "small")}
    assert stored["parameters"] == {name: network.count_params() for name, network in networks.items()}


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_the_page_shows_the_command_and_the_table(folder):
    assert f"`{command(read(folder))}`" in PAGE
    assert (folder / "table.md").read_text().strip() in PAGE


# -- the first runs of other routings ------------------------------------------------------------


def table_under(heading):
    """Return the cells of every row of the table below a heading of the page."""
    below = PAGE.partition(f"### {heading}\n")[2]
    rows = re.search(r"^\|[-| ]+\|\n((?:\|.*\n)+)", below, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in rows.splitlines()]


FIRST_RUNS = {cells[0].strip("`"): cells for cells in table_under("Other routings, first runs")}
COMMANDS = {  # of each family, in the order of its table
    "dynamic": "train",
    "dynamic, top-2": "train --coupling top-2",
    "dynamic, entmax": "train --coupling entmax",
    "self-attention": "train --routing self-attention",
    "inverted attention": "train --routing inverted-attention",
    "EM, matrix capsules": "train --model matrix --preset tiny --epochs 6 --batch-size 32",
}
BESIDE = (  # runs of what is no family of its own
    "train --model matrix --epochs 6 --batch-size 32",
    "train --routing em",
    "train --layers 32x8,16x8",
    "train --model efficient --epochs 20",
)


def built_by(command):
    """Return the network that a training command builds."""
    given = dict(re.findall(r"--(\w+) (\S+)", command))
    options = {name: given[name] for name in ("coupling", "routing") if name in given}
    if "layers" in given:
        options["layers"] = read_layers(given["layers"])
    return build(given.get("model", "capsnet"), given.get("preset", "small"), **options)


def test_the_first_runs_are_of_the_networks_that_the_code_builds():
    assert set(FIRST_RUNS) == {*COMMANDS.values(), *BESIDE}
    for command, (_, parameters, *_) in FIRST_RUNS.items():
        assert f"{built_by(command).count_params():,}" == parameters, command


def test_the_families_of_routing_have_the_figures_of_their_first_runs():
    families = {cells[0]: cells for cells in table_under("Families of routing")}
    assert list(families) == list(COMMANDS)
    for family, (_, _, iterations, _, _, _, accuracy, _) in families.items():
        command = COMMANDS[family]
        assert accuracy == FIRST_RUNS[command][2], family
        network = built_by(command)
        without = family == "self-attention"
        assert iterations == ("none" if without else str(network.config.iterations)), family


@pytest.mark.parametrize("family", COMMANDS)
def test_a_published_figure_of_a_family_has_a_source_that_is_linked(family):
    (cells,) = (cells for cells in table_under("Families of routing") if cells[0] == family)
    assert bool(re.search(r"\d\d\.\d", cells[-1])) == ("](https://" in cells[-1])
