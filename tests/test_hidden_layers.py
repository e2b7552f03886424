"""Capsule layers between the primary and the class capsules, from the configuration to the command line."""

import json

import numpy as np
import pytest
from helpers import assert_the_objective_agrees_with_central_differences, quiet, small_dataset, tiny_config
from test_data_parallel import batch

from minicaps import CapsNet, CapsNetConfig, Leaky, build, load, save
from minicaps.cli import OK, WRONG_USE
from minicaps.figures import write_figures
from minicaps.networks import ROUTINGS, files, load_network
from minicaps.training import Adam, DataParallel, OneProcess, Run, TrainConfig, read_config, train_step

LAYERS = ((12, 5), (6, 4))
every_routing = pytest.mark.parametrize("routing", ROUTINGS)
every_start = pytest.mark.parametrize(
    "options",
    [{"routing": routing} for routing in ROUTINGS] + [{"bias": True}, {"prior": True}, {"coupling": "top-2"}],
    ids=str,
)


def network(layers=LAYERS, **options):
    return build("capsnet", "tiny", rng=0, layers=layers, **options)


# -- the network --------------------------------------------------------------------------------------


def test_each_layer_is_routed_to_from_the_one_before():
    net = network()
    sizes = [layer.votes.params["W"].shape for layer in net.capsule_layers().values()]
    assert sizes == [(64, 4, 12, 5), (12, 5, 6, 4), (6, 4, 10, 8)]
    images = np.random.default_rng(0).random((2, 28, 28, 1), dtype=np.float32)
    (v, _), cache = net.forward(images)
    u = net.primary(net.relu(net.conv(images)))
    for layer, kept in zip(net.capsule_layers().values(), cache.capsule_layers().values(), strict=True):
        u = layer(u)
        np.testing.assert_array_equal(kept.v[-1], u)
    np.testing.assert_array_equal(v, u)
    np.testing.assert_array_equal(net(images)[0], v)


def test_without_hidden_layers_nothing_is_new():
    assert network(()).params.keys() == build("capsnet", "tiny", rng=0).params.keys()
    assert CapsNetConfig().layers == () and network(()).capsules.votes.std == 0.05


@every_start
def test_the_weights_are_counted_without_building(options):
    net = network(**options)
    assert net.config.count_params() == net.count_params()
    assert f"{net.count_params():,}" in repr(net) and f"{net.count_params():,}" in net.table()


def test_the_table_lists_the_hidden_layers():
    lines = network().table().splitlines()
    for hidden, shape in (("hidden.0", "12 × 5"), ("hidden.1", "6 × 4")):
        assert any(
            line.split()[:6] == [hidden, "CapsuleLayer,", "DynamicRouting", *shape.split()] for line in lines
        )


@pytest.mark.parametrize(
    "routing, std", [("dynamic", 3.0), ("self-attention", 2.0), ("inverted-attention", None)]
)
def test_the_gradient_of_the_whole_objective_agrees_with_central_differences(routing, std):
    """From starts whose gradients are not lost in rounding, and with no kink within the step."""
    rng = np.random.default_rng(3)
    config = CapsNetConfig(
        (10, 9, 2), 4, conv_channels=3, conv_kernel=3, primary_types=2, primary_dimension=3, primary_kernel=3,
        class_dimension=5, layers=((5, 3), (3, 4)), std=std, decoder_hidden=(6, 7), routing=routing,
    )  # fmt: skip
    net = CapsNet(config, rng=0, dtype=np.float64)
    images, labels = rng.uniform(size=(3, 10, 9, 2)), np.array([2, 0, 3])
    assert_the_objective_agrees_with_central_differences(net, images, labels)


def test_a_coupling_of_ones_own_is_copied_into_every_layer():
    coupling = Leaky()
    net = CapsNet(network().config, coupling=coupling, rng=0)
    used = [layer.routing.coupling for layer in net.capsule_layers().values()]
    assert all(type(each) is Leaky for each in used) and len({id(each) for each in used}) == 3
    assert used[-1] is coupling


# -- the start ------------------------------------------------------------------------------------------


@every_routing
def test_two_hidden_layers_learn(routing):
    """The loss of one batch falls, and the couplings of every layer leave 1/J."""
    net = build("capsnet", "tiny", rng=0, layers=((16, 8), (12, 8)), routing=routing, decoder=False)
    data = small_dataset(50, 1)
    images, labels = data.train_images.astype(np.float32) / 255, data.train_labels
    source, optimizer = OneProcess(net), Adam(net, 4e-3)
    losses = [train_step(source, optimizer, images, labels).loss for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    for name, kept in net.forward(images)[1].capsule_layers().items():
        c = kept.c[-1]  # (B, I, J)
        assert c.max(axis=-1).mean() * c.shape[-1] > 1.05, name


def test_with_the_start_of_the_paper_nothing_would_arrive():
    images = np.random.default_rng(0).random((2, 28, 28, 1), dtype=np.float32)
    lengths = [np.linalg.norm(network(std=std, decoder=False)(images), axis=-1) for std in (0.05, None)]
    assert lengths[0].max() < 1e-20 < 1e-9 < lengths[1].min()


# -- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.npz", "net.safetensors"])
@every_start
def test_a_network_is_built_again_from_its_file(name, options, tmp_path):
    net = network(**options)
    save(tmp_path / name, net)
    again = load(tmp_path / name)
    assert again.config == net.config and again.config.layers == LAYERS
    for key, value in net.state().items():
        np.testing.assert_array_equal(again.params[key], value)


def test_a_file_from_before_there_were_hidden_layers_is_read(tmp_path):
    net = network(())
    save(tmp_path / "new.npz", net)
    arrays, description = files.read(tmp_path / "new.npz")
    del description["network"]["layers"]
    description["network"]["std"] = 0.05
    files.write(tmp_path / "old.npz", arrays, description)
    again, _ = load_network(tmp_path / "old.npz")
    assert again.config.layers == ()
    for key, value in net.state().items():
        np.testing.assert_array_equal(again.params[key], value)


@pytest.mark.parametrize(
    "layers", [3, [[3]], [3, 4], [[3, 0]], [["3", 4]], [[[3], 4]], [[3, 4]] * 101, {"3": 4}]
)
def test_a_file_with_other_layers_is_refused_in_one_line(layers, tmp_path):
    save(tmp_path / "net.npz", network())
    arrays, description = files.read(tmp_path / "net.npz")
    description["network"]["layers"] = layers
    files.write(tmp_path / "bad.npz", arrays, description)
    with pytest.raises(
        ValueError, match=r"bad\.npz: no network that this minicaps can build .*layers"
    ) as told:
        load(tmp_path / "bad.npz")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("layers, message", [
    ((32, 8), r"layers is \(32, 8\), expected \(capsules, dimension\) of every hidden layer, such as"),
    ([[32, 8]], r"layers is \[\[32, 8\]\], expected"),
    (((32,),), r"layers is \(\(32,\),\), expected"),
    (((32, 8), (0, 4)), r"layers 1 \(capsules\) is 0, expected a whole number above 0"),
    (((32, 8.0),), r"layers 0 \(dimension\) is 8.0, expected a whole number above 0"),
    (((2, 2),) * 101, "101 hidden layers, expected at most 100"),
])  # fmt: skip
def test_layers_that_cannot_be_are_refused(layers, message):
    with pytest.raises(ValueError, match=f"CapsNetConfig: {message}"):
        CapsNetConfig(layers=layers)


def test_more_parents_to_choose_than_a_hidden_layer_has_are_refused():
    with pytest.raises(ValueError, match="coupling is 'top-3', but a hidden layer has 2 capsules"):
        CapsNetConfig(layers=((4, 4), (2, 4)), coupling="top-3")


# -- training and the commands --------------------------------------------------------------------------


@every_routing
def test_the_number_of_processes_does_not_change_a_bit(routing, with_threads):
    results = []
    for count in (1, 2):
        with_threads(count)
        net = network(routing=routing)
        optimizer = Adam(net, 0.01)
        with DataParallel(net, net.objective(), 160) as parallel:
            assert len(parallel.workers) == count - 1
            for step, size in enumerate((160, 81)):
                parallel.backpropagate(*batch(net, size, seed=step))
                optimizer.step()
        results.append(net.state())
    for key, value in results[0].items():
        np.testing.assert_array_equal(results[1][key], value)


def test_a_run_is_resumed_with_its_layers(small_folder, tmp_path):
    config = tiny_config(layers=LAYERS, data=str(small_folder), limit=100)
    Run(config, tmp_path / "run", say=quiet).train()
    again = Run.resume(tmp_path / "run", say=quiet, epochs=2)
    assert again.config.layers == LAYERS and len(again.network.hidden) == 2
    again.train()
    assert read_config(tmp_path / "run").layers == LAYERS
    for key, value in load(tmp_path / "run" / "model.npz").params.items():
        np.testing.assert_array_equal(value, again.network.params[key])


@pytest.mark.parametrize("layers, expected", [
    (None, None), ((), None), ([], None), ([[6, 5]], ((6, 5),)), (((6, 5), (4, 3)), ((6, 5), (4, 3))),
])  # fmt: skip
def test_a_configuration_of_a_run_has_tuples_or_nothing(layers, expected):
    config = TrainConfig(layers=layers)
    assert config.layers == expected and config == TrainConfig(layers=expected)
    assert config.largest_learning_rate == (1e-3 if expected else 4e-3)
    assert f"layers={'None' if expected is None else ','.join(f'{n}x{d}' for n, d in expected)}" in str(
        config
    )


def test_from_the_command_line_to_the_figures(call, small_folder, tmp_path):
    data = ("--data", small_folder)
    code, output, _ = call(
        "train", "--preset", "tiny", "--layers", "6x5, 4X3", "--epochs", 1, "--limit", 100, *data,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == OK and "layers=6x5,4x3" in output
    assert "hidden.0" in output and "hidden.1" in output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["layers"] == [[6, 5], [4, 3]]
    assert call("evaluate", tmp_path / "run")[0] == OK
    code, output, errors = call("explore", tmp_path / "run", "--out", tmp_path / "figures")
    assert code == OK and not errors
    names = {path.name for path in (tmp_path / "figures").glob("couplings*")}
    assert names == {"couplings.png", "couplings_hidden_0.png", "couplings_hidden_1.png",
                     "couplings_over_image.png"}  # fmt: skip


def test_a_figure_of_couplings_says_of_which_layer_they_are(tmp_path, monkeypatch):
    headlines = []
    monkeypatch.setattr("minicaps.figures.explore.save_or_warn", lambda path, draw, say: headlines.append(
        (path.stem, draw().get_suptitle())))  # fmt: skip
    data, net = small_dataset(10, 12), network(decoder=False)
    list(write_figures(net, data, data.class_names, tmp_path))
    found = dict(headlines)
    assert "in the layer capsules" in found["couplings"]
    assert "in the layer hidden.1" in found["couplings_hidden_1"]
    assert "in the layer hidden.0 go: most to" in found["couplings_over_image"]


@pytest.mark.parametrize("arguments, told", [
    (("--layers", "32"), "layers is '32', expected CAPSULESxDIMENSION of each layer, such as 32x8,16x8"),
    (("--layers", "32x8,"), "layers is '32x8,', expected"),
    (("--layers", "32x8x4"), "expected CAPSULESxDIMENSION"),
    (("--layers", ""), "expected CAPSULESxDIMENSION"),
    (("--layers", "0x8"), "layers (capsules) is 0, expected a whole number above 0"),
    (("--layers", "8x0"), "layers (dimension) is 0, expected a whole number above 0"),
    (("--layers", "2x4", "--coupling", "top-3"), "a hidden layer has 2 capsules"),
    (("--layers", "8x4", "--model", "cnn"), "layers is ((8, 4),), but cnn has no such option (these have"),
    (("--layers", "8x4", "--model", "matrix"), "layers is ((8, 4),), but matrix has no such option"),
])  # fmt: skip
def test_other_layers_are_refused_in_one_line(complaint, arguments, told, tmp_path):
    assert told in complaint("train", *arguments, "--out", tmp_path / "run", code=WRONG_USE)
    assert not (tmp_path / "run").exists()
