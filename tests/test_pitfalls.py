"""The bugs that public capsule codes carry: one test each, which fails when the bug is put in.

MNIST accuracy hides them: with the softmax over the wrong axis a network still learns, three points worse.
"""

import numpy as np
import pytest
from helpers import mnist

import minicaps
from minicaps import (
    CapsuleLayer,
    Conv2d,
    Decoder,
    Dense,
    DynamicRouting,
    MarginLoss,
    Mask,
    PrimaryCaps,
    ReconstructionLoss,
    Sequential,
    Softmax,
    Squash,
    Stopped,
    Votes,
    gradcheck,
)
from minicaps.datasets import augment, to_float
from minicaps.networks import CapsNet, CapsNetConfig, build
from minicaps.training import SGD, Adam, Run, TrainConfig, evaluate
from minicaps.training import run as training_run

B, I, J, D, E = 2, 7, 3, 4, 5  # all different


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_softmax_runs_over_the_parents_not_over_the_lower_capsules(rng, iterations):
    _, cache = DynamicRouting(iterations).forward(rng.normal(size=(B, I, J, E)))
    for c in cache.c:
        np.testing.assert_allclose(c.sum(axis=2), np.ones((B, I)), rtol=1e-12)
    np.testing.assert_allclose(cache.c[0], np.full((B, I, J), 1 / J), rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 20])
def test_routing_logits_belong_to_one_sample_each(rng, batch):
    layer = CapsuleLayer(I, D, J, E, std=1.0, rng=0, dtype=np.float64)
    u = rng.normal(size=(batch, I, D))
    singles = np.concatenate([layer(u[b : b + 1]) for b in range(batch)])
    np.testing.assert_allclose(layer(u), singles, rtol=1e-10)


def test_a_primary_capsule_is_made_of_neighbouring_channels_at_one_position(rng):
    layer = PrimaryCaps(2, types=3, dimension=4, kernel_size=3, stride=2, rng=0, dtype=np.float64)
    x = rng.normal(size=(1, 9, 7, 2))  # a grid of 4 × 3 positions
    u = layer(x)
    s, _ = layer.conv.forward(x)
    for p, q, t in np.ndindex(4, 3, 3):
        capsule = Squash()(s[:, p, q, 4 * t : 4 * t + 4])
        np.testing.assert_allclose(u[:, (p * 3 + q) * 3 + t], capsule, rtol=1e-12)


def test_a_pixel_outside_its_receptive_field_does_not_change_a_capsule(rng):
    layer = PrimaryCaps(2, types=3, dimension=4, kernel_size=3, stride=2, rng=0, dtype=np.float64)
    x = rng.normal(size=(1, 9, 7, 2))
    changed = x.copy()
    changed[0, 8, 6] += 1.0  # only in the last window
    moved = np.abs(layer(changed) - layer(x)).max(axis=(0, 2)) > 1e-9
    assert moved.tolist() == [False] * 33 + [True] * 3


def test_squash_runs_over_the_capsule_dimension(rng):
    s = rng.normal(size=(B, I, D))
    n = np.linalg.norm(s, axis=2)
    v = Squash()(s)
    np.testing.assert_allclose(np.linalg.norm(v, axis=2), n**2 / (1 + n**2), rtol=1e-12)
    np.testing.assert_allclose(np.cross(v[..., :3], s[..., :3]), 0, atol=1e-12)
    Q, _ = np.linalg.qr(rng.normal(size=(D, D)))
    np.testing.assert_allclose(Squash()(s @ Q), v @ Q, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_vectors_of_any_length_give_finite_values_and_gradients(rng, scale):
    s = (scale * rng.normal(size=(B, J, E))).astype(np.float32)
    T = rng.integers(0, 2, size=(B, J))
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        v, cache = Squash().forward(s)
        ds = Squash().backward(np.ones_like(v), cache)
        loss, margin_cache = MarginLoss().forward(v, T)
        dv = MarginLoss().backward(margin_cache)
        u_hat = (scale * rng.normal(size=(B, I, J, E))).astype(np.float32)
        routed, routing_cache = DynamicRouting(3).forward(u_hat)
        du_hat = DynamicRouting(3).backward(np.ones_like(routed), routing_cache)
    for array in (v, ds, loss, dv, routed, du_hat):
        assert np.isfinite(array).all()


def test_the_margin_loss_has_squares():
    v = np.zeros((1, 1, 2))
    v[0, 0, 0] = 0.5
    assert np.isclose(MarginLoss()(v, np.array([[1]])), 0.16)
    assert np.isclose(MarginLoss()(v, np.array([[0]])), 0.08)


def test_the_margin_loss_is_a_sum_over_the_classes(rng):
    v, T = rng.uniform(0, 0.5, size=(3, 4, 5)), rng.integers(0, 2, size=(3, 4))
    twice = MarginLoss()(np.concatenate([v, v], axis=1), np.concatenate([T, T], axis=1))
    assert np.isclose(twice, 2 * MarginLoss()(v, T))


def test_the_reconstruction_loss_is_a_sum_over_the_pixels():
    for pixels in (784, 2 * 784):
        x = np.zeros((3, pixels))
        assert np.isclose(ReconstructionLoss()(x + 0.5, x), 0.0005 * 0.25 * pixels)


def test_the_decoder_sees_the_capsule_of_the_label_in_training(rng):
    net = build("capsnet", "tiny", rng=0, dtype=np.float64)
    images, labels = rng.uniform(size=(3, 28, 28, 1)), np.array([4, 7, 1])
    (v, _), cache = net.forward(images, labels)
    assert (v**2).sum(axis=2).argmax(axis=1).tolist() != labels.tolist()
    _, image = net(images, labels)
    other = v.copy()
    other[np.arange(3), labels] = 0
    np.testing.assert_array_equal(net.decoder(net.mask(v, labels)), image)
    np.testing.assert_array_equal(net.mask(other, labels), 0)
    dv, nothing = Mask().backward(rng.normal(size=(3, v.shape[1] * v.shape[2])), cache.mask)
    touched = np.abs(dv).max(axis=2) > 0
    assert nothing is None and touched.sum() == 3 and touched[np.arange(3), labels].all()


def test_training_hands_the_labels_to_the_decoder(rng):
    net = build("capsnet", "tiny", rng=0)
    images, labels = np.zeros((2, 28, 28, 1), np.float32), np.array([3, 5])
    assert net.training_inputs(images, labels) == (images, labels)


def test_in_prediction_the_decoder_sees_the_longest_capsule(rng):
    net = build("capsnet", "tiny", rng=0, dtype=np.float64)
    images = rng.uniform(size=(3, 28, 28, 1))
    v, image = net(images)
    longest = net.scores((v, image)).argmax(axis=1)
    np.testing.assert_array_equal(image, net(images, longest)[1])


@pytest.mark.parametrize("iterations", [2, 3, 5])
def test_the_gradient_flows_through_the_couplings_of_every_iteration(rng, iterations):
    u_hat = rng.normal(size=(B, I, J, E))
    gradcheck(DynamicRouting(iterations), [u_hat]).raise_if_failed()
    assert not gradcheck(DynamicRouting(iterations, coupling=Stopped()), [u_hat]).ok


def test_the_squash_jacobian_is_right_along_and_across(rng):
    s = np.array([[0.6, 0.8]])  # n = 1: g = 1/2, d‖v‖/dn = 1/2
    _, cache = Squash().forward(2 * s)  # n = 2: g = 2/5, d‖v‖/dn = 4/25
    np.testing.assert_allclose(Squash().backward(s, cache), 4 / 25 * s, rtol=1e-12)
    across = np.array([[-0.8, 0.6]])
    np.testing.assert_allclose(Squash().backward(across, cache), 2 / 5 * across, rtol=1e-12)


def test_backward_does_not_update_weights(rng):
    layer = Dense(4, 3, rng=0, dtype=np.float64)
    before = layer.state()
    _, cache = layer.forward(rng.normal(size=(2, 4)))
    layer.backward(np.ones((2, 3)), cache)
    assert all((layer.params[name] == value).all() for name, value in before.items())


def test_adam_keeps_its_moments_from_step_to_step():
    layer = Dense(1, 1, rng=0, dtype=np.float64)
    layer.params["W"][...] = 1.0
    adam, w, m, v = Adam(layer, 0.1), 1.0, 0.0, 0.0
    for t, g in enumerate((0.5, -2.0, 1.0), start=1):
        layer.zero_grad()
        layer.grads["W"][...] = g
        adam.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert np.isclose(layer.params["W"][0, 0], w, rtol=1e-12)


def test_the_test_set_is_read_once_at_the_end_and_never_augmented(tmp_path, small_folder, monkeypatch):
    config = TrainConfig(preset="tiny", data=str(small_folder), epochs=2, batch_size=50)
    run = Run(config, tmp_path / "run", say=lambda line: None)
    test, events = run.dataset.test_images, []
    shift = augment.shift

    def watched_evaluate(network, images, *rest):
        events.append("test" if images is test else "validation")
        return evaluate(network, images, *rest)

    def watched_shift(images, *rest):
        events.append("shift")
        for image in images:
            assert (image == run.images).all(axis=(1, 2, 3)).any()
        return shift(images, *rest)

    monkeypatch.setattr(training_run, "evaluate", watched_evaluate)
    monkeypatch.setattr(augment, "shift", watched_shift)
    run.train()
    epoch = ["shift"] * run.steps_per_epoch + ["validation"]
    assert events == [*epoch, *epoch, "test"]


def test_the_error_rate_is_counted_from_the_predictions(rng):
    net = build("capsnet", "tiny", rng=0)
    images = rng.integers(0, 256, size=(30, 28, 28, 1)).astype(np.uint8)
    labels = rng.integers(0, 10, size=30)
    result = evaluate(net, images, labels, 7)
    v, _ = net(to_float(images))
    predictions = np.linalg.norm(v, axis=2).argmax(axis=1)
    np.testing.assert_array_equal(result.predictions, predictions)
    assert result.accuracy == np.mean(predictions == labels)


def test_the_default_initialisation_is_the_one_that_trains():
    W = build("capsnet", "small", rng=0).params["capsules.votes.W"]
    assert abs(W.std() - 0.05) < 0.001 and abs(W.mean()) < 0.001
    for layer, fan_in in ((Conv2d(4, 50, (5, 5), rng=0), 100), (Dense(100, 50, rng=0), 100)):
        for param in layer.params.values():
            assert 0.9 < np.abs(param).max() * fan_in**0.5 <= 1.0
            assert abs(param.mean()) * fan_in**0.5 < 0.2


def test_the_first_sums_are_about_1_long_whatever_the_sizes(rng):
    for sizes in ((64, 4, 16, 8), (16, 8, 10, 8), (300, 3, 2, 32)):
        u = rng.normal(size=(20, sizes[0], sizes[1]))  # (B, I, D)
        u /= 2 * np.linalg.norm(u, axis=2, keepdims=True)  # each ½ long, as squash makes them of 1
        layer = CapsuleLayer(*sizes, iterations=1, rng=0, dtype=np.float64)
        lengths = np.linalg.norm(layer.forward(u)[1].s[0], axis=2)  # (B, J)
        assert 0.8 < (lengths**2).mean() < 1.2


def test_capsule_layers_in_a_row_learn():
    images, labels = to_float(mnist().train_images[:400]), mnist().train_labels[:400]
    options = {"rng": np.random.default_rng(0)}
    net = Sequential(
        primary=PrimaryCaps(1, 4, 4, 9, stride=4, **options),  # a grid of 5×5
        middle=CapsuleLayer(100, 4, 12, 6, **options),
        classes=CapsuleLayer(12, 6, 10, 6, **options),
    )
    adam, margin = Adam(net, 4e-3), MarginLoss()
    for step in range(120):
        batch = slice(50 * step % 400, 50 * step % 400 + 50)
        v, cache = net.forward(images[batch])
        _, loss_cache = margin.forward(v, labels[batch])
        net.zero_grad()
        net.backward(margin.backward(loss_cache), cache)
        adam.step()
    correct = np.linalg.norm(net(images), axis=2).argmax(axis=1) == labels
    assert correct.mean() > 0.6  # 10 % with W ~ N(0, 0.05²): the class capsules are 1e-10 long then


def test_what_is_not_said_is_as_in_the_paper():
    layer = CapsuleLayer(I, D, J, E)
    for routing in (DynamicRouting(), layer.routing):
        assert routing.iterations == 3 and type(routing.coupling) is Softmax
    assert not layer.bias
    assert CapsNetConfig().std_of(CapsNetConfig().capsule_layers[0]) == 0.05
    assert Votes(I, D, J, E).std == layer.votes.std == 2 * J / (I * E) ** 0.5
    loss = MarginLoss()
    assert (loss.present, loss.absent, loss.down_weight) == (0.9, 0.1, 0.5)
    assert ReconstructionLoss().scale == 0.0005
    assert Decoder(J * E, (28, 28, 1)).hidden == (512, 1024)
    for conv in (Conv2d(1, 2, 3), PrimaryCaps(1, 2, 3, 3).conv):
        assert (conv.stride, conv.padding) == ((1, 1), (0, 0))
    adam = Adam(layer, 0.1)
    assert (adam.beta1, adam.beta2, adam.epsilon) == (0.9, 0.999, 1e-8)
    assert SGD(layer, 0.1).momentum == 0.9


def test_the_paper_preset_has_the_parameters_of_the_paper():
    net = build("capsnet", "paper", rng=0)
    parts = {name: layer.count_params() for name, layer in net.stages()}
    assert parts == {"conv": 20_992, "relu": 0, "primary": 5_308_672, "capsules": 1_474_560,
                     "decoder": 1_411_344}  # fmt: skip
    assert net.count_params() == 8_215_568
    assert isinstance(net, CapsNet) and minicaps.__version__
