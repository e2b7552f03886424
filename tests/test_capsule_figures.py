"""The figures of what is inside a capsule network: what they show, and which shapes they refuse."""

import numpy as np
import pytest
from figure_helpers import DIGITS, NAMES, couplings, heat_maps, images, title

from minicaps import Squash, figures


def test_the_squash_curve_is_what_squash_computes():
    axes = figures.squash_curve().axes[0]
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
    figure = figures.couplings_per_iteration(list(c))
    np.testing.assert_array_equal(heat_maps(figure), c)
    panels = figure.axes[: len(c)]
    titles = [f"Iteration {r + 1}" for r in range(len(c))] if len(c) > 1 else [""]
    assert [axes.get_title(loc="left") for axes in panels] == titles
    assert panels[0].get_ylabel() == "Lower capsule i"
    assert {axes.get_xlabel() for axes in panels} == {"Upper capsule j"}
    assert figure.axes[-1].get_ylabel() == "Coupling c"  # of the colour bar


def test_few_couplings_are_written_into_their_cells():
    c = couplings(2, 3, 4)
    for axes, each in zip(figures.couplings_per_iteration(c).axes, c, strict=False):
        assert axes.images[0].get_clim() == (0, 1)
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(j, i): f"{each[i, j]:.2f}" for i in range(3) for j in range(4)}


def test_numbers_are_white_on_dark_and_black_on_light():
    axes = figures.couplings_per_iteration([np.array([[0.0, 1.0]])]).axes[0]
    assert [text.get_color() for text in axes.texts] == ["black", "white"]


def test_many_couplings_share_one_scale_up_to_the_largest():
    c = couplings(3, 100, 10, scale=0.3)
    panels = figures.couplings_per_iteration(c).axes[:3]
    assert {axes.images[0].get_clim() for axes in panels} == {(0, c.max())}
    assert all(not axes.texts for axes in panels)


def test_the_title_tells_the_mean_of_the_strongest_couplings():
    c = [np.full((2, 4), 0.25), np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.2, 0.1, 0.5]])]
    assert title(figures.couplings_per_iteration(c)).endswith("0.25 at first, 0.60 at the end")
    assert title(figures.couplings_per_iteration(c[1:])).endswith("a lower capsule, 0.60 on average")


def test_couplings_take_names():
    axes = figures.couplings_per_iteration(couplings(1, 2, 3), ["roof", "wall"], NAMES).axes[0]
    assert tuple(label.get_text() for label in axes.get_xticklabels()) == NAMES
    assert [label.get_text() for label in axes.get_yticklabels()] == ["roof", "wall"]


@pytest.mark.parametrize("channels, classes", [(1, 10), (3, 4)])
def test_couplings_over_the_image_are_means_over_the_types_at_each_position(channels, classes):
    rows, columns, types_ = 3, 5, 2
    c, image = couplings(rows * columns * types_, classes), images(12, 20, channels)
    figure = figures.couplings_over_image(image, c, (rows, columns), DIGITS[:classes])
    first, *maps = heat_maps(figure)[: 1 + classes]
    np.testing.assert_array_equal(first.reshape(image.shape), image)
    for j, shown in enumerate(maps):
        for p in range(rows):
            for q in range(columns):
                first_type = (p * columns + q) * types_
                expected = np.mean([c[first_type + t, j] for t in range(types_)])
                assert shown[p, q] == pytest.approx(expected)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[: 1 + classes] == ["image", *(f"to {name}" for name in DIGITS[:classes])]


def test_couplings_over_the_image_share_one_scale():
    c = couplings(30, 3)
    maps = c.reshape(3, 5, 2, 3).mean(axis=2)
    panels = figures.couplings_over_image(images(6, 6, 1), c, (3, 5), NAMES).axes[1:4]
    assert {axes.images[0].get_clim() for axes in panels} == {(maps.min(), maps.max())}


def test_even_couplings_do_not_look_like_a_pattern():
    c = np.full((30, 3), 1 / 3) + 1e-9 * couplings(30, 3)
    panels = figures.couplings_over_image(images(6, 6, 1), c, (3, 5), NAMES).axes[1:4]
    for axes in panels:
        assert np.ptp(axes.images[0].norm(axes.images[0].get_array())) < 1e-6


def test_the_title_names_the_class_with_most_of_the_couplings():
    c = np.tile([0.2, 0.5, 0.3], (8, 1))
    text = title(figures.couplings_over_image(images(6, 6, 1), c, (2, 2), NAMES))
    assert text.endswith("most to car, 0.50 on average (an even share is 0.33)")


@pytest.mark.parametrize("channels", [1, 3])
def test_dimension_grid_has_a_row_for_each_dimension_and_a_column_for_each_offset(channels):
    made = images(4, 3, 5, 6, channels)
    axes = figures.dimension_grid(made, [-0.5, 0, 0.5]).axes[0]
    sheet = axes.images[0].get_array().reshape(4 * 6, 3 * 7, channels)
    ticks_y, ticks_x = axes.get_yticks(), axes.get_xticks()
    for d in range(4):
        for n in range(3):
            top, left = round(ticks_y[d] - 2), round(ticks_x[n] - 2.5)  # the tick is at the middle
            np.testing.assert_array_equal(sheet[top : top + 5, left : left + 6], made[d, n])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["-0.50", "+0.00", "+0.50"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]


def test_the_title_names_the_dimension_that_changes_the_image_most():
    made = np.zeros((5, 3, 4, 4, 1))
    made[3, :, 0] = np.linspace(0, 1, 3)[:, None, None]
    made[1, :, 0] = np.linspace(0, 0.5, 3)[:, None, None]
    assert title(figures.dimension_grid(made, [-1, 0, 1])).endswith("number 3 changes the image most")


# -- matrix capsules ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_activations_are_the_bars_and_the_most_active_class_is_named(channels):
    image, a = images(6, 7, channels), np.array([0.2, 0.1, 0.7])
    left, right = figures.activations(image, a, NAMES).axes
    np.testing.assert_array_equal(left.images[0].get_array().reshape(image.shape), image)
    (bars,) = right.containers
    np.testing.assert_array_equal([bar.get_height() for bar in bars], a)
    colours = [bar.get_facecolor() for bar in bars]
    assert colours[0] == colours[1] != colours[2]
    assert tuple(label.get_text() for label in right.get_xticklabels()) == NAMES
    assert right.get_ylim() == (0, 1)
    assert title(figures.activations(image, a, NAMES)) == "The most active is aeroplane: 0.70"


def test_a_pose_is_a_matrix_row_by_row_on_one_scale_around_0():
    mu, a = np.random.default_rng(0).normal(size=(3, 16)), np.array([0.2, 0.9, 0.7])
    figure = figures.poses(mu, a, NAMES)
    np.testing.assert_array_equal(heat_maps(figure)[:3], mu.reshape(3, 4, 4))
    largest = abs(mu).max()
    for axes, pose, name, activation in zip(figure.axes, mu.reshape(3, 4, 4), NAMES, a, strict=False):
        assert axes.images[0].get_clim() == (-largest, largest)
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(q, p): f"{pose[p, q]:.2f}" for p in range(4) for q in range(4)}
        assert axes.get_title() == f"{name}: a = {activation:.2f}"
    assert title(figure) == "The poses of the class capsules. The most active is car: 0.90"
    assert "row and column of the votes" in title(figures.poses(mu, a, NAMES, coordinates=True))


def test_poses_of_0_are_drawn_in_the_middle_of_the_scale():
    axes = figures.poses(np.zeros((3, 16)), np.zeros(3), NAMES).axes[0]
    assert (axes.images[0].norm(axes.images[0].get_array()) == 0.5).all()


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw, message",
    [
        (
            lambda: figures.couplings_per_iteration(couplings(5, 4)),
            r"couplings_per_iteration: c\[0\] has shape \(4,\), expected \(I, J\)",
        ),
        (
            lambda: figures.couplings_per_iteration([couplings(5, 4), couplings(4, 5)]),
            r"c\[1\] has shape \(4, 5\), expected \(5, 4\)",
        ),
        (lambda: figures.couplings_per_iteration([]), "c has 0 iterations, expected 1 or more"),
        (
            lambda: figures.couplings_per_iteration([couplings(5, 3)], list("abcd"), NAMES),
            r"c\[0\] has shape \(5, 3\), expected \(4, 3\)",
        ),
        (lambda: figures.couplings_per_iteration([couplings(5, 4)], None, NAMES), r"expected \(I, 3\)"),
        (
            lambda: figures.couplings_over_image(images(6, 6), couplings(8, 3), (2, 2), NAMES),
            r"couplings_over_image: image has shape \(6, 6\), expected \(H, W, C\)",
        ),
        (
            lambda: figures.couplings_over_image(images(6, 6, 1), couplings(8, 4), (2, 2), NAMES),
            r"c has shape \(8, 4\), expected \(I, 3\)",
        ),
        (
            lambda: figures.couplings_over_image(images(6, 6, 1), couplings(9, 3), (2, 2), NAMES),
            "c has 9 lower capsules, expected a multiple of 4, the positions of the grid 2 × 2",
        ),
        (
            lambda: figures.dimension_grid(images(4, 3, 5, 6), [1, 2, 3]),
            r"dimension_grid: reconstructions has shape \(4, 3, 5, 6\), expected \(D, 3, H, W, C\)",
        ),
        (
            lambda: figures.activations(images(6, 6), images(3), NAMES),
            r"activations: image has shape \(6, 6\), expected \(H, W, C\)",
        ),
        (
            lambda: figures.activations(images(6, 6, 1), images(4), NAMES),
            r"activations: a has shape \(4,\), expected \(3,\)",
        ),
        (
            lambda: figures.poses(images(3, 16), images(2), NAMES),
            r"poses: a has shape \(2,\), expected \(3,\)",
        ),
        (
            lambda: figures.poses(images(3, 4, 4), images(3), NAMES),
            r"poses: mu has shape \(3, 4, 4\), expected \(3, 16\)",
        ),
        (lambda: figures.dimension_grid(images(4, 3, 5, 6, 1), [1, 2]), r"expected \(D, 2, H, W, C\)"),
    ],
)
def test_wrong_shapes_are_refused_with_what_was_expected(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
