"""The losses beside numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import CrossEntropyLoss, MarginLoss, ReconstructionLoss, SpreadLoss, WeightedSum


def capsules_of_length(*lengths):
    v = np.zeros((1, len(lengths), 3))
    v[0, :, 1] = lengths
    return v


@pytest.mark.parametrize(
    "length, target, loss",
    [(0.5, 1, 0.16), (0.5, 0, 0.08), (0.95, 1, 0.0), (0.05, 0, 0.0), (0.0, 1, 0.81), (1.0, 0, 0.405)],
)
def test_margin_loss_by_hand(length, target, loss):
    assert np.isclose(MarginLoss()(capsules_of_length(length), np.array([[target]])), loss)


def test_margin_loss_takes_a_class_number_or_a_row_of_0_and_1():
    v = capsules_of_length(0.2, 0.7, 0.6)
    by_hand = 0.2**2 + 0.5 * 0.1**2 + 0.5 * 0.5**2  # class 1 is present, 0.9 - 0.7 = 0.2 short
    assert np.isclose(MarginLoss()(v, np.array([1])), by_hand)
    assert np.isclose(MarginLoss()(v, np.array([[0, 1, 0]])), by_hand)
    both = 0.2**2 + 0.3**2 + 0.5 * 0.1**2
    assert np.isclose(MarginLoss()(v, np.array([[0, 1, 1]])), both)


def test_the_margins_and_the_weight_are_options():
    loss = MarginLoss(present=0.8, absent=0.2, down_weight=0.25)
    assert np.isclose(loss(capsules_of_length(0.5), np.array([[1]])), 0.09)
    assert np.isclose(loss(capsules_of_length(0.5), np.array([[0]])), 0.25 * 0.09)


def test_no_gradient_within_the_margins():
    _, cache = MarginLoss().forward(capsules_of_length(0.95, 0.05), np.array([0]))
    assert (MarginLoss().backward(cache) == 0).all()


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.integers(0, 1))
def test_cross_entropy_is_minus_the_log_of_the_softmax(logits, label):
    x = np.array([logits])
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    np.testing.assert_allclose(CrossEntropyLoss()(x, np.array([label])), -np.log(p[0, label]), atol=1e-12)


def test_cross_entropy_of_huge_logits_is_finite():
    with np.errstate(all="raise", under="ignore"):
        loss, cache = CrossEntropyLoss().forward(np.array([[1e4, -1e4]]), np.array([1]))
    assert loss == 2e4
    np.testing.assert_array_equal(CrossEntropyLoss().backward(cache), [[1, -1]])


def test_the_reconstruction_loss_is_of_the_difference():
    x, y = np.array([[0.75, 0.5], [0.25, 1.0]]), np.array([[0.25, 0.5], [0.5, 0.0]])
    assert ReconstructionLoss()(x, x) == 0
    assert np.isclose(ReconstructionLoss(scale=2.0)(x, y), 2 * (0.5**2 + 0.25**2 + 1.0**2) / 2)


def test_a_weighted_sum_weighs_values_and_gradients():
    x, y = np.full((2, 3), 0.5), np.zeros((2, 3))
    assert np.isclose(WeightedSum([ReconstructionLoss(scale=1.0)])((x,), (y,)), 0.75)
    loss = WeightedSum([ReconstructionLoss(scale=1.0), ReconstructionLoss(scale=1.0)], [2.0, 3.0])
    total, cache = loss.forward((x, 2 * x), (y, y))
    assert np.isclose(total, 2 * 0.75 + 3 * 3.0)
    first, second = loss.backward(cache)
    np.testing.assert_allclose(first, 2 * 0.5)
    np.testing.assert_allclose(second, 3 * 1.0)


@pytest.mark.parametrize(
    "loss, prediction, target, error, message",
    [
        (MarginLoss(), np.zeros((2, 3, 4)), np.array([0, 3]), ValueError, "0 to 3, expected 0 to 2"),
        (MarginLoss(), np.zeros((2, 3, 4)), np.array([0, -1]), ValueError, "labels run from -1"),
        (MarginLoss(), np.zeros((2, 3, 4)), np.array([0, 1, 2]), ValueError, "is 3, not 2"),
        (MarginLoss(), np.zeros((2, 3, 4)), np.array([0.0, 1.0]), TypeError, "expected integers"),
        (MarginLoss(), np.zeros((2, 3, 4)), np.full((2, 3), 2), ValueError, "holds 2, expected only 0 and 1"),
        (
            MarginLoss(),
            np.zeros((2, 3, 4)),
            np.array([[0, 1, 0], [1, 3, 0]]),
            ValueError,
            "holds 3, expected only 0 and 1",
        ),
        (MarginLoss(), np.zeros((2, 3, 4)), np.zeros((2, 4)), ValueError, r"expected \(2, 3\)"),
        (CrossEntropyLoss(), np.zeros((2, 3)), np.array([0, 3]), ValueError, "expected 0 to 2"),
        (ReconstructionLoss(), np.zeros((2, 3)), np.zeros((3, 2)), ValueError, r"target has shape \(3, 2\)"),
        (ReconstructionLoss(), np.zeros((2, 3)), np.zeros((2, 3), "f"), TypeError, "float32"),
        (WeightedSum([ReconstructionLoss()]), (), (), ValueError, "got 0 predictions"),
    ],
)  # fmt: skip
def test_wrong_input_is_told(loss, prediction, target, error, message):
    with pytest.raises(error, match=message):
        loss(prediction, target)


def test_a_sum_needs_as_many_weights_as_losses():
    with pytest.raises(ValueError, match="1 losses and 2 weights"):
        WeightedSum([MarginLoss()], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum([])


@pytest.mark.parametrize("number", [np.float64, np.float32, float])
def test_options_of_any_kind_of_number_keep_float32(number):
    v, images = np.full((2, 3, 4), 0.3, np.float32), np.zeros((2, 5), np.float32)
    losses = [MarginLoss(present=number(0.9), absent=number(0.1), down_weight=number(0.5)),
              ReconstructionLoss(scale=number(0.0005))]  # fmt: skip
    loss, cache = WeightedSum(losses, [number(1), number(2)]).forward(
        (v, images + 1), (np.array([0, 1]), images)
    )
    assert loss.dtype == np.float32
    assert all(d.dtype == np.float32 for d in WeightedSum(losses).backward(cache))


def test_a_loss_stays_what_it_is_unless_it_has_a_schedule():
    margin, spread = MarginLoss(), SpreadLoss()
    assert margin.at(0.5) is margin and spread.at(0.5).margin == pytest.approx(0.55)
    whole = WeightedSum([margin, spread], [2.0, 3.0]).at(0.5)
    assert whole.losses[0] is margin and whole.losses[1].margin == pytest.approx(0.55)
    assert whole.weights == (2, 3) and spread.margin == 0.9


def test_a_sum_within_a_sum_is_refused():
    with pytest.raises(ValueError, match="WeightedSum: a sum within a sum"):
        WeightedSum([WeightedSum([MarginLoss()])])
