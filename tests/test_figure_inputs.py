"""Figures of whatever comes: any names, channels and numbers of classes, and any matplotlibrc of the user."""

import inspect
import os
import types

import helpers
import matplotlib
import numpy as np
import pytest
from figure_helpers import DIGITS, EPOCHS, capsnet_with_couplings, couplings, heat_maps, images, title
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text

from minicaps import figures
from minicaps.datasets import Dataset
from minicaps.experiments import figures as of_experiments
from minicaps.experiments import pictures
from minicaps.figures import as_picture, as_text, capsules, matrices, runs, scores, text, window
from minicaps.networks import CapsNet, CapsNetConfig

ODD = (
    "$5#",
    "$1_2$ \\alpha",
    os.fsdecode(b"caf\xe9"),
    "a\nb\tc",
    "😀 dog",
    "狗狗",
    "كلب",
    "x" * 300,
    "",
    "_hidden",
    "cafe\u0301",
    "\x00\u200f\ufeff",
)
NUMBERS = np.arange(len(ODD))
TURNED = {"length": 0.9, "length_spread": 0.1, "direction": 3, "direction_spread": 2}
NAMED = {
    "mistakes": lambda names: figures.mistakes(
        images(len(names), 7, 7, 1), np.arange(len(names)), np.arange(len(names))[::-1], names, 40
    ),
    "reconstructions": lambda names: figures.reconstructions(
        images(12, 7, 7, 1), images(12, 7, 7, 1), np.arange(12), np.arange(12)[::-1], names
    ),
    "confusion_matrix": lambda names: figures.confusion_matrix(
        np.arange(len(names)), np.roll(np.arange(len(names)), 1), names
    ),
    "scores_by_class": lambda names: figures.scores_by_class(
        couplings(24, len(names)), np.arange(24) % len(names), names, "length"
    ),
    "couplings_per_iteration": lambda names: figures.couplings_per_iteration(
        couplings(2, 12, len(names)), names[:12], names
    ),
    "couplings_over_image": lambda names: figures.couplings_over_image(
        images(20, 20, 1), couplings(18, len(names)), (3, 3), names
    ),
    "activations": lambda names: figures.activations(images(20, 20, 1), images(len(names)), names),
    "poses": lambda names: figures.poses(images(len(names), 16), images(len(names)), names),
    "turning": lambda names: of_experiments.turning(
        [{"angle": a, **TURNED, "accuracy_of_class": [0.5] * len(names)} for a in range(-60, 61, 30)], names
    ),
    "one_turning_digit": lambda names: pictures.one_turning_digit(
        images(12, 7, 7, 1), np.arange(-60, 60, 10), images(12, 8), names[:12]
    ),
}


def written(figure):
    """Draw a figure, with warnings as errors, and return its texts."""
    FigureCanvasAgg(figure).draw()
    return [each.get_text() for each in figure.findobj(Text) if each.get_text()]


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, shown",
    [
        ("seven", "seven"),
        ("$5#", r"\$5#"),
        (r"\$5$", r"\\$5\$"),
        ("5 $ or 7", r"5 \$ or 7"),
        (os.fsdecode(b"caf\xe9"), "caf�"),
        ("a\nb\t c ", "a b c"),
        ("cafe\u0301", "café"),
        ("\u202eabc\x07\u200b", "abc"),
        ("", "(empty)"),
        (" \n", "(empty)"),
        ("\ufeff", "(empty)"),
        ("character0963", "character0963"),
        ("a" * 30, "a" * 19 + "…"),
        ("a long name of class 0963", "a long name of …0963"),
        ("1" * 30, "1" * 15 + "…1111"),
        ("x" + "2" * 300, "x" + "2" * 14 + "…2222"),
    ],
)
def test_a_name_is_written_in_one_line_of_what_can_be_drawn(name, shown):
    assert as_text(name) == shown and len(shown) <= text.MAX_LENGTH


@pytest.mark.parametrize("maximum", [1, 2, 5, 10])
def test_a_name_is_no_longer_than_is_asked(maximum):
    for name in (*ODD, "12345678901", "狗" * 30):
        assert 1 <= len(as_text(name, maximum).replace(r"\$", "$")) <= maximum


def test_characters_that_no_font_has_are_told_apart_and_those_of_a_font_are_drawn(monkeypatch):
    monkeypatch.setattr(text, "_has_glyph", lambda character: character.isascii())
    assert (as_text("狗"), as_text("猫")) == ("\\u72d7", "\\u732b")
    monkeypatch.setattr(text, "_has_glyph", lambda character: True)
    assert as_text("狗" * 10) == "狗" * 10
    assert as_text("狗" * 11) == "狗" * 9 + "…"  # wide characters count twice


def test_a_name_of_any_length_is_looked_through_a_few_times_only(monkeypatch):
    looks, width = [], text._width
    monkeypatch.setattr(text, "_width", lambda piece: looks.append(piece) or width(piece))
    assert as_text("x" * 3000) == "x" * 19 + "…" and len(looks) <= 3 * 3000


def test_text_is_drawn_with_fonts_that_are_installed():
    assert text.font_families()[0] == "DejaVu Sans"
    installed = set(matplotlib.font_manager.get_font_names())
    assert set(text.font_families()) <= installed
    assert matplotlib.rc_context and figures.STYLE["font.family"] == text.font_families()


def test_every_figure_with_names_is_known_here():
    found = set()
    for module in (capsules, matrices, runs, scores, of_experiments, pictures):
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and name[0] != "_":
                parameters = set(inspect.signature(function).parameters)
                if (
                    parameters & {"class_names", "names", "upper_names", "lower_names"}
                    and "network" not in parameters
                ):
                    found.add(name)
    assert found == NAMED.keys()


@pytest.mark.parametrize("name", NAMED)
def test_odd_names_are_drawn_without_a_warning(name, recwarn):
    found = "\n".join(written(NAMED[name](ODD)))
    assert not [str(each.message) for each in recwarn]
    assert "x" * 21 not in found and "caf�" in found and "(empty)" in found
    assert r"\$5#" in found and "café" in found


@pytest.mark.parametrize("name", NAMED)
def test_no_name_is_read_as_mathematics(name):
    for dollars in (("$5#", "$9#"), ("$1", "$20"), ("$a$", "b"), ("$x_{1}$", r"\$")):
        texts = written(NAMED[name](dollars * 6))
        assert any("$" in each for each in texts)
        assert not any(is_math_text(each) for each in texts)


def test_a_log_axis_in_our_style_still_has_its_powers_of_ten():
    with matplotlib.rc_context({"text.parse_math": False}), matplotlib.rc_context(figures.STYLE):
        axes = Figure().subplots()
        axes.loglog([1, 1000], [1, 1000])
        label = axes.get_xticklabels()[3]
    assert is_math_text(label.get_text()) and label.get_parse_math()


def odd_dataset(shape=(28, 28, 1), count=24):
    x = (255 * images(count, *shape)).astype(np.uint8)
    y = np.arange(count) % len(ODD)
    return Dataset(x, y, x, y, ODD, "odd names")


def test_the_window_shows_odd_names_and_channels():
    data = odd_dataset((28, 28, 2))
    network = CapsNet(
        CapsNetConfig((28, 28, 2), len(ODD), conv_channels=4, primary_types=2, decoder_hidden=(16, 16)), rng=0
    )
    explorer = figures.Explorer(Figure(figsize=(10, 5.6)), network, data.test_images, data.test_labels, ODD)
    for number in NUMBERS:
        explorer.go_to(number)
        assert "x" * 21 not in "".join(written(explorer.figure))
    assert np.asarray(explorer.pictures["moved"].get_array()).shape == (28, 57)


# -- channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels, shape", [
    (1, (4, 5)), (3, (4, 5, 3)), (2, (4, 11)), (4, (9, 11)), (5, (9, 17)), (12, (14, 23)),
])  # fmt: skip
def test_channels_are_drawn_as_colours_or_beside_each_other(channels, shape):
    batch = images(2, 4, 5, channels)
    assert as_picture(batch).shape == (2, *shape)
    np.testing.assert_array_equal(as_picture(batch)[1], as_picture(batch[1]))


def test_each_channel_has_its_position():
    (image,) = images(1, 4, 5, 5)
    sheet = as_picture(image)
    for k, (top, left) in enumerate([(0, 0), (0, 6), (0, 12), (5, 0), (5, 6)]):
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 5], image[..., k])
    assert (sheet[4] == 1).all() and (sheet[:, 5] == 1).all() and (sheet[5:, 12:] == 1).all()


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_figures_of_any_channels(channels):
    x = images(12, 7, 8, channels)
    for figure in (
        figures.mistakes(x[:3], np.arange(3), np.arange(3) + 1, DIGITS, 9),
        figures.reconstructions(x, x, np.arange(12) % 10, np.arange(12) % 10, DIGITS),
        figures.couplings_over_image(x[0], couplings(8, 10), (2, 2), DIGITS),
        figures.dimension_grid(x.reshape(4, 3, 7, 8, channels), [-1, 0, 1]),
        figures.activations(x[0], images(10), DIGITS),
        pictures.samples((255 * x).astype(np.uint8), (255 * x).astype(np.uint8)),
    ):
        helpers.assert_drawn_whole(figure)


# -- many of them ------------------------------------------------------------------------------


MANY = [f"character{k:04d}" for k in range(964)]
LARGE = {
    "couplings, 964 classes": lambda: figures.couplings_per_iteration(couplings(3, 128, 964), None, MANY),
    "couplings, 964 without names": lambda: figures.couplings_per_iteration(couplings(3, 16, 964)),
    "couplings, 60 of one capsule": lambda: figures.couplings_per_iteration(couplings(7, 1, 30)),
    "couplings, 40 iterations": lambda: figures.couplings_per_iteration(couplings(40, 8, 28)),
    "couplings over image": lambda: figures.couplings_over_image(
        images(28, 28, 1), couplings(16, 369), (2, 2), MANY[:369]
    ),
    "confusion_matrix, 300 classes": lambda: figures.confusion_matrix(
        np.arange(3000) % 300, np.arange(3000) * 7 % 300, MANY[:300]
    ),
    "confusion_matrix, 60,000 classes": lambda: figures.confusion_matrix(
        np.arange(60_000), np.arange(60_000)[::-1], range(60_000)
    ),
    "dimension_grid, 200 dimensions": lambda: figures.dimension_grid(images(200, 3, 5, 4, 1), [-1, 0, 1]),
    "dimension_grid, tall": lambda: figures.dimension_grid(images(30, 11, 60, 20, 1), np.arange(11)),
    "dimension_grid, many offsets": lambda: figures.dimension_grid(images(2, 99, 4, 5, 1), np.arange(99)),
    "reconstructions": lambda: figures.reconstructions(
        images(300, 5, 5, 1), images(300, 5, 5, 1), np.zeros(300, int), np.zeros(300, int), DIGITS
    ),
    "activations": lambda: NAMED["activations"](MANY),
    "poses": lambda: NAMED["poses"](MANY),
    "scores_by_class, 964 classes": lambda: NAMED["scores_by_class"](MANY),
    "scores_by_class, one class": lambda: NAMED["scores_by_class"](MANY[:1]),
    "turning": lambda: NAMED["turning"](MANY),
    "learning_curves": lambda: figures.learning_curves([{**EPOCHS[0], "epoch": k} for k in range(3000)]),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_figure_stays_small_however_much_there_is_to_show(name):
    figure = LARGE[name]()
    assert (figure.get_size_inches() <= 22).all() and len(figure.axes) <= 35
    helpers.assert_drawn_whole(figure)


def test_what_is_left_out_is_said_and_what_matters_most_is_shown():
    c = couplings(3, 16, 40)
    figure = figures.couplings_per_iteration(c, None, MANY[:40])
    assert title(figure).endswith("Shown: the 20 of 40 upper capsules with the most couplings")
    best = np.sort(np.argsort(c[-1].mean(axis=0))[-20:])
    np.testing.assert_array_equal(heat_maps(figure)[0], c[0][:, best])
    assert [each.get_text() for each in figure.axes[0].get_xticklabels()] == [MANY[j] for j in best]
    over = figures.couplings_over_image(images(6, 6, 1), c[-1], (2, 2), MANY[:40])
    assert [axes.get_title()[-4:] for axes in over.axes[1:21]] == [f"{j:04d}" for j in best]
    assert title(over).endswith("Shown: the 20 of 40 classes with the most couplings")
    several = figures.couplings_per_iteration(couplings(20, 4, 3))
    assert [axes.get_title(loc="left") for axes in several.axes[:8]] == [
        f"Iteration {r}" for r in (1, 4, 6, 9, 12, 15, 17, 20)
    ]
    a = images(40)
    active = np.sort(np.argsort(a)[-20:])
    (bars,) = figures.activations(images(6, 6, 1), a, MANY[:40]).axes[1].containers
    np.testing.assert_array_equal([bar.get_height() for bar in bars], a[active])
    of_active = figures.poses(images(40, 16), a, MANY[:40])
    assert [axes.get_title()[-14:] for axes in of_active.axes[:20]] == [
        f"{j:04d}: a = {a[j]:.2f}" for j in active
    ]
    assert title(of_active).endswith("Shown: the 20 of 40 most active classes")
    made = np.zeros((40, 2, 4, 4, 1))
    made[7:27, 1] = 1
    rows = figures.dimension_grid(made, [0, 1])
    assert [each.get_text() for each in rows.axes[0].get_yticklabels()] == [str(d) for d in range(7, 27)]


def test_thirty_classes_are_all_shown():
    assert len(figures.couplings_over_image(images(6, 6, 1), couplings(8, 30), (2, 2), MANY[:30]).axes) == 32


def test_a_confusion_matrix_of_many_classes_shows_those_with_the_most_mistakes():
    labels = np.repeat(np.arange(150), 2)
    predictions = labels.copy()
    predictions[200:220] = 149  # 100 to 109 are taken for 149
    figure = figures.confusion_matrix(labels, predictions, MANY[:150])
    assert (
        "280 of 300 images are classified correctly; most often, 2 times, chara…0100 is taken for chara…0149"
        in (title(figure))
    )
    names = [each.get_text() for each in figure.axes[0].get_yticklabels()]
    assert len(names) == 20 and {*MANY[100:110], MANY[149]} <= set(names)
    counts = heat_maps(figure)[0]
    assert counts[names.index(MANY[105]), names.index(MANY[149])] == 2
    assert counts[names.index(MANY[149]), names.index(MANY[149])] == 2
    assert counts.sum() == 2 * 20


# -- a user's matplotlibrc -----------------------------------------------------------------------

OF_A_USER = {
    "image.origin": "lower",
    "image.cmap": "viridis",
    "text.usetex": True,
    "text.color": "red",
    "font.size": 30,
    "font.family": ["serif"],
    "axes.prop_cycle": matplotlib.cycler(color=["red"]),
    "axes.facecolor": "black",
    "axes.unicode_minus": False,
    "axes.formatter.use_mathtext": True,
    "figure.facecolor": "black",
    "figure.dpi": 30,
    "figure.constrained_layout.use": False,
    "figure.autolayout": True,
    "legend.loc": "lower left",
    "lines.antialiased": False,
    "savefig.dpi": 30,
    "savefig.transparent": True,
    "savefig.bbox": "tight",
    "savefig.format": "svg",
    "xtick.direction": "in",
    "ytick.left": False,
}
curve = [{"step": k, "accuracy": 1 - 0.5 / k} for k in range(1, 5)]
STYLED = {
    "mistakes": lambda: NAMED["mistakes"](DIGITS),
    "confusion_matrix": lambda: NAMED["confusion_matrix"](DIGITS),
    "learning_curves": lambda: figures.learning_curves(EPOCHS),
    "scores_by_class": lambda: NAMED["scores_by_class"](DIGITS),
    "curves": lambda: of_experiments.curves({"CNN": [curve]}, x="step", y="accuracy", xlabel="x", ylabel="y"),
    "activations": lambda: NAMED["activations"](DIGITS),
    "poses": lambda: NAMED["poses"](DIGITS),
    "folds": lambda: of_experiments.folds({0: [0.9, 0.8, 0.85], 1: [0.9, 0.82, 0.8]}),
    "samples": lambda: pictures.samples(*np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2, 1)),
}


@pytest.mark.parametrize("name", STYLED)
def test_the_users_settings_change_no_pixel(name, tmp_path):
    figures.save(STYLED[name](), tmp_path / "plain.png")
    with matplotlib.rc_context(OF_A_USER):
        figures.save(STYLED[name](), tmp_path / "user.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "user.png").read_bytes()


def test_the_style_holds_every_setting_but_those_of_windows():
    ours = matplotlib.rcParams.keys() - figures.STYLE.keys()
    assert ours and all(
        name.startswith(figures.style.OF_WINDOWS) or name == "savefig.directory" for name in ours
    )


def test_the_window_is_made_in_our_style_with_the_resolution_of_the_screen(monkeypatch):
    made = []
    pyplot = types.SimpleNamespace(
        figure=lambda name, figsize: made.append(Figure(figsize=figsize)) or made[-1], show=lambda: None
    )
    data = helpers.small_dataset(30, 10)
    with matplotlib.rc_context({**OF_A_USER, "figure.dpi": 210}):
        window.open_window(pyplot, capsnet_with_couplings(), data, DIGITS)
    assert made[0].get_facecolor()[:3] == (1, 1, 1) and made[0].dpi == 210
    assert not any(each.get_usetex() for each in made[0].findobj(Text))


# -- a figure that fails -------------------------------------------------------------------------


def fail(*_, **__):
    raise RuntimeError("a wall\nof text")


def test_a_figure_of_a_run_fails_on_its_own(tmp_path, monkeypatch):
    data, lines = odd_dataset(), []
    network = CapsNet(
        CapsNetConfig((28, 28, 1), len(ODD), conv_channels=4, primary_types=2, decoder_hidden=(16, 16)), rng=0
    )
    monkeypatch.setattr(runs, "confusion_matrix", fail)
    test = types.SimpleNamespace(predictions=np.roll(data.test_labels, 1), scores=couplings(24, len(ODD)))
    (tmp_path / "confusion_matrix.png").write_text("an old one")
    figures.draw_run(tmp_path, epochs=EPOCHS, network=network, dataset=data, test=test, say=lines.append)
    assert lines == [
        f"warning: {tmp_path / 'confusion_matrix.png'} could not be drawn (RuntimeError: a wall of text)"
    ]
    found = {path.stem for path in tmp_path.iterdir()}
    assert found == {"learning_curves", "mistakes", "reconstructions", "scores"}


def test_a_figure_of_explore_fails_on_its_own(tmp_path, monkeypatch):
    data, lines = odd_dataset(), []
    network = CapsNet(
        CapsNetConfig((28, 28, 1), len(ODD), conv_channels=4, primary_types=2, decoder_hidden=(16, 16)), rng=0
    )
    monkeypatch.setattr(figures.explore, "couplings_over_image", fail)
    paths = list(figures.write_figures(network, data, ODD, tmp_path, say=lines.append))
    assert len(lines) == 1 and "couplings_over_image.png" in lines[0]
    assert [path.stem for path in paths] == [
        "couplings", "dimensions", "reconstructions", "confusion_matrix", "mistakes"
    ]  # fmt: skip
