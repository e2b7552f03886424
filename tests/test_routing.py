"""Properties of routing and of its couplings, beside procedure 1 written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import CapsuleLayer, DynamicRouting, Frozen, Hard, Leaky, Softmax, Stopped, Votes, capsules
from minicaps.fast import threads

seeds = st.integers(0, 10**6)
sizes = st.integers(1, 6)
WAYS = [Softmax(), Leaky(), Hard(), Leaky(Hard())]
ways = st.sampled_from(WAYS)


def plain_routing(u_hat, iterations, bias=0.0, leaky=False):
    """Procedure 1 of the paper, in ten lines and without a word of minicaps."""
    b = np.zeros(u_hat.shape[:3])
    for _ in range(iterations):
        e = np.exp(b)
        c = e / (e.sum(axis=2, keepdims=True) + (1.0 if leaky else 0.0))
        s = np.einsum("bij,bije->bje", c, u_hat) + bias
        n2 = (s**2).sum(axis=-1, keepdims=True)
        v = n2 / (1 + n2) * s / np.sqrt(n2)
        b = b + np.einsum("bije,bje->bij", u_hat, v)
    return v


@given(seeds, sizes, sizes, st.integers(1, 4), st.booleans())
def test_it_is_procedure_1_of_the_paper(seed, lower, upper, iterations, leaky):
    u_hat = np.random.default_rng(seed).normal(size=(3, lower, upper, 4))
    v = DynamicRouting(iterations, coupling=Leaky() if leaky else None)(u_hat)
    np.testing.assert_allclose(v, plain_routing(u_hat, iterations, leaky=leaky), rtol=1e-9, atol=1e-12)


def test_the_bias_enters_every_iteration():
    u_hat = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    layer = DynamicRouting(3, bias_shape=(3, 4), dtype=np.float64)
    assert (layer.params["bias"] == 0.1).all()
    np.testing.assert_allclose(layer(u_hat), plain_routing(u_hat, 3, bias=0.1), rtol=1e-10)


@given(seeds, sizes, sizes, st.integers(1, 4))
def test_couplings_are_shares_that_sum_to_1(seed, lower, upper, iterations):
    u_hat = 10 * np.random.default_rng(seed).normal(size=(2, lower, upper, 4))
    for c in DynamicRouting(iterations).forward(u_hat)[1].c:
        assert (c >= 0).all()
        np.testing.assert_allclose(c.sum(axis=2), 1, rtol=1e-12)


@given(seeds, sizes, sizes, st.integers(2, 4))
def test_leaky_couplings_leave_a_share_for_none_of_the_parents(seed, lower, upper, iterations):
    u_hat = np.random.default_rng(seed).normal(size=(2, lower, upper, 4))
    cache = DynamicRouting(iterations, coupling=Leaky()).forward(u_hat)[1]
    np.testing.assert_allclose(cache.c[0], 1 / (upper + 1), rtol=1e-12)
    for b, c in zip(cache.b, cache.c, strict=True):
        np.testing.assert_allclose(1 - c.sum(axis=2), 1 / (1 + np.exp(b).sum(axis=2)), rtol=1e-9)


def test_no_share_is_left_over_by_default():
    b = np.random.default_rng(0).normal(size=(2, 5, 3))
    np.testing.assert_allclose(Softmax()(b).sum(axis=2), 1, rtol=1e-12)


@pytest.mark.parametrize("leaky", [False, True])
def test_a_softmax_of_huge_logits_does_not_overflow(leaky):
    b = np.array([[[1e30, 0.0, -1e30], [-1e30, -1e30, -1e30]]], dtype=np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        c = (Leaky() if leaky else Softmax())(b)
    np.testing.assert_array_equal(c[0, 0], [1, 0, 0])
    np.testing.assert_allclose(c[0, 1], 0 if leaky else 1 / 3)


@pytest.mark.parametrize("leaky", [False, True])
def test_hard_coupling_starts_uniform_and_then_chooses_one_parent(leaky):
    u_hat = np.random.default_rng(1).normal(size=(4, 6, 3, 5))
    u_hat[:, 0] = -3 * u_hat[:, 1]  # capsule 1 will agree with no parent
    cache = DynamicRouting(3, coupling=Leaky(Hard()) if leaky else Hard()).forward(u_hat)[1]
    np.testing.assert_allclose(cache.c[0], 1 / (3 + leaky), rtol=1e-12)
    for b, c in zip(cache.b[1:], cache.c[1:], strict=True):
        chosen = (b == b.max(axis=2, keepdims=True)) & ((b.max(axis=2, keepdims=True) >= 0) | (not leaky))
        np.testing.assert_array_equal(c, chosen)
    none = [c.sum(axis=2).min() == 0 for c in cache.c[1:]]
    assert any(none) == leaky  # only the leaky one may send a capsule nowhere


@given(seeds, ways, st.integers(1, 4))
def test_the_order_of_lower_capsules_does_not_matter(seed, way, iterations):
    rng = np.random.default_rng(seed)
    u_hat, order = rng.normal(size=(2, 6, 3, 4)), rng.permutation(6)
    layer = DynamicRouting(iterations, coupling=way)
    np.testing.assert_allclose(layer(u_hat[:, order]), layer(u_hat), rtol=1e-9, atol=1e-12)


@given(seeds, ways, st.integers(1, 4))
def test_upper_capsules_keep_their_order(seed, way, iterations):
    rng = np.random.default_rng(seed)
    u_hat, order = rng.normal(size=(2, 6, 3, 4)), rng.permutation(3)
    layer = DynamicRouting(iterations, coupling=way)
    np.testing.assert_allclose(layer(u_hat[:, :, order]), layer(u_hat)[:, order], rtol=1e-9, atol=1e-12)


@given(seeds)
def test_one_iteration_is_the_squashed_average(seed):
    u_hat = np.random.default_rng(seed).normal(size=(2, 6, 3, 4))
    s = u_hat.sum(axis=1) / 3
    n = np.linalg.norm(s, axis=-1, keepdims=True)
    np.testing.assert_allclose(DynamicRouting(1)(u_hat), n / (1 + n**2) * s, rtol=1e-10)


@given(seeds, ways, st.integers(1, 4))
def test_without_bias_the_sign_of_the_input_does_not_change_lengths(seed, way, iterations):
    u = np.random.default_rng(seed).normal(size=(2, 5, 3))
    layer = CapsuleLayer(5, 3, 4, 6, iterations=iterations, std=1.0, rng=0, dtype=np.float64, coupling=way)
    np.testing.assert_allclose(layer(-u), -layer(u), rtol=1e-10, atol=1e-14)


@given(seeds, ways, st.integers(1, 4))
def test_a_batch_equals_its_samples(seed, way, iterations):
    u_hat = np.random.default_rng(seed).normal(size=(3, 5, 4, 2))
    layer = DynamicRouting(iterations, coupling=way)
    singles = np.concatenate([layer(u_hat[b : b + 1]) for b in range(3)])
    np.testing.assert_allclose(layer(u_hat), singles, rtol=1e-10, atol=1e-14)


def test_votes_are_one_matrix_product_per_pair_of_capsules():
    layer = Votes(5, 3, 4, 6, rng=0, dtype=np.float64)
    u = np.random.default_rng(0).normal(size=(2, 5, 3))
    u_hat, W = layer(u), layer.params["W"]
    for i, j in np.ndindex(5, 4):
        np.testing.assert_allclose(u_hat[:, i, j], u[:, i] @ W[i, :, j], rtol=1e-12)


@pytest.mark.usefixtures("small_slices")
def test_the_cache_shows_every_iteration_of_the_whole_batch():
    u = np.random.default_rng(0).normal(size=(19, 5, 3))
    fast, plain = (
        cls(5, 3, 4, 6, std=1.0, rng=0, dtype=np.float64) for cls in (CapsuleLayer, capsules.CapsuleLayer)
    )
    v, cache = fast.forward(u)
    assert len(cache.slices) > 1
    np.testing.assert_array_equal(cache.v[-1], v)
    for name in "bcsv":
        for one, other in zip(getattr(cache, name), getattr(plain.forward(u)[1], name), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


class Halves(capsules.Coupling):
    """A coupling of a reader's own: logits of 0 do not give one number for all."""

    def forward(self, b):
        return np.where(np.arange(b.shape[2]) < 2, 0.5, 0.0) * np.ones_like(b), None

    def backward(self, dc, cache):
        return np.zeros_like(dc)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(
    "coupling", [Halves(), Stopped(Leaky()), Frozen(np.random.default_rng(1).random((5, 4)))]
)
def test_any_coupling_can_be_handed_in(coupling):
    u, dv = (np.random.default_rng(0).normal(size=shape) for shape in ((19, 5, 3), (19, 4, 6)))
    results = []
    for cls in (CapsuleLayer, capsules.CapsuleLayer):
        layer = cls(5, 3, 4, 6, coupling=coupling, std=1.0, rng=0, dtype=np.float64)
        v, cache = layer.forward(u)
        np.testing.assert_allclose(cache.c[0], coupling(np.zeros((19, 5, 4))), rtol=1e-12)
        results.append([v, layer.backward(dv, cache), *layer.grads.values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


class StraightThrough(Hard):
    """Hard couplings with the gradient of soft ones: a backward that Hard does not have."""

    def backward(self, dc, cache):
        return dc.copy()


@pytest.mark.parametrize("coupling", [StraightThrough(), Leaky(StraightThrough())])
def test_a_backward_of_a_reader_s_own_is_used_by_the_fast_layer_too(coupling):
    u, dv = (np.random.default_rng(0).normal(size=shape) for shape in ((3, 5, 3), (3, 4, 6)))
    results = []
    for cls in (CapsuleLayer, capsules.CapsuleLayer):
        layer = cls(5, 3, 4, 6, coupling=coupling, std=1.0, rng=0, dtype=np.float64)
        results.append(layer.backward(dv, layer.forward(u)[1]))
    np.testing.assert_allclose(*results, rtol=1e-10, atol=1e-12)
    hard = CapsuleLayer(5, 3, 4, 6, coupling=Hard(), std=1.0, rng=0, dtype=np.float64)
    assert np.abs(hard.backward(dv, hard.forward(u)[1]) - results[0]).max() > 0.01


@pytest.mark.parametrize("cls", [CapsuleLayer, capsules.CapsuleLayer])
def test_backward_goes_by_the_cache_not_by_what_the_layer_is_now(cls):
    layer = cls(5, 3, 4, 6, std=1.0, rng=0, dtype=np.float64)
    u, dv = (np.random.default_rng(0).normal(size=shape) for shape in ((3, 5, 3), (3, 4, 6)))
    _, cache = layer.forward(u)
    expected = layer.backward(dv, cache)
    for iterations in (2, 5):
        layer.routing.iterations = iterations
        np.testing.assert_array_equal(layer.backward(dv, cache), expected)


@pytest.mark.parametrize("make", [DynamicRouting, Leaky, Stopped], ids=lambda make: make.__name__)
def test_what_is_no_coupling_is_refused(make):
    with pytest.raises(
        TypeError, match=rf"{make.__name__}: coupling is .*expected a Coupling such as Softmax"
    ):
        make(coupling=Votes(1, 1, 1, 1)) if make is DynamicRouting else make(Votes(1, 1, 1, 1))


def test_frozen_couplings_follow_their_layer_to_another_dtype():
    layer = CapsuleLayer(5, 3, 4, 6, coupling=Frozen(np.full((5, 4), 0.25, np.float32)), rng=0)
    assert layer.astype(np.float64)(np.ones((2, 5, 3))).dtype == np.float64


def test_one_parent_takes_all():
    layer = CapsuleLayer(5, 3, 1, 6, std=1.0, rng=0, dtype=np.float64)
    _, cache = layer.forward(np.random.default_rng(0).normal(size=(2, 5, 3)))
    assert all((c == 1).all() for c in cache.c)


def test_frozen_couplings_name_the_axis_that_is_wrong():
    coupling = Frozen(np.full((5, 4), 0.25))
    for shape, message in (
        ((0, 5, 4), r"axis 0 \(batch B\) is empty"),
        ((2, 4, 4), r"axis 1 .* is 4, not 5"),
    ):
        with pytest.raises(ValueError, match=rf"Frozen.forward: b has shape .*{message}"):
            coupling(np.zeros(shape))


def test_parents_that_tie_share_evenly():
    b = np.array([[[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 2.0, -1.0]]])
    np.testing.assert_array_equal(Hard()(b), [[[0.25] * 4, [0.0, 0.5, 0.5, 0.0]]])
    np.testing.assert_array_equal(Leaky(Hard())(b)[0, 0], [0.2] * 4)


@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_the_number_of_threads_does_not_change_a_bit(count, monkeypatch):
    layer = CapsuleLayer(500, 3, 4, 6, bias=True, std=1.0, rng=0)
    rng = np.random.default_rng(0)
    u, dv = rng.normal(size=(100, 500, 3)).astype("f"), rng.normal(size=(100, 4, 6)).astype("f")
    results = []
    for number in ("1", count):
        monkeypatch.setenv("MINICAPS_THREADS", number)
        threads.thread_count.cache_clear()
        threads._helpers.cache_clear()
        layer.zero_grad()
        v, cache = layer.forward(u)
        results.append([v, layer.backward(dv, cache), *(g.copy() for g in layer.grads.values())])
    monkeypatch.undo()
    threads.thread_count.cache_clear()
    threads._helpers.cache_clear()
    assert len(cache.slices) > 1
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"iterations": 0}, "iterations is 0, expected a whole number above 0"),
        ({"bias_shape": 3}, r"bias_shape is 3, expected \(J, E\)"),
        ({"coupling": "soft"}, r"coupling is 'soft', expected a Coupling such as Softmax\(\)"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DynamicRouting(**options)


def test_a_wrong_shape_is_told_with_axis_and_sizes():
    layer = CapsuleLayer(1152, 8, 10, 16, rng=0)
    with pytest.raises(ValueError) as error:
        layer(np.zeros((4, 1152, 16), np.float32))
    assert str(error.value) == (
        "CapsuleLayer.forward: u has shape (4, 1152, 16), expected (B, 1152, 8); "
        "axis 2 (capsule dimension D) is 16, not 8"
    )
    _, cache = layer.forward(np.zeros((2, 1152, 8), np.float32))
    with pytest.raises(ValueError, match=r"CapsuleLayer.backward: dy has shape \(2, 16, 10\)"):
        layer.backward(np.zeros((2, 16, 10), np.float32), cache)
    with pytest.raises(TypeError, match="float64, but the parameters are float32"):
        layer(np.zeros((2, 1152, 8)))
