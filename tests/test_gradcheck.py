"""The checker itself: right layers pass, and every kind of wrong layer fails."""

import re
from collections import UserList
from types import SimpleNamespace

import numpy as np
import pytest

from minicaps import Dense, DynamicRouting, Hard, Layer, Loss, ReLU, Sequential, Stopped, gradcheck
from minicaps.proof import find_classes, module_from_path
from minicaps.proof.capsule_examples import with_couplings
from minicaps.proof.nested import every_array

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


# -- what spoils a proof whatever the gradient is ----------------------------------------------


class Made:
    """A layer of two functions."""

    def __init__(self, forward, backward):
        self.forward, self.backward = forward, backward


def failures(forward, backward, inputs=(X,), **options):
    report = gradcheck(Made(forward, backward), inputs, **options)
    assert report.ok == (not report.failures())
    return report.failures()


def in_place(x):
    x *= 2
    return x**2, x.copy()


def softmax_in_place(x):
    x -= x.max(axis=1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=1, keepdims=True)
    return x.copy(), x.copy()


def dropout(x):
    mask = 2.0 * (rng.random(x.shape) > 0.5)
    return x * mask, mask


def random_kinks(x):
    return 2 * x, rng.random(x.shape) > 0.5


def counting(x, calls=[]):  # noqa: B006, it is what it is for
    calls.append(1)
    return x * len(calls), None


def hole(x):
    y = x.copy()
    y[1, 2] = np.inf
    return y, None


SPOILT = {
    "in place": (in_place, lambda dy, c: 4 * c * dy, "forward changes its argument x in place"),
    "in-place softmax": (softmax_in_place, lambda dy, p: dy, "forward changes its argument x in place"),
    "dropout": (dropout, lambda dy, mask: dy * mask, "forward is not deterministic: called twice"),
    "random choices": (random_kinks, lambda dy, c: 2 * dy, "forward is not deterministic: called twice"),
    "counting": (counting, lambda dy, c: dy, "forward is not deterministic: called twice"),
    "float32": (
        lambda x: (np.tanh(x.astype(np.float32)), x), lambda dy, x: dy / np.cosh(x) ** 2,
        "forward returns float32: it does not compute in float64 throughout",
    ),
    "float32 in the cache": (
        lambda x: (np.tanh(x), x.astype(np.float32)), lambda dy, x: dy / np.cosh(x) ** 2,
        "forward keeps in its cache float32",
    ),
    "not finite": (hole, lambda dy, c: dy, r"forward returns inf at \[1, 2\]"),
    "complex": (lambda x: (x * 1j, None), lambda dy, c: dy, "forward returns an output of dtype complex128"),
    "no cache": (lambda x: 2 * x, lambda dy, c: dy, "forward returns ndarray, expected a pair"),
    "no cache, two samples": (lambda x: x[:2], lambda dy, c: dy, "forward returns ndarray, expected a pair"),
    "no output": (lambda x: (None, x), lambda dy, c: dy, "forward returns no output"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("forward, backward, message", SPOILT.values(), ids=SPOILT)
def test_what_spoils_a_proof_is_told_instead_of_a_wrong_gradient(forward, backward, message):
    (line,) = failures(forward, backward)
    assert re.match(f"Made: {message}", line)


def changes_dy(dy, x):
    dy *= 3 * x**2
    return dy


def changes_its_cache(dy, x):
    x *= x
    return 3 * x * dy


def test_a_backward_that_changes_what_it_is_given_is_told():
    cube = lambda x: (x**3, x.copy())  # noqa: E731
    assert re.match("Made: backward changes dy; work on a copy", failures(cube, changes_dy)[0])
    assert re.match("Made: backward changes its cache; work on a copy", failures(cube, changes_its_cache)[0])
    assert not failures(cube, lambda dy, x: 3 * x**2 * dy)


def test_a_forward_or_backward_that_changes_a_parameter_is_told_and_undone():
    class Wearing(Dense):
        def forward(self, x):
            y = super().forward(x)
            self.params["W"][...] *= self.factor
            return y

        def backward(self, dy, cache):
            dx = super().backward(dy, cache)
            self.params["bias"][...] *= self.other
            return dx

    for factor, other, message in (
        (0.9, 1, "forward changes the parameter W in place"),
        (1, 0.9, "backward changes the parameter bias"),
    ):
        layer = Wearing(5, 4, rng=0, dtype=np.float64)
        layer.factor, layer.other, before = factor, other, layer.state()
        report = gradcheck(layer, [X])
        assert not report.ok and report.failures()[0].startswith(f"Wearing: {message}")
        if factor != 1:
            assert all((layer.params[name] == array).all() for name, array in before.items())


def test_a_plain_object_whose_gradients_are_replaced_or_missing_is_told():
    class Scale:
        def __init__(self):
            self.params, self.grads = {"a": np.arange(1.0, 6.0)}, {"a": np.zeros(5)}

        def forward(self, x):
            return self.params["a"] * x, x

        def backward(self, dy, x):
            self.grads["a"] = (dy * x).sum(axis=0)
            return self.params["a"] * dy

    report = gradcheck(Scale(), [X])
    assert not report.ok and report.failures()[0].startswith(
        "Scale: backward replaces the gradient of a; add"
    )
    layer = Scale()
    layer.grads, layer.backward = {}, lambda dy, x: layer.params["a"] * dy
    (line,) = gradcheck(layer, [X]).failures()
    assert "gradient of a: backward returned None, expected shape (5,)" in line


def test_an_array_without_influence_is_nothing_proven_unless_it_is_expected():
    (line,) = failures(lambda x: (np.zeros_like(x), x), lambda dy, x: np.zeros_like(x))
    assert "gradient of x: 0 by backward and by central differences; it has no influence" in line

    class Idle(Dense):
        def forward(self, x):
            return x @ self.params["W"], (x,)

        def backward(self, dy, cache):
            self.grads["W"] += cache[0].T @ dy
            return dy @ self.params["W"].T

    report = gradcheck(Idle(5, 4, rng=0, dtype=np.float64), [X])
    assert [row.array for row in report.rows if not row.ok(report.tolerance)] == ["bias"]
    assert re.search(r"bias .* FAILED: nothing proven$", str(report), re.MULTILINE)
    assert gradcheck(Idle(5, 4, rng=0, dtype=np.float64), [X], zero_gradient=True).ok
    b = rng.normal(size=(2, 5, 3))
    assert not gradcheck(Hard(), [b]).ok and gradcheck(Hard(), [b], zero_gradient=True).ok


def test_a_gradient_of_rounding_errors_is_nothing_proven_and_not_wrong():
    def shares(x):
        p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        return p.sum(axis=1), p  # 1, whatever x is

    def backward(dy, p):
        return p * (dy[:, None] - (p * dy[:, None]).sum(axis=1, keepdims=True))

    (line,) = failures(shares, backward)
    assert "it has no influence on the output here" in line
    assert not failures(shares, backward, zero_gradient=True)
    (line,) = failures(shares, lambda dy, p: 1e-3 * p * dy[:, None], zero_gradient=True)
    assert "backward says" in line  # what is expected to be 0, and is not


def test_numbers_and_lists_are_outputs_too():
    assert not failures(lambda x: (float((x**2).mean()), x), lambda dy, x: dy * 2 * x / x.size)
    assert not failures(lambda x: ([2 * x, (3 * x,)], None), lambda dy, c: 2 * dy[0] + 3 * dy[1][0])
    assert not failures(lambda x: ((x, 3), None), lambda dy, c: dy[0])
    assert failures(lambda x: (float((x**2).mean()), x), lambda dy, x: dy * 3 * x / x.size)
    assert not failures(lambda t: (t**2, t), lambda dy, t: 2 * t * dy, inputs=[1.5])


def test_rounding_to_float32_on_the_way_is_suspected():
    def forward(x):
        return np.tanh(x).astype(np.float32).astype(float), x

    lines = failures(forward, lambda dy, x: dy / np.cosh(x) ** 2)
    assert lines[0] == "Made: forward gives float64 with the digits of float32: where does it round?"


class Holder(Layer):
    """Hides a layer where only `put` knows."""

    def __init__(self, put):
        super().__init__()
        self.inside = Dense(5, 5, rng=0, dtype=np.float64)
        put(self, Dense(5, 5, rng=1, dtype=np.float64))

    def forward(self, x):
        return self.inside.forward(x)

    def backward(self, dy, cache):
        return self.inside.backward(dy, cache)


@pytest.mark.parametrize(
    "put",
    [
        lambda layer, dense: setattr(layer, "box", SimpleNamespace(dense=dense)),
        lambda layer, dense: setattr(layer, "box", UserList([dense])),
        lambda layer, dense: setattr(layer, "boxes", [SimpleNamespace(dense=dense)]),
        lambda layer, dense: vars(layer).update(dense=dense),
        lambda layer, dense: setattr(layer, "box", np.array([dense, None])),
        lambda layer, dense: setattr(type(layer), "dense", dense),
    ],
)
def test_a_layer_that_nobody_finds_is_told(put):
    own = type("Holder", (Holder,), {})
    report = gradcheck(own(put), [X])
    assert report.failures() == [
        "Holder: nobody finds Dense in it; make it an attribute, or put it in a list"
    ]


def test_a_layer_in_a_list_is_found_and_its_wrong_backward_told():
    layer = Sequential(fc=Dense(5, 5, rng=0, dtype=np.float64))
    layer.more = [WrongDense(weights_scaled)]
    report = gradcheck(layer, [X])
    assert [row.array for row in report.rows if not row.ok(report.tolerance)] == ["more.0.W"]


class Quantity(np.ndarray):
    """Stands in for subclasses whose operators mean something else."""


class Tensor:
    def __array__(self, *_, **__):
        return X


@pytest.mark.parametrize(
    "x, name", [(X.view(Quantity), "Quantity"), (np.ma.array(X), "MaskedArray"), (Tensor(), "Tensor")]
)
def test_arrays_of_another_kind_are_refused(x, name):
    with pytest.raises(TypeError, match=f"gradcheck: an input of ReLU: got a {name}.*numpy.asarray"):
        gradcheck(ReLU(), [x])


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


def test_a_cache_that_holds_itself_is_searched_once():
    cache = SimpleNamespace(x=np.ones(2), more=[{"y": np.zeros(3)}, np.ones(4)], n=1)
    cache.itself = (cache, cache.more)
    assert [array.size for array in every_array(cache)] == [2, 3, 4]
    assert [array.size for array in every_array((cache.x, cache.x))] == [2, 2]
