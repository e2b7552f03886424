"""The base of all layers: what it contains, its memory, its snapshots."""

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


@pytest.mark.parametrize("make", [lambda: Conv2d(2, 3, 2, rng=0), lambda: build("capsnet", "tiny", rng=0)])
def test_a_snapshot_is_read_only_and_the_layer_is_not(make):
    layer = make()
    snapshot = layer.for_inference()
    for name, param in snapshot.params.items():
        assert not param.flags.writeable and layer.params[name].flags.writeable
        assert not np.shares_memory(param, layer.params[name])
