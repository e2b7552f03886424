"""A look inside a trained network: the window without a screen, the figures, the command."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers import mnist, quiet, small_dataset, tiny_config
from matplotlib.backend_bases import MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from minicaps import cli
from minicaps.figures import explore
from minicaps.figures.explore import Explorer
from minicaps.networks import CapsNet, build
from minicaps.networks import weights as checkpoint
from minicaps.training import run as runs

DIGITS = tuple("0123456789")
OF_A_RUN = ["learning_curves", "couplings", "couplings_over_image", "dimensions", "reconstructions",
            "confusion_matrix", "mistakes"]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINICAPS_DATA", raising=False)


@pytest.fixture(scope="module")
def network():
    """A CapsNet that was not trained, with weights large enough for couplings that differ."""
    network = build("capsnet", "tiny", rng=3)
    network.params["capsules.prediction.W"][...] *= 20
    return network


@pytest.fixture(scope="module")
def dataset():
    return small_dataset(60, 20)


@pytest.fixture
def explorer(network, dataset):
    return Explorer(Figure(figsize=(10, 5.6)), network, dataset.test_images, dataset.test_labels, DIGITS)


def pictures(explorer):
    return {name: np.asarray(picture.get_array()) for name, picture in explorer.pictures.items()}


# -- what the decoder draws --------------------------------------------------------------------


def test_a_capsule_that_is_not_moved_is_drawn_as_the_network_draws_it(network, dataset):
    images = dataset.test_images[:5].astype(np.float32) / 255
    v, drawn = network(images)
    for k, chosen in enumerate(network.scores((v, drawn)).argmax(axis=1)):
        again = explore.draw_capsules(network, chosen, v[k : k + 1, chosen])
        np.testing.assert_allclose(again[0], drawn[k], atol=1e-6)


def test_draw_moved_adds_each_offset_to_each_dimension(network):
    capsule, offsets = np.random.default_rng(0).normal(size=8).astype(np.float32), [-0.2, 0.0, 0.3]
    drawn = explore.draw_moved(network, 4, capsule, offsets)
    assert drawn.shape == (8, 3, 28, 28, 1) and drawn.dtype == np.float32
    for d in range(8):
        for n, offset in enumerate(offsets):
            moved = capsule.copy()
            moved[d] += offset
            expected = explore.draw_capsules(network, 4, moved[None])[0]
            np.testing.assert_allclose(drawn[d, n], expected, atol=1e-6)


def test_the_offsets_are_those_of_the_paper():
    np.testing.assert_allclose(explore.OFFSETS, np.arange(-5, 6) * 0.05, atol=1e-12)


# -- the window --------------------------------------------------------------------------------


def test_the_window_shows_the_image_its_lengths_and_what_is_drawn(explorer, network, dataset):
    image = dataset.test_images[:1].astype(np.float32) / 255
    v, drawn = network(image)
    lengths = np.linalg.norm(v[0], axis=-1)
    shown = pictures(explorer)
    np.testing.assert_array_equal(shown["image"], image[0, ..., 0])
    np.testing.assert_allclose(shown["reconstruction"], drawn[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose(shown["moved"], drawn[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose([bar.get_height() for bar in explorer.bars], lengths, rtol=1e-5)
    assert explorer.predicted == lengths.argmax() and not explorer.offsets.any()
    colours = [bar.get_facecolor() for bar in explorer.bars]
    assert [colours.count(colour) == 1 for colour in colours] == [j == explorer.predicted for j in range(10)]
    assert explorer.pictures["image"].axes.get_title() == f"Test image 0: {dataset.test_labels[0]}"
    assert str(explorer.predicted) in explorer.pictures["reconstruction"].axes.get_title()


def test_there_is_a_slider_for_each_dimension_from_minus_to_plus_a_quarter(explorer):
    assert [slider.label.get_text() for slider in explorer.sliders] == list("01234567")
    assert {(s.valmin, s.valmax, s.val) for s in explorer.sliders} == {(-0.25, 0.25, 0.0)}


def test_sliders_move_the_capsule_and_the_image_follows(explorer, network):
    before = pictures(explorer)
    explorer.sliders[2].set_val(0.2)
    explorer.sliders[5].set_val(-0.1)
    np.testing.assert_allclose(explorer.offsets, [0, 0, 0.2, 0, 0, -0.1, 0, 0])
    moved = explorer.capsule + np.float32([0, 0, 0.2, 0, 0, -0.1, 0, 0])
    expected = explore.draw_capsules(network, explorer.predicted, moved[None])[0]
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
    drawn = []
    draw = explore.draw_capsules
    monkeypatch.setattr(explore, "draw_capsules", lambda *a: drawn.append(a) or draw(*a))
    explorer.reset()
    assert not explorer.offsets.any() and {slider.val for slider in explorer.sliders} == {0.0}
    np.testing.assert_array_equal(pictures(explorer)["moved"], before)
    assert len(drawn) == 1
    explorer.sliders[0].set_val(0.1)  # they still answer
    assert len(drawn) == 2


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
    place = axes.transAxes.transform((x, 0.5))
    for name in ("button_press_event", "button_release_event"):
        canvas.callbacks.process(name, MouseEvent(name, canvas, *place, button=1))


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
    drawn, page = explorer.figure.get_tightbbox(), explorer.figure.bbox_inches
    assert drawn.x0 > 0 and drawn.y0 > 0 and drawn.x1 < page.x1 and drawn.y1 < page.y1


def test_the_window_takes_colour_images_that_are_not_square_and_other_classes():
    network = CapsNet((11, 14, 3), 4, conv_channels=4, conv_kernel=3, primary_types=2,
                      primary_dimension=3, primary_kernel=3, class_dimension=5, rng=0)  # fmt: skip
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
        (build("capsnet", "tiny", decoder=False, rng=0), "no decoder, expected one"),
    ],
)
def test_the_window_refuses_networks_without_anything_to_move(network, message, dataset):
    with pytest.raises(ValueError, match=message):
        Explorer(Figure(), network, dataset.test_images, dataset.test_labels, DIGITS)


# -- the figures -------------------------------------------------------------------------------


def record(monkeypatch, name):
    """Note the arguments of a figure of plots, which is drawn all the same."""
    calls, draw = [], getattr(explore.plots, name)
    monkeypatch.setattr(explore.plots, name, lambda *a, **k: calls.append((a, k)) or draw(*a, **k))
    return calls


def test_the_figures_show_the_chosen_image(network, dataset, tmp_path, monkeypatch):
    names = ("couplings_per_iteration", "couplings_over_image", "dimension_grid", "reconstructions")
    calls = {name: record(monkeypatch, name) for name in names}
    paths = list(explore.write_figures(network, dataset, DIGITS, tmp_path / "a" / "b", 17))
    assert [path.name for path in paths] == [f"{name}.png" for name in OF_A_RUN[1:]]
    assert all(np.asarray(Image.open(path).convert("L")).std() > 5 for path in paths)

    image = dataset.test_images[17:18].astype(np.float32) / 255
    (v, _), cache = network.forward(image)
    c = cache.capsules.c
    (given,), names = calls["couplings_per_iteration"][0]
    np.testing.assert_array_equal(given, [each[0] for each in c])
    assert names == {"upper_names": DIGITS}
    over, _ = calls["couplings_over_image"][0]
    np.testing.assert_array_equal(over[0], image[0])
    np.testing.assert_array_equal(over[1], c[-1][0])
    chosen = int(np.linalg.norm(v[0], axis=-1).argmax())
    (drawn, offsets), _ = calls["dimension_grid"][0]
    np.testing.assert_allclose(drawn, explore.draw_moved(network, chosen, v[0, chosen]), atol=1e-6)
    np.testing.assert_array_equal(offsets, explore.OFFSETS)
    shown = calls["reconstructions"][0][0]
    which = [17, 18, 19, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(shown[0], dataset.test_images[which].astype(np.float32) / 255)
    np.testing.assert_array_equal(shown[2], dataset.test_labels[which])


def test_damaged_metrics_are_named(network, dataset, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    for text in ("{", '{"epoch": 1}\n', "3\n"):
        metrics.write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.jsonl: damaged"):
            next(explore.write_figures(network, dataset, DIGITS, tmp_path, 0, metrics))


# -- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(small_folder):
    return str(small_folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """The folder of a complete run, and what it computed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    runs.Run(tiny_config(limit=100, data=data), folder, say=quiet).train()
    return folder


@pytest.fixture
def empty_files(monkeypatch):
    """Write figures as empty files, which takes no time."""
    monkeypatch.setattr(explore.plots, "save", lambda figure, path: path.touch())


@pytest.fixture
def no_screen(monkeypatch):
    monkeypatch.setattr(explore, "find_window", lambda network: (None, "there is no display"))


@pytest.fixture
def screen(monkeypatch):
    """Stand in for pyplot with a screen: note the windows that are opened."""
    figures, shown = [], []

    def figure(name, figsize):
        figures.append(Figure(figsize=figsize))
        return figures[-1]

    pyplot = types.SimpleNamespace(figure=figure, show=lambda: shown.append(len(figures)))
    monkeypatch.setattr(explore, "find_window", lambda network: (pyplot, ""))
    return types.SimpleNamespace(figures=figures, shown=shown)


@pytest.fixture
def call(capsys):
    """Return a function that runs `explore` and returns (exit code, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        code = cli.main(["explore", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def test_explore_writes_the_figures_into_the_run_and_prints_their_paths(call, run, no_screen):
    code, output, errors = call(run)
    paths = [str(run / "figures" / f"{name}.png") for name in OF_A_RUN]
    assert (code, errors) == (0, "")
    assert output.splitlines() == [*paths, "no window: there is no display"]
    assert all(os.path.getsize(path) > 1000 for path in paths)


def test_explore_takes_a_model_file_and_other_folders(call, run, data, no_screen, empty_files, tmp_path):
    assert call(run / "model.npz", "--data", data)[0] == 0
    names = sorted(f"{name}.png" for name in OF_A_RUN[1:])  # a file has no learning curves
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    assert call(run / "model.npz", "--data", data, "--out", "there")[0] == 0
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == names


def test_explore_opens_the_window_at_the_chosen_image(call, run, screen, empty_files):
    code, output, errors = call(run, "--image", 4)
    assert (code, errors) == (0, "") and "no window" not in output
    assert screen.shown == [1]
    titles = [axes.get_title() for axes in screen.figures[0].axes]
    assert f"Test image 4: {mnist().test_labels[4]}" in titles


def test_interactive_without_a_display_ends_with_1_and_writes_nothing(call, run, no_screen, tmp_path):
    code, output, errors = call(run, "--interactive", "--out", tmp_path / "none")
    assert (code, output) == (1, "") and not (tmp_path / "none").exists()
    assert errors == "minicaps: --interactive: there is no display\n"


def save(path, network):
    checkpoint.save_network(path, network, {"CapsNet": "capsnet"}.get(type(network).__name__, "mlp"), DIGITS)
    return path


def test_without_a_decoder_the_other_figures_are_drawn_and_the_window_is_left_out(
    call, data, empty_files, tmp_path
):
    path = save(tmp_path / "plain.npz", build("capsnet", "tiny", decoder=False, rng=0))
    code, output, errors = call(path, "--data", data)
    assert (code, errors) == (0, "")
    names = [line.split(os.sep)[-1] for line in output.splitlines()[:-1]]
    assert names == ["couplings.png", "couplings_over_image.png", "confusion_matrix.png", "mistakes.png"]
    assert output.splitlines()[-1].startswith("no window: the network has no decoder")
    code, output, errors = call(path, "--data", data, "--interactive")
    assert code == 1 and errors.startswith("minicaps: --interactive: the network has no decoder")


def test_a_network_without_capsules_ends_with_1(call, data, tmp_path):
    code, output, errors = call(save(tmp_path / "mlp.npz", build("mlp", rng=0)), "--data", data)
    assert (code, output) == (1, "")
    assert "class MLP, expected CapsNet" in errors and errors.count("\n") == 1


@pytest.mark.parametrize("number", [-1, 100])
def test_an_image_that_is_not_there_ends_with_2(call, run, no_screen, number):
    code, _, errors = call(run, "--image", number)
    assert (code, errors) == (2, f"minicaps: --image is {number}, expected 0 to 99\n")


def test_a_missing_run_ends_with_2(call, tmp_path):
    code, _, errors = call(tmp_path / "absent")
    assert code == 2 and "absent: no such file" in errors


def test_a_run_of_other_images_ends_with_1(call, data, tmp_path):
    other = CapsNet((20, 28, 1), conv_channels=4, primary_types=2, primary_dimension=2, rng=0)
    code, _, errors = call(save(tmp_path / "other.npz", other), "--data", data)
    assert code == 1 and "28×28 pixels, expected 20×28" in errors


# -- whether there is a screen -----------------------------------------------------------------


def test_a_real_process_without_a_screen_says_so_and_ends_with_0(run, tmp_path):
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "minicaps", "explore", run,
               "--out", tmp_path / "there"]  # fmt: skip
    environment = {**os.environ, "MPLBACKEND": "agg"}
    ended = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("no window: there is no display") and "'agg'" in last


@pytest.mark.parametrize(
    "backend, opens", [("agg", False), ("SVG", False), ("TkAgg", True), ("macosx", True)]
)
def test_a_window_needs_a_backend_with_windows(network, monkeypatch, backend, opens):
    import matplotlib.pyplot

    monkeypatch.setattr(explore.matplotlib, "get_backend", lambda: backend)
    monkeypatch.setattr(matplotlib.pyplot, "switch_backend", quiet)
    pyplot, why_not = explore.find_window(network)
    assert (pyplot is matplotlib.pyplot) == opens and (why_not == "") == opens


def test_a_backend_that_cannot_be_loaded_is_a_reason_not_an_error(network, monkeypatch):
    import matplotlib.pyplot

    def switch_backend(name):
        raise ImportError("Cannot load backend 'tkagg'")

    monkeypatch.setattr(matplotlib.pyplot, "switch_backend", switch_backend)
    pyplot, why_not = explore.find_window(network)
    assert pyplot is None and "Cannot load backend 'tkagg'" in why_not


def test_the_module_needs_no_pyplot():
    code = "import sys, minicaps.figures.explore, minicaps.cli; print('matplotlib.pyplot' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


# -- the trained network of the repository -----------------------------------------------------


def test_load_pretrained_returns_the_network(network, tmp_path):
    loaded = checkpoint.load_pretrained(save(tmp_path / "trained.npz", network))
    assert isinstance(loaded, CapsNet)
    for name, array in network.state().items():
        np.testing.assert_array_equal(loaded.state()[name], array)
