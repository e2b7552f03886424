"""The figures of the experiments: drawn whole, with a title and named axes."""

import helpers
import numpy as np
import pytest

from minicaps.experiments import arm_figures, figures, pictures
from minicaps.figures import style


def shares(*shape):
    return np.random.default_rng(0).uniform(0.9, 1, size=shape)


def curve(k):
    return [{"step": 10 * n, "accuracy": 1 - 0.5 / n - 0.01 * k} for n in range(1, 6)]


def pair_images(count):
    return np.random.default_rng(0).uniform(size=(count, 2, 8, 8, 1))


FIGURES = {
    "curves": lambda: figures.curves(
        {"CNN": [curve(0), curve(1)], "CapsNet": [curve(2), curve(3)]},
        x="step",
        y="accuracy",
        xlabel="Step",
        ylabel="Correct (%)",
    ),
    "curves, published": lambda: figures.curves(
        {"CNN, batch 1000": [curve(0)], "CNN, batch 100": [curve(1)]},
        x="step",
        y="accuracy",
        xlabel="Step",
        ylabel="Correct (%)",
        published={"CNN, batch 1000": 98.8},
    ),
    "curves, one point": lambda: figures.curves(
        {"CNN": [curve(0)[:1]]}, x="step", y="accuracy", xlabel="Step", ylabel="Correct (%)"
    ),
    "spread_lines": lambda: figures.spread_lines(
        {"CNN": ([100, 1000, 10_000], shares(3, 2)), "CapsNet": ([100, 1000, 10_000], shares(3, 2))},
        title="Few images",
        xlabel="Images",
        ylabel="Correct (%)",
        logarithmic=True,
    ),
    "folds": lambda: figures.folds({0: shares(5), 1: shares(5)}),
    "folds, one seed": lambda: figures.folds({3: shares(2)}),
    "variants": lambda: figures.variants(
        {"iterations": {"1": shares(3), "3": shares(3)}, "W": {"1": [0.1, 0.2, 0.1], "0.05": [0.95]}}, 0.95
    ),
    "tests": lambda: arm_figures.tests(
        {
            test: {(arm, loss): shares(3) for arm in ("EM", "CNN") for loss in "ab"}
            for test in ("up", "warped")
        }
    ),
    "tests, one missing": lambda: arm_figures.tests({"upright": {("EM", "a"): [0.9], ("CNN", "b"): [0.9]}}),
    "turned": lambda: arm_figures.turned(
        {"margin": {"EM": shares(3, 2)}, "cross-entropy": {"CNN": shares(1, 2)}}, (20, 60), 0.95
    ),
    "turned, none": lambda: arm_figures.turned({"margin": {}, "cross-entropy": {}}, (20, 60), 0.95),
    "samples": lambda: pictures.samples(
        *np.random.default_rng(0).integers(0, 256, size=(2, 14, 9, 8, 1), dtype=np.uint8)
    ),
    "sweeps": lambda: figures.sweeps(
        {name: [{kind: shares(5) for kind in figures.RANGES}] * 2 for name in ("CNN", "CapsNet")},
        {"angle": [-40, -20, 0, 20, 40], "shear": [-1, -0.5, 0, 0.5, 1], "scale": [0.5, 0.8, 1, 1.2, 1.5]},
    ),
    "pairs": lambda: pictures.pairs(
        pair_images(9).sum(axis=1) / 2,
        pair_images(9),
        pair_images(9),
        np.arange(18).reshape(9, 2) % 10,
        np.arange(18).reshape(9, 2) % 10,
        np.arange(9) % 2 == 0,
    ),
    "turning": lambda: figures.turning(
        [
            {
                "angle": a,
                "length": 0.9,
                "length_spread": 0.1,
                "direction": abs(a),
                "direction_spread": 2,
                "accuracy_of_class": [0.5, None, 0.75],
            }
            for a in range(-60, 61, 10)
        ],
        ["a", "b", "c"],
    ),
    "one_turning_digit": lambda: pictures.one_turning_digit(
        shares(13, 9, 8, 1), np.arange(-60, 61, 10), shares(13, 16), ["7"] * 13
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_whole_and_says_what_it_shows(name):
    figure = FIGURES[name]()
    helpers.assert_drawn_whole(figure)
    assert figure.get_suptitle() or any(axes.get_title(loc="left") for axes in figure.axes)
    for axes in figure.axes:
        if axes.lines:
            assert axes.get_xlabel()


def test_turned_images_are_drawn_beside_the_mean_of_all_arms():
    found = {
        "margin": {"EM": np.array([[0.9, 0.5], [0.7, 0.3]])},
        "cross-entropy": {"CNN": np.array([[0.6, 0.2]])},
    }
    figure = arm_figures.turned(found, (20, 60), 0.95)
    drawn = [[line.get_ydata() for line in axes.lines if len(line.get_ydata())] for axes in figure.axes]
    np.testing.assert_allclose(drawn, [[[10, 10]], [[-10, -10]]])
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["20°\n70 %", "60°\n30 %"]


def test_curves_of_one_colour_differ_in_dash_and_marker():
    styles = [style.line_style(k) for k in range(36)]
    assert len({tuple(map(str, each.values())) for each in styles}) == 36
    for one, other in zip(styles[:30], styles[6:], strict=True):
        assert one["linestyle"] != other["linestyle"] and one["marker"] != other["marker"]


def test_two_colours_keep_the_parts_apart():
    parts = np.zeros((2, 1, 3, 1))
    parts[0, 0, 0], parts[1, 0, 2] = 1, 1
    coloured = pictures.two_colours(parts)[0]
    assert (coloured[1] == 0).all() and coloured[0, 0] > coloured[0, 2] and coloured[2, 2] > coloured[2, 0]


@pytest.mark.parametrize(
    "runs, title",
    [
        ({"CNN": [curve(0)], "CapsNet": [curve(1)]}, "CNN is highest at the end"),
        ({"CNN": [curve(0)]}, "CNN ends at 90.00 %"),
    ],
)
def test_one_network_alone_is_not_called_the_highest(runs, title):
    figure = figures.curves(runs, x="step", y="accuracy", xlabel="Step", ylabel="Correct (%)")
    assert title in figure.axes[0].get_title(loc="left") + figure.axes[0].get_title()


def test_a_reconstructed_digit_has_the_colour_of_the_true_one():
    parts = np.zeros((1, 2, 4, 4, 1))
    parts[0, 0, :2], parts[0, 1, 2:] = 1, 1
    figure = pictures.pairs(
        parts.sum(axis=1), parts, parts[:, ::-1], np.array([[3, 5]]), np.array([[5, 3]]), np.array([True])
    )
    true, made = (axes.images[0].get_array() for axes in figure.axes[1:3])
    np.testing.assert_array_equal(true, made)
    assert [axes.get_title() for axes in figure.axes] == ["correct", "3 + 5", "3 + 5"]


def test_a_variant_far_below_is_written_instead_of_pressing_the_rest_together():
    figure = FIGURES["variants"]()
    (axes,) = figure.axes
    assert axes.get_xlim()[0] > 80
    assert any("13.33 %" in text.get_text() for text in axes.texts)


def test_first_points_far_below_do_not_press_the_rest_together():
    (axes,) = FIGURES["curves"]().axes
    assert axes.get_ylim()[0] > 49
