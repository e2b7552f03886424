"""Pairs of digits: the networks that read both, and how their answers are counted."""

import dataclasses

import numpy as np
import pytest
from helpers import assert_the_objective_agrees_with_central_differences, mnist

from minicaps import CrossEntropyLoss, MarginLoss
from minicaps.experiments.overlap import build_for_pairs, examine, optimizer, some_pairs
from minicaps.networks import (
    PRESETS,
    CapsNet,
    CapsNetConfig,
    CNNConfig,
    OverlapCapsNet,
    OverlapCNN,
    highest_two,
)
from minicaps.training import Adam, OneProcess, train_step

SMALL = CapsNetConfig(
    image_shape=(10, 9, 2),
    classes=4,
    conv_channels=3,
    conv_kernel=3,
    primary_types=2,
    primary_dimension=3,
    primary_kernel=3,
    class_dimension=5,
    decoder_hidden=(6, 7),
)


def small_network(kind=OverlapCapsNet, **options):
    return kind(dataclasses.replace(SMALL, **options), rng=0, dtype=np.float64)


def small_pair_batch():
    rng = np.random.default_rng(3)
    return rng.uniform(size=(3, 2, 10, 9, 2)) / 2, np.array([[2, 1], [0, 3], [3, 2]])


@pytest.mark.parametrize("decoder", [True, False])
def test_the_gradient_of_the_whole_objective_agrees_with_central_differences(decoder):
    net = small_network(decoder=decoder, reconstruction_scale=0.05)
    net.params["capsules.votes.W"][...] *= 20
    assert_the_objective_agrees_with_central_differences(net, *small_pair_batch())


def test_each_reconstruction_is_that_of_a_capsnet_that_was_told_one_of_the_labels():
    net, plain = small_network(), small_network(CapsNet)
    (parts, labels) = small_pair_batch()
    x = parts.sum(axis=1)
    v, reconstructions = net(x, labels)
    for k in (0, 1):
        expected_v, expected = plain(x, labels[:, k])
        np.testing.assert_array_equal(v, expected_v)
        np.testing.assert_allclose(reconstructions[:, k], expected, rtol=1e-12)


def test_the_loss_is_the_margin_loss_for_both_and_the_errors_of_both_reconstructions():
    net, (parts, labels) = small_network(reconstruction_scale=0.3), small_pair_batch()
    x, given = net.training_inputs(parts, labels)
    np.testing.assert_array_equal(x, parts.sum(axis=1))
    v, reconstructions = net(x, given)
    T = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]])
    expected = MarginLoss()(v, T) + 0.3 * ((reconstructions - parts) ** 2).sum() / 3
    assert net.objective()((v, reconstructions), net.targets(parts, labels)) == pytest.approx(expected)


def test_the_network_sees_the_sum_clipped_at_white():
    parts = np.full((2, 2, 10, 9, 2), 0.75)
    x, _ = small_network().training_inputs(parts, np.array([[0, 1], [2, 3]]))
    assert (x == 1).all()


def test_without_labels_the_two_longest_capsules_are_decoded():
    net, (parts, _) = small_network(), small_pair_batch()
    x = parts.sum(axis=1)
    v, reconstructions = net(x)
    longest = np.argsort(-np.linalg.norm(v, axis=-1), axis=1)[:, :2]
    np.testing.assert_array_equal(reconstructions, net(x, longest)[1])


def test_the_cnn_learns_both_labels_with_one_softmax():
    net = OverlapCNN(CNNConfig(classes=3, filters=2, hidden=4), rng=0, dtype=np.float64)
    parts, labels = np.zeros((2, 2, 28, 28, 1)), np.array([[0, 2], [1, 0]])
    assert isinstance(net.objective(), CrossEntropyLoss)
    assert net.targets(parts, labels).tolist() == [[1, 0, 1], [1, 1, 0]]
    logits = np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    loss, cache = net.objective().forward(logits, net.targets(parts, labels))
    assert loss == pytest.approx(-np.log(0.5 * 0.25))
    expected = [[2 * 0.5 - 1, 2 * 0.25, 2 * 0.25 - 1], [2 * 0.5 - 1, 2 * 0.25 - 1, 2 * 0.25]]
    np.testing.assert_allclose(net.objective().backward(cache), np.array(expected) / 2)


def test_a_prediction_is_correct_if_it_names_both_in_any_order():
    net = OverlapCNN(CNNConfig(classes=4), rng=0)
    logits = np.array([[9.0, 8, 1, 0]] * 5)
    labels = np.array([[0, 1], [1, 0], [0, 2], [3, 1], [2, 3]])
    assert net.correct(logits, labels).tolist() == [True, True, False, False, False]


def test_the_highest_two_come_in_order():
    assert highest_two(np.array([[0.1, 0.7, 0.9, 0.3], [5.0, 0, -1, 6]])).tolist() == [[2, 1], [3, 0]]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_reads_pairs_of_its_frame(preset):
    net = build_for_pairs("capsnet", preset, 3, seed=0)
    v, reconstructions = net(np.zeros((1, 36, 36, 1), np.float32))
    assert v.shape[:2] == (1, 3) and reconstructions.shape == (1, 2, 36, 36, 1)


@pytest.mark.parametrize("steps", [40, 5_400])  # so few that the warm-up must be shorter, and the README's
@pytest.mark.parametrize("name, highest, beta2", [("capsnet", 4e-3, 0.98), ("cnn", 2e-3, 0.999)])
def test_the_learning_rate_rises_for_the_warmup_and_falls_until_the_training_ends(
    name, highest, beta2, steps
):
    adam = optimizer(name, build_for_pairs(name, "tiny", 3, seed=0), steps)
    rates = [adam.schedule(step) for step in range(steps + 1)]
    warmup = {"capsnet": {40: 10, 5_400: 400}, "cnn": {40: 0, 5_400: 0}}[name][steps]
    assert (np.diff(rates[:warmup]) > 0).all() and (np.diff(rates[warmup:]) < 0).all()
    assert max(rates) == rates[warmup] == pytest.approx(highest) and rates[-1] == pytest.approx(1e-5)
    assert adam.beta2 == beta2  # the stored results were trained with it


def test_exact_match_and_digits_are_counted_apart(monkeypatch):
    net = build_for_pairs("cnn", "tiny", 10, seed=0)
    logits = np.zeros((4, 10), np.float32)
    logits[:, [3, 5]] = 9
    monkeypatch.setattr(OverlapCNN, "__call__", lambda net, images: logits)
    labels = np.array([[3, 5], [5, 3], [5, 7], [0, 1]])  # both, both, one, none
    batch = np.zeros((4, 2, 36, 36, 1), np.uint8), labels
    assert examine(net, [batch]) == {"exact_match": 0.5, "per_digit": 5 / 8}


def test_the_pairs_to_examine_with_are_always_the_same():
    images, labels = mnist().test_images[:50], mnist().test_labels[:50]
    first, again = (list(some_pairs(images, labels, 200)) for _ in range(2))
    assert len(first) == 2 and len(first[0][0]) == 100
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert (first[0][0] != first[1][0]).any()


@pytest.mark.parametrize("name", ["capsnet", "cnn"])
def test_both_learn_a_batch_by_heart(name):
    net = build_for_pairs(name, "tiny", 10, seed=0)
    parts, labels = next(some_pairs(mnist().train_images[:50], mnist().train_labels[:50], 100))
    parts, labels = parts[:20].astype(np.float32) / 255, labels[:20]
    adam = Adam(net, 3e-3)
    correct = [train_step(OneProcess(net), adam, parts, labels).correct for _ in range(80)]
    assert correct[-1] > 15 > correct[0]
