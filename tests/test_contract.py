"""The contract: every layer, loss and network of the package, found and not listed."""

import inspect

import numpy as np
import pytest
from strict_backend import strict

import minicaps
from minicaps.arrays import to_backend, to_numpy
from minicaps.layers import Layer, Loss
from minicaps.networks import Network
from minicaps.proof import CHECKS, cases_of, check_class, check_layer, find_classes, package_modules
from minicaps.proof.cases import arrays_in, assert_close, assert_equal_bits, map_arrays, run, upstream
from minicaps.proof.contract import applies, name_of
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
CASES = [case for cls in CLASSES for case in cases_of(cls)]

SLICED = [case for case in CASES if ".fast." in case.cls.__module__]  # definitions slice nothing
MADE_OF_SLICED = [case for case in CASES if issubclass(case.cls, Network)]

every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)


@pytest.mark.parametrize(
    "check, case",
    [
        pytest.param(check, case, id=f"{case.label}-{name_of(check)}")
        for check in CHECKS
        for case in CASES
        if applies(check, case)
    ],
)
def test_the_contract(check, case):
    check(case)


def test_every_class_is_found_in_whatever_folder():
    assert len(CLASSES) >= 49 and len(CASES) >= 177
    folders = {cls.__module__.split(".")[1] for cls in CLASSES}
    assert folders == {"layers", "capsules", "fast", "networks", "experiments"}


def test_a_layer_in_a_subfolder_is_found_and_its_wrong_backward_told(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "cube.py").write_text(WRONG_CUBE)
    monkeypatch.setattr(minicaps, "__path__", [*minicaps.__path__, str(tmp_path)])
    (cube,) = (cls for cls in find_classes(package_modules()) if cls.__name__ == "Cube")
    assert not next(check_class(cube)).ok
    with pytest.raises(AssertionError, match=r"Cube \(normal\): backward_agrees_with_central_differences"):
        check_layer(cube)


def test_a_layer_that_divides_by_zero_on_the_way_is_told():
    class Unit(Layer):  # x / ‖x‖, whose value at 0 is mended after the division
        def forward(self, x):
            n = np.linalg.norm(x, axis=-1, keepdims=True)
            return np.nan_to_num(x / n), x

        def backward(self, dy, x):
            return np.zeros_like(x)

        @classmethod
        def examples(cls, rng, dtype):
            yield "normal", cls(), (rng.normal(size=(2, 3)).astype(dtype),)

    values = next(check for check in CHECKS if "floating_point" in name_of(check))
    case = cases_of(Unit)[0]
    with pytest.raises(RuntimeWarning, match="invalid value"):
        values(case)


# -- the work sliced for threads, and the array switch ----------------------------------------


@pytest.mark.parametrize("case", SLICED, ids=lambda case: case.label)
@pytest.mark.usefixtures("small_slices")
def test_backward_agrees_with_central_differences_when_the_work_is_sliced_for_threads(case):
    _, layer, inputs, check_forward, zero_gradient = case.make()
    gradcheck(layer, inputs, check_forward=check_forward, zero_gradient=zero_gradient).raise_if_failed()


@pytest.mark.parametrize("case", SLICED + MADE_OF_SLICED, ids=lambda case: case.label)
def test_slices_for_the_threads_change_nothing_but_rounding(case, request):
    _, layer, inputs, *_ = case.make()
    whole = run(layer, inputs)
    request.getfixturevalue("small_slices")
    assert_close(run(layer, inputs).arrays, whole.arrays, 1e-12)


@every_case
def test_an_array_library_that_refuses_to_mix_gives_the_same_numbers(case, device):
    _, layer, inputs, *_ = case.make()
    expected = run(layer, inputs)
    inputs = map_arrays(lambda x: to_backend(x, device), inputs)
    if isinstance(layer, Loss):
        y, cache = layer.forward(*inputs)
        dx, grads = layer.backward(cache), {}
    else:
        layer.to(device)
        y, cache = layer.forward(*inputs)
        layer.zero_grad()
        dx = layer.backward(map_arrays(lambda part: to_backend(part, device), upstream(expected.y)), cache)
        grads = layer.grads
    assert strict.transfers == 0
    assert_close(map_arrays(to_numpy, (y, dx)), (expected.y, expected.dx), 1e-12)
    for name, grad in grads.items():
        assert_close(to_numpy(grad), expected.grads[name], 1e-12)


# -- what only minicaps asks of its own classes -----------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if issubclass(c.cls, Network)], ids=lambda c: c.label)
def test_a_foreign_state_is_refused_and_changes_nothing(case):
    _, layer, inputs, *_ = case.make()
    expected, state = layer(*inputs), layer.state()
    with pytest.raises(ValueError, match="lacks"):
        layer.load_state({})
    with pytest.raises(ValueError, match="unknown"):
        layer.load_state({**state, "more": np.zeros(1)})
    first = next(iter(state))
    with pytest.raises(ValueError, match="shape"):
        layer.load_state({**state, first: np.zeros((1, 2, 3))})
    assert_equal_bits(layer(*inputs), expected)


def value_of(layer, option):
    """The value of an option, wherever in the layer it is kept; None where a part without it stands in."""
    for _, part in layer.walk() if hasattr(layer, "walk") else [("", layer)]:
        if hasattr(part, option):
            value = getattr(part, option)
            return repr(type(value) if isinstance(value, Layer) else value)
    return None


@every_class
def test_every_option_has_an_example_in_use_and_one_without(cls):
    layers = [case.make().layer for case in cases_of(cls)]
    parameters = inspect.signature(cls.__init__).parameters.values()
    options = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.default is not p.empty]
    if issubclass(cls, Network):  # its options are the fields of its configuration
        for option in cls.Config.__dataclass_fields__.keys() - {"image_shape", "classes"}:
            values = {repr(getattr(layer.config, option)) for layer in layers}
            assert len(values) >= 2, f"{cls.__name__}: no two examples differ in {option}"
        options = []
    for option in set(options) - {"rng", "dtype"}:
        values = {value_of(layer, option) for layer in layers} - {None}
        assert len(values) >= 2, f"{cls.__name__}: no two examples differ in {option}"


@every_case
def test_examples_have_axes_of_different_size_and_no_zero_parameter(case):
    _, layer, inputs, *_ = case.make()
    for x in arrays_in(inputs):
        assert min(x.shape) > 1 and len(set(x.shape)) == x.ndim, x.shape
    for name, param in getattr(layer, "params", {}).items():
        assert np.all(param != 0), name


@every_class
def test_a_docstring_tells_the_gradient_or_is_that_of_a_twin(cls):
    text = inspect.getdoc(cls)
    if ".fast." in cls.__module__:
        plain = cls.__mro__[1]
        assert text.startswith(f"{plain.__module__.split('.')[1]}.{cls.__name__}, ")
        assert "Gradient" in inspect.getdoc(plain)
    else:
        assert "Gradient" in text


@every_case
def test_wrong_inputs_are_refused_by_name(case):
    _, layer, inputs, *_ = case.make()
    first = inputs[0][0] if isinstance(inputs[0], tuple) else inputs[0]

    def replace(x):
        return ((x, *inputs[0][1:]), *inputs[1:]) if isinstance(inputs[0], tuple) else (x, *inputs[1:])

    with pytest.raises(TypeError, match="list"):
        layer.forward(*replace(first.tolist()))
    with pytest.raises(TypeError, match="float32 or float64"):
        layer.forward(*replace(first.astype(np.int64)))
    with pytest.raises(ValueError, match="empty"):
        layer.forward(*replace(first[:0]))
