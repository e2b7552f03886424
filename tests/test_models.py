"""The networks as a whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import assert_the_objective_agrees_with_central_differences

from minicaps import Hard, MarginLoss
from minicaps.fast import threads
from minicaps.layers import Loss
from minicaps.networks import CNN, MLP, NETWORKS, PRESETS, CapsNet, CapsNetConfig, CNNConfig, build
from minicaps.training import Adam, Cosine, OneProcess, train_step


@pytest.mark.parametrize("decoder", [True, False])
def test_the_gradient_of_the_whole_objective_agrees_with_central_differences(decoder):
    rng = np.random.default_rng(3)
    config = CapsNetConfig(
        (10, 9, 2), 4, conv_channels=3, conv_kernel=3, primary_types=2, primary_dimension=3, primary_kernel=3,
        class_dimension=5, std=1.0, decoder=decoder, decoder_hidden=(6, 7), reconstruction_scale=0.05,
    )  # fmt: skip
    net = CapsNet(config, rng=0, dtype=np.float64)
    images, labels = rng.uniform(size=(3, 10, 9, 2)), np.array([2, 0, 3])
    assert_the_objective_agrees_with_central_differences(net, images, labels)


@pytest.mark.parametrize("name, shape, classes", [
    ("capsnet", (32, 32, 3), 7), ("capsnet", (20, 28, 1), 2), ("cnn", (32, 30, 3), 7), ("mlp", (5, 4, 3), 2),
    ("matrix", (20, 24, 3), 4), ("efficient", (17, 30, 3), 4),
])  # fmt: skip
def test_any_image_shape_and_number_of_classes(name, shape, classes):
    net = build(name, "tiny", image_shape=shape, classes=classes, rng=0)
    rng = np.random.default_rng(0)
    images, labels = rng.random((3, *shape), dtype=np.float32), np.arange(3) % classes
    source, optimizer = OneProcess(net), Adam(net, 1e-3)
    losses = [train_step(source, optimizer, images, labels).loss for _ in range(10)]
    assert losses[-1] < losses[0]
    assert net.scores(net(images)).shape == (3, classes)


@pytest.mark.parametrize("name", ["capsnet", "cnn", "efficient", "matrix", "mlp"])
def test_scores_are_between_0_and_1(name):
    net = build(name, "tiny", rng=0)
    scores = net.scores(net(np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)))
    assert ((scores >= 0) & (scores <= 1)).all()
    if name in ("cnn", "mlp"):
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_the_mlp_and_the_cnn_are_those_of_the_walk_through():
    assert MLP(rng=0).count_params() == 784 * 50 + 50 + 50 * 10 + 10
    cnn = CNN(rng=0)
    assert cnn.count_params() == (
        5 * 5 * 25 + 25 + 5 * 5 * 25 * 25 + 25 + 4 * 4 * 25 * 25 + 25 + 25 * 50 + 50 + 50 * 10 + 10
    )
    shapes = cnn.output_shapes()
    assert (shapes["pool1"], shapes["pool2"], shapes["conv3"]) == ((12, 12, 25), (4, 4, 25), (1, 1, 25))


def test_the_table_lists_every_layer_with_shape_and_parameters():
    table = build("capsnet", "paper", rng=0).table()
    for line in ("20 × 20 × 256         20,992", "1152 × 8           5,308,672",
                 "10 × 16            1,474,560",
                 "28 × 28 × 1        1,411,344",
                 "8,215,568"):  # fmt: skip
        assert line in table


@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_builds_the_same_network_again(preset):
    net = build("capsnet", preset, classes=4, rng=0)
    again = CapsNet(CapsNetConfig(**vars(net.config)), rng=0)
    assert {n: p.tobytes() for n, p in again.params.items()} == {
        n: p.tobytes() for n, p in net.params.items()
    }


def test_one_seed_gives_one_network():
    same, again, other = (build("capsnet", "tiny", rng=seed).params["conv.W"] for seed in (1, 1, 2))
    assert (same == again).all() and (same != other).any()


def test_without_a_decoder_there_is_neither_image_nor_reconstruction_loss():
    net = build("capsnet", "tiny", decoder=False, rng=0)
    assert net(np.zeros((2, 28, 28, 1), np.float32)).shape == (2, 10, 8)
    assert isinstance(net.objective(), MarginLoss) and isinstance(net.objective(), Loss)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: build("resnet"), "model is 'resnet', expected one of capsnet, cnn, efficient, matrix, mlp"),
        (lambda: build("capsnet", "huge"), "preset is 'huge', expected one of tiny, small, paper"),
        (
            lambda: CapsNet(CapsNetConfig((16, 16, 1))),
            "the primary capsules: a window of height 9 does not fit",
        ),
        (
            lambda: CapsNet(CapsNetConfig((8, 28, 1))),
            "the first convolution: a window of height 9 does not fit",
        ),
        (
            lambda: CNN(CNNConfig((27, 27, 1))),
            "CNN: conv3: a window of height 4 does not fit an image of height 3",
        ),
        (lambda: build("capsnet", image_shape=(28, 28)), "expected .height, width, channels."),
        (lambda: build("mlp", classes=0), "classes is 0"),
        (lambda: build("capsnet", classes=0), "classes is 0"),
    ],
)
def test_what_cannot_be_built_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["capsnet", "cnn", "efficient", "matrix", "mlp"])
def test_images_of_another_size_or_type_are_refused_with_the_cure(name):
    net = build(name, "tiny", rng=0)
    with pytest.raises(ValueError, match=r"axis 1 \(height H\) is 32, not 28"):
        net.forward(np.zeros((1, 32, 28, 1), np.float32))
    with pytest.raises(TypeError, match=r"uint8, expected float32.*divide 8-bit pixels by 255"):
        net(np.zeros((1, 28, 28, 1), np.uint8))


def test_labels_the_network_does_not_know_are_refused():
    with pytest.raises(ValueError, match="labels run from 0 to 10, expected 0 to 9"):
        build("capsnet", "tiny", rng=0).forward(np.zeros((2, 28, 28, 1), np.float32), np.array([0, 10]))


def float64_arrays_seen(work):
    """Run `work` and return what holds float64 among the local variables of all of minicaps."""
    seen = set()

    def look(frame, event, result):
        if event == "return" and "minicaps" in frame.f_code.co_filename:
            for name, value in [*frame.f_locals.items(), ("its result", result)]:
                for array in value if isinstance(value, (tuple, list)) else [value]:
                    if isinstance(array, (np.ndarray, np.generic)) and array.dtype == np.float64:
                        seen.add(f"{frame.f_code.co_name}: {name}")

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("name", ["capsnet", "cnn", "efficient", "matrix", "mlp"])
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_a_float32_training_step_makes_no_float64_array(name, preset, monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: 1)  # the profiler sees one thread only
    net = build(name, preset, rng=0)
    source, optimizer = OneProcess(net), Adam(net, Cosine(1e-3, 10))
    images = np.random.default_rng(0).random((20, 28, 28, 1), dtype=np.float32)
    labels = np.arange(20) % 10

    def step():
        source.backpropagate(images, labels)
        optimizer.step()

    step()  # constant matrices are made in float64 once, and converted
    assert float64_arrays_seen(step) == set()
    double = build("mlp", rng=0, dtype=np.float64)  # and the look does see what there is
    assert float64_arrays_seen(lambda: double(images.astype(np.float64)))


@pytest.mark.parametrize("name, preset", [("capsnet", "small"), ("efficient", "small"), ("matrix", "tiny")])
@pytest.mark.parametrize("count", ["1", "3"])
def test_one_seed_gives_the_same_bits_whatever_the_threads(count, name, preset):
    code = (
        "import hashlib, numpy as np\n"
        "from minicaps.networks import build\n"
        "from minicaps.fast import own_the_cores\n"
        "from minicaps.training import Adam, OneProcess, train_step\n"
        "own_the_cores()\n"
        f"net = build({name!r}, {preset!r}, rng=0)\n"
        "x = np.random.default_rng(0).random((40, 28, 28, 1), dtype=np.float32)\n"
        "optimizer = Adam(net, 1e-2)\n"
        "for _ in range(3): train_step(OneProcess(net), optimizer, x, np.arange(40) % 10)\n"
        "print(hashlib.sha256(b''.join(p.tobytes() for p in net.state().values())).hexdigest())\n"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "MINICAPS_THREADS": threads},
                       capture_output=True, text=True, check=True).stdout
        for threads in ("2", count)
    }  # fmt: skip
    assert len(digests) == 1


@pytest.mark.parametrize(
    "options", [{}, {"classes": 4, "image_shape": (30, 29, 3)}, {"bias": True, "decoder": False}]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_configuration_knows_how_many_parameters_it_stands_for(name, options):
    options = {k: v for k, v in options.items() if name == "capsnet" or k in ("classes", "image_shape")}
    net = build(name, "tiny", rng=0, **options)
    assert net.config.count_params() == net.count_params()


def test_an_option_that_no_network_has_is_told():
    with pytest.raises(TypeError, match=r"build: .*filters.*; CapsNetConfig says what there is"):
        build("capsnet", filters=3)


def test_a_network_shows_itself_in_one_line_and_as_a_table():
    net = build("capsnet", "small", rng=0)
    assert repr(net) == "CapsNet(28×28×1 -> 10 classes, 524,624 parameters)"
    page = net._repr_html_()
    assert page.count("<tr>") == 1 + 5 + 1 and "<td>PrimaryCaps</td><td>128 × 8</td>" in page


def test_predict_takes_8_bit_images_and_floats_with_or_without_a_channel_axis():
    net = build("capsnet", "tiny", rng=0)
    images = np.random.default_rng(0).integers(0, 256, size=(7, 28, 28, 1)).astype(np.uint8)
    expected = net.scores(net(images.astype(np.float32) / np.float32(255))).argmax(axis=1)
    for given in (images, images[..., 0], images / 255):
        np.testing.assert_array_equal(net.predict(given, batch_size=3), expected)
    double = net.for_inference().astype(np.float64)
    np.testing.assert_array_equal(double.predict(images), expected)
    with pytest.raises(TypeError, match=r"int64, expected float32 or float64.*divide 8-bit pixels by 255"):
        net.predict(images.astype(np.int64))
    assert net.predict(images[:0]).shape == (0,)


def test_a_coupling_of_ones_own_replaces_the_named_one():
    net = CapsNet(PRESETS["tiny"], coupling=Hard(), rng=0)
    assert isinstance(net.capsules.routing.coupling, Hard) and net.config.coupling == "softmax"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"conv_kernel": 99}, "a window of height 99 does not fit"),
        ({"conv_kernel": 0}, "kernel is 0, expected one or two whole numbers"),
        ({"decoder_hidden": (0, 5)}, "decoder_hidden 0 is 0, expected a whole number above 0"),
        ({"decoder_hidden": 5}, "decoder_hidden is 5, expected the widths of two layers"),
    ],
)
def test_a_configuration_that_no_network_can_have_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        CapsNetConfig(**options)


@pytest.mark.parametrize(
    "model, options, name",
    [
        ("capsnet", {}, "length"),
        ("capsnet", {"routing": "self-attention"}, "length"),
        ("capsnet", {"routing": "inverted-attention"}, "probability"),
        ("matrix", {}, "activation"),
        ("cnn", {}, "probability"),
        ("mlp", {}, "probability"),
    ],
)
def test_scores_are_called_what_they_are(model, options, name):
    network = build(model, "tiny", rng=0, **options)
    scores = network.scores(network(np.random.default_rng(0).random((3, 28, 28, 1), dtype=np.float32)))
    assert network.score_name == name
    assert np.allclose(scores.sum(axis=1), 1) == (name == "probability")
