"""A look inside a trained network: reconstructions, the figures, the command."""

import json
import os
import subprocess
import sys
import types
from dataclasses import asdict

import numpy as np
import pytest
from figure_helpers import DIGITS, EPOCHS, capsnet_with_couplings
from helpers import mnist, small_dataset, tiny_config
from matplotlib.figure import Figure
from PIL import Image

from minicaps import cli, figures
from minicaps.figures import explore, style
from minicaps.figures import runs as figures_of_runs
from minicaps.networks import CapsNet, CapsNetConfig, build, load_pretrained, save_network

OF_A_RUN = [
    "learning_curves",
    "couplings",
    "couplings_over_image",
    "dimensions",
    "reconstructions",
    "confusion_matrix",
    "mistakes",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINICAPS_DATA", raising=False)


@pytest.fixture(scope="module")
def network():
    return capsnet_with_couplings()


@pytest.fixture(scope="module")
def dataset():
    return small_dataset(60, 20)


# -- what the decoder makes --------------------------------------------------------------------


def test_a_capsule_that_is_not_moved_gives_the_reconstruction_of_the_network(network, dataset):
    images = dataset.test_images[:5].astype(np.float32) / 255
    v, made = network(images)
    for k, chosen in enumerate(network.scores((v, made)).argmax(axis=1)):
        again = figures.reconstruct_capsules(network, chosen, v[k : k + 1, chosen])
        np.testing.assert_allclose(again[0], made[k], atol=1e-6)


def test_reconstruct_moved_adds_each_offset_to_each_dimension(network):
    capsule, offsets = np.random.default_rng(0).normal(size=8).astype(np.float32), [-0.2, 0.0, 0.3]
    made = figures.reconstruct_moved(network, 4, capsule, offsets)
    assert made.shape == (8, 3, 28, 28, 1) and made.dtype == np.float32
    for d in range(8):
        for n, offset in enumerate(offsets):
            moved = capsule.copy()
            moved[d] += offset
            expected = figures.reconstruct_capsules(network, 4, moved[None])[0]
            np.testing.assert_allclose(made[d, n], expected, atol=1e-6)


def test_the_offsets_are_those_of_the_paper():
    np.testing.assert_allclose(figures.OFFSETS, np.arange(-5, 6) * 0.05, atol=1e-12)


# -- the figures -------------------------------------------------------------------------------


def record(monkeypatch, module, name):
    """Note the arguments of a figure, which is drawn all the same."""
    calls, draw = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: calls.append((a, k)) or draw(*a, **k))
    return calls


def test_the_figures_show_the_chosen_image(network, dataset, tmp_path, monkeypatch):
    names = ("couplings_per_iteration", "couplings_over_image", "dimension_grid")
    calls = {name: record(monkeypatch, explore, name) for name in names}
    calls["reconstructions"] = record(monkeypatch, figures_of_runs, "reconstructions")
    paths = list(figures.write_figures(network, dataset, DIGITS, tmp_path / "a" / "b", 17))
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
    (moved, offsets), _ = calls["dimension_grid"][0]
    np.testing.assert_allclose(moved, figures.reconstruct_moved(network, chosen, v[0, chosen]), atol=1e-6)
    np.testing.assert_array_equal(offsets, figures.OFFSETS)
    shown = calls["reconstructions"][0][0]
    which = [17, 18, 19, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(shown[0], dataset.test_images[which].astype(np.float32) / 255)
    np.testing.assert_array_equal(shown[2], dataset.test_labels[which])


def test_damaged_metrics_are_named(network, dataset, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    for text in ("{", '{"epoch": 1}\n', "3\n"):
        metrics.write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.jsonl: damaged"):
            next(figures.write_figures(network, dataset, DIGITS, tmp_path, 0, metrics))


# -- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(small_folder):
    return str(small_folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, network):
    """The folder of a complete run, as far as `explore` reads it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_text(json.dumps(asdict(tiny_config(data=data))))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EPOCHS))
    save_network(folder / "model.npz", network, DIGITS)
    return folder


@pytest.fixture
def empty_files(monkeypatch):
    """Write figures as empty files, which takes no time."""
    monkeypatch.setattr(style, "save", lambda figure, path: path.touch())


@pytest.fixture
def no_screen(monkeypatch):
    monkeypatch.setattr(figures, "find_window", lambda network: (None, "there is no display"))


@pytest.fixture
def screen(monkeypatch):
    """Stand in for pyplot with a screen: note the windows that are opened."""
    windows, shown = [], []

    def figure(name, figsize):
        windows.append(Figure(figsize=figsize))
        return windows[-1]

    pyplot = types.SimpleNamespace(figure=figure, show=lambda: shown.append(len(windows)))
    monkeypatch.setattr(figures, "find_window", lambda network: (pyplot, ""))
    return types.SimpleNamespace(windows=windows, shown=shown)


@pytest.fixture
def call(capsys):
    """Return a function that runs `explore` and returns (exit code, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        code = cli.main(["explore", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def test_explore_writes_the_figures_into_the_run_and_prints_their_paths(call, run, data, no_screen):
    code, output, errors = call(run)
    paths = [str(run / "figures" / f"{name}.png") for name in OF_A_RUN]
    assert (code, errors) == (0, "")
    assert output.splitlines() == [f"data: {data}", *paths, "no window: there is no display"]
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
    titles = [axes.get_title() for axes in screen.windows[0].axes]
    assert f"Test image 4: {mnist().test_labels[4]}" in titles


def test_interactive_without_a_display_ends_with_1_and_writes_nothing(call, run, no_screen, tmp_path):
    code, output, errors = call(run, "--interactive", "--out", tmp_path / "none")
    assert (code, output) == (1, "") and not (tmp_path / "none").exists()
    assert errors == "minicaps: --interactive: there is no display\n"


def save(path, network):
    save_network(path, network, DIGITS)
    return path


def test_without_a_decoder_the_other_figures_are_drawn_and_the_window_is_left_out(
    call, data, empty_files, tmp_path
):
    path = save(tmp_path / "plain.npz", build("capsnet", "tiny", decoder=False, rng=0))
    code, output, errors = call(path, "--data", data)
    assert (code, errors) == (0, "")
    names = [line.split(os.sep)[-1] for line in output.splitlines()[1:-1]]
    assert names == ["couplings.png", "couplings_over_image.png", "confusion_matrix.png", "mistakes.png"]
    assert output.splitlines()[-1].startswith("no window: the network has no decoder")
    code, output, errors = call(path, "--data", data, "--interactive")
    assert code == 1 and errors.startswith("minicaps: --interactive: the network has no decoder")


def test_a_network_without_capsules_ends_with_1(call, data, tmp_path):
    code, output, errors = call(save(tmp_path / "mlp.npz", build("mlp", rng=0)), "--data", data)
    assert (code, output) == (1, "")
    assert (
        "class MLP, expected CapsNet, EfficientCapsNet or MatrixCapsNet" in errors and errors.count("\n") == 1
    )


OF_MATRICES = ["activations", "couplings", "couplings_over_image", "poses", "confusion_matrix", "mistakes"]


def test_a_network_of_matrices_shows_its_activations_couplings_and_poses(dataset, tmp_path, monkeypatch):
    network = build("matrix", "tiny", rng=0)
    names = ("activations", "couplings_per_iteration", "couplings_over_image", "poses")
    calls = {name: record(monkeypatch, explore, name) for name in names}
    paths = list(figures.write_figures(network, dataset, DIGITS, tmp_path, 17))
    assert [path.stem for path in paths] == OF_MATRICES
    assert all(np.asarray(Image.open(path).convert("L")).std() > 5 for path in paths)

    image = dataset.test_images[17:18].astype(np.float32) / 255
    a, cache = network.forward(image)
    given = {name: called[0][0] for name, called in calls.items()}
    np.testing.assert_array_equal(given["activations"][0], image[0])
    np.testing.assert_array_equal(given["activations"][1], a[0])
    np.testing.assert_array_equal(given["couplings_per_iteration"][0], [each[0] for each in cache.capsules.c])
    _, c, grid, _ = given["couplings_over_image"]
    np.testing.assert_array_equal(c, cache.capsules.c[-1][0])
    poses, active = cache.capsules.poses, cache.capsules.a  # (1, P, Q, types, 16), (1, P, Q, types)
    assert poses.shape[1:3] == grid and len(c) == active[0].size
    np.testing.assert_array_equal(given["poses"][0], cache.mu[0])
    np.testing.assert_array_equal(given["poses"][1], a[0])
    assert given["poses"][3] is True


def test_the_map_of_matrix_couplings_has_each_capsule_at_its_position():
    """A capsule that is not active moves no parent, so its pose changes the couplings at its own position."""
    network = build("matrix", "tiny", image_shape=(28, 36, 1), rng=0)
    rows, columns = network.config.grid
    assert rows != columns
    _, cache = network.forward(np.random.default_rng(0).uniform(size=(1, 28, 36, 1)).astype(np.float32))
    poses, a = cache.capsules.poses, np.zeros_like(cache.capsules.a)
    a[0, 0, 0] = 1  # these alone say where the parents are
    moved = poses.copy()
    moved[0, 1, 2] += 1
    before, after = (network.capsules.forward(each, a)[1].c[-1][0] for each in (poses, moved))  # (I, J)
    changed = np.abs(after - before).reshape(rows, columns, -1).max(axis=2) > 1e-3  # (P, Q)
    assert np.argwhere(changed).tolist() == [[1, 2]]


def test_explore_says_in_one_line_what_matrices_cannot_show(call, data, tmp_path):
    path = save(tmp_path / "matrix.npz", build("matrix", "tiny", rng=0))
    code, output, errors = call(path, "--data", data, "--out", "there")
    assert code == 0 and "warning" not in errors
    first, *written, last = output.splitlines()
    assert first == f"data: {data}"
    assert [line.split(os.sep)[-1] for line in written] == [f"{name}.png" for name in OF_MATRICES]
    assert last == (
        "no window: the network has no decoder: no reconstructions, and no dimension of a capsule to turn"
    )
    code, output, errors = call(path, "--data", data, "--interactive", "--out", "none")
    assert code == 1 and errors.startswith("minicaps: --interactive: the network has no decoder")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"routing": "self-attention"},
        {"routing": "inverted-attention"},
        {"routing": "inverted-attention", "decoder": False},
        {"coupling": "entmax"},
        {"coupling": "top-2", "prior": True},
    ],
)
def test_every_routing_of_a_capsnet_is_explored(options, dataset, tmp_path):
    network, lines = build("capsnet", "tiny", rng=0, **options), []
    paths = list(figures.write_figures(network, dataset, DIGITS, tmp_path, say=lines.append))
    without = () if options.get("decoder", True) else ("dimensions", "reconstructions")
    assert [path.stem for path in paths] == [name for name in OF_A_RUN[1:] if name not in without]
    assert lines == []


def test_figures_of_a_network_without_capsules_are_refused_before_a_folder_is_made(dataset, tmp_path):
    with pytest.raises(ValueError, match="write_figures: the network is of class CNN, expected CapsNet, Eff"):
        next(figures.write_figures(build("cnn", rng=0), dataset, DIGITS, tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("number", [-1, 100])
def test_an_image_that_is_not_there_ends_with_2(call, run, no_screen, number):
    code, _, errors = call(run, "--image", number)
    assert (code, errors) == (2, f"minicaps: --image is {number}, expected 0 to 99\n")


def test_a_missing_run_ends_with_2(call, tmp_path):
    code, _, errors = call(tmp_path / "absent")
    assert code == 2 and "absent: no such file" in errors


def test_a_run_of_other_images_ends_with_1(call, data, tmp_path):
    config = CapsNetConfig((28, 28, 2), conv_channels=4, primary_types=2, primary_dimension=2)
    other = CapsNet(config, rng=0)
    code, _, errors = call(save(tmp_path / "other.npz", other), "--data", data)
    assert code == 1 and "(28, 28, 1) pixels, but the network was trained on" in errors


def test_a_real_process_without_a_screen_says_so_and_ends_with_0(run, tmp_path):
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-m",
        "minicaps",
        "explore",
        run,
        "--out",
        tmp_path / "there",
    ]
    environment = {**os.environ, "MPLBACKEND": "agg"}
    ended = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("no window: there is no display") and "'agg'" in last


def test_the_module_needs_no_pyplot():
    code = "import sys, minicaps.figures, minicaps.cli; print('matplotlib.pyplot' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


# -- the trained network of the repository -----------------------------------------------------


def test_load_pretrained_returns_the_network(network, tmp_path):
    loaded = load_pretrained(save(tmp_path / "trained.npz", network))
    assert isinstance(loaded, CapsNet)
    for name, array in network.state().items():
        np.testing.assert_array_equal(loaded.state()[name], array)
