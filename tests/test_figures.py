"""The figures: what they show, what their titles say, and which shapes they refuse."""

import subprocess
import sys
import types

import helpers
import matplotlib
import numpy as np
import pytest
from figure_helpers import DIGITS, EPOCHS, NAMES, couplings, heat_maps, images, title
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from minicaps import figures
from minicaps.figures import runs
from minicaps.networks import build

LONG = (
    "Newfoundland",
    "golden retriever",
    "T-shirt or top",
    "violoncello",
    "ankle boot",
    "double-decker bus",
)
FIGURES = {
    "squash_curve": lambda: figures.squash_curve(),
    "learning_curves": lambda: figures.learning_curves(EPOCHS),
    "reconstructions": lambda: figures.reconstructions(
        images(8, 7, 6, 1), images(8, 7, 6, 1), np.arange(8), np.arange(8), DIGITS
    ),
    "reconstructions, long names": lambda: figures.reconstructions(
        images(6, 7, 7, 1), images(6, 7, 7, 1), np.arange(6), np.arange(6)[::-1], LONG
    ),
    "mistakes, long names": lambda: figures.mistakes(
        images(12, 7, 7, 1), np.arange(12) % 6, (np.arange(12) + 1) % 6, LONG, 20
    ),
    "confusion_matrix, long names": lambda: figures.confusion_matrix(np.arange(6), np.arange(6)[::-1], LONG),
    "couplings_over_image, long names": lambda: figures.couplings_over_image(
        images(28, 28, 1), couplings(8, 6), (2, 2), LONG
    ),
    "scores_by_class": lambda: figures.scores_by_class(
        couplings(50, 10), np.arange(50) % 10, DIGITS, "length"
    ),
    "scores_by_class, long names": lambda: figures.scores_by_class(
        couplings(50, 6), np.arange(50) % 4, LONG, "probability"
    ),
    "mistakes": lambda: figures.mistakes(images(9, 6, 7, 3), np.arange(9), np.arange(9)[::-1], DIGITS, 20),
    "confusion_matrix": lambda: figures.confusion_matrix(np.arange(100) % 10, np.arange(100) // 10, DIGITS),
    "confusion_matrix, names": lambda: figures.confusion_matrix(
        np.array([0, 1, 2]), np.array([0, 2, 2]), NAMES
    ),
    "confusion_matrix, many": lambda: figures.confusion_matrix(
        np.arange(47), np.arange(47)[::-1], [f"class {k}" for k in range(47)]
    ),
    "couplings_per_iteration": lambda: figures.couplings_per_iteration(couplings(3, 5, 4)),
    "couplings_per_iteration, one": lambda: figures.couplings_per_iteration(couplings(1, 2, 3)),
    "couplings_per_iteration, many": lambda: figures.couplings_per_iteration(
        couplings(3, 1152, 10), upper_names=[f"class {k}" for k in range(10)]
    ),
    "couplings_per_iteration, one of a layer": lambda: figures.couplings_per_iteration(
        couplings(1, 64, 16), layer="hidden.10"
    ),
    "couplings_over_image": lambda: figures.couplings_over_image(
        images(28, 28, 1), couplings(72, 10), (6, 6), DIGITS
    ),
    "couplings_over_image, colour": lambda: figures.couplings_over_image(
        images(20, 30, 3), couplings(30, 3), (3, 5), NAMES
    ),
    "couplings_over_image, many": lambda: figures.couplings_over_image(
        images(28, 28, 1), couplings(8, 26), (2, 2), list("abcdefghijklmnopqrstuvwxyz")
    ),
    "dimension_grid": lambda: figures.dimension_grid(images(16, 11, 28, 28, 1), np.linspace(-0.25, 0.25, 11)),
    "dimension_grid, colour": lambda: figures.dimension_grid(images(2, 3, 20, 30, 3), [-1, 0, 1]),
}


@pytest.fixture(scope="module", params=FIGURES)
def figure(request):
    """Each figure in turn; drawing it must leave the settings of matplotlib alone."""
    before = dict(matplotlib.rcParams)
    figure = FIGURES[request.param]()
    assert dict(matplotlib.rcParams) == before
    return figure


def test_every_figure_can_be_drawn_and_nothing_is_cut_off(figure):
    helpers.assert_drawn_whole(figure)


def test_titles_of_panels_do_not_run_into_each_other(figure):
    FigureCanvasAgg(figure).draw()
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])


def test_every_figure_has_a_title_and_names_its_axes(figure):
    assert len(title(figure)) > 15
    for axes in figure.axes:
        if axes.lines:
            assert axes.get_xlabel() and axes.get_ylabel()
        if axes.images and len(axes.get_xticks()):
            assert axes.get_xlabel()


def test_heat_gets_darker_from_0_to_1_so_that_grey_print_shows_it():
    rgb = matplotlib.colormaps[figures.HEAT](np.linspace(0, 1, 50))[:, :3]
    assert (np.diff(rgb @ [0.299, 0.587, 0.114]) < 0).all()


def test_figures_need_no_pyplot():
    code = "import sys, minicaps.figures; print('matplotlib.pyplot' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


# -- show --------------------------------------------------------------------------------------


def test_show_saves_prints_and_returns_the_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINICAPS_FIGURES", str(tmp_path / "a" / "b"))
    path = figures.show(figures.squash_curve(), "02_squash")
    assert path == tmp_path / "a" / "b" / "02_squash.png"
    assert capsys.readouterr().out == f"{path}\n"
    assert np.asarray(Image.open(path).convert("L")).std() > 10


@pytest.mark.parametrize("variable", [None, ""])
def test_show_saves_into_figures_in_the_current_folder(tmp_path, monkeypatch, variable):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINICAPS_FIGURES", raising=False)
    if variable is not None:
        monkeypatch.setenv("MINICAPS_FIGURES", variable)
    figures.show(Figure(), "a.b")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")] == ["figures/a.b.png"]


@pytest.fixture
def notebook(monkeypatch, tmp_path):
    """Pretend to run in IPython; return what it displays, and the shell."""
    shown, shell = [], types.SimpleNamespace(kernel=object())
    package, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.get_ipython = lambda: shell
    display.Image = lambda filename, width: (filename, width)
    display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("MINICAPS_FIGURES", str(tmp_path))
    return types.SimpleNamespace(shown=shown, shell=shell, package=package)


def test_show_displays_the_image_in_a_notebook(notebook, tmp_path):
    figures.show(Figure(figsize=(5, 3)), "a")
    assert notebook.shown == [(str(tmp_path / "a.png"), 500)]


def test_show_displays_nothing_in_a_terminal_or_where_ipython_is_only_loaded(notebook):
    del notebook.shell.kernel  # IPython in a terminal
    figures.show(Figure(), "a")
    notebook.package.get_ipython = lambda: None  # IPython imported by a plain program
    figures.show(Figure(), "a")
    assert notebook.shown == []


def test_show_never_imports_ipython(tmp_path):
    (tmp_path / "IPython.py").write_text("raise SystemExit('imported')")
    code = "from matplotlib.figure import Figure; from minicaps import figures; figures.show(Figure(), 'a')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


# -- training ----------------------------------------------------------------------------------


def test_learning_curves_show_both_parts_and_accuracy_in_percent():
    loss, accuracy = figures.learning_curves(EPOCHS).axes
    for axes, name, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for line, part in zip(axes.lines, ("train", "validation"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_allclose(line.get_ydata(), [scale * row[f"{part}_{name}"] for row in EPOCHS])
    assert accuracy.get_title(loc="left") == "Accuracy: 83.00 % on validation at the end"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_stand_below_their_images_and_mistakes_are_marked(channels):
    x, made = images(3, 5, 4, channels), images(3, 5, 4, channels, seed=1)
    figure = figures.reconstructions(x, made, np.array([0, 1, 2]), np.array([0, 2, 2]), NAMES)
    panels = heat_maps(figure)
    for k in range(3):
        np.testing.assert_array_equal(panels[k].reshape(5, 4, channels), x[k])
        np.testing.assert_array_equal(panels[3 + k].reshape(5, 4, channels), made[k])
    assert [axes.get_title() for axes in figure.axes] == [*NAMES, "boat", "aeropla… ✗", "aeroplane"]


def test_mistakes_show_so_many_and_count_all():
    x, labels = images(9, 5, 4, 1), np.zeros(9, int)
    figure = figures.mistakes(x, labels, labels + 1, NAMES, 1200, maximum=3)
    assert title(figure).startswith("9 of 1,200 images are classified wrongly; the first 3 of them")
    np.testing.assert_array_equal(heat_maps(figure), x[:3, ..., 0])
    assert figure.axes[0].get_title() == "boat → car"
    none = figures.mistakes(x[:0], labels[:0], labels[:0], NAMES, 10)
    assert title(none).startswith("0 of 10") and heat_maps(none) == []


def test_confusion_matrix_counts_true_classes_in_rows():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 0, 2])
    figure = figures.confusion_matrix(labels, predictions, NAMES)
    np.testing.assert_array_equal(heat_maps(figure)[0], [[1, 0, 2], [1, 1, 0], [0, 0, 1]])
    axes = figure.axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("True class", "Predicted class")
    written = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()}
    assert written == {(0, 0): "1", (2, 0): "2", (0, 1): "1", (1, 1): "1", (2, 2): "1"}  # at (column, row)
    assert tuple(label.get_text() for label in axes.get_yticklabels()) == NAMES
    assert title(figure) == (
        "3 of 6 images are classified correctly; most often, 2 times, boat is taken for aeroplane"
    )


def test_the_colours_of_a_confusion_matrix_are_of_mistakes_only():
    labels = np.repeat([0, 1, 2], 1000)
    predictions = labels.copy()
    predictions[:4] = 1
    heat_map = figures.confusion_matrix(labels, predictions, NAMES).axes[0].images[0]
    assert heat_map.get_clim() == (0, 4)
    np.testing.assert_array_equal(np.ma.getmaskarray(heat_map.get_array()), np.eye(3, dtype=bool))


def test_a_confusion_matrix_without_mistakes_says_so():
    assert title(figures.confusion_matrix(np.arange(3), np.arange(3), NAMES)) == (
        "All 3 images are classified correctly"
    )


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        (np.arange(3), np.arange(2), r"confusion_matrix: labels has shape \(2,\), expected \(3,\)"),
        (np.arange(4), np.arange(4), "expected 0 to 2"),
        (np.arange(3), -np.arange(3), "expected 0 to 2"),
    ],
)
def test_a_confusion_matrix_refuses_what_are_no_classes(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        figures.confusion_matrix(labels, predictions, NAMES)


def test_scores_by_class_show_median_and_percentiles_of_the_true_class_and_of_the_highest_other():
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.2, 0.4], [0.7, 0.3, 0.8], [0.2, 0.6, 0.1]])
    axes = figures.scores_by_class(scores, np.array([0, 0, 0, 1]), NAMES, "length").axes[0]
    own, others = axes.lines
    np.testing.assert_allclose(own.get_xdata(), [0.8, 0.6, np.nan])
    np.testing.assert_allclose(others.get_xdata(), [0.4, 0.2, np.nan])
    for lines, spread in zip(axes.collections, ([0.71, 0.89], [0.31, 0.76]), strict=True):
        np.testing.assert_allclose(lines.get_segments()[0][:, 0], spread)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert axes.get_xlabel() == "Length"


@pytest.mark.parametrize("model, options", [("capsnet", {}), ("capsnet", {"decoder": False}), ("mlp", {})])
def test_draw_run_writes_what_there_is_to_see_of_a_run(model, options, tmp_path, monkeypatch):
    dataset = helpers.small_dataset(50, 20)
    network = build(model, "tiny", rng=0, **options)
    predictions = np.roll(dataset.test_labels, 1)
    calls = []
    monkeypatch.setattr(runs, "reconstructions", lambda *given: calls.append(given) or Figure())
    test = types.SimpleNamespace(predictions=predictions, scores=couplings(20, 10))
    figures.draw_run(tmp_path, epochs=EPOCHS, network=network, dataset=dataset, test=test)
    has_decoder = model == "capsnet" and not options
    names = ["confusion_matrix", "learning_curves", "mistakes", *["reconstructions"] * has_decoder, "scores"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.png" for name in names]
    assert len(calls) == has_decoder
    for x, made, *numbers, class_names in calls:
        np.testing.assert_array_equal(x, dataset.test_images[:12].astype(np.float32) / 255)
        np.testing.assert_allclose(made, network(x)[1], atol=1e-6)
        np.testing.assert_array_equal(numbers, [dataset.test_labels[:12], predictions[:12]])
        assert class_names == dataset.class_names
