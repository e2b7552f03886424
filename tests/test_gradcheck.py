"""The checker itself: right layers pass, and every kind of wrong layer fails."""

import re

import numpy as np
import pytest

from minicaps import Dense, DynamicRouting, Layer, Loss, ReLU, Stopped, gradcheck
from minicaps.proof import find_classes, module_from_path
from minicaps.proof.capsule_examples import with_couplings

rng = np.random.default_rng(7)
X = rng.normal(size=(3, 5))


class WrongDense(Dense):
    """A dense layer whose backward is spoiled by `spoil`."""

    def __init__(self, spoil):
        super().__init__(5, 4, rng=0, dtype=np.float64)
        self.spoil = spoil

    def backward(self, dy, cache):
        dx = super().backward(dy, cache)
        return self.spoil(self, dx, dy, cache)


def input_scaled(layer, dx, dy, cache):
    return 1.001 * dx


def input_of_a_transposed_matrix(layer, dx, dy, cache):
    return dx[::-1]


def weights_scaled(layer, dx, dy, cache):
    layer.grads["W"] += 0.001 * cache.x.T @ dy
    return dx


def weights_without_one_sample(layer, dx, dy, cache):
    layer.grads["W"] -= cache.x[:1].T @ dy[:1]
    return dx


def bias_missing(layer, dx, dy, cache):
    layer.grads["bias"] -= dy.sum(axis=0)
    return dx


def overwritten_instead_of_accumulated(layer, dx, dy, cache):
    layer.grads["W"][...] = cache.x.T @ dy
    return dx


def not_a_number(layer, dx, dy, cache):
    dx[1, 2] = np.nan
    return dx


def zero(layer, dx, dy, cache):
    return 0 * dx


@pytest.mark.parametrize(
    "spoil, array",
    [
        (input_scaled, "x"),
        (input_of_a_transposed_matrix, "x"),
        (weights_scaled, "W"),
        (weights_without_one_sample, "W"),
        (bias_missing, "bias"),
        (overwritten_instead_of_accumulated, "W"),
        (not_a_number, "x"),
        (zero, "x"),
    ],
)
def test_a_wrong_backward_fails_at_the_array_that_is_wrong(spoil, array):
    report = gradcheck(WrongDense(spoil), [X])
    assert not report.ok
    assert [row.array for row in report.rows if not row.ok(report.tolerance)] == [array]


def test_a_right_backward_passes_far_below_the_tolerance():
    report = gradcheck(Dense(5, 4, rng=0, dtype=np.float64), [X])
    assert report.ok and report.worst < 1e-9
    assert [row.array for row in report.rows] == ["x", "W", "bias"]


class Softmax(Layer):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        e = np.exp(x)
        p = e / e.sum(axis=1, keepdims=True)
        return p, p

    def backward(self, dy, p):
        return self.factor * p * (dy - (p * dy).sum(axis=1, keepdims=True))


def test_a_softmax_with_a_zero_gradient_fails_which_an_upstream_of_ones_would_not_see():
    assert gradcheck(Softmax(), [X]).ok
    assert not gradcheck(Softmax(factor=0.0), [X]).ok
    ones = np.ones((3, 5))
    _, cache = Softmax().forward(X)
    assert np.abs(Softmax().backward(ones, cache)).max() < 1e-15  # the trap: right and zero look alike


def test_large_arrays_are_seen_through_projections():
    x = rng.normal(size=(8, 80))
    layer = Dense(80, 30, rng=0, dtype=np.float64)
    assert gradcheck(layer, [x]).ok

    class OneEntryWrong(Dense):
        def backward(self, dy, cache):
            dx = super().backward(dy, cache)
            dx[3, 40] *= 1.01
            return dx

    report = gradcheck(OneEntryWrong(80, 30, rng=0, dtype=np.float64), [x])
    assert [row.array for row in report.rows if not row.ok(1e-6)] == ["x"]


def test_a_kink_inside_the_step_is_measured_again_closer():
    x = X.copy()
    x[0, 0] = 0.5e-5  # the step of 1e-5 crosses 0, a tenth of it does not
    assert gradcheck(ReLU(), [x]).ok


def test_a_kink_at_the_input_is_reported_not_waved_through():
    x = X.copy()
    x[0, 0] = 0.0
    report = gradcheck(ReLU(), [x])
    assert not report.ok
    assert report.rows[0].crossings == 1
    assert "a kink lies within the step in 1 direction; move" in report.failures()[0]
    assert re.search(r"x .* FAILED: a kink$", str(report), re.MULTILINE)


def test_a_failure_names_layer_array_index_both_values_error_and_seed():
    class Cube:
        def forward(self, x):
            return x**3, x

        def backward(self, dy, x):
            wrong = 3 * x**2 * dy
            wrong[1, 2] *= 2
            return wrong

    report = gradcheck(Cube(), [np.full((2, 3), 2.0)], seed=5)
    (line,) = report.failures()
    for part in ("Cube", "gradient of x", "[1, 2]", "24", "12", "relative error 5.0e-01", "seed 5"):
        assert part in line
    assert "FAILED" in str(report) and line in str(report)
    with pytest.raises(AssertionError, match="Cube"):
        report.raise_if_failed()


def test_stopped_gradients_fail_unless_the_couplings_are_frozen():
    layer = DynamicRouting(3, coupling=Stopped())
    u_hat = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    assert not gradcheck(layer, [u_hat]).ok
    c = layer.forward(u_hat)[1].c[-1]
    assert gradcheck(layer, [u_hat], check_forward=lambda u_hat: with_couplings(layer, u_hat, c)).ok


def test_the_layer_and_its_inputs_are_left_as_they_were():
    layer, x = Dense(5, 4, rng=0, dtype=np.float64), X.copy()
    layer.grads["W"] += 3.0
    state = {name: array.copy() for name, array in [*layer.params.items()]}
    gradcheck(layer, [x])
    assert (x == X).all() and (layer.grads["W"] == 3.0).all() and (layer.grads["bias"] == 0).all()
    assert all((layer.params[name] == array).all() for name, array in state.items())


def test_one_seed_gives_one_report():
    layer = Dense(5, 4, rng=0, dtype=np.float64)
    errors = [[row.error for row in gradcheck(layer, [X], seed=seed).rows] for seed in (3, 3, 4)]
    assert errors[0] == errors[1] != errors[2]


def test_float32_is_refused():
    with pytest.raises(TypeError, match="float64"):
        gradcheck(Dense(5, 4, rng=0), [X.astype(np.float32)])


@pytest.mark.parametrize("returned", [None, np.zeros((5, 3))])
def test_a_gradient_of_the_wrong_shape_fails(returned):
    class Wrong:
        def forward(self, x):
            return 2 * x, None

        def backward(self, dy, cache):
            return returned

    report = gradcheck(Wrong(), [X])
    assert not report.ok and "expected shape (3, 5)" in report.failures()[0]


def test_the_number_of_gradients_must_match_the_inputs():
    class Wrong:
        def forward(self, x, y):
            return x * y, (x, y)

        def backward(self, dy, cache):
            return dy * cache[1]

    with pytest.raises(ValueError, match="1 gradients for 2 inputs"):
        gradcheck(Wrong(), [X, X])


def test_a_layer_without_anything_to_check_does_not_pass():
    class Count:
        def forward(self, labels):
            return labels.astype(float), None

        def backward(self, dy, cache):
            return None

    report = gradcheck(Count(), [np.arange(3)])
    assert not report.ok and "nothing was checked" in report.failures()[0]


def test_a_loss_is_checked_on_its_prediction_only():
    class Half(Loss):
        def forward(self, prediction, target):
            return 0.5 * ((prediction - target) ** 2).sum(), prediction - target

        def backward(self, cache):
            return self.factor * cache

    Half.factor = 1.0
    report = gradcheck(Half(), [X, X[::-1].copy()])
    assert report.ok and [row.array for row in report.rows] == ["prediction"]
    Half.factor = 0.999
    assert not gradcheck(Half(), [X, X[::-1].copy()]).ok


def test_classes_are_found_by_what_they_are_or_have(tmp_path):
    path = tmp_path / "layers.py"
    path.write_text(
        "from minicaps import Layer, Dense\n"
        "class Own(Layer):\n    def forward(self, x): return x, None\n"
        "    def backward(self, dy, cache): return dy\n"
        "class Plain:\n    forward = backward = examples = None\n"
        "class Other: pass\n"
        "class Abstract(Layer): pass\n"
    )
    assert [cls.__name__ for cls in find_classes([module_from_path(path)])] == ["Own", "Plain"]
