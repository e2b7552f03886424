"""Properties of routing, and the fast capsule layer beside its plain twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import CapsuleLayer, DynamicRouting, PredictionVectors, Sequential
from minicaps import arrays as backend
from minicaps.capsules.dynamic_routing import softmax_over_parents
from minicaps.proof.discovery import find_examples

seeds = st.integers(0, 10**6)
sizes = st.integers(1, 6)
WAYS = {
    "softmax": {},
    "leaky": {"leaky": True},
    "hard": {"coupling": "hard"},
    "hard and leaky": {"coupling": "hard", "leaky": True},
}
ways = st.sampled_from(list(WAYS.values()))


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
    v = DynamicRouting(iterations, leaky=leaky)(u_hat)
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
    cache = DynamicRouting(iterations, leaky=True).forward(u_hat)[1]
    np.testing.assert_allclose(cache.c[0], 1 / (upper + 1), rtol=1e-12)
    for b, c in zip(cache.b, cache.c, strict=True):
        np.testing.assert_allclose(1 - c.sum(axis=2), 1 / (1 + np.exp(b).sum(axis=2)), rtol=1e-9)


def test_no_share_is_left_over_by_default():
    b = np.random.default_rng(0).normal(size=(2, 5, 3))
    np.testing.assert_allclose(softmax_over_parents(b).sum(axis=2), 1, rtol=1e-12)


@pytest.mark.parametrize("leaky", [False, True])
def test_a_softmax_of_huge_logits_does_not_overflow(leaky):
    b = np.array([[[1e30, 0.0, -1e30], [-1e30, -1e30, -1e30]]], dtype=np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        c = softmax_over_parents(b, leaky)
    np.testing.assert_array_equal(c[0, 0], [1, 0, 0])
    np.testing.assert_allclose(c[0, 1], 0 if leaky else 1 / 3)


@pytest.mark.parametrize("leaky", [False, True])
def test_hard_coupling_starts_uniform_and_then_chooses_one_parent(leaky):
    u_hat = np.random.default_rng(1).normal(size=(4, 6, 3, 5))
    u_hat[:, 0] = -3 * u_hat[:, 1]  # capsule 1 will agree with no parent
    cache = DynamicRouting(3, coupling="hard", leaky=leaky).forward(u_hat)[1]
    np.testing.assert_allclose(cache.c[0], 1 / (3 + leaky), rtol=1e-12)
    for b, c in zip(cache.b[1:], cache.c[1:], strict=True):
        chosen = (b == b.max(axis=2, keepdims=True)) & ((b.max(axis=2, keepdims=True) >= 0) | (not leaky))
        np.testing.assert_array_equal(c, chosen)
    assert len(cache.best) == 2  # after the last iteration nothing is chosen
    none = [c.sum(axis=2).min() == 0 for c in cache.c[1:]]
    assert any(none) == leaky  # only the leaky one may send a capsule nowhere


@given(seeds, ways, st.integers(1, 4))
def test_the_order_of_lower_capsules_does_not_matter(seed, way, iterations):
    rng = np.random.default_rng(seed)
    u_hat, order = rng.normal(size=(2, 6, 3, 4)), rng.permutation(6)
    layer = DynamicRouting(iterations, **way)
    np.testing.assert_allclose(layer(u_hat[:, order]), layer(u_hat), rtol=1e-9, atol=1e-12)


@given(seeds, ways, st.integers(1, 4))
def test_upper_capsules_keep_their_order(seed, way, iterations):
    rng = np.random.default_rng(seed)
    u_hat, order = rng.normal(size=(2, 6, 3, 4)), rng.permutation(3)
    layer = DynamicRouting(iterations, **way)
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
    layer = CapsuleLayer(5, 3, 4, 6, iterations=iterations, deviation=1.0, rng=0, dtype=np.float64, **way)
    np.testing.assert_allclose(layer(-u), -layer(u), rtol=1e-10, atol=1e-14)


@given(seeds, ways, st.integers(1, 4))
def test_a_batch_equals_its_samples(seed, way, iterations):
    u_hat = np.random.default_rng(seed).normal(size=(3, 5, 4, 2))
    layer = DynamicRouting(iterations, **way)
    singles = np.concatenate([layer(u_hat[b : b + 1]) for b in range(3)])
    np.testing.assert_allclose(layer(u_hat), singles, rtol=1e-10, atol=1e-14)


def twins(layer):
    """Return the plain layers that compute what a CapsuleLayer does, with the same numbers."""
    W = layer.prediction.params["W"]
    bias = {"bias_shape": W.shape[2:]} if layer.bias else {}
    plain = Sequential(
        prediction=PredictionVectors(*W.shape, dtype=W.dtype),
        routing=DynamicRouting(layer.iterations, leaky=layer.leaky, gradient=layer.gradient,
                               coupling=layer.coupling, dtype=W.dtype, **bias),
    )  # fmt: skip
    plain.load_state(layer.state())
    return plain


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("k", range(len(find_examples(CapsuleLayer))))
def test_the_capsule_layer_equals_prediction_then_routing(k):
    layer = find_examples(CapsuleLayer)[k].layer
    plain, rng = twins(layer), np.random.default_rng(2)
    u, dv = rng.normal(size=(37, 5, 3)), rng.normal(size=(37, 4, 6))  # several chunks, one of them short
    results = []
    for one in (layer, plain):
        v, cache = one.forward(u)
        results.append((v, one.backward(dv, cache), *one.grads.values()))
    for fast, slow in zip(*results, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-12 * np.abs(slow).max())


def test_predictions_are_one_matrix_product_per_pair_of_capsules():
    layer = PredictionVectors(5, 3, 4, 6, rng=0, dtype=np.float64)
    u = np.random.default_rng(0).normal(size=(2, 5, 3))
    u_hat, W = layer(u), layer.params["W"]
    for i, j in np.ndindex(5, 4):
        np.testing.assert_allclose(u_hat[:, i, j], u[:, i] @ W[i, :, j], rtol=1e-12)


@pytest.mark.usefixtures("small_pieces")
def test_the_cache_shows_every_iteration_of_the_whole_batch():
    layer = CapsuleLayer(5, 3, 4, 6, deviation=1.0, rng=0, dtype=np.float64)
    u = np.random.default_rng(0).normal(size=(19, 5, 3))
    v, cache = layer.forward(u)
    plain = twins(layer).routing.forward(layer.prediction(u))[1]
    assert len(cache.parts) > 1
    np.testing.assert_array_equal(cache.v[-1], v)
    for name in "bcsv":
        for fast, slow in zip(getattr(cache, name), getattr(plain, name), strict=True):
            np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_the_number_of_threads_does_not_change_a_bit(count, monkeypatch):
    layer = CapsuleLayer(500, 3, 4, 6, bias=True, deviation=1.0, rng=0)
    rng = np.random.default_rng(0)
    u, dv = rng.normal(size=(100, 500, 3)).astype("f"), rng.normal(size=(100, 4, 6)).astype("f")
    results = []
    for threads in ("1", count):
        monkeypatch.setenv("MINICAPS_THREADS", threads)
        backend.threads.cache_clear()
        backend._helpers.cache_clear()
        layer.zero_grad()
        v, cache = layer.forward(u)
        results.append([v, layer.backward(dv, cache), *(g.copy() for g in layer.grads.values())])
    monkeypatch.undo()
    backend.threads.cache_clear()
    backend._helpers.cache_clear()
    assert len(cache.parts) > 1
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"iterations": 0}, "iterations is 0, expected a whole number above 0"),
        ({"gradient": "none"}, "gradient is 'none', expected 'full' or 'stopped'"),
        ({"coupling": "soft"}, "coupling is 'soft', expected 'softmax' or 'hard'"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
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
