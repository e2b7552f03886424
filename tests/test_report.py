"""The report of a run: what it says is true, it is a page of its own, and text in it is text."""

import base64
import json
import re
import shlex
import shutil
from dataclasses import fields
from html.parser import HTMLParser

import numpy as np
import pytest
from figure_helpers import couplings
from helpers import quiet, small_dataset, tiny_config

from minicaps import figures
from minicaps.cli import build_parser
from minicaps.datasets import Dataset
from minicaps.figures import report as report_module
from minicaps.figures.markup import Markup, document, element, table
from minicaps.training import Run, TrainConfig, commands_of
from minicaps.training import run as runs

SECTIONS = ["What it is", "Intended use and limits", "Data", "How it was trained", "Results"]
EVIL = "\"><script>alert(1)</script>&amp;\u202e<b x='y'>\udce9\x00"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page: its elements, attributes and texts; fails where elements do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append((self.open[-1], data.strip()))

    def of(self, tag):
        return [text for each, text in self.texts if each == tag]


def draw(run, test):
    figures.draw_run(run.folder, epochs=run.epochs, network=run.network, dataset=run.dataset, test=test)
    figures.write_report(run.folder, network=run.network, dataset=run.dataset, test=test, say=run.say)


def train(folder, dataset, monkeypatch, **options):
    monkeypatch.setattr(runs, "load", lambda *given: dataset)
    lines = []
    run = Run(tiny_config(**options), folder, say=lines.append)
    run.train(draw)
    assert not [line for line in lines if "warning" in line]
    return (run.folder / "report.html").read_text(encoding="utf-8")


def odd_dataset(shape, names, count=40):
    x = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    y = np.arange(count) % len(names)
    return Dataset(x, y, x, y, names, "somewhere <else>")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("report") / "run"
        text = train(folder, small_dataset(), patch, epochs=2, seed=3, learning_rate=0.005)
    return folder, text


def test_the_page_says_what_the_summary_says(page):
    folder, text = page
    summary = json.loads((folder / "summary.json").read_text())
    read = Page(text)
    accuracy = f"{100 * summary['test_accuracy']:.2f} %"
    assert read.of("h1") == [f"run: {accuracy} of 100 test images are classified correctly"]
    assert read.of("h2") == [*SECTIONS, "Capsule lengths by class", "Reconstructions", "Files"]
    cells = read.of("td")
    assert cells[cells.index("training images") + 1] == "270"
    assert cells[cells.index("SHA-256 of its content") + 1] == summary["data_sha256"]
    assert cells[cells.index("learning_rate") + 1] == "0.005"
    assert cells[cells.index("test accuracy") + 1].startswith(accuracy)
    assert f"{summary['parameters']:,} parameters" in text
    assert read.of("pre") == [
        "python -m minicaps train --preset tiny --epochs 2 --batch-size 50 --learning-rate 0.005 --seed 3"
    ]
    for name, _ in figures.report.FILES.items():
        assert name in cells and (folder / name).exists()


def test_the_classes_of_the_page_add_up(page):
    folder, text = page
    dataset = small_dataset()
    body = text.partition("Class by class")[2].partition("<figure")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)][1:]
    assert [row[0] for row in rows] == list(dataset.class_names)
    assert [int(row[1]) for row in rows] == np.bincount(dataset.train_labels[:270]).tolist()
    assert [int(row[2]) for row in rows] == np.bincount(dataset.test_labels).tolist()
    accuracy = json.loads((folder / "summary.json").read_text())["test_accuracy"]
    assert sum(int(row[3]) for row in rows) == round(100 * accuracy)
    assert "shifted copies" not in text  # there were none


def test_the_page_needs_nothing_else(page):
    folder, text = page
    read = Page(text)
    policy = {"http-equiv": "Content-Security-Policy"}
    (content,) = [each["content"] for tag, each in read.found if policy.items() <= each.items()]
    assert content == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    tags = {tag for tag, _ in read.found}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "a", "base", "form"})
    assert not re.search(r"url\(|@import|https?:", text)
    sources = [each["src"] for tag, each in read.found if tag == "img"]
    names = ("learning_curves", "confusion_matrix", "mistakes", "scores", "reconstructions")
    for source, name in zip(sources, names, strict=True):
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == (folder / f"{name}.png").read_bytes()
    assert all(each["alt"] for tag, each in read.found if tag == "img")


def test_the_page_is_made_for_small_and_large_screens_light_and_dark(page):
    _, text = page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text and "overflow-x: auto" in text
    around = re.findall(r"(<div[^>]*>)?<table>", text)
    assert around and all(each == '<div class="wide">' for each in around)


@pytest.mark.parametrize(
    "model, options, title, says",
    [
        ("capsnet", {"decoder": False}, "Capsule lengths by class", "None: this network has no decoder."),
        ("capsnet", {"routing": "inverted-attention"}, "Probabilities by class", "scores are a softmax"),
        ("matrix", {"preset": "tiny"}, "Capsule activations by class", "None: this network has no decoder."),
        ("cnn", {}, "Probabilities by class", "its scores are a softmax"),
        ("mlp", {}, "Probabilities by class", "None: this network has no decoder."),
    ],
)
def test_every_network_has_a_report(tmp_path, monkeypatch, model, options, title, says):
    text = train(tmp_path / "run", small_dataset(60, 20), monkeypatch, model=model, **options)
    assert Page(text).of("h2")[5] == title and says in text
    assert ("an activation from 0 to 1" in text) == (
        model == "matrix"
    ) and " a activation" not in text.lower()


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 32, 3), (24, 24, 2)])
@pytest.mark.parametrize(
    "names", [("a", "b"), (EVIL, EVIL + "2", "x" * 3000), ("", " ", "狗狗", "كلب", "$5")]
)
def test_any_images_and_names_are_text(tmp_path, monkeypatch, shape, names):
    text = train(tmp_path / "<i>run&", odd_dataset(shape, names), monkeypatch)
    read = Page(text)
    assert {tag for tag, _ in read.found} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "h1",
            "h2",
            "h3",
            "p",
            "ul",
            "li",
            "div",
            "table",
        ),
        *("tr", "th", "td", "pre", "figure", "img"),
    }
    shown = {"".join(c if c.isprintable() else "�" for c in name).strip() for name in names}
    assert shown - {""} <= set(read.of("td"))
    assert read.of("h1")[0].startswith("<i>run&: ") and "somewhere <else>" in read.of("td")


def test_of_many_classes_those_with_the_most_mistakes_are_listed(tmp_path, monkeypatch):
    names = tuple(f"class {k}" for k in range(130))
    text = train(tmp_path / "run", odd_dataset((28, 28, 1), names, 260), monkeypatch)
    assert "The 20 of 130 classes with the most mistakes." in text
    assert "130 of 130 classes have fewer than 30 test images" in text


def test_classes_without_test_images_and_remarks_are_said(tmp_path, monkeypatch):
    given = odd_dataset((28, 28, 1), ("a", "b", "c"))
    kept = given.test_labels != 2
    images, labels = given.test_images[kept], given.test_labels[kept]
    dataset = Dataset(
        given.train_images, given.train_labels, images, labels, given.class_names, "x", ("a <note>",), False
    )
    read = Page(train(tmp_path / "run", dataset, monkeypatch))
    cells = read.of("td")
    assert "none" in cells and "a <note>" in read.of("li")
    assert any("every fifth image of a class is for the test" in text for text in read.of("p"))


# -- when something fails ------------------------------------------------------------------------


def test_a_report_that_fails_is_one_warning_and_no_old_one_stays(page, tmp_path, monkeypatch):
    shutil.copytree(page[0], tmp_path / "run")
    monkeypatch.setattr(report_module, "interval", lambda *given: 1 / 0)
    monkeypatch.setattr(runs, "load", lambda *given: small_dataset())
    lines = []
    Run.resume(tmp_path / "run", epochs=3, say=lines.append).train(draw)
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert "report.html could not be drawn (ZeroDivisionError: division by zero)" in warning
    assert not (tmp_path / "run" / "report.html").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 3


def test_a_figure_that_is_missing_is_said(page, tmp_path, monkeypatch):
    monkeypatch.setattr(figures.runs, "mistakes", lambda *given: 1 / 0)
    monkeypatch.setattr(runs, "load", lambda *given: small_dataset(60, 20))
    run = Run(tiny_config(), tmp_path / "run", say=quiet)
    run.train(draw)
    text = (tmp_path / "run" / "report.html").read_text()
    assert "mistakes.png could not be drawn." in text and text.count("<img") == 4


def test_a_folder_without_a_run_is_a_warning(page):
    folder, _ = page
    lines = []
    figures.write_report(folder / "absent", network=None, dataset=None, test=None, say=lines.append)
    assert len(lines) == 1 and "absent: holds no run" in lines[0]


def test_half_a_report_is_removed_when_its_run_is_resumed(page, tmp_path, monkeypatch):
    shutil.copytree(page[0], tmp_path / "run")
    (tmp_path / "run" / ".report.html.0123456789abcdef.tmp").write_text("<!DOC")
    monkeypatch.setattr(runs, "load", lambda *given: small_dataset())
    Run.resume(tmp_path / "run", say=quiet)
    assert not list((tmp_path / "run").glob(".*.tmp"))


# -- the commands that repeat it -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "mlp", "seed": 7, "batch_size": 32, "schedule": "constant"},
        {"preset": "paper", "learning_rate": 1e-5, "decoder": False, "routing_iterations": 2},
        {"data": "/a b/it's $HOME", "size": (60, 80), "channels": 3, "limit": 10, "warmup": 3, "shift": 0},
        {"size": 28, "init": "pretrained", "epochs": 1, "backend": "auto"},
        {"routing": "inverted-attention", "coupling": "entmax"},
    ],
)
def test_the_command_gives_the_same_configuration(options):
    config = TrainConfig(**options)
    (line,) = commands_of(config, [])
    *python, command = shlex.split(line)[:4]
    assert python == ["python", "-m", "minicaps"] and command == "train"
    words = shlex.split(line)[3:]
    given = vars(build_parser(words).parse_args(words))
    names = {field.name for field in fields(TrainConfig)}
    assert TrainConfig(**{name: value for name, value in given.items() if name in names}) == config


def test_a_run_that_was_trained_further_has_a_command_for_each_part():
    config = TrainConfig(epochs=6, seed=1)
    rows = [{"epochs": goal} for goal in (2, 2, 4, 6, 6, 6)]
    assert commands_of(config, rows) == [
        "python -m minicaps train --epochs 2 --seed 1 --out RUN",
        "python -m minicaps train --resume RUN --epochs 4",
        "python -m minicaps train --resume RUN --epochs 6  # it had been stopped after epoch 3",
    ]
    assert commands_of(config, [{}] * 6) == ["python -m minicaps train --seed 1"]


# -- what it counts --------------------------------------------------------------------------------


def test_calibration_is_that_of_the_definition():
    scores = np.array([[0.95, 0.05], [0.91, 0.09], [0.35, 0.3], [1.0, 0.0], [0.0, 0.0]])
    bins, error = figures.calibration(scores, np.array([0, 1, 0, 0, 1]))
    assert [(each.low, each.images) for each in bins] == [(0.0, 1), (0.3, 1), (0.9, 3)]
    assert [each.accuracy for each in bins] == [0.0, 1.0, 2 / 3]
    np.testing.assert_allclose([each.score for each in bins], [0.0, 0.35, (0.95 + 0.91 + 1) / 3])
    np.testing.assert_allclose(error, (0 + 0.65 + 3 * abs((0.95 + 0.91 + 1) / 3 - 2 / 3)) / 5)
    perfect = couplings(400, 3)
    assert figures.calibration(perfect, perfect.argmax(axis=1))[1] == pytest.approx(
        1 - perfect.max(axis=1).mean()
    )


@pytest.mark.parametrize(
    "correct, total, low, high",
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],  # Newcombe 1998, and by hand
)
def test_the_interval_is_wilsons(correct, total, low, high):
    np.testing.assert_allclose(figures.interval(correct, total), (low, high), atol=5e-5)


# -- pages -----------------------------------------------------------------------------------------


def test_text_is_escaped_wherever_it_stands():
    made = element("p", "<b>", element("i", "&"), 5, title='"><', class_="a")
    assert made == '<p title="&quot;&gt;&lt;" class="a">&lt;b&gt;<i>&amp;</i>5</p>'
    assert element("img", src="x") == '<img src="x">'
    text = document("</title><script>", table(("<",), [["<td>", Markup("<b>bold</b>")]], numbers=(1,)))
    assert "<script>" not in text and "&lt;td&gt;" in text and "<b>bold</b>" in text
    Page(text)
