"""The contract that every layer, loss and network keeps, as checks that anyone can run on their own.

::

    from minicaps.proof import check_layer
    check_layer(MyLayer)

A check takes a `Case`, one example of a class, builds it anew as often as it needs it, and raises
AssertionError where the class does not keep the contract. The tests of minicaps run the same checks.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minicaps.layers import Layer, Loss
from minicaps.proof.cases import (
    Case,
    answering,
    arrays_in,
    assert_close,
    assert_equal_bits,
    cases_of,
    map_arrays,
    own_values,
    raising_floating_point_warnings,
    run,
    samples,
    upstream,
)
from minicaps.proof.gradcheck import gradcheck

Check = Callable[[Case], None]


def check_layer(cls: Any) -> list[str]:
    """Run the whole contract on every example of a class.

    Parameters
    ----------
    cls : type
        A subclass of Layer or Loss with a class method ``examples(cls, rng, dtype)`` that yields
        (name, layer, inputs) for every option of it.

    Returns
    -------
    list of str
        The names of the checks that it passed.

    Raises
    ------
    AssertionError
        With a line for everything that failed.
    ValueError
        If the class has no examples.

    Examples
    --------
    >>> from minicaps import ReLU
    >>> from minicaps.proof import check_layer
    >>> "backward_is_linear_in_dy" in check_layer(ReLU)
    True
    """
    passed, failures = list[str](), list[str]()
    for check in CHECKS:
        before, cases = len(failures), [case for case in cases_of(cls) if applies(check, case)]
        for case in cases:
            try:
                check(case)
            except Exception as error:  # whatever a reader's layer raises is an answer
                reason = str(error).strip() or type(error).__name__
                failures.append(f"{cls.__name__} ({case.name}): {name_of(check)}: {reason}")
        if cases and len(failures) == before:
            passed.append(name_of(check))
    if failures:
        raise AssertionError("\n".join(failures))
    return passed


def name_of(check: Check) -> str:
    """Return what a check asks, as its function's name says it."""
    return check.__name__.removeprefix("check_")


def applies(check: Check, case: Case) -> bool:
    """Whether the check is meant for the class of a case: some are for layers or losses alone."""
    return issubclass(case.cls, ONLY.get(check, object))


# -- the checks -------------------------------------------------------------------------------


def check_backward_agrees_with_central_differences(case: Case) -> None:
    _, layer, inputs, check_forward, zero_gradient = case.make()
    gradcheck(layer, inputs, check_forward=check_forward, zero_gradient=zero_gradient).raise_if_failed()


def check_another_forward_before_backward_changes_nothing(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    expected = run(layer, inputs)
    y, cache = layer.forward(*inputs)
    layer.forward(*map_arrays(lambda x: x[::-1].copy(), inputs))
    if isinstance(layer, Loss):
        assert_equal_bits(layer.backward(cache), expected.dx)
        return
    layer.zero_grad()
    assert_equal_bits(layer.backward(upstream(y), cache), expected.dx)
    if layer.params:
        assert_equal_bits(layer.grads, expected.grads)


def check_backward_twice_gives_the_same_bits_and_adds_to_the_gradients(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    y, cache = layer.forward(*inputs)
    if isinstance(layer, Loss):
        first = copy.deepcopy(layer.backward(cache))
        assert_equal_bits(first, layer.backward(cache))
        return
    dy = upstream(y)
    layer.zero_grad()
    first = copy.deepcopy(layer.backward(dy, cache))
    grads = {name: grad.copy() for name, grad in layer.grads.items()}
    assert_equal_bits(first, layer.backward(dy, cache))
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(grad, 2 * grads[name], rtol=1e-12, atol=1e-14)


def check_backward_params_gives_the_parameters_the_same_gradients(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    expected = run(layer, inputs).grads
    y, cache = layer.forward(*inputs)
    layer.zero_grad()
    assert layer.backward_params(upstream(y), cache) is None
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, expected[name])


def check_backward_is_linear_in_dy(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    y, _ = layer.forward(*inputs)
    one, other = upstream(y, 1), upstream(y, 2)
    if isinstance(y, tuple):
        both = tuple(2 * a - 3 * b for a, b in zip(one, other, strict=True))
    else:
        both = 2 * one - 3 * other
    first, second, mixed = (run(layer, inputs, dy).arrays[len(arrays_in(y)) :] for dy in (one, other, both))
    assert_close(mixed, [2 * a - 3 * b for a, b in zip(first, second, strict=True)], 1e-10)


def check_nothing_handed_in_is_changed(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    y, cache = layer.forward(*inputs)
    dy = upstream(y)
    watched = (inputs, y, cache, dy, dict(getattr(layer, "params", {})))
    before = copy.deepcopy(watched)
    layer.backward(cache) if isinstance(layer, Loss) else layer.backward(dy, cache)
    layer.forward(*inputs)
    assert_equal_bits(watched, before)


def check_forward_stores_nothing_on_the_layer(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    parts = list(layer.walk()) if isinstance(layer, Layer) else [("", layer)]
    before = [(prefix, part, copy.deepcopy(own_values(part))) for prefix, part in parts]
    layer.forward(*inputs)
    for prefix, part, values in before:
        found, name = own_values(part), prefix.rstrip(".") or type(layer).__name__
        changed = sorted(found.keys() ^ values.keys())
        assert not changed, f"forward made or removed {', '.join(changed)} of {name}"
        if arrays_in(values):
            assert_equal_bits(found, values)
        texts = [{key: repr(value) for key, value in each.items()} for each in (found, values)]
        assert texts[0] == texts[1], f"{name} has changed"


def check_dtype_is_kept(case: Case) -> None:
    for dtype in (np.float32, np.float64):
        _, layer, inputs, *_ = case.make(dtype)
        for array in run(layer, inputs).arrays:
            assert array.dtype == dtype, f"{array.dtype} comes of {np.dtype(dtype)}"
        for array in arrays_in(layer.forward(*inputs)[1]):
            assert array.dtype.kind in "biu" or array.dtype == dtype, f"the cache holds {array.dtype}"


def check_call_gives_the_same_bits_as_forward(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    layer = answering(layer)
    called = copy.deepcopy(layer(*inputs))
    assert_equal_bits(called, layer.forward(*inputs)[0])


def check_a_batch_equals_its_samples_one_by_one(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    layer = answering(layer)
    whole = run(layer, inputs)
    singles = [
        run(layer, one, dy) for one, dy in zip(samples(inputs), samples(upstream(whole.y)), strict=True)
    ]
    for name in ("y", "dx"):
        stacks = zip(*(arrays_in(getattr(single, name)) for single in singles), strict=True)
        assert_close(getattr(whole, name), [np.concatenate(stack) for stack in stacks], 1e-10)
    for name, grad in whole.grads.items():
        assert_close([grad], [sum(single.grads[name] for single in singles)], 1e-10)


def check_the_loss_of_a_batch_is_the_mean_of_its_samples(case: Case) -> None:
    _, loss, inputs, *_ = case.make()
    whole, singles = run(loss, inputs), [run(loss, one) for one in samples(inputs)]
    assert_close(whole.y, np.mean([single.y for single in singles]), 1e-12)
    stacks = zip(*(arrays_in(single.dx) for single in singles), strict=True)
    assert_close(whole.dx, [np.concatenate(stack) / len(singles) for stack in stacks], 1e-12)


def check_values_are_finite_and_raise_no_floating_point_warning(case: Case) -> None:
    for scale in (0.0, 1e-30, 1.0):
        _, layer, inputs, *_ = case.make(np.float32)
        inputs = map_arrays(partial(scaled, scale), inputs)
        with raising_floating_point_warnings():
            arrays = run(layer, inputs).arrays
        for array in arrays:
            assert np.isfinite(array).all(), f"not finite at inputs of the scale {scale:g}"


def scaled(scale: float, x: np.ndarray) -> np.ndarray:
    return x * np.float32(scale) if x.dtype.kind == "f" else x


def check_state_restores_the_parameters(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    expected, state = layer(*inputs), layer.state()
    held = {**layer.params, **layer.running}
    for array in held.values():
        array *= 1.5
    layer.load_state(state)
    assert_equal_bits(layer(*inputs), expected)
    assert state.keys() == held.keys() and layer.params.keys() == layer.grads.keys()


def check_a_snapshot_for_inference_has_the_same_bits(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    expected, snapshot = layer(*inputs), layer.for_inference()
    for _ in range(2):  # the second time with what the first has kept
        assert_equal_bits(snapshot(*inputs), expected)
    for array in (*layer.params.values(), *layer.running.values()):
        array *= 1.5
    assert_equal_bits(snapshot(*inputs), expected)


def check_a_copy_of_a_snapshot_answers_with_its_own_weights(case: Case) -> None:
    _, layer, inputs, *_ = case.make()
    snapshot = layer.for_inference()
    snapshot(*inputs)  # with what it may have kept of its weights
    state = {name: 1.5 * array for name, array in layer.state().items()}
    layer.load_state(state)
    for again in (copy.deepcopy, lambda snapshot: pickle.loads(pickle.dumps(snapshot))):
        other = again(snapshot)
        other.load_state(state)
        assert_equal_bits(other(*inputs), layer(*inputs))


CHECKS: tuple[Check, ...] = (
    check_backward_agrees_with_central_differences,
    check_another_forward_before_backward_changes_nothing,
    check_backward_twice_gives_the_same_bits_and_adds_to_the_gradients,
    check_backward_params_gives_the_parameters_the_same_gradients,
    check_backward_is_linear_in_dy,
    check_nothing_handed_in_is_changed,
    check_forward_stores_nothing_on_the_layer,
    check_dtype_is_kept,
    check_call_gives_the_same_bits_as_forward,
    check_a_batch_equals_its_samples_one_by_one,
    check_the_loss_of_a_batch_is_the_mean_of_its_samples,
    check_values_are_finite_and_raise_no_floating_point_warning,
    check_state_restores_the_parameters,
    check_a_snapshot_for_inference_has_the_same_bits,
    check_a_copy_of_a_snapshot_answers_with_its_own_weights,
)
ONLY: dict[Check, type] = {
    check_backward_params_gives_the_parameters_the_same_gradients: Layer,
    check_backward_is_linear_in_dy: Layer,
    check_a_batch_equals_its_samples_one_by_one: Layer,
    check_the_loss_of_a_batch_is_the_mean_of_its_samples: Loss,
    check_state_restores_the_parameters: Layer,
    check_a_snapshot_for_inference_has_the_same_bits: Layer,
    check_a_copy_of_a_snapshot_answers_with_its_own_weights: Layer,
}
