"""The window of `explore`, without a screen: what it shows, its sliders and buttons, whether it can open."""

import numpy as np
import pytest
from figure_helpers import DIGITS, capsnet_with_couplings
from helpers import quiet, small_dataset
from matplotlib.backend_bases import MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from minicaps.figures import Explorer, find_window, reconstruct_capsules, window
from minicaps.networks import CapsNet, CapsNetConfig, build


@pytest.fixture(scope="module")
def network():
    return capsnet_with_couplings()


@pytest.fixture(scope="module")
def dataset():
    return small_dataset(60, 20)


@pytest.fixture
def explorer(network, dataset):
    return Explorer(Figure(figsize=(10, 5.6)), network, dataset.test_images, dataset.test_labels, DIGITS)


def pictures(explorer):
    return {name: np.asarray(picture.get_array()) for name, picture in explorer.pictures.items()}


# -- what it shows -----------------------------------------------------------------------------


def test_the_window_shows_the_image_its_lengths_and_its_reconstruction(explorer, network, dataset):
    image = dataset.test_images[:1].astype(np.float32) / 255
    v, made = network(image)
    lengths = np.linalg.norm(v[0], axis=-1)
    shown = pictures(explorer)
    np.testing.assert_array_equal(shown["image"], image[0, ..., 0])
    np.testing.assert_allclose(shown["reconstruction"], made[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose(shown["moved"], made[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose([bar.get_height() for bar in explorer.bars], lengths, rtol=1e-5)
    assert explorer.predicted == lengths.argmax() and not explorer.offsets.any()
    colours = [bar.get_facecolor() for bar in explorer.bars]
    assert [colours.count(colour) == 1 for colour in colours] == [j == explorer.predicted for j in range(10)]
    assert explorer.pictures["image"].axes.get_title() == f"Test image 0: {dataset.test_labels[0]}"
    assert str(explorer.predicted) in explorer.pictures["reconstruction"].axes.get_title()


def test_where_the_network_gives_logits_the_window_still_moves_a_capsule(dataset):
    network = build("capsnet", "tiny", routing="inverted-attention", rng=3)
    explorer = Explorer(Figure(figsize=(10, 5.6)), network, dataset.test_images, dataset.test_labels, DIGITS)
    (z, _), cache = network.forward(dataset.test_images[:1].astype(np.float32) / 255)
    assert explorer.predicted == z[0].argmax()
    np.testing.assert_allclose(explorer.capsule, cache.v[0, explorer.predicted], rtol=1e-5)


def test_where_lengths_say_nothing_the_window_does_not_speak_of_them(dataset, explorer):
    network = build("capsnet", "tiny", routing="inverted-attention", rng=3)
    other = Explorer(Figure(figsize=(10, 5.6)), network, dataset.test_images, dataset.test_labels, DIGITS)
    for each, measure, title in (
        (explorer, "Length of its capsule", "The longest capsule is that of"),
        (other, "Probability", "The highest probability is that of"),
    ):
        assert each.bars_axes.get_ylabel() == measure
        assert each.bars_axes.get_title(loc="left").startswith(f"{title} {DIGITS[each.predicted]}: 0.")
    assert sum(bar.get_height() for bar in other.bars) == pytest.approx(1)
    assert "length" in explorer.pictures["moved"].axes.get_title()
    assert other.pictures["moved"].axes.get_title() == "With the sliders"


def test_there_is_a_slider_for_each_dimension_from_minus_to_plus_a_quarter(explorer):
    assert [slider.label.get_text() for slider in explorer.sliders] == list("01234567")
    assert {(s.valmin, s.valmax, s.val) for s in explorer.sliders} == {(-0.25, 0.25, 0.0)}


def test_sliders_move_the_capsule_and_the_image_follows(explorer, network):
    before = pictures(explorer)
    explorer.sliders[2].set_val(0.2)
    explorer.sliders[5].set_val(-0.1)
    np.testing.assert_allclose(explorer.offsets, [0, 0, 0.2, 0, 0, -0.1, 0, 0])
    moved = explorer.capsule + np.float32([0, 0, 0.2, 0, 0, -0.1, 0, 0])
    expected = reconstruct_capsules(network, explorer.predicted, moved[None])[0]
    after = pictures(explorer)
    np.testing.assert_allclose(after["moved"], expected[..., 0], atol=1e-6)
    assert np.abs(after["moved"] - before["moved"]).max() > 1e-4
    np.testing.assert_array_equal(after["reconstruction"], before["reconstruction"])
    title = explorer.pictures["moved"].axes.get_title()
    assert title.endswith(f"length {np.linalg.norm(moved):.2f}")


def test_reset_sets_every_slider_to_0_and_draws_once(explorer, monkeypatch):
    before = pictures(explorer)["moved"]
    for slider in explorer.sliders:
        slider.set_val(0.25)
    calls = []
    monkeypatch.setattr(
        window, "reconstruct_capsules", lambda *given: calls.append(given) or reconstruct_capsules(*given)
    )
    explorer.reset()
    assert not explorer.offsets.any() and {slider.val for slider in explorer.sliders} == {0.0}
    np.testing.assert_array_equal(pictures(explorer)["moved"], before)
    assert len(calls) == 1
    explorer.sliders[0].set_val(0.1)  # they still answer
    assert len(calls) == 2


def test_the_next_image_begins_with_every_slider_at_0(explorer, dataset):
    explorer.sliders[1].set_val(0.2)
    explorer.next()
    assert explorer.number == 1 and not explorer.offsets.any()
    shown = pictures(explorer)
    np.testing.assert_allclose(shown["image"], dataset.test_images[1, ..., 0] / 255, atol=1e-6)
    np.testing.assert_allclose(shown["moved"], shown["reconstruction"], atol=1e-6)
    assert explorer.pictures["image"].axes.get_title() == f"Test image 1: {dataset.test_labels[1]}"


def test_images_are_counted_around_the_end(explorer):
    explorer.previous()
    assert explorer.number == 19
    explorer.next()
    assert explorer.number == 0


def click(explorer, axes, x=0.5):
    """Press and release the mouse in the middle of `axes`, or at another share of its width."""
    canvas = explorer.figure.canvas
    position = axes.transAxes.transform((x, 0.5))
    for name in ("button_press_event", "button_release_event"):
        canvas.callbacks.process(name, MouseEvent(name, canvas, *position, button=1))


def test_the_mouse_works_the_buttons_and_sliders(explorer):
    click(explorer, explorer.buttons["next"].ax)
    click(explorer, explorer.buttons["next"].ax)
    assert explorer.number == 2
    click(explorer, explorer.buttons["previous"].ax)
    assert explorer.number == 1
    click(explorer, explorer.sliders[3].ax, 0.8)
    assert explorer.offsets[3] == pytest.approx(0.15, abs=0.02) and np.count_nonzero(explorer.offsets) == 1
    click(explorer, explorer.buttons["reset"].ax)
    assert not explorer.offsets.any()


def test_the_window_fits_its_text(explorer):
    FigureCanvasAgg(explorer.figure).draw()
    whole, page = explorer.figure.get_tightbbox(), explorer.figure.bbox_inches
    assert whole.x0 > 0 and whole.y0 > 0 and whole.x1 < page.x1 and whole.y1 < page.y1


def test_long_names_keep_clear_of_the_buttons_and_of_each_other(network, dataset):
    names = [f"class with a long name {k}" for k in range(10)]
    explorer = Explorer(
        Figure(figsize=(10, 5.6)), network, dataset.test_images, dataset.test_labels, names, number=1
    )
    FigureCanvasAgg(explorer.figure).draw()
    ticks = [label.get_window_extent() for label in explorer.bars_axes.get_xticklabels()]
    buttons = [button.ax.get_window_extent() for button in explorer.buttons.values()]
    titles = [picture.axes.title.get_window_extent() for picture in explorer.pictures.values()]
    for boxes in (ticks + buttons, titles):
        for k, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:k])


def test_the_window_takes_colour_images_that_are_not_square_and_other_classes():
    config = CapsNetConfig(
        (11, 14, 3),
        classes=4,
        conv_channels=4,
        conv_kernel=3,
        primary_types=2,
        primary_dimension=3,
        primary_kernel=3,
        class_dimension=5,
    )
    network = CapsNet(config, rng=0)
    images = np.random.default_rng(0).integers(0, 256, size=(3, 11, 14, 3), dtype=np.uint8)
    names = ("T-shirt", "trouser", "sandal", "ankle boot")
    explorer = Explorer(Figure(figsize=(10, 5.6)), network, images, np.array([0, 1, 3]), names, 2)
    np.testing.assert_allclose(pictures(explorer)["image"], images[2] / 255, atol=1e-6)
    assert explorer.pictures["image"].axes.get_title() == "Test image 2: ankle boot"
    assert len(explorer.sliders) == 5 and len(explorer.bars) == 4


@pytest.mark.parametrize(
    "network, message",
    [
        (build("mlp", rng=0), "class MLP, expected CapsNet"),
        (build("matrix", "tiny", rng=0), "class MatrixCapsNet, expected CapsNet"),
        (build("capsnet", "tiny", decoder=False, rng=0), "no decoder, expected one"),
    ],
)
def test_the_window_refuses_networks_without_anything_to_move(network, message, dataset):
    with pytest.raises(ValueError, match=message):
        Explorer(Figure(), network, dataset.test_images, dataset.test_labels, DIGITS)


@pytest.mark.parametrize("options, label, title", [
    ({"routing": "em"}, "Activation of its capsule", "The highest activation is that of"),
    ({"presence": "line"}, "Probability", "The highest probability is that of"),
    ({}, "Length of its capsule", "The longest capsule is that of"),
])  # fmt: skip
def test_the_window_says_what_tells_the_classes(dataset, options, label, title):
    other = build("capsnet", "tiny", rng=0, **options)
    images, labels = dataset.test_images, dataset.test_labels
    explorer = Explorer(Figure(figsize=(10, 5.6)), other, images, labels, DIGITS)
    heights = [bar.get_height() for bar in explorer.bars]
    x = images[:1].astype(np.float32) / 255
    np.testing.assert_allclose(heights, other.scores(other(x))[0], rtol=1e-4)
    assert explorer.bars_axes.get_ylabel() == label
    assert explorer.bars_axes.get_title(loc="left").startswith(title)


# -- whether there is a screen -----------------------------------------------------------------


@pytest.mark.parametrize(
    "backend, opens", [("agg", False), ("SVG", False), ("TkAgg", True), ("macosx", True)]
)
def test_a_window_needs_a_backend_with_windows(network, monkeypatch, backend, opens):
    import matplotlib.pyplot

    monkeypatch.setattr(window.matplotlib, "get_backend", lambda: backend)
    monkeypatch.setattr(matplotlib.pyplot, "switch_backend", quiet)
    pyplot, why_not = find_window(network)
    assert (pyplot is matplotlib.pyplot) == opens and (why_not == "") == opens


def test_a_backend_that_cannot_be_loaded_is_a_reason_not_an_error(network, monkeypatch):
    import matplotlib.pyplot

    def switch_backend(name):
        raise ImportError("Cannot load backend 'tkagg'")

    monkeypatch.setattr(matplotlib.pyplot, "switch_backend", switch_backend)
    pyplot, why_not = find_window(network)
    assert pyplot is None and "Cannot load backend 'tkagg'" in why_not
