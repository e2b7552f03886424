"""Convolution by frequencies and by points beside im2col, its plain twin."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import layers
from minicaps.fast import Conv2d, bilinear, spectral
from minicaps.networks import CapsNet, CapsNetConfig, build
from minicaps.training import Adam

seeds = st.integers(0, 10**6)
sizes = st.tuples(st.integers(4, 12), st.integers(4, 12))
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
ALLOWED = {np.float32: 1e-5, np.float64: 1e-10}


@pytest.fixture
def always_spectral(monkeypatch):
    monkeypatch.setattr(Conv2d, "_takes_spectral", lambda self, geometry, batch: True)


def both(x, dy_seed, in_channels, out_channels, kernel, dtype, **options):
    """Return (y, dx, dW, dbias) of the plain and of the fast convolution."""
    results = []
    for cls in (layers.Conv2d, Conv2d):
        layer = cls(in_channels, out_channels, kernel, rng=0, dtype=dtype, **options)
        y, cache = layer.forward(x)
        dy = np.random.default_rng(dy_seed).normal(size=y.shape).astype(dtype)
        results.append([y, layer.backward(dy, cache), *layer.grads.values()])
    assert isinstance(cache, spectral.SpectralCache)
    return zip(*results, strict=True)


@pytest.mark.usefixtures("always_spectral")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@given(seeds, sizes, pairs, pairs, paddings)
def test_it_agrees_with_im2col_for_any_size_stride_kernel_and_padding(
    dtype, seed, size, kernel, stride, padding
):
    x = np.random.default_rng(seed).normal(size=(3, *size, 2)).astype(dtype)
    for plain, fast in both(x, seed, 2, 3, kernel, dtype, stride=stride, padding=padding):
        assert fast.dtype == dtype and fast.shape == plain.shape
        assert np.abs(fast - plain).max() <= ALLOWED[dtype] * max(1e-3, np.abs(plain).max())


@pytest.mark.parametrize("size, kernel", [(20, 9), (11, 5)], ids=["paper", "small"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_agrees_at_the_sizes_of_the_presets(size, kernel, dtype):
    x = np.random.default_rng(0).normal(size=(12, size, size, 32)).astype(dtype)
    for plain, fast in both(x, 1, 32, 64, kernel, dtype, stride=2):
        assert np.abs(fast - plain).max() <= ALLOWED[dtype] * np.abs(plain).max()


@pytest.mark.parametrize("make", [bilinear.by_points, bilinear.by_frequencies])
@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), pairs)
def test_the_three_matrices_are_a_bilinear_algorithm_for_correlation(make, grid, taps):
    outputs = tuple(max(1, n - k + 1) for n, k in zip(grid, taps, strict=True))
    taps = tuple(n - p + 1 for n, p in zip(grid, outputs, strict=True))
    G, D, A = make(grid, taps, outputs)
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=grid), rng.normal(size=taps)
    direct = [(x[p : p + taps[0], q : q + taps[1]] * w).sum() for p, q in np.ndindex(*outputs)]
    np.testing.assert_allclose(A @ ((G @ w.ravel()) * (D @ x.ravel())), direct, rtol=1e-9, atol=1e-10)


@given(sizes, pairs, pairs)
def test_small_grids_go_by_points_and_large_ones_by_frequencies(size, kernel, stride):
    geometry = bilinear.Geometry(size, kernel, stride, (0, 0))
    G, D, A = bilinear._matrices(geometry.grid, geometry.taps, geometry.outputs, "float64", np)
    assert (len(G) == math.prod(geometry.grid)) == (max(geometry.grid) <= 6)
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=geometry.grid), rng.normal(size=geometry.taps)
    direct = [(x[p : p + w.shape[0], q : q + w.shape[1]] * w).sum() for p, q in np.ndindex(*geometry.outputs)]
    np.testing.assert_allclose(A @ ((G @ w.ravel()) * (D @ x.ravel())), direct, rtol=1e-9, atol=1e-10)
    assert len(G) == bilinear.products(geometry.grid)


def test_the_paper_s_grid_takes_148_products():
    geometry = bilinear.Geometry((20, 20), (9, 9), (2, 2), (0, 0))
    assert (geometry.outputs, geometry.taps, geometry.grid) == ((6, 6), (5, 5), (10, 10))
    assert bilinear.products(geometry.grid) == 148
    direct, by_frequency = bilinear.multiplications(geometry, 256, 256)
    assert direct == 36 * 81 * 256 * 256
    assert by_frequency == 148 * 1024 * 256 + 100 * 148 * 1024 + 36 * 148 * 256


@given(sizes, pairs, paddings, seeds)
def test_phases_and_back_are_transposes(size, stride, padding, seed):
    geometry = bilinear.Geometry(size, (3, 2), stride, padding)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *size, 3))
    split = spectral.phases(x, geometry)
    other = rng.normal(size=split.shape)
    assert split.shape[1:] == (math.prod(geometry.grid), 3 * math.prod(stride))
    back = spectral.from_phases(other, geometry)
    np.testing.assert_allclose((split * other).sum(), (x * back).sum(), rtol=1e-9, atol=1e-9)


def test_auto_takes_what_multiplies_less_where_there_are_many_images():
    paper, first = Conv2d(256, 256, 9, stride=2, rng=0), Conv2d(1, 256, 9, rng=0)
    assert paper._takes_spectral(paper._geometry((20, 20)), 128)
    assert not first._takes_spectral(first._geometry((28, 28)), 128)
    for size, channels in ((11, 16), (11, 24), (11, 64), (9, 16), (14, 12)):
        layer = Conv2d(channels, channels, 5, stride=2, rng=0)
        geometry = layer._geometry((size, size))
        direct, by_frequency = bilinear.multiplications(geometry, channels, channels)
        assert layer._takes_spectral(geometry, 10**6) == (by_frequency < direct), (direct, by_frequency)
    one = Conv2d(64, 64, 1, rng=0)
    assert not one._takes_spectral(bilinear.Geometry((8, 8), (1, 1), (1, 1), (0, 0)), 10**6)


def test_a_few_images_go_window_by_window_as_there_are_more_transformed_weights_to_fetch():
    small, paper = Conv2d(64, 64, 5, stride=2, rng=0), Conv2d(256, 256, 9, stride=2, rng=0)
    geometry = small._geometry((11, 11))
    direct, by_frequency = bilinear.multiplications(geometry, 64, 64)
    weights = spectral.transform_weights(small.params["W"], geometry).size
    assert bilinear.pays_from(geometry, 64, 64) == bilinear.FETCH * weights / (direct - by_frequency)
    for layer, size, most in ((small, 11, 10), (paper, 20, 3)):
        assert not layer._takes_spectral(layer._geometry((size, size)), most)
        assert layer._takes_spectral(layer._geometry((size, size)), most + 1)


def test_a_snapshot_for_inference_has_the_same_bits_and_brings_no_weights_into_form(monkeypatch):
    net = build("capsnet", "small", rng=0)
    images = np.random.default_rng(0).random((11, 28, 28, 1), dtype=np.float32)
    expected, ready = net(images), net.for_inference()
    ready(images)  # the first batch brings the weights into form
    monkeypatch.setattr(spectral, "transform_weights", None)  # calling it would fail
    for ours, theirs in zip(ready(images), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["capsnet", "cnn", "matrix", "mlp"])
def test_a_snapshot_for_inference_cannot_be_trained(name):
    ready, x = build(name, "tiny", rng=0).for_inference(), np.zeros((2, 28, 28, 1), np.float32)
    before = ready(x)
    for change in (
        lambda: Adam(ready, 0.1),
        lambda: ready.load_state(ready.state()),
        lambda: ready.first_param.__imul__(2),
    ):
        with pytest.raises(ValueError, match="read-only"):
            change()
    np.testing.assert_array_equal(ready(x)[0], before[0])


def test_a_snapshot_for_inference_does_not_follow_later_training():
    config = CapsNetConfig((20, 20, 2), 3, conv_channels=32, conv_kernel=3, primary_types=8)
    net = CapsNet(config, rng=0)
    images = np.random.default_rng(0).random((2, 20, 20, 2), dtype=np.float32)
    ready, before = net.for_inference(), net(images)[0]
    for param in net.params.values():
        param *= 1.5
    np.testing.assert_array_equal(ready(images)[0], before)
    assert np.abs(net(images)[0] - before).max() > 1e-3


@pytest.mark.parametrize("before", [(0, 0), (1, 0), (0, 1), (-1, 2)])
def test_images_are_moved_in_a_frame_of_their_own_size_too(before):
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    expected = np.zeros_like(x)
    for row in range(4):
        for column in range(5):
            if 0 <= row + before[0] < 4 and 0 <= column + before[1] < 5:
                expected[:, row + before[0], column + before[1]] = x[:, row, column]
    np.testing.assert_array_equal(spectral.fit(x, before, (4, 5)), expected)
