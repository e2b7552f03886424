"""Every fast layer is its plain twin: the same numbers, names and options."""

import inspect

import numpy as np
import pytest

from minicaps import capsules, fast, layers
from minicaps.proof import cases_of
from minicaps.proof.cases import arrays_in, assert_close, run

CASES = [case for cls in fast.TWINS for case in cases_of(cls)]
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}


def plain(cls):
    """The definition that a fast class stands beside."""
    (definition,) = (
        getattr(folder, cls.__name__) for folder in (layers, capsules) if hasattr(folder, cls.__name__)
    )
    return definition


def arrays_of_the_cache(cache):
    """What a reader looks at in a cache: the lists b, c, s, v of a routing."""
    return [arrays_in(getattr(cache, name)) for name in "bcsv" if hasattr(cache, name)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "sliced"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_fast_layer_is_its_plain_twin(case, sliced, dtype, request):
    _, layer, inputs, *_ = case.make(dtype)
    (twin,) = (other.make(dtype).layer for other in cases_of(plain(case.cls)) if other.name == case.name)
    assert type(twin) is plain(case.cls) and type(layer) is case.cls
    assert isinstance(layer, type(twin))
    twin.load_state(layer.state())
    expected = run(twin, inputs)
    if sliced:
        request.getfixturevalue("small_slices")
    found = run(layer, inputs)
    assert_close(found.arrays, expected.arrays, TOLERANCE[dtype])
    assert list(found.grads) == list(expected.grads)
    seen = [arrays_of_the_cache(one.forward(*inputs)[1]) for one in (layer, twin)]
    if seen[1]:
        assert_close(*seen, TOLERANCE[dtype])


@pytest.mark.parametrize("cls", fast.TWINS, ids=lambda cls: cls.__name__)
def test_a_twin_has_the_same_options_and_no_public_name_of_its_own(cls):
    definition = plain(cls)
    assert inspect.signature(cls) == inspect.signature(definition)
    own = {name for name in vars(cls) if not name.startswith("_")}
    assert own <= set(dir(definition))


def test_every_fast_class_is_named_as_a_twin():
    classes = {value for value in vars(fast).values() if inspect.isclass(value)}
    assert classes == set(fast.TWINS)
    assert {cls.__name__ for cls in classes} <= set(dir(layers)) | set(dir(capsules))


def test_the_examples_reach_both_ways_to_convolve():
    caches = {
        type(case.make().layer.forward(*case.make().inputs)[1]).__name__ for case in cases_of(fast.Conv2d)
    }
    assert caches == {"SpectralCache", "WindowsCache"}
