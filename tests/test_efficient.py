"""Batch normalisation with its running averages, and EfficientCapsNet, the network that is made of it."""

import copy
import itertools
import pickle
import signal

import numpy as np
import pytest
from helpers import (
    assert_the_objective_agrees_with_central_differences,
    interrupt_at,
    quiet,
    small_dataset,
    tiny_config,
)
from matplotlib.figure import Figure

from minicaps import (
    BatchNorm,
    DepthwisePrimaryCaps,
    EfficientCapsNet,
    EfficientCapsNetConfig,
    Layer,
    SelfAttentionRouting,
    Sequential,
    build,
    figures,
    gradcheck,
    load,
    save,
)
from minicaps.capsules import ExponentialSquash
from minicaps.figures import Explorer, explore
from minicaps.layers import Dense
from minicaps.networks import EFFICIENT_PRESETS, files, to_onnx
from minicaps.proof.cases import assert_equal_bits, cases_of
from minicaps.training import SGD, Adam, DataParallel, OneProcess, Run, backpropagate, evaluate, train_step
from minicaps.training.processes import batch_slices

RNG = np.random.default_rng(5)
SHAPE = (6, 5, 3)  # two axes of vectors, then the features


def images_of(count, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.random((count, 28, 28, 1)).astype(dtype), rng.integers(0, 10, count)


def one_step(network, optimizer, images, labels):
    train_step(OneProcess(network), optimizer, images, labels)


def after_batches(layer, *batches, learning_rate=0.1):
    """Train a layer on some batches x: forward, backward, step."""
    optimizer = SGD(layer, learning_rate)
    for x in batches:
        layer.zero_grad()
        y, cache = layer.forward(x)
        layer.backward(np.ones_like(y), cache)
        optimizer.step()
    return layer


# -- batch normalisation: what forward gives ---------------------------------------------------


def test_features_get_mean_0_and_standard_deviation_1_over_all_vectors_of_the_batch():
    layer, x = BatchNorm(3, epsilon=1e-12, dtype=np.float64), RNG.normal(3, 7, size=SHAPE)
    y, _ = layer.forward(x)
    np.testing.assert_allclose(y.mean(axis=(0, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=(0, 1)), 1, rtol=1e-9)
    layer.params["gain"][...], layer.params["bias"][...] = [2.0, 3.0, -1.0], [1.0, 0.0, 5.0]
    np.testing.assert_allclose(layer.forward(x)[0], y * [2, 3, -1] + [1, 0, 5], rtol=1e-12, atol=1e-12)


def test_numbers_worked_out_by_hand():
    layer = BatchNorm(1, epsilon=3.0, dtype=np.float64)
    y, _ = layer.forward(np.array([[1.0], [3.0]]))  # mean 2, variance 1, std √(1 + 3) = 2
    np.testing.assert_allclose(y, [[-0.5], [0.5]])
    np.testing.assert_allclose(layer(np.array([[6.0]])), [[3.0]])  # by mean 0, variance 1: std 2 again
    cache = BatchNorm(1).forward(np.zeros((2, 1), np.float32))[1]
    np.testing.assert_allclose(cache.std, 1e-5**0.5)
    layer = after_batches(BatchNorm(1), np.zeros((2, 1), np.float32))
    np.testing.assert_allclose(layer.running["count"], 0.99 + 2)


def test_a_feature_that_is_the_same_everywhere_becomes_its_bias():
    layer = BatchNorm(2)
    layer.params["bias"][...] = [4.0, -1.0]
    x = np.full((3, 5, 2), 1e3, np.float32)
    y, cache = layer.forward(x)
    np.testing.assert_array_equal(y, np.broadcast_to(np.float32([4, -1]), y.shape))
    assert np.isfinite(layer.backward(np.ones_like(y), cache)).all()


def test_one_vector_alone_is_normalised_to_the_bias_and_stays_finite():
    layer = after_batches(BatchNorm(3, momentum=0), np.float32([[1, 2, 3]]))
    np.testing.assert_array_equal(layer.mean, [1, 2, 3])
    np.testing.assert_array_equal(layer.variance, 1)  # of which it says nothing


# -- its gradient, and wrong ones --------------------------------------------------------------


def test_a_batch_of_one_vector_says_nothing_of_the_variance():
    layer = BatchNorm(3, momentum=0.5, dtype=np.float64)
    rng = np.random.default_rng(0)
    after_batches(layer, *(rng.normal(3, 2, size=(1, 3)) for _ in range(50)))
    np.testing.assert_allclose(layer.variance, 1, rtol=1e-12)  # as it began
    assert (layer.mean > 0).all()


class MeanForConstant(BatchNorm):
    """Wrong on purpose: its gradient does not go through the mean."""

    def backward(self, dy, cache):
        dx = super().backward(dy, cache)
        return dx + self.params["gain"] / cache.std * dy.mean(axis=(0, 1))


class StdForConstant(BatchNorm):
    """Wrong on purpose: its gradient does not go through the standard deviation."""

    def backward(self, dy, cache):
        dx = super().backward(dy, cache)
        along = (dy * cache.normal).mean(axis=(0, 1))
        return dx + self.params["gain"] / cache.std * cache.normal * along


@pytest.mark.parametrize("cls, ok", [(BatchNorm, True), (MeanForConstant, False), (StdForConstant, False)])
def test_a_gradient_that_stops_at_mean_or_standard_deviation_is_found(cls, ok):
    layer = cls(3, dtype=np.float64)
    layer.params["gain"][...] = [0.5, 2.0, -1.5]
    report = gradcheck(layer, [np.random.default_rng(1).normal(size=SHAPE)])
    assert report.ok == ok


def test_the_gradient_of_a_snapshot_takes_the_running_averages_for_constants():
    layer = after_batches(BatchNorm(3, dtype=np.float64), RNG.normal(1, 2, size=SHAPE)).for_inference()
    layer.zero_grad()
    x, dy = RNG.normal(size=SHAPE), RNG.normal(size=SHAPE)
    y, cache = layer.forward(x)
    dx, step = layer.backward(dy, cache), 1e-6 * RNG.normal(size=SHAPE)
    numeric = ((layer(x + step) - layer(x - step)) * dy).sum() / 2
    np.testing.assert_allclose((dx * step).sum(), numeric, rtol=1e-6)
    np.testing.assert_allclose(layer.grads["bias"], dy.sum(axis=(0, 1)))
    np.testing.assert_allclose(layer.grads["gain"], (dy * (y - layer.params["bias"])).sum(axis=(0, 1)) /
                               layer.params["gain"])  # fmt: skip
    assert (layer.added["count"] == 0).all()  # and nothing of it moves an average


# -- running averages: what they are -----------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, (2, 3), (3, 3)])
def test_one_batch_without_memory_gives_its_mean_and_its_unbiased_variance(shape):
    x = RNG.normal(2, 3, size=shape)
    layer = after_batches(BatchNorm(3, momentum=0, dtype=np.float64), x)
    x = x.reshape(-1, 3)  # (M, N)
    np.testing.assert_allclose(layer.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.variance, x.var(axis=0, ddof=1), rtol=1e-12)  # M/(M - 1)


def test_running_averages_are_weighted_sums_of_batches_each_by_its_size():
    batches = [RNG.normal(k, 1 + k, size=(size, 2)) for k, size in enumerate((5, 9, 3))]
    layer = after_batches(BatchNorm(2, momentum=0.8, dtype=np.float64), *batches)
    weights = np.array(
        [0.8**3 * 1, 0.8**2 * 5, 0.8 * 9, 1 * 3]
    )  # the first: one vector of mean 0, variance 1
    means = np.stack([np.zeros(2), *(x.mean(axis=0) for x in batches)])  # (4, 2)
    variances = np.stack([np.ones(2), *(x.var(axis=0, ddof=1) for x in batches)])  # (4, 2)
    np.testing.assert_allclose(layer.mean, weights @ means / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(layer.variance, weights @ variances / weights.sum(), rtol=1e-12)


def test_they_begin_at_mean_0_and_variance_1():
    layer, x = BatchNorm(3, epsilon=1e-12, dtype=np.float64), RNG.normal(size=SHAPE)
    np.testing.assert_allclose(layer(x), x, rtol=1e-9)


def test_a_long_training_on_one_distribution_finds_it():
    rng = np.random.default_rng(0)
    layer = after_batches(BatchNorm(2, dtype=np.float64), *(rng.normal(3, 2, (50, 2)) for _ in range(300)))
    np.testing.assert_allclose(layer.mean, 3, rtol=0.05)
    np.testing.assert_allclose(layer.variance, 4, rtol=0.05)


def test_batches_between_two_steps_count_as_one_and_a_step_without_one_changes_nothing():
    x = RNG.normal(size=(8, 3))
    layers = [BatchNorm(3, momentum=0.5, dtype=np.float64) for _ in range(2)]
    for layer, parts in zip(layers, ((x, x), (x,)), strict=True):
        for part in parts:
            y, cache = layer.forward(part)
            layer.backward(np.ones_like(y), cache)
        SGD(layer, 0.1).step()
    np.testing.assert_allclose(layers[0].running["count"], 0.5 + 16)
    np.testing.assert_allclose(layers[1].running["count"], 0.5 + 8)
    before = layers[0].state()
    for _ in range(3):
        layers[0].zero_grad()
        SGD(layers[0], 0.1).step()
    assert_equal_bits(layers[0].state(), before)


def test_neither_forward_nor_backward_moves_them_and_the_call_uses_them():
    layer, x = BatchNorm(3, dtype=np.float64), RNG.normal(3, 2, size=SHAPE)
    before, answer = layer.state(), layer(x)
    y, cache = layer.forward(x)
    layer.backward(y, cache)
    assert_equal_bits(layer.state(), before)
    assert_equal_bits(layer(x), answer)
    layer.after_step()
    assert np.abs(layer(x) - answer).max() > 0.1
    np.testing.assert_allclose(layer(x), y, rtol=0.2, atol=0.1)  # now by about the batch's own


# -- running sums as a part of every layer -----------------------------------------------------


def test_running_sums_are_no_parameters_and_no_gradients():
    layer = BatchNorm(3)
    assert list(layer.params) == list(layer.grads) == ["gain", "bias"] and layer.count_params() == 6
    assert list(layer.running) == ["count", "sum", "squares"]
    assert list(layer.state()) == ["gain", "bias", "count", "sum", "squares"]
    inside = Sequential(fc=Dense(3, 3, rng=0), norm=BatchNorm(3))
    assert list(inside.running) == ["norm.count", "norm.sum", "norm.squares"]
    assert Adam(inside, 0.1).averages["m"].keys() == inside.params.keys()


def test_they_travel_with_copies_pickles_dtypes_and_snapshots():
    layer = after_batches(BatchNorm(3), RNG.normal(3, 2, size=SHAPE).astype(np.float32))
    x = RNG.normal(size=SHAPE).astype(np.float32)
    expected = layer(x)
    snapshot = layer.for_inference()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), snapshot, copy.copy(layer)):
        assert_equal_bits(other(x), expected)
    assert_equal_bits(snapshot.forward(x)[0], expected)
    double = copy.deepcopy(layer).astype(np.float64)
    assert all(array.dtype == np.float64 for array in (*double.running.values(), *double.added.values()))
    np.testing.assert_allclose(double(x.astype(np.float64)), expected, rtol=1e-5, atol=1e-6)
    after_batches(layer, RNG.normal(size=SHAPE).astype(np.float32))
    assert_equal_bits(snapshot(x), expected)  # which does not follow
    with pytest.raises(ValueError, match="read-only"):
        snapshot.running["sum"][...] = 0


def test_a_state_without_them_or_of_another_size_is_refused_and_changes_nothing():
    layer = after_batches(BatchNorm(3), RNG.normal(3, 2, size=SHAPE).astype(np.float32))
    before = layer.state()
    for state, message in (
        ({name: before[name] for name in ("gain", "bias")}, "lacks count, squares, sum"),
        ({**before, "sum": np.zeros(4)}, r"sum has shape \(4,\), expected \(3,\)"),
        ({**before, "count": None}, "count is of dtype object"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            layer.load_state(state)
        assert_equal_bits(layer.state(), before)


@pytest.mark.parametrize(
    "add, message",
    [
        (lambda layer: layer.add_running("gain", np.ones(3)), "a running sum is named 'gain', but there is"),
        (lambda layer: layer.add_param("sum", np.ones(3)), "a parameter is named 'sum', but there is"),
        (lambda layer: layer.add_running("a.b", np.ones(3)), "expected a name without a dot"),
        (lambda layer: layer.add_running("more", np.ones(3, int)), "the running sum more has dtype int64"),
        (lambda layer: setattr(layer, "sum", Dense(3, 2)), "a layer is named 'sum', but there is"),
    ],
)
def test_a_running_sum_that_cannot_be_is_told(add, message):
    with pytest.raises((ValueError, TypeError), match=message):
        add(BatchNorm(3))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BatchNorm(0), "features is 0"),
        (lambda: BatchNorm(3, momentum=1.0), "momentum is 1.0, expected 0 to below 1"),
        (lambda: BatchNorm(3, momentum=-0.5), "momentum is -0.5"),
        (lambda: BatchNorm(3, epsilon=0), "epsilon is 0, expected a number above 0"),
        (lambda: BatchNorm(3).forward(np.zeros((2, 4), np.float32)), r"axis 1 \(features N\) is 4, not 3"),
        (lambda: BatchNorm(3)(np.zeros((2, 4), np.float32)), r"axis 1 \(features N\) is 4, not 3"),
    ],
)
def test_what_batch_normalisation_cannot_do_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Block(Layer):
    """A layer of one's own around batch normalisation, with no call of its own."""

    def __init__(self):
        super().__init__()
        self.parts = [BatchNorm(3, dtype=np.float64)]

    def forward(self, x):
        return self.parts[0].forward(x)

    def backward(self, dy, cache):
        return self.parts[0].backward(dy, cache)


def test_the_call_of_any_layer_around_it_answers_for_each_sample_alone():
    block, x = after_batches(Block(), RNG.normal(3, 2, size=SHAPE)), RNG.normal(size=SHAPE)
    alone = np.concatenate([block(x[b : b + 1]) for b in range(len(x))])
    np.testing.assert_allclose(block(x), alone, rtol=1e-12)
    assert np.abs(block.forward(x)[0] - block(x)).max() > 0.1  # in training it is not so


class Counter(Layer):
    """A layer of one's own that learns nothing but how many samples it has seen."""

    def __init__(self):
        super().__init__()
        self.add_running("seen", np.zeros(1, np.float32))

    def forward(self, x):
        return x, x

    def backward(self, dy, x):
        self.added["seen"] += len(x)
        return dy

    def after_step(self):
        self.running["seen"][...] += self.added["seen"]


def test_a_layer_without_parameters_has_its_running_sums_moved_too():
    layer, x = Sequential(fc=Dense(3, 3, rng=0), counter=Counter()), np.ones((5, 3), np.float32)
    after_batches(layer, x, x[:2])
    np.testing.assert_array_equal(layer.running["counter.seen"], [7])


# -- depthwise primary capsules ----------------------------------------------------------------


def test_every_number_of_a_depthwise_capsule_is_one_channel_summed_over_the_map():
    layer = DepthwisePrimaryCaps((4, 3), 5, 2, rng=0, dtype=np.float64)
    x = RNG.normal(size=(2, 4, 3, 10))
    W, bias = layer.params["W"], layer.params["bias"]
    s = np.array([[[sum(x[b, p, q, 2 * i + d] * W[p, q, 2 * i + d] for p in range(4) for q in range(3))
                    + bias[2 * i + d] for d in range(2)] for i in range(5)] for b in range(2)])  # fmt: skip
    np.testing.assert_allclose(layer(x), ExponentialSquash()(s), rtol=1e-12)


def test_depthwise_capsules_want_the_whole_map():
    with pytest.raises(ValueError, match=r"axis 1 \(rows P\) is 5, not 4"):
        DepthwisePrimaryCaps((4, 3), 5, 2).forward(np.zeros((2, 5, 3, 10), np.float32))
    with pytest.raises(ValueError, match="grid is 0"):
        DepthwisePrimaryCaps(0, 5, 2)


# -- the network -------------------------------------------------------------------------------


def test_the_network_of_the_paper_has_161_824_parameters_without_its_decoder():
    network = build("efficient", "paper", decoder=False, rng=0)
    assert network.count_params() == network.config.count_params() == 161_824
    running = sum(array.size for array in network.running.values())
    assert running == 2 * (32 + 64 + 64 + 128) + 4
    assert sum(array.size for array in network.state().values()) == 161_824 + running
    shapes = network.output_shapes()
    assert (shapes["norm3"], shapes["norm4"]) == ((20, 20, 64), (9, 9, 128))
    assert (shapes["primary"], shapes["capsules"]) == ((16, 8), (10, 16))
    assert EfficientCapsNetConfig() == EFFICIENT_PRESETS["paper"] and EfficientCapsNetConfig().decoder
    routing = network.capsules.routing
    assert isinstance(routing, SelfAttentionRouting) and isinstance(routing.squash, ExponentialSquash)
    lines = [line.split() for line in network.table().splitlines()]
    assert ["norm4", "BatchNorm", "9", "×", "9", "×", "128", "256"] in lines and ["total", "161,824"] in lines
    assert ["capsules", "CapsuleLayer,", "SelfAttentionRouting"] in [line[:3] for line in lines]


def test_the_medium_one_strides_in_its_second_convolution():
    small, medium = (build("efficient", preset, rng=0) for preset in ("small", "medium"))
    shapes = medium.output_shapes()
    assert (shapes["norm1"], shapes["norm2"], shapes["norm4"]) == ((24, 24, 32), (11, 11, 64), (7, 7, 128))
    assert medium.count_params() == medium.config.count_params() == 412_848
    assert medium.count_params() - small.count_params() == 128 * (7 * 7 - 6 * 6)  # the primary capsules'


def test_its_loss_is_the_margin_loss_and_0_392_times_the_mean_squared_error_of_a_pixel():
    network = build("efficient", "tiny", rng=0)
    images, labels = images_of(3)
    (v, image), _ = network.forward(images, labels)
    lengths, T = np.linalg.norm(v, axis=-1), np.eye(10)[labels]  # (B, J)
    margin = T * np.maximum(0, 0.9 - lengths) ** 2 + 0.5 * (1 - T) * np.maximum(0, lengths - 0.1) ** 2
    expected = margin.sum(axis=1).mean() + 0.392 * ((image - images) ** 2).mean()
    loss = network.objective()(network.forward(images, labels)[0], network.targets(images, labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(network.scores((v, image)), lengths, rtol=1e-5)
    np.testing.assert_array_equal(network.class_capsules((v, image)), v)


@pytest.mark.parametrize("decoder", [True, False])
def test_the_gradient_of_its_objective_agrees_with_central_differences(decoder):
    config = EfficientCapsNetConfig(
        (11, 10, 2), 4, conv_channels=(3, 4, 2, 6), conv_kernels=(3, 2, 3, 2), conv_strides=(1, 2, 1, 1),
        primary_dimension=3, class_dimension=5, std=1.0, decoder=decoder, decoder_hidden=(6, 7),
        reconstruction_scale=0.05,
    )  # fmt: skip
    network = EfficientCapsNet(config, rng=3, dtype=np.float64)  # no rectifier switches within a step
    images, labels = np.random.default_rng(3).uniform(size=(3, 11, 10, 2)), np.array([2, 0, 3])
    assert_the_objective_agrees_with_central_differences(network, images, labels)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"image_shape": (9, 28, 1)}, "the fourth convolution: a window of height 3 does not fit"),
        ({"image_shape": (4, 28, 1)}, "the first convolution: a window of height 5 does not fit"),
        ({"conv_channels": (1, 2, 3)}, "conv_channels is .1, 2, 3., expected one number for each of 4 conv"),
        ({"conv_kernels": 3}, "conv_kernels is 3, expected one number for each of 4 convolutions"),
        ({"conv_strides": (1, 1, 1, 0)}, "conv_strides 3 is 0"),
        ({"primary_dimension": 7}, "the last convolution has 128 channels, expected a multiple of 7"),
        ({"class_dimension": 0}, "EfficientCapsNetConfig: class_dimension is 0"),
        ({"decoder_hidden": 5}, "EfficientCapsNetConfig: decoder_hidden is 5"),
        ({"std": -1}, "std is -1"),
    ],
)
def test_what_it_cannot_be_is_told_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        EfficientCapsNetConfig(**options)


# -- training, evaluation and files ------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A tiny network after some steps, so that its running averages are far from their start."""
    network = build("efficient", "tiny", rng=0)
    optimizer = Adam(network, 0.004)
    for step in range(4):
        one_step(network, optimizer, *images_of(20, step))
    return network


def test_answers_do_not_depend_on_what_else_is_in_the_batch(trained):
    images, labels = images_of(9, seed=8)
    whole = trained.scores(trained(images))
    alone = np.concatenate([trained.scores(trained(images[b : b + 1])) for b in range(9)])
    np.testing.assert_allclose(alone, whole, rtol=1e-4)
    one, all_at_once = (evaluate(trained, (255 * images).astype(np.uint8), labels, size) for size in (1, 9))
    np.testing.assert_allclose(one.scores, all_at_once.scores, rtol=1e-4)
    in_training = [trained.scores(trained.forward(x)[0])[0] for x in (images, images[:1])]
    assert np.abs(in_training[0] - in_training[1]).max() > 1e-3  # there it does: the test above could see it


def test_files_hold_the_running_averages(trained, tmp_path):
    images, _ = images_of(5)
    for name in ("model.npz", "model.safetensors"):
        save(tmp_path / name, trained)
        again = load(tmp_path / name)
        assert_equal_bits(again(images), trained(images))
        assert_equal_bits(again.state(), trained.state())


def test_a_file_without_running_averages_is_refused_in_one_line(trained, tmp_path):
    save(tmp_path / "model.npz", trained)
    arrays, description = files.read(tmp_path / "model.npz")
    del arrays["trunk.norm2.sum"], description["format"]
    files.write(tmp_path / "model.npz", arrays, description)
    with pytest.raises(ValueError, match=r"no network that .* can build .*lacks trunk\.norm2\.sum"):
        load(tmp_path / "model.npz")


def test_the_window_and_the_figures_show_what_the_network_answers(trained):
    images, labels = images_of(3)
    explorer = Explorer(Figure(), trained, (255 * images).astype(np.uint8), labels, list("0123456789"))
    expected = trained.scores(trained((255 * images[:1]).astype(np.uint8).astype(np.float32) / 255))[0]
    assert explorer.predicted == expected.argmax()
    np.testing.assert_allclose(np.linalg.norm(explorer.capsule), expected.max(), rtol=1e-4)


def test_explore_draws_the_capsule_of_the_answer_and_says_what_it_cannot_draw(trained, tmp_path, monkeypatch):
    drawn, said = [], []
    monkeypatch.setattr(explore, "dimension_grid", lambda images, offsets: drawn.append(images) or Figure())
    dataset = small_dataset(test=3)
    paths = [path.stem for path in figures.write_figures(trained, dataset, list("0123456789"), tmp_path,
                                                         say=said.append)]  # fmt: skip
    assert {"couplings", "dimensions", "reconstructions"} <= set(paths)
    (line,) = said
    assert "couplings_over_image.png could not be drawn" in line and "sees the whole image" in line
    v = trained(dataset.test_images[:1].astype(np.float32) / 255)[0][0]  # (J, E)
    j = np.linalg.norm(v, axis=1).argmax()
    np.testing.assert_allclose(drawn[0], figures.reconstruct_moved(trained, j, v[j]), rtol=1e-4)


def test_onnx_says_that_it_cannot_hold_it(trained, tmp_path):
    with pytest.raises(ValueError, match="a network of class EfficientCapsNet, expected a CapsNet"):
        to_onnx(tmp_path / "x.onnx", trained)


def test_each_slice_of_a_batch_is_normalised_by_itself_and_its_sums_are_added_up(with_threads):
    with_threads(2)
    network, plain = (build("efficient", "tiny", rng=0, dtype=np.float64) for _ in range(2))
    images, labels = images_of(97, dtype=np.float64)
    expected, sums = dict.fromkeys(plain.grads, 0.0), dict.fromkeys(plain.running, 0.0)
    for k in batch_slices(plain, 97):
        share = (k.stop - k.start) / 97
        backpropagate(plain, plain.objective(), images[k], labels[k], share)
        expected = {name: expected[name] + grad for name, grad in plain.grads.items()}
        sums = {name: sums[name] + added for name, added in plain.added.items()}
    with DataParallel(network, network.objective(), 97) as parallel:
        assert len(parallel.workers) == 1 and len(parallel.slices) == 2
        for _ in range(2):  # the second call must not add to the first
            parallel.backpropagate(images, labels)
        for name, grad in network.grads.items():
            np.testing.assert_allclose(grad, expected[name], rtol=1e-9, atol=1e-15)
        for name, added in network.added.items():
            np.testing.assert_allclose(added, sums[name], rtol=1e-12)
        assert network.added["trunk.norm1.count"] == 97 * 12 * 12


def test_the_number_of_processes_changes_no_bit_of_weights_or_running_averages(with_threads):
    results = []
    for count in (1, 2, 4):
        with_threads(count)
        network = build("efficient", "tiny", rng=0)
        optimizer = Adam(network, 0.01)
        with DataParallel(network, network.objective(), 160) as parallel:
            for step, size in enumerate((160, 160, 81, 40, 160)):
                train_step(parallel, optimizer, *images_of(size, step))
        results.append(network.state())
    assert (results[0]["trunk.norm1.count"] > 1e4).all()  # they did come back from the other processes
    for other in results[1:]:
        assert_equal_bits(other, results[0])


def test_a_run_that_was_stopped_in_an_epoch_ends_with_the_same_bits(small_folder, tmp_path):
    config = tiny_config(model="efficient", preset="tiny", data=str(small_folder), limit=200, epochs=2)
    Run(config, tmp_path / "straight", say=quiet).train()
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path / "stopped", say=quiet, progress=interrupt_at(2)).train()
    run = Run(config, tmp_path / "ctrl-c", say=quiet)
    run.save()
    for _ in range(2):  # a checkpoint within an epoch, and on from there
        with pytest.raises(KeyboardInterrupt):
            Run.resume(tmp_path / "ctrl-c", say=quiet, progress=saving_at(3)).train()
        assert files.read(tmp_path / "ctrl-c" / "checkpoint.npz")[0]["network/trunk.norm1.count"] > 1e3
    for name in ("stopped", "ctrl-c"):
        Run.resume(tmp_path / name, say=quiet).train()
        expected, found = (files.read(tmp_path / each / "model.npz")[0] for each in ("straight", name))
        assert_equal_bits(found, expected)


def saving_at(count):
    """Return a progress line that presses Ctrl-C, after which the batch is finished and saved."""
    calls = itertools.count(1)
    return lambda line: signal.raise_signal(signal.SIGINT) if next(calls) == count else None


def test_a_run_that_begins_with_given_weights_has_their_running_averages(small_folder, tmp_path, trained):
    save(tmp_path / "model.npz", trained)
    config = tiny_config(
        model="efficient", preset="tiny", data=str(small_folder), init=str(tmp_path / "model.npz")
    )
    run = Run(config, tmp_path / "run", say=quiet)
    assert_equal_bits(run.network.running, trained.running)


def test_the_contract_reaches_its_classes():
    assert len(cases_of(EfficientCapsNet)) >= 4 and len(cases_of(BatchNorm)) >= 4
