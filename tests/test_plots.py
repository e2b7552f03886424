"""The figures: what they show, what their titles say, and which shapes they refuse."""

import subprocess
import sys
import types

import helpers
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from minicaps import Squash
from minicaps.capsules.dynamic_routing import softmax_over_parents
from minicaps.figures import plots

DIGITS = tuple("0123456789")
NAMES = ("boat", "car", "aeroplane")
LONG = (
    "Newfoundland",
    "golden retriever",
    "T-shirt or top",
    "violoncello",
    "ankle boot",
    "double-decker bus",
)


def couplings(*shape, scale=2.0, seed=0):
    return softmax_over_parents(scale * np.random.default_rng(seed).normal(size=shape))


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape)


def heat_maps(figure):
    """Return the data of the images in a figure's axes, panel by panel."""
    return [np.ma.getdata(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def title(figure):
    """Return the sentence above a figure, in one line."""
    text = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
    return " ".join(text.split())


EPOCHS = [
    {"epoch": k, "train_loss": 1 / k, "validation_loss": 2 / k, "train_accuracy": 0.9 + 0.01 * k,
     "validation_accuracy": 0.8 + 0.01 * k}
    for k in (1, 2, 3)
]  # fmt: skip
FIGURES = {
    "squash_curve": lambda: plots.squash_curve(),
    "learning_curves": lambda: plots.learning_curves(EPOCHS),
    "reconstructions": lambda: plots.reconstructions(
        images(8, 7, 6, 1), images(8, 7, 6, 1), np.arange(8), np.arange(8), DIGITS),
    "reconstructions, long names": lambda: plots.reconstructions(
        images(6, 7, 7, 1), images(6, 7, 7, 1), np.arange(6), np.arange(6)[::-1], LONG),
    "mistakes, long names": lambda: plots.mistakes(
        images(12, 7, 7, 1), np.arange(12) % 6, (np.arange(12) + 1) % 6, LONG, 20),
    "confusion_matrix, long names": lambda: plots.confusion_matrix(np.arange(6), np.arange(6)[::-1], LONG),
    "couplings_over_image, long names": lambda: plots.couplings_over_image(
        images(28, 28, 1), couplings(8, 6), (2, 2), LONG),
    "mistakes": lambda: plots.mistakes(images(9, 6, 7, 3), np.arange(9), np.arange(9)[::-1], DIGITS, 20),
    "confusion_matrix": lambda: plots.confusion_matrix(np.arange(100) % 10, np.arange(100) // 10, DIGITS),
    "confusion_matrix, names": lambda: plots.confusion_matrix(
        np.array([0, 1, 2]), np.array([0, 2, 2]), NAMES),
    "confusion_matrix, many": lambda: plots.confusion_matrix(
        np.arange(47), np.arange(47)[::-1], [f"class {k}" for k in range(47)]),
    "couplings_per_iteration": lambda: plots.couplings_per_iteration(couplings(3, 5, 4)),
    "couplings_per_iteration, one": lambda: plots.couplings_per_iteration(couplings(1, 2, 3)),
    "couplings_per_iteration, many": lambda: plots.couplings_per_iteration(
        couplings(3, 1152, 10), upper_names=[f"class {k}" for k in range(10)]),
    "couplings_over_image": lambda: plots.couplings_over_image(
        images(28, 28, 1), couplings(72, 10), (6, 6), DIGITS),
    "couplings_over_image, colour": lambda: plots.couplings_over_image(
        images(20, 30, 3), couplings(30, 3), (3, 5), NAMES),
    "couplings_over_image, many": lambda: plots.couplings_over_image(
        images(28, 28, 1), couplings(8, 26), (2, 2), list("abcdefghijklmnopqrstuvwxyz")),
    "dimension_grid": lambda: plots.dimension_grid(images(16, 11, 28, 28, 1), np.linspace(-0.25, 0.25, 11)),
    "dimension_grid, colour": lambda: plots.dimension_grid(images(2, 3, 20, 30, 3), [-1, 0, 1]),
}  # fmt: skip


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
    rgb = matplotlib.colormaps[plots.HEAT](np.linspace(0, 1, 50))[:, :3]
    assert (np.diff(rgb @ [0.299, 0.587, 0.114]) < 0).all()


def test_plots_need_no_pyplot():
    code = "import sys, minicaps.figures.plots; print('matplotlib.pyplot' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


# -- show --------------------------------------------------------------------------------------


def test_show_saves_prints_and_returns_the_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINICAPS_FIGURES", str(tmp_path / "a" / "b"))
    path = plots.show(plots.squash_curve(), "02_squash")
    assert path == tmp_path / "a" / "b" / "02_squash.png"
    assert capsys.readouterr().out == f"{path}\n"
    assert np.asarray(Image.open(path).convert("L")).std() > 10


@pytest.mark.parametrize("variable", [None, ""])
def test_show_saves_into_figures_in_the_current_folder(tmp_path, monkeypatch, variable):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINICAPS_FIGURES", raising=False)
    if variable is not None:
        monkeypatch.setenv("MINICAPS_FIGURES", variable)
    plots.show(Figure(), "a.b")
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
    plots.show(Figure(figsize=(5, 3)), "a")
    assert notebook.shown == [(str(tmp_path / "a.png"), 500)]


def test_show_displays_nothing_in_a_terminal_or_where_ipython_is_only_loaded(notebook):
    del notebook.shell.kernel  # IPython in a terminal
    plots.show(Figure(), "a")
    notebook.package.get_ipython = lambda: None  # IPython imported by a plain program
    plots.show(Figure(), "a")
    assert notebook.shown == []


def test_show_never_imports_ipython(tmp_path):
    (tmp_path / "IPython.py").write_text("raise SystemExit('imported')")
    code = "from minicaps.figures import plots; plots.show(plots.Figure(), 'a')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


# -- training ----------------------------------------------------------------------------------


def test_learning_curves_show_both_parts_and_accuracy_in_percent():
    loss, accuracy = plots.learning_curves(EPOCHS).axes
    for axes, name, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for line, part in zip(axes.lines, ("train", "validation"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_allclose(line.get_ydata(), [scale * row[f"{part}_{name}"] for row in EPOCHS])
    assert accuracy.get_title(loc="left") == "Accuracy: 83.00 % on validation at the end"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_stand_below_their_images_and_mistakes_are_marked(channels):
    x, drawn = images(3, 5, 4, channels), images(3, 5, 4, channels, seed=1)
    figure = plots.reconstructions(x, drawn, np.array([0, 1, 2]), np.array([0, 2, 2]), NAMES)
    panels = heat_maps(figure)
    for k in range(3):
        np.testing.assert_array_equal(panels[k].reshape(5, 4, channels), x[k])
        np.testing.assert_array_equal(panels[3 + k].reshape(5, 4, channels), drawn[k])
    assert [axes.get_title() for axes in figure.axes] == [*NAMES, "boat", "aeroplane ✗", "aeroplane"]


def test_mistakes_show_so_many_and_count_all():
    x, labels = images(9, 5, 4, 1), np.zeros(9, int)
    figure = plots.mistakes(x, labels, labels + 1, NAMES, 1200, most=3)
    assert title(figure).startswith("9 of 1,200 images are classified wrongly; the first 3 of them")
    np.testing.assert_array_equal(heat_maps(figure), x[:3, ..., 0])
    assert figure.axes[0].get_title() == "boat → car"
    none = plots.mistakes(x[:0], labels[:0], labels[:0], NAMES, 10)
    assert title(none).startswith("0 of 10") and heat_maps(none) == []


def test_confusion_matrix_counts_true_classes_in_rows():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 0, 2])
    figure = plots.confusion_matrix(labels, predictions, NAMES)
    np.testing.assert_array_equal(heat_maps(figure)[0], [[1, 0, 2], [1, 1, 0], [0, 0, 1]])
    axes = figure.axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("True class", "Predicted class")
    written = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()}
    assert written == {(0, 0): "1", (2, 0): "2", (0, 1): "1", (1, 1): "1", (2, 2): "1"}  # at (column, row)
    assert tuple(label.get_text() for label in axes.get_yticklabels()) == NAMES
    assert title(figure) == ("3 of 6 images are classified right; most often, 2 times, "
                             "boat is taken for aeroplane")  # fmt: skip


def test_the_colours_of_a_confusion_matrix_are_of_mistakes_only():
    labels = np.repeat([0, 1, 2], 1000)
    predictions = labels.copy()
    predictions[:4] = 1
    drawn = plots.confusion_matrix(labels, predictions, NAMES).axes[0].images[0]
    assert drawn.get_clim() == (0, 4)
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn.get_array()), np.eye(3, dtype=bool))


def test_a_confusion_matrix_without_mistakes_says_so():
    assert title(plots.confusion_matrix(np.arange(3), np.arange(3), NAMES)) == (
        "All 3 images are classified right"
    )


# -- inside a capsule network ------------------------------------------------------------------


def test_the_squash_curve_is_what_squash_computes():
    axes = plots.squash_curve().axes[0]
    n, length = axes.lines[0].get_data()
    v = Squash()(np.stack([n, 0 * n], axis=-1))
    np.testing.assert_allclose(length, np.linalg.norm(v, axis=-1), atol=1e-12)
    assert length.max() < 1 and set(axes.lines[1].get_ydata()) == {1}
    marks = {tuple(np.ravel(line.get_data())) for line in axes.lines if len(line.get_xdata()) == 1}
    assert marks == {(x, x**2 / (1 + x**2)) for x in (0.1, 0.5, 1, 2, 3, 4)}
    assert {text.get_text() for text in axes.texts} >= {"1 → 0.50", "3 → 0.90"}


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 2, 3), (2, 40, 10)])
def test_couplings_per_iteration_are_the_heat_maps(shape):
    c = couplings(*shape)
    figure = plots.couplings_per_iteration(list(c))
    np.testing.assert_array_equal(heat_maps(figure), c)
    panels = figure.axes[: len(c)]
    assert [axes.get_title(loc="left") for axes in panels] == [f"Iteration {r + 1}" for r in range(len(c))]
    assert panels[0].get_ylabel() == "Lower capsule i"
    assert {axes.get_xlabel() for axes in panels} == {"Upper capsule j"}
    assert figure.axes[-1].get_ylabel() == "Coupling c"  # of the colour bar


def test_few_couplings_are_written_into_their_cells():
    c = couplings(2, 3, 4)
    for axes, each in zip(plots.couplings_per_iteration(c).axes, c, strict=False):
        assert axes.images[0].get_clim() == (0, 1)
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(j, i): f"{each[i, j]:.2f}" for i in range(3) for j in range(4)}


def test_numbers_are_white_on_dark_and_black_on_light():
    axes = plots.couplings_per_iteration([np.array([[0.0, 1.0]])]).axes[0]
    assert [text.get_color() for text in axes.texts] == ["black", "white"]


def test_many_couplings_share_one_scale_up_to_the_largest():
    c = couplings(3, 100, 10, scale=0.3)
    panels = plots.couplings_per_iteration(c).axes[:3]
    assert {axes.images[0].get_clim() for axes in panels} == {(0, c.max())}
    assert all(not axes.texts for axes in panels)


def test_the_title_tells_the_mean_of_the_strongest_couplings():
    c = [np.full((2, 4), 0.25), np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.2, 0.1, 0.5]])]
    assert title(plots.couplings_per_iteration(c)).endswith("0.25 at first, 0.60 at the end")


def test_couplings_take_names():
    axes = plots.couplings_per_iteration(couplings(1, 2, 3), ["roof", "wall"], NAMES).axes[0]
    assert tuple(label.get_text() for label in axes.get_xticklabels()) == NAMES
    assert [label.get_text() for label in axes.get_yticklabels()] == ["roof", "wall"]


@pytest.mark.parametrize("channels, classes", [(1, 10), (3, 4)])
def test_couplings_over_the_image_are_means_over_the_types_at_each_place(channels, classes):
    rows, columns, types_ = 3, 5, 2
    c, image = couplings(rows * columns * types_, classes), images(12, 20, channels)
    figure = plots.couplings_over_image(image, c, (rows, columns), DIGITS[:classes])
    first, *maps = heat_maps(figure)[: 1 + classes]
    np.testing.assert_array_equal(first.reshape(image.shape), image)
    for j, drawn in enumerate(maps):
        for p in range(rows):
            for q in range(columns):
                place = (p * columns + q) * types_
                assert drawn[p, q] == pytest.approx(np.mean([c[place + t, j] for t in range(types_)]))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[: 1 + classes] == ["image", *(f"to {name}" for name in DIGITS[:classes])]


def test_couplings_over_the_image_share_one_scale():
    c = couplings(30, 3)
    maps = c.reshape(3, 5, 2, 3).mean(axis=2)
    panels = plots.couplings_over_image(images(6, 6, 1), c, (3, 5), NAMES).axes[1:4]
    assert {axes.images[0].get_clim() for axes in panels} == {(maps.min(), maps.max())}


def test_even_couplings_do_not_look_like_a_pattern():
    c = np.full((30, 3), 1 / 3) + 1e-9 * couplings(30, 3)
    panels = plots.couplings_over_image(images(6, 6, 1), c, (3, 5), NAMES).axes[1:4]
    for axes in panels:
        assert np.ptp(axes.images[0].norm(axes.images[0].get_array())) < 1e-6


def test_the_title_names_the_class_with_most_of_the_couplings():
    c = np.tile([0.2, 0.5, 0.3], (8, 1))
    text = title(plots.couplings_over_image(images(6, 6, 1), c, (2, 2), NAMES))
    assert text.endswith("most to car, 0.50 on average (an even share is 0.33)")


@pytest.mark.parametrize("channels", [1, 3])
def test_dimension_grid_has_a_row_for_each_dimension_and_a_column_for_each_offset(channels):
    drawn = images(4, 3, 5, 6, channels)
    axes = plots.dimension_grid(drawn, [-0.5, 0, 0.5]).axes[0]
    sheet = axes.images[0].get_array().reshape(4 * 6, 3 * 7, channels)
    ticks_y, ticks_x = axes.get_yticks(), axes.get_xticks()
    for d in range(4):
        for n in range(3):
            top, left = round(ticks_y[d] - 2), round(ticks_x[n] - 2.5)  # the tick is at the middle
            np.testing.assert_array_equal(sheet[top : top + 5, left : left + 6], drawn[d, n])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["-0.50", "+0.00", "+0.50"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]


def test_the_title_names_the_dimension_that_changes_the_image_most():
    drawn = np.zeros((5, 3, 4, 4, 1))
    drawn[3, :, 0] = np.linspace(0, 1, 3)[:, None, None]
    drawn[1, :, 0] = np.linspace(0, 0.5, 3)[:, None, None]
    assert title(plots.dimension_grid(drawn, [-1, 0, 1])).endswith("number 3 changes the image most")


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plots.couplings_per_iteration(couplings(5, 4)),
         r"couplings_per_iteration: c\[0\] has shape \(4,\), expected \(I, J\)"),
        (lambda: plots.couplings_per_iteration([couplings(5, 4), couplings(4, 5)]),
         r"c\[1\] has shape \(4, 5\), expected \(5, 4\)"),
        (lambda: plots.couplings_per_iteration([]), "c has 0 iterations, expected 1 or more"),
        (lambda: plots.couplings_per_iteration([couplings(5, 3)], list("abcd"), NAMES),
         r"c\[0\] has shape \(5, 3\), expected \(4, 3\)"),
        (lambda: plots.couplings_per_iteration([couplings(5, 4)], None, NAMES), r"expected \(I, 3\)"),
        (lambda: plots.couplings_over_image(images(6, 6), couplings(8, 3), (2, 2), NAMES),
         r"couplings_over_image: image has shape \(6, 6\), expected \(H, W, C\)"),
        (lambda: plots.couplings_over_image(images(6, 6, 1), couplings(8, 4), (2, 2), NAMES),
         r"c has shape \(8, 4\), expected \(I, 3\)"),
        (lambda: plots.couplings_over_image(images(6, 6, 1), couplings(9, 3), (2, 2), NAMES),
         "c has 9 lower capsules, expected a multiple of 4, the places of the grid 2 × 2"),
        (lambda: plots.dimension_grid(images(4, 3, 5, 6), [1, 2, 3]),
         r"dimension_grid: drawn has shape \(4, 3, 5, 6\), expected \(D, 3, H, W, C\)"),
        (lambda: plots.dimension_grid(images(4, 3, 5, 6, 1), [1, 2]), r"expected \(D, 2, H, W, C\)"),
        (lambda: plots.confusion_matrix(np.arange(3), np.arange(2), NAMES),
         r"confusion_matrix: labels has shape \(2,\), expected \(3,\)"),
        (lambda: plots.confusion_matrix(np.arange(4), np.arange(4), NAMES), "expected 0 to 2"),
        (lambda: plots.confusion_matrix(np.arange(3), -np.arange(3), NAMES), "expected 0 to 2"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_refused_with_what_was_expected(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
