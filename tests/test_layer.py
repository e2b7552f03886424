"""The base of all layers: what it contains, its memory, its snapshots."""

import copy
import pickle

import numpy as np
import pytest

from minicaps import CapsuleLayer, Conv2d, Dense, Layer, ReLU, Sequential, build


class Two(Layer):
    """Two dense layers, with a parameter beside them."""

    def __init__(self):
        super().__init__()
        self.add_param("scale", np.ones(2))
        self.first = Dense(3, 2, rng=0, dtype=np.float64)
        self.second = Dense(2, 4, rng=1, dtype=np.float64)

    def forward(self, x):
        x, first = self.first.forward(x)
        y, second = self.second.forward(self.params["scale"] * x)
        return y, (x, first, second)

    def backward(self, dy, cache):
        raise AssertionError("not asked here")


def test_a_layer_that_is_assigned_is_contained():
    layer = Two()
    assert list(layer.params) == ["scale", "first.W", "first.bias", "second.W", "second.bias"]
    assert [prefix for prefix, _ in layer.walk()] == ["", "first.", "second."]
    assert layer.count_params() == 2 + 3 * 2 + 2 + 2 * 4 + 4
    layer.second = Dense(2, 1, rng=0, dtype=np.float64)  # in place of the other
    assert layer.params["second.W"].shape == (2, 1)
    layer.second = None
    assert list(layer.params) == ["scale", "first.W", "first.bias"]


def test_a_layer_assigned_before_the_base_is_ready_is_told():
    class Hasty(Two):
        def __init__(self):
            self.conv = ReLU()

    with pytest.raises(AttributeError, match=r"self.conv is a layer, assigned before super\(\).__init__"):
        Hasty()


def test_a_layer_used_twice_counts_once():
    shared = Dense(3, 3, rng=0)
    chain = Sequential(a=shared, relu=ReLU(), b=shared)
    assert list(chain.params) == ["a.W", "a.bias"] and chain["b"] is shared
    assert chain.count_params() == 12


def test_parameters_change_in_place_and_never_become_other_arrays():
    layer = Two()
    layer.params["first.W"] *= 2  # in place
    layer.grads["scale"] += 1
    assert (layer.grads["scale"] == 1).all()
    for name in ("first.W", "scale", "more"):
        with pytest.raises(TypeError, match=f"{name} is changed in place"):
            layer.params[name] = np.zeros((3, 2))
    with pytest.raises(TypeError, match="W is changed in place"):
        layer.first.params["W"] = np.zeros((3, 2))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), dict])
def test_parameters_can_be_copied_as_a_whole(again):
    params = again(Two().params)
    assert list(params) == ["scale", "first.W", "first.bias", "second.W", "second.bias"]
    assert params["first.W"].shape == (3, 2)
    with pytest.raises((AttributeError, TypeError)):
        Two().params.update(scale=np.zeros(2))  # which would change nothing


def test_a_parameter_is_a_copy_of_what_it_was_made_of():
    a, layer = np.ones(2), Two()
    layer.add_param("more", a)
    layer.params["more"] += 1
    assert (a == 1).all()


@pytest.mark.parametrize("make", [list, tuple, lambda layers: dict(enumerate(layers))])
def test_layers_in_a_collection_are_not_lost_in_silence(make):
    layer = Two()
    with pytest.raises(
        TypeError, match=r"Two: self.fcs is a \w+ that holds layers.*put them into a Sequential"
    ):
        layer.fcs = make([Dense(3, 3), Dense(3, 3)])


def test_a_layer_that_is_taken_away_takes_its_parameters_along():
    layer = Two()
    layer._hidden = Dense(2, 2, rng=0)
    assert "_hidden.W" in layer.params
    layer._hidden = None
    del layer.second
    assert list(layer.params) == ["scale", "first.W", "first.bias"]


@pytest.mark.parametrize("vector", [np.zeros(5), np.zeros(22, np.float32), np.zeros((22, 1))])
def test_memory_that_does_not_fit_is_refused_and_changes_nothing(vector):
    layer = Two()
    before = layer.state()
    with pytest.raises(ValueError, match=r"Two.use_memory: got .* expected float64 of shape \(22,\)"):
        layer.use_memory(params=vector)
    assert all((layer.params[name] == array).all() for name, array in before.items())


def test_parameters_and_gradients_can_lie_in_the_memory_of_a_vector():
    layer = Two()
    numbers = layer.count_params()
    params, grads = np.arange(numbers, dtype=float), np.zeros(numbers)
    layer.use_memory(params=params, grads=grads)
    assert np.concatenate([p.ravel() for p in layer.params.values()]).tolist() == list(range(numbers))
    layer.grads["second.W"] += 1
    layer.first.params["bias"][...] = -1
    assert grads.sum() == 8 and (params == -1).sum() == 2
    assert all(np.shares_memory(p, params) for p in layer.params.values())


def test_a_layer_without_parameters_says_so():
    with pytest.raises(ValueError, match="ReLU: has no parameters"):
        _ = ReLU().first_param
    assert Two().xp is np


def test_what_a_snapshot_has_derived_from_its_weights_goes_when_they_move():
    layer = CapsuleLayer(5, 3, 4, 6, rng=0)
    u, snapshot = np.random.default_rng(0).random((2, 5, 3), dtype=np.float32), layer.for_inference()
    snapshot(u)
    assert snapshot._derived and not layer._derived
    double = snapshot.astype(np.float64)
    v = double(u.astype(np.float64))
    assert v.dtype == np.float64
    np.testing.assert_array_equal(v, layer.astype(np.float64)(u.astype(np.float64)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_of_a_snapshot_is_no_snapshot_and_follows_its_own_weights(again):
    layer = CapsuleLayer(5, 3, 4, 6, std=1.0, rng=0)
    u, snapshot = np.random.default_rng(0).random((2, 5, 3), dtype=np.float32), layer.for_inference()
    before = snapshot(u)
    other = again(snapshot)
    assert not other._derived
    other.load_state({name: 2 * array for name, array in other.state().items()})
    assert np.abs(other(u) - before).max() > 0.01
    np.testing.assert_array_equal(snapshot(u), before)


def test_a_snapshot_refuses_new_weights():
    snapshot = CapsuleLayer(5, 3, 4, 6, rng=0).for_inference()
    with pytest.raises(ValueError, match=r"CapsuleLayer.load_state: a snapshot for inference is read-only"):
        snapshot.load_state(snapshot.state())
    with pytest.raises(ValueError, match=r"use_memory: a snapshot for inference is read-only"):
        snapshot.use_memory(params=np.zeros(snapshot.count_params(), np.float32))
    assert not snapshot.astype(np.float64).first_param.flags.writeable


def test_a_shallow_copy_contains_layers_of_its_own():
    layer = Two()
    other = copy.copy(layer)
    other.second = None
    assert "second.W" in layer.params and "second.W" not in other.params
    assert other.params["first.W"] is layer.params["first.W"]


@pytest.mark.parametrize("make", [lambda: Conv2d(2, 3, 2, rng=0), lambda: build("capsnet", "tiny", rng=0)])
def test_a_snapshot_is_read_only_and_the_layer_is_not(make):
    layer = make()
    snapshot = layer.for_inference()
    for name, param in snapshot.params.items():
        assert not param.flags.writeable and layer.params[name].flags.writeable
        assert not np.shares_memory(param, layer.params[name])
