"""Properties of squash: what it does to lengths and directions, over the whole range of floats."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minicaps import capsules, fast
from minicaps.layers import length_and_direction

both = pytest.mark.parametrize("squash", [capsules.Squash(), fast.Squash()], ids=["plain", "fast"])
vectors = arrays(np.float64, (3, 4), elements=st.floats(-1000, 1000))
directions = arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda d: np.linalg.norm(d) > 0.1)
lengths = st.floats(1e-6, 1e6)
TINY = 1e-37  # below this float32 itself loses digits


@both
@given(vectors)
def test_the_length_becomes_n2_over_1_plus_n2(squash, s):
    n = np.linalg.norm(s, axis=1)
    floor = 1e-150  # the norm taken here squares, and what is smaller vanishes
    np.testing.assert_allclose(np.linalg.norm(squash(s), axis=1), n**2 / (1 + n**2), rtol=1e-12, atol=floor)


@both
@given(directions, st.floats(0, 1000))
def test_the_length_is_below_1_up_to_1000(squash, direction, length):
    s = length * direction / np.linalg.norm(direction)
    assert np.linalg.norm(squash(s[None])) < 1
    assert np.linalg.norm(squash(s[None].astype(np.float32)).astype(np.float64)) < 1 + 1e-6


@both
@given(directions, st.floats(0, 1e30))
def test_the_length_never_exceeds_1_by_more_than_rounding(squash, direction, length):
    for dtype, rounding in ((np.float64, 1e-15), (np.float32, 5e-7)):
        s = (length * direction).astype(dtype)
        assert np.linalg.norm(squash(s[None]).astype(np.float64)) <= 1 + rounding


@both
@given(directions, lengths)
def test_the_direction_is_kept(squash, direction, length):
    v = squash((length * direction)[None])[0]
    cosine = v @ direction / np.linalg.norm(v) / np.linalg.norm(direction)
    assert np.isclose(cosine, 1, rtol=1e-12)


@both
@given(directions, lengths, lengths)
def test_a_longer_vector_stays_longer(squash, direction, a, b):
    short, long = sorted((a, b))
    v = squash(np.stack([short * direction, long * direction]))
    assert np.linalg.norm(v[0]) <= np.linalg.norm(v[1]) * (1 + 1e-12)


@both
@given(vectors, st.integers(0, 1000))
def test_squash_commutes_with_rotation(squash, s, seed):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))
    np.testing.assert_allclose(squash(s @ Q), squash(s) @ Q, atol=1e-12)


@both
@given(directions, st.floats(-30, 30), st.integers(0, 100))
def test_float32_is_as_good_as_float64_from_1e_minus_30_to_1e30(squash, direction, exponent, seed):
    s = (10.0**exponent * direction / np.linalg.norm(direction))[None].astype(np.float32)
    dv = np.random.default_rng(seed).normal(size=(1, 4)).astype(np.float32)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        v, cache = squash.forward(s)
        ds = squash.backward(dv, cache)
    exact, exact_cache = squash.forward(s.astype(np.float64))
    exact_ds = squash.backward(dv.astype(np.float64), exact_cache)
    np.testing.assert_allclose(v, exact, rtol=2e-6, atol=2e-6 * np.abs(exact).max() + TINY)
    np.testing.assert_allclose(ds, exact_ds, rtol=2e-5, atol=2e-5 * np.abs(exact_ds).max() + TINY)


@given(vectors.filter(lambda s: np.abs(s).max(axis=1).min() > 1e-9))
def test_the_plain_formula_for_lengths_equals_the_safe_one(s):
    for plain, safe in zip(fast.length_and_direction(s), length_and_direction(s), strict=True):
        np.testing.assert_allclose(plain, safe, rtol=1e-14, atol=1e-300)


@both
def test_zero_stays_zero_and_has_gradient_zero(squash):
    v, cache = squash.forward(np.zeros((2, 3)))
    assert (v == 0).all() and (squash.backward(np.ones((2, 3)), cache) == 0).all()


@example(np.array([[2.0**-149, 0, 0], [2.0**-149] * 3], dtype=np.float32))
@given(arrays(np.float32, (2, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_length_and_direction_multiply_to_the_vector(s):
    n, e = length_and_direction(s)
    np.testing.assert_allclose(n * e, s, rtol=1e-6, atol=1e-6 * np.abs(s).max() + TINY)
    np.testing.assert_allclose(n[:, 0], np.linalg.norm(s.astype(np.float64), axis=1), rtol=1e-6, atol=TINY)


@given(
    arrays(np.float32, (5, 1), elements=st.floats(0, 2.0**100, width=32)), st.sampled_from([1.0, 0.5, 3.0])
)
def test_the_shorter_way_to_the_factor_has_the_same_bits(n, offset):
    plain, shorter = (kind(offset=offset)._g(n) for kind in (capsules.Squash, fast.Squash))
    np.testing.assert_array_equal(plain, shorter)


@pytest.mark.parametrize("length", [1.0, 0.0, 1e-25, 1e20], ids=["usual", "zero", "short", "long"])
def test_the_fast_squash_leaves_the_direction_to_backward_where_a_division_will_do(length):
    s = np.array([[0.6 * length, 0.8 * length], [0.0, 1.0]], dtype=np.float32)
    squash = fast.Squash()
    _, cache = squash.forward(s)
    assert (cache.e is None) == (length == 1)
    plain = capsules.Squash()
    expected = plain.backward(np.ones_like(s), plain.forward(s)[1])
    np.testing.assert_allclose(squash.backward(np.ones_like(s), cache), expected, rtol=1e-6)
