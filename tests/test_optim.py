"""Optimizers and schedules beside their formulas."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minicaps import Dense, ReLU, Sequential, Votes
from minicaps.training import SGD, Adam, Constant, Cosine, Exponential, optimizers
from minicaps.training.optimizers import BLOCK, in_blocks

GRADIENTS = (0.5, -2.0, 1.0, 0.25)


def weights_after(optimizer, layer):
    """Step with the given gradients and return the course of one weight, from 1.0."""
    layer.params["W"][...] = 1.0
    course = []
    for gradient in GRADIENTS:
        layer.zero_grad()
        layer.grads["W"][...] = gradient
        optimizer.step()
        course.append(layer.params["W"][0, 0])
    return course


@pytest.fixture
def layer():
    return Dense(2, 3, rng=0, dtype=np.float64)


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_layer_without_parameters_is_refused(optimizer):
    with pytest.raises(
        ValueError, match=rf"{optimizer.__name__}: ReLU has no parameters, so nothing to update"
    ):
        optimizer(ReLU(), 0.1)


CHANGES = {
    "astype": lambda chain: chain.astype(np.float32),
    "astype of a part": lambda chain: chain["a"].astype(np.float32),
    "replaced by its like": lambda chain: setattr(chain, "b", Dense(2, 2, rng=9, dtype=np.float64)),
    "added": lambda chain: chain.more.append(Dense(2, 2, rng=9, dtype=np.float64)),
    "taken away": lambda chain: setattr(chain, "b", None),
    "another parameter": lambda chain: chain["a"].add_param("scale", np.ones(2)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_parameters_that_are_others_than_at_the_start_are_told(optimizer, change):
    chain = Sequential(a=Dense(2, 2, rng=0, dtype=np.float64), b=Dense(2, 2, rng=1, dtype=np.float64))
    chain.more = []
    one = optimizer(chain, 0.1)
    one.step()
    change(chain)
    before = chain.state()
    with pytest.raises(
        RuntimeError, match=rf"{optimizer.__name__}.step: the parameters of Sequential are others"
    ):
        one.step()
    assert one.steps == 1 and all((chain.params[name] == array).all() for name, array in before.items())


def test_parameters_that_move_to_a_device_are_told(device):
    dense = Dense(2, 2, rng=0)
    adam = Adam(dense, 0.1)
    dense.to(device)
    with pytest.raises(RuntimeError, match="make it anew"):
        adam.step()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_an_optimizer_updates_the_copy_of_its_layer(layer, again):
    other_layer, other = again((layer, Adam(layer, 0.1)))
    other_layer.grads["W"][...] = 1.0
    other.step()
    assert (other_layer.params["W"] < layer.params["W"]).all()


def test_memory_of_a_vector_changes_nothing_for_an_optimizer(layer):
    adam = Adam(layer, 0.1)
    layer.use_memory(params=np.zeros(9), grads=np.ones(9))
    adam.step()
    assert np.allclose(layer.params["W"], -0.1)


def test_a_single_parameter_is_updated_too():
    votes = Votes(4, 2, 3, 5, rng=0)
    before = votes.params["W"].copy()
    votes.grads["W"][...] = 1
    SGD(votes, 0.5).step()
    np.testing.assert_allclose(votes.params["W"], before - 0.5, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_its_formula(layer, momentum):
    w, m, expected = 1.0, 0.0, []
    for g in GRADIENTS:
        m = momentum * m + g
        w -= 0.1 * m
        expected.append(w)
    np.testing.assert_allclose(weights_after(SGD(layer, 0.1, momentum=momentum), layer), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"beta1": 0.5, "beta2": 0.7, "epsilon": 0.1}, {"beta1": 0.0}, {"beta2": 0.0}]
)
def test_adam_is_its_formula(layer, options):
    beta1, beta2 = options.get("beta1", 0.9), options.get("beta2", 0.999)
    epsilon = options.get("epsilon", 1e-8)
    w, m, v, expected = 1.0, 0.0, 0.0, []
    for t, g in enumerate(GRADIENTS, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w -= 0.1 * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + epsilon)
        expected.append(w)
    np.testing.assert_allclose(weights_after(Adam(layer, 0.1, **options), layer), expected, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_parameter_that_is_not_contiguous_is_updated_too(layer, optimizer):
    layer._params["W"] = np.ones((3, 2)).T
    layer.grads["W"][...] = 1.0
    optimizer(layer, 0.1).step()
    assert not layer.params["W"].flags.c_contiguous and (layer.params["W"] < 1.0).all()


def test_blocks_cover_the_arrays_and_are_views():
    arrays = np.zeros((2, BLOCK - 1)), np.ones((2, BLOCK - 1))
    blocks = in_blocks(arrays)
    assert [block[0].size for block in blocks] == [BLOCK, BLOCK - 2]
    for one, other in blocks:
        one += other
    assert (arrays[0] == 1).all()


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_gradients_are_read_and_not_changed(layer, optimizer):
    layer.grads["W"][...] = 2.0
    optimizer(layer, 0.1).step()
    assert (layer.grads["W"] == 2.0).all() and (layer.grads["bias"] == 0).all()


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_shared_layer_is_updated_once_for_each_step(optimizer):
    shared = Dense(2, 2, rng=0, dtype=np.float64)
    alone = Dense(2, 2, rng=0, dtype=np.float64)
    for layer, dense in ((Sequential(a=shared, b=shared), shared), (alone, alone)):
        dense.grads["W"][...] = 1.0
        optimizer(layer, 0.1).step()
    np.testing.assert_array_equal(shared.params["W"], alone.params["W"])


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_restored_state_continues_with_the_same_bits(layer, optimizer):
    one = optimizer(layer, Constant(0.1, warmup=7))
    weights_after(one, layer)
    state, weights = one.state(), layer.state()
    expected = weights_after(one, layer)
    layer.load_state(weights)
    other = optimizer(layer, Constant(0.1, warmup=7))
    other.load_state(state)
    assert weights_after(other, layer) == expected


def test_a_foreign_state_is_refused(layer):
    with pytest.raises(ValueError, match="of another optimizer or network"):
        Adam(layer, 0.1).load_state(SGD(layer, 0.1).state())
    with pytest.raises(ValueError, match="of another optimizer or network"):
        Adam(layer, 0.1).load_state(Adam(Dense(2, 4, rng=0), 0.1).state())


def test_the_schedule_counts_from_step_0(layer):
    steps = []

    def schedule(step):
        steps.append(step)
        return 0.1

    weights_after(SGD(layer, schedule), layer)
    assert steps == [0, 1, 2, 3]


def test_constant():
    assert [Constant(0.1)(step) for step in (0, 5, 1000)] == [0.1] * 3


def test_exponential():
    assert math.isclose(Exponential(1e-3, every=1)(3), 1e-3 * 0.96**3)
    assert Exponential(1e-3, decay=1.0)(3) == 1e-3
    schedule = Exponential(1e-3)
    assert schedule(0) == 1e-3
    assert math.isclose(schedule(2000), 0.96e-3)
    assert math.isclose(schedule(1000), 1e-3 * 0.96**0.5)
    assert schedule(10**7) == 1e-6


def test_cosine():
    schedule = Cosine(1e-2, steps=100, floor=1e-4)
    assert schedule(0) == 1e-2
    assert math.isclose(schedule(50), (1e-2 + 1e-4) / 2)
    assert math.isclose(schedule(100), 1e-4) and math.isclose(schedule(500), 1e-4)
    assert Cosine(1e-2, steps=1)(1) == Cosine(1e-2, steps=5, warmup=5)(6) == 1e-5


@pytest.mark.parametrize("schedule", [Constant(0.1, 10), Exponential(0.1, 10), Cosine(0.1, 110, 10)])
def test_warmup_grows_in_equal_steps_to_the_learning_rate(schedule):
    unwarmed = type(schedule)(**{**vars(schedule), "warmup": 0})
    factor = [0.1 * (k + 1) for k in range(10)]
    if not isinstance(schedule, Cosine):
        factor = [f * unwarmed(k) / 0.1 for k, f in enumerate(factor)]
    np.testing.assert_allclose([schedule(k) for k in range(10)], np.array(factor) * 0.1, rtol=1e-12)
    assert math.isclose(schedule(10), 0.1, rel_tol=1e-3)


@pytest.mark.parametrize("schedule", [Constant(0.1), Exponential(0.1), Cosine(0.1, 10)])
def test_a_schedule_cannot_be_changed_under_an_optimizer(schedule):
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.learning_rate = 0.2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(0.0),
        lambda: Constant(float("nan")),
        lambda: Constant(0.1, -1),
        lambda: Exponential(0.1, decay=0.0),
        lambda: Exponential(0.1, decay=1.5),
        lambda: Exponential(0.1, every=0),
        lambda: Cosine(0.1, 0),
        lambda: Adam(Dense(1, 1), 0.1, beta1=1.0),
        lambda: Adam(Dense(1, 1), 0.1, beta1=-0.1),
        lambda: Adam(Dense(1, 1), 0.1, beta2=1.0),
        lambda: Adam(Dense(1, 1), 0.1, beta2=-0.1),
        lambda: SGD(Dense(1, 1), 0.1, momentum=1.0),
        lambda: SGD(Dense(1, 1), 0.1, momentum=-0.1),
        lambda: SGD(Dense(1, 1), -0.1),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_fast_adam_gives_the_bits_of_the_formula(dtype):
    rng = np.random.default_rng(0)
    layers = [Dense(40, 30, rng=0, dtype=dtype) for _ in range(2)]
    formula, fast = optimizers.Adam(layers[0], Cosine(0.01, 9)), Adam(layers[1], Cosine(0.01, 9))
    assert type(fast).update is not type(formula).update
    for scale in (1.0, 1e-8, 1e8, 0.0, 1.0):
        for name, grad in layers[0].grads.items():
            grad[...] = rng.normal(scale=scale, size=grad.shape) if scale else 0
            layers[1].grads[name][...] = grad
        formula.step()
        fast.step()
    for name, param in layers[0].params.items():
        assert_array_equal(layers[1].params[name], param, err_msg=name)
    for name, array in formula.state().items():
        assert_array_equal(fast.state()[name], array, err_msg=name)
