"""The base of all layers: what it contains, its memory, its snapshots."""

import copy
import pickle
from collections import deque

import numpy as np
import pytest

from minicaps import CapsuleLayer, Conv2d, Dense, DynamicRouting, Layer, ReLU, Sequential, Votes, build
from minicaps.arrays import to_backend, to_numpy
from minicaps.capsules import Coupling
from minicaps.training import Adam


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


class Forgetful(Coupling):
    """A coupling without super().__init__()."""

    def __init__(self):
        self.sharpness = 2.0

    def forward(self, b):
        return b, None

    def backward(self, dc, cache):
        return dc


@pytest.mark.parametrize("ask", ["params", "grads", "running", "added"])
def test_a_layer_deep_inside_that_forgot_its_start_is_named(ask):
    layer = CapsuleLayer(5, 3, 4, 6, routing=DynamicRouting(coupling=Forgetful()), rng=0)
    with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\) first"):
        getattr(layer, ask)


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

    with pytest.raises(AttributeError, match=r"Hasty: call super\(\).__init__\(\) first"):
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


@pytest.mark.parametrize(
    "make, names",
    [
        (list, ("0", "1")),
        (tuple, ("0", "1")),
        (deque, ("0", "1")),
        (lambda layers: {"left": layers[0], 7: layers[1]}, ("left", "7")),
        (lambda layers: [{"a": layers[0]}, (layers[1], None, "text")], ("0.a", "1.0")),
    ],
)
def test_layers_in_collections_are_contained(make, names):
    layer = Two()
    layer.fcs = make([Dense(3, 1, rng=0), Dense(3, 1, rng=1)])
    assert list(layer.params)[5:] == [f"fcs.{name}.{param}" for name in names for param in ("W", "bias")]
    other = copy.deepcopy(layer)
    other.load_state({name: 2 * array for name, array in layer.state().items()})
    for name, inside in zip(names, [part for _, part in other.walk()][3:], strict=True):
        assert (inside.params["W"] == other.params[f"fcs.{name}.W"]).all()
        assert (inside.params["W"] == 2 * layer.params[f"fcs.{name}.W"]).all()


def test_a_collection_may_change_later():
    layer = Two()
    layer.fcs, layer.heads, layer.sizes = [], {}, ([], 3)
    assert layer.count_params() == 22
    layer.fcs.append(Dense(3, 3, rng=0))
    layer.heads["left"] = Dense(3, 1, rng=0)
    layer.sizes[0].append([Dense(1, 1, rng=0)])
    assert {"fcs.0.W", "heads.left.W", "sizes.0.0.0.W"} <= layer.params.keys()
    layer.fcs[0] = Dense(3, 5, rng=0)
    assert layer.params["fcs.0.W"].shape == (3, 5)
    layer.fcs = [3, 4]  # no layers any more
    del layer.heads["left"], layer.sizes
    assert layer.count_params() == 22


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_collection_is_contained_in_copies_too(again):
    layer = Two()
    layer.fcs = [Dense(3, 3, rng=0)]
    other = again(layer)
    other.fcs.append(Dense(1, 1, rng=0))
    assert "fcs.1.W" in other.params
    assert ("fcs.1.W" in layer.params) == (again is copy.copy)  # which shares the list, as Python does


@pytest.mark.parametrize("make", [set, frozenset])
def test_a_set_of_layers_is_refused_since_they_have_no_names(make):
    layer = Two()
    with pytest.raises(TypeError, match=rf"fcs is a {make.__name__} that holds layers.*make it a list"):
        layer.fcs = make([Dense(3, 3)])
    layer.fcs = set()
    layer.fcs.add(Dense(3, 3))
    with pytest.raises(TypeError, match="fcs is a set that holds layers"):
        _ = layer.params


def test_two_parameters_of_one_name_are_told():
    layer = Two()
    layer.fcs = {1: Dense(3, 3), "1": Dense(3, 3)}
    with pytest.raises(ValueError, match=r"Two: two parameters are called fcs\.1\.W"):
        _ = layer.params
    layer.fcs = {"a.b": Dense(3, 3), "a": {"b": Dense(3, 3)}}
    with pytest.raises(ValueError, match=r"two parameters are called fcs\.a\.b\.W"):
        layer.state()


@pytest.mark.parametrize(
    "name", ["state", "forward", "params", "xp", "walk", "_params", "_sublayers", "astype"]
)
@pytest.mark.parametrize("make", [lambda: Dense(2, 2), lambda: [Dense(2, 2)]])
def test_a_layer_may_not_hide_what_every_layer_has(name, make):
    layer = Two()
    with pytest.raises(ValueError, match=rf"Two: a layer named '{name}' would hide"):
        setattr(layer, name, make())
    assert layer.count_params() == 22 and layer.state().keys() == layer.params.keys()
    with pytest.raises(ValueError, match=rf"Sequential: a layer named '{name}' would hide"):
        Sequential(**{name: Dense(2, 2)})


@pytest.mark.parametrize("name", ["a.b", ""])
def test_a_name_with_a_dot_or_none_at_all_is_refused(name):
    with pytest.raises(ValueError, match="expected a name without a dot"):
        Sequential(**{name: Dense(2, 2), "a": Sequential(b=Dense(3, 2))})
    with pytest.raises(ValueError, match="expected a name without a dot"):
        Two().add_param(name, np.ones(2))


def test_self_is_a_name_like_others():
    assert list(Sequential(**{"self": Dense(2, 2)}).params) == ["self.W", "self.bias"]


def test_a_chain_takes_layers_only():
    with pytest.raises(TypeError, match="Sequential: fc is 3, expected a layer"):
        Sequential(fc=3)


def test_a_name_is_given_once():
    layer = Two()
    for name in ("scale", "first"):
        with pytest.raises(ValueError, match=f"a parameter is named '{name}', but there is one already"):
            layer.add_param(name, np.ones(2))
    with pytest.raises(ValueError, match="a layer is named 'scale', but there is one already"):
        layer.scale = Dense(2, 2)
    assert list(layer.params) == ["scale", "first.W", "first.bias", "second.W", "second.bias"]


def test_a_forgotten_init_of_the_base_is_told_whatever_is_done_first():
    class Forgot(Two):
        def __init__(self, first):
            first(self)

    for first in (
        lambda layer: layer.add_param("W", np.ones(3)),
        lambda layer: layer.params,
        lambda layer: layer.zero_grad(),
        lambda layer: setattr(layer, "fcs", []),
        lambda layer: setattr(layer, "fc", Dense(2, 2)),
    ):
        with pytest.raises(AttributeError, match=r"Forgot: call super\(\).__init__\(\) first"):
            Forgot(first)
    with pytest.raises(AttributeError, match="'Two' object has no attribute 'third'"):
        _ = Two().third


def test_a_second_init_of_the_base_takes_nothing_away():
    layer = Two()
    Layer.__init__(layer)
    assert layer.count_params() == 22


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
    u, snapshot = np.random.default_rng(0).random((7, 5, 3), dtype=np.float32), layer.for_inference()
    snapshot(u)
    assert snapshot._derived and not layer._derived
    double = snapshot.astype(np.float64)
    v = double(u.astype(np.float64))
    assert v.dtype == np.float64
    np.testing.assert_array_equal(v, layer.astype(np.float64)(u.astype(np.float64)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_of_a_snapshot_is_no_snapshot_and_follows_its_own_weights(again):
    layer = CapsuleLayer(5, 3, 4, 6, std=1.0, rng=0)
    u, snapshot = np.random.default_rng(0).random((7, 5, 3), dtype=np.float32), layer.for_inference()
    before = snapshot(u)
    other = again(snapshot)
    assert not other._derived
    other.load_state({name: 2 * array for name, array in other.state().items()})
    assert np.abs(other(u) - before).max() > 0.01
    np.testing.assert_array_equal(snapshot(u), before)


def test_a_snapshot_refuses_new_weights():
    snapshot = CapsuleLayer(5, 3, 4, 6, rng=0).for_inference()
    holder = Sequential(dense=Dense(2, 2, rng=0), inside=snapshot)
    numbers = np.zeros(snapshot.count_params(), np.float32)
    for layer, name in (
        (snapshot, ""),
        (snapshot.votes, ""),  # taken out of it
        (copy.copy(snapshot), ""),
        (holder, "inside is "),
    ):
        where = type(layer).__name__
        with pytest.raises(
            ValueError, match=rf"{where}.load_state: {name}a snapshot for inference.*read-only"
        ):
            layer.load_state(layer.state())
        with pytest.raises(ValueError, match=r"use_memory: .*a snapshot for inference.*read-only"):
            layer.use_memory(params=numbers)
        with pytest.raises(ValueError, match=r"Adam: .*a snapshot for inference.*read-only"):
            Adam(layer, 0.1)
    assert not snapshot.astype(np.float64).first_param.flags.writeable


def other_votes(layer):
    layer.votes = Votes(5, 3, 4, 6, rng=9)


def other_routing(layer):
    layer.routing = DynamicRouting(1)


def twice_the_precision_and_back(layer):
    layer.votes.astype(np.float64).astype(np.float32)


@pytest.mark.parametrize("change", [other_votes, other_routing, twice_the_precision_and_back])
def test_what_a_snapshot_has_derived_follows_what_it_was_derived_from(change):
    layer = CapsuleLayer(5, 3, 4, 6, rng=0)
    u, snapshot = np.random.default_rng(0).random((7, 5, 3), dtype=np.float32), layer.for_inference()
    snapshot(u)
    change(snapshot)
    change(layer)
    np.testing.assert_array_equal(snapshot(u), layer(u))


@pytest.mark.parametrize(
    "move", [lambda layer: layer.astype(np.float64), lambda layer: layer.votes.astype(np.float64)]
)
def test_a_snapshot_of_another_precision_does_not_mix_the_two(move):
    layer = CapsuleLayer(5, 3, 4, 6, rng=0)
    u, snapshot = np.random.default_rng(0).random((7, 5, 3)), layer.for_inference()
    snapshot(u.astype(np.float32))
    move(snapshot)
    np.testing.assert_array_equal(snapshot(u), layer.astype(np.float64)(u))


def test_a_snapshot_moves_to_a_device_with_all_it_has_derived(device):
    layer = CapsuleLayer(5, 3, 4, 6, rng=0)
    u, snapshot = np.random.default_rng(0).random((7, 5, 3), dtype=np.float32), layer.for_inference()
    expected = snapshot(u)
    found = to_numpy(snapshot.to(device)(to_backend(u, device)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_shallow_copy_of_a_snapshot_shares_its_arrays_and_keeps_its_own_derived_ones():
    layer = CapsuleLayer(5, 3, 4, 6, rng=0)
    u, snapshot = np.random.default_rng(0).random((7, 5, 3), dtype=np.float32), layer.for_inference()
    before, other = snapshot(u), copy.copy(snapshot)
    other.votes = Votes(5, 3, 4, 6, rng=9)
    assert np.abs(other(u) - before).max() > 1e-3
    np.testing.assert_array_equal(snapshot(u), before)


@pytest.mark.parametrize("name", ["capsnet", "cnn"])
def test_every_copy_of_a_networks_snapshot_answers_with_the_weights_that_it_is_given(name):
    trained = build(name, "tiny", rng=1)
    x = np.random.default_rng(0).random((12, 28, 28, 1), dtype=np.float32)
    for again in (copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))):
        snapshot = build(name, "tiny", rng=0).for_inference()
        snapshot(x)
        other = again(snapshot)
        other.load_state(trained.state())
        np.testing.assert_array_equal(other.scores(other(x)), trained.scores(trained(x)))


STATES = [
    (lambda state: list(state.values()), TypeError, r"got a list, expected a mapping.*dict\(zip\("),
    (lambda state: {**state, "W": np.ones((3, 2), complex)}, TypeError, "W is of dtype complex128"),
    (lambda state: {**state, "W": np.full((3, 2), "1")}, TypeError, "W is of dtype <U1"),
    (lambda state: {**state, "bias": np.array([None, 1])}, TypeError, "bias is of dtype object"),
    (lambda state: {**state, "bias": np.ma.array([1.0, 2.0], mask=[0, 1])}, TypeError, "bias is masked"),
    (lambda state: {**state, "bias": np.ones((2, 1))}, ValueError, r"bias has shape \(2, 1\), expected"),
    (lambda state: {**state, 3: np.ones(2)}, ValueError, "has unknown 3"),
    (lambda state: {**state, "description": 0, "checksum": 0}, ValueError, "is read by load_network"),
]


@pytest.mark.parametrize("spoil, error, message", STATES)
def test_a_state_of_another_kind_is_refused_and_changes_nothing(spoil, error, message):
    layer = Dense(3, 2, rng=0)
    before = layer.state()
    with pytest.raises(error, match=f"Dense.load_state: .*{message}"):
        layer.load_state(spoil({"W": np.ones((3, 2)), "bias": np.ones(2)}))
    assert all((layer.params[name] == array).all() for name, array in before.items())


class Matrix(np.ndarray):
    """Stands in for numpy.matrix, which warns that nobody should make one."""


def test_a_state_may_be_of_lists_subclasses_and_an_npz(tmp_path):
    layer = Dense(3, 2, rng=0)
    layer.load_state({"W": np.ones((3, 2)).view(Matrix), "bias": [1, 2]})
    np.savez(tmp_path / "state.npz", W=np.full((3, 2), 2.0), bias=np.ones(2))
    with np.load(tmp_path / "state.npz") as state:
        layer.load_state(state)
    assert type(layer.params["W"]) is np.ndarray and (layer.params["W"] == 2).all()


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
