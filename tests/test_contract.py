"""The contract of DESIGN: every layer, loss and network of the package, found and not listed."""

import copy
import inspect

import numpy as np
import pytest
from strict_backend import strict

import minicaps
from minicaps.arrays import to_backend, to_numpy
from minicaps.layers import Layer, Loss
from minicaps.networks import Network
from minicaps.proof.discovery import check_class, find_classes, find_examples, package_modules
from minicaps.proof.gradcheck import gradcheck

WRONG_CUBE = """
from minicaps import Layer

class Cube(Layer):
    def forward(self, x):
        return x**3, x

    def backward(self, dy, x):
        return 2.9 * x**2 * dy

    @classmethod
    def examples(cls, rng, dtype):
        yield "normal", cls(), (rng.normal(size=(2, 3)).astype(dtype),)
"""

CLASSES = find_classes(package_modules())
COUNTS = {cls: len(find_examples(cls)) for cls in CLASSES}
NAMES = {(cls, k): find_examples(cls)[k].name for cls in CLASSES for k in range(COUNTS[cls])}


def examples_of(base):
    keys = [key for key in NAMES if issubclass(key[0], base)]
    ids = [f"{key[0].__name__}-{NAMES[key]}" for key in keys]
    return pytest.mark.parametrize("cls, k", keys, ids=ids)


every_example, every_layer, every_loss = examples_of(object), examples_of(Layer), examples_of(Loss)


def arrays_in(value):
    """Return all NumPy arrays in nested tuples, lists and dictionaries."""
    if isinstance(value, (np.ndarray, np.generic)):
        return [np.asarray(value)]
    if isinstance(value, dict):
        return [a for part in value.values() for a in arrays_in(part)]
    if isinstance(value, (tuple, list)):
        return [a for part in value for a in arrays_in(part)]
    return []


def map_arrays(function, value):
    if isinstance(value, (tuple, list)):
        parts = [map_arrays(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value if value is None else function(value)


def upstream(y, seed=1):
    rng = np.random.default_rng(seed)
    return map_arrays(lambda part: rng.normal(size=np.shape(part)).astype(part.dtype), y)


def run(layer, inputs, dy=None):
    """Return (outputs, input gradients, parameter gradients) of one forward and backward."""
    y, cache = layer.forward(*inputs)
    if isinstance(layer, Loss):
        return y, layer.backward(cache), {}
    layer.zero_grad()
    dx = layer.backward(upstream(y) if dy is None else dy, cache)
    return y, dx, {name: grad.copy() for name, grad in layer.grads.items()}


def assert_equal_bits(a, b):
    a, b = arrays_in(a), arrays_in(b)
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(a, b, tolerance):
    a, b = arrays_in(a), arrays_in(b)
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        scale = max(np.abs(one).max(), np.abs(other).max())
        assert np.abs(one - other).max() <= tolerance * scale


@every_example
def test_backward_agrees_with_central_differences(cls, k):
    _, layer, inputs, check_forward = find_examples(cls)[k]
    report = gradcheck(layer, inputs, check_forward=check_forward)
    report.raise_if_failed()
    assert not [row.array for row in report.rows if row.zero]  # 0 against 0 would prove nothing


@every_example
@pytest.mark.usefixtures("small_pieces")
def test_backward_agrees_with_central_differences_when_the_work_is_cut_for_threads(cls, k):
    _, layer, inputs, check_forward = find_examples(cls)[k]
    gradcheck(layer, inputs, check_forward=check_forward).raise_if_failed()


@every_example
def test_pieces_for_the_threads_change_nothing_but_rounding(cls, k, request):
    _, layer, inputs, _ = find_examples(cls)[k]
    whole = run(layer, inputs)
    request.getfixturevalue("small_pieces")
    cut = run(layer, inputs)
    for one, other in zip(whole, cut, strict=True):
        if arrays_in(one):
            assert_close(one, other, 1e-12)


@every_example
def test_another_forward_before_backward_changes_nothing(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    _, expected, expected_grads = run(layer, inputs)
    y, cache = layer.forward(*inputs)
    layer.forward(*map_arrays(lambda x: x[::-1].copy(), inputs))
    if isinstance(layer, Loss):
        assert_equal_bits(layer.backward(cache), expected)
        return
    layer.zero_grad()
    assert_equal_bits(layer.backward(upstream(y), cache), expected)
    if layer.params:
        assert_equal_bits(dict(layer.grads), expected_grads)


@every_example
def test_backward_twice_gives_the_same_bits_and_adds_to_the_gradients(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    y, cache = layer.forward(*inputs)
    if isinstance(layer, Loss):
        assert_equal_bits(layer.backward(cache), layer.backward(cache))
        return
    dy = upstream(y)
    layer.zero_grad()
    first = layer.backward(dy, cache)
    grads = {name: grad.copy() for name, grad in layer.grads.items()}
    assert_equal_bits(first, layer.backward(dy, cache))
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(grad, 2 * grads[name], rtol=1e-12, atol=1e-14)


@every_layer
def test_backward_params_gives_the_parameters_the_same_gradients(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    _, _, expected = run(layer, inputs)
    y, cache = layer.forward(*inputs)
    layer.zero_grad()
    assert layer.backward_params(upstream(y), cache) is None
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, expected[name])


@every_layer
def test_backward_is_linear_in_dy(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    y, _ = layer.forward(*inputs)
    one, other = upstream(y, 1), upstream(y, 2)
    if isinstance(y, tuple):
        both = tuple(2 * a - 3 * b for a, b in zip(one, other, strict=True))
    else:
        both = 2 * one - 3 * other
    results = [run(layer, inputs, dy)[1:] for dy in (one, other, both)]
    first, second, mixed = [[*arrays_in(dx), *arrays_in(grads)] for dx, grads in results]
    assert_close(mixed, [2 * a - 3 * b for a, b in zip(first, second, strict=True)], 1e-10)


@every_example
def test_nothing_handed_in_is_changed(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    y, cache = layer.forward(*inputs)
    dy = upstream(y)
    watched = (inputs, y, cache, dy, dict(layer.params) if isinstance(layer, Layer) else {})
    before = copy.deepcopy(watched)
    layer.backward(cache) if isinstance(layer, Loss) else layer.backward(dy, cache)
    layer.forward(*inputs)
    assert_equal_bits(watched, before)


@every_example
def test_forward_stores_nothing_on_the_layer(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    before = {name: repr(value) for name, value in vars(layer).items()}
    layer.forward(*inputs)
    assert {name: repr(value) for name, value in vars(layer).items()} == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_example
def test_dtype_is_kept(cls, k, dtype):
    _, layer, inputs, _ = find_examples(cls, dtype=dtype)[k]
    y, dx, grads = run(layer, inputs)
    for array in [*arrays_in(y), *arrays_in(dx), *arrays_in(grads)]:
        assert array.dtype == dtype
    for array in arrays_in(layer.forward(*inputs)[1]):
        assert array.dtype.kind in "biu" or array.dtype == dtype


@every_example
def test_call_gives_the_same_bits_as_forward(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    called, forwarded = layer(*inputs), layer.forward(*inputs)[0]
    assert_equal_bits(called, forwarded)


@every_layer
def test_a_batch_equals_its_samples_one_by_one(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    y, dx, grads = run(layer, inputs)
    singles = []
    for b in range(len(inputs[0])):
        one, dy = (map_arrays(lambda x, b=b: x[b : b + 1], part) for part in (inputs, upstream(y)))
        singles.append(run(layer, one, dy))
    for whole, part in ((y, 0), (dx, 1)):
        stacks = zip(*(arrays_in(single[part]) for single in singles), strict=True)
        assert_close(arrays_in(whole), [np.concatenate(stack) for stack in stacks], 1e-10)
    for name, grad in grads.items():
        assert_close([grad], [sum(single[2][name] for single in singles)], 1e-10)


@every_loss
def test_the_loss_of_a_batch_is_the_mean_of_its_samples(cls, k):
    _, loss, inputs, _ = find_examples(cls)[k]
    batch = len(arrays_in(inputs)[0])
    whole, dwhole, _ = run(loss, inputs)
    singles = [run(loss, map_arrays(lambda x, b=b: x[b : b + 1], inputs)) for b in range(batch)]
    assert_close(whole, np.mean([single[0] for single in singles]), 1e-12)
    stacks = zip(*(arrays_in(single[1]) for single in singles), strict=True)
    assert_close(arrays_in(dwhole), [np.concatenate(stack) / batch for stack in stacks], 1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0])
@every_example
def test_values_are_finite_and_raise_no_floating_point_warning(cls, k, scale):
    _, layer, inputs, _ = find_examples(cls, dtype=np.float32)[k]
    inputs = map_arrays(lambda x: x * np.float32(scale) if x.dtype.kind == "f" else x, inputs)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        y, dx, grads = run(layer, inputs)
    for array in [*arrays_in(y), *arrays_in(dx), *arrays_in(grads)]:
        assert np.isfinite(array).all()


@every_layer
def test_state_restores_the_parameters(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    expected, state = layer(*inputs), layer.state()
    for param in layer.params.values():
        param *= 1.5
    layer.load_state(state)
    assert_equal_bits(layer(*inputs), expected)
    assert state.keys() == layer.params.keys() == layer.grads.keys()


@examples_of(Network)
def test_a_foreign_state_is_refused_and_changes_nothing(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    expected, state = layer(*inputs), layer.state()
    with pytest.raises(ValueError, match="lacks"):
        layer.load_state({})
    with pytest.raises(ValueError, match="unknown"):
        layer.load_state({**state, "more": np.zeros(1)})
    first = next(iter(state))
    with pytest.raises(ValueError, match="shape"):
        layer.load_state({**state, first: np.zeros((1, 2, 3))})
    assert_equal_bits(layer(*inputs), expected)


@every_example
def test_an_array_library_that_refuses_to_mix_gives_the_same_numbers(cls, k, device):
    _, layer, inputs, _ = find_examples(cls)[k]
    expected = run(layer, inputs)
    inputs = map_arrays(lambda x: to_backend(x, device), inputs)
    if isinstance(layer, Loss):
        y, cache = layer.forward(*inputs)
        got = y, layer.backward(cache), {}
    else:
        layer.to(device)
        y, cache = layer.forward(*inputs)
        layer.zero_grad()
        dx = layer.backward(map_arrays(lambda part: to_backend(part, device), upstream(expected[0])), cache)
        got = y, dx, dict(layer.grads)
    assert strict.transfers == 0
    assert_close(map_arrays(to_numpy, got[:2]), expected[:2], 1e-12)
    for name, grad in got[2].items():
        assert_close(to_numpy(grad), expected[2][name], 1e-12)


def test_every_class_is_found_in_whatever_folder():
    assert len(CLASSES) >= 25 and len(NAMES) >= 75


def test_a_layer_in_a_subfolder_is_found_and_its_wrong_backward_told(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "cube.py").write_text(WRONG_CUBE)
    monkeypatch.setattr(minicaps, "__path__", [*minicaps.__path__, str(tmp_path)])
    (cube,) = (cls for cls in find_classes(package_modules()) if cls.__name__ == "Cube")
    assert not next(check_class(cube)).ok


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_gives_examples_of_its_own(cls):
    assert "examples" in vars(cls)
    assert COUNTS[cls] >= 1


@pytest.mark.parametrize("cls", CLASSES)
def test_every_option_has_an_example_in_use_and_one_without(cls):
    layers = [example.layer for example in find_examples(cls)]
    parameters = inspect.signature(cls.__init__).parameters.values()
    for parameter in parameters:
        keyword = parameter.kind == parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
        if keyword and parameter.name not in ("rng", "dtype"):
            values = {repr(getattr(layer, parameter.name)) for layer in layers}
            assert len(values) >= 2, f"{cls.__name__}: no two examples differ in {parameter.name}"


@every_example
def test_examples_have_axes_of_different_size_and_no_zero_parameter(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    for x in arrays_in(inputs):
        assert min(x.shape) > 1 and len(set(x.shape)) == x.ndim, x.shape
    for name, param in getattr(layer, "params", {}).items():
        assert np.all(param != 0), name


@pytest.mark.parametrize("cls", CLASSES)
def test_a_docstring_tells_the_gradient(cls):
    assert "Gradient" in inspect.getdoc(cls)


@every_example
def test_wrong_inputs_are_refused_by_name(cls, k):
    _, layer, inputs, _ = find_examples(cls)[k]
    first = inputs[0][0] if isinstance(inputs[0], tuple) else inputs[0]

    def replace(x):
        return ((x, *inputs[0][1:]), *inputs[1:]) if isinstance(inputs[0], tuple) else (x, *inputs[1:])

    with pytest.raises(TypeError, match="list"):
        layer.forward(*replace(first.tolist()))
    with pytest.raises(TypeError, match="float32 or float64"):
        layer.forward(*replace(first.astype(np.int64)))
    with pytest.raises(ValueError, match="empty"):
        layer.forward(*replace(first[:0]))
