"""Convolution and pooling beside loops over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps import MaxPool2d, ReLU, fast, layers
from minicaps.fast.convolution import col2im_by_rows
from minicaps.layers import col2im, im2col, output_size

seeds = st.integers(0, 10**6)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
both = pytest.mark.parametrize("Conv2d", [layers.Conv2d, fast.Conv2d], ids=["plain", "fast"])


def convolve_by_loops(x, W, bias, stride, padding):
    """The definition, one multiplication at a time over places and kernel."""
    kh, kw = W.shape[:2]
    x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    rows = range(0, x.shape[1] - kh + 1, stride[0])
    columns = range(0, x.shape[2] - kw + 1, stride[1])
    y = np.zeros((len(x), len(rows), len(columns), W.shape[3])) + bias
    for p, row in enumerate(rows):
        for q, column in enumerate(columns):
            for r, t in np.ndindex(kh, kw):
                y[:, p, q] += x[:, row + r, column + t] @ W[r, t]
    return y


@both
@given(seeds, pairs, pairs, paddings, st.tuples(st.integers(4, 8), st.integers(4, 8)))
def test_a_convolution_is_its_definition(Conv2d, seed, kernel, stride, padding, size):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *size, 3))
    layer = Conv2d(3, 2, kernel, stride=stride, padding=padding, rng=rng, dtype=np.float64)
    expected = convolve_by_loops(x, *layer.params.values(), stride, padding)
    y = layer(x)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
    assert layer.output_size(size) == y.shape[1:3]


@given(seeds, pairs, pairs, paddings, st.tuples(st.integers(4, 7), st.integers(4, 7)))
def test_col2im_is_im2col_transposed(seed, kernel, stride, padding, size):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *size, 3))
    cols = im2col(x, kernel, stride, padding)
    dcols = rng.normal(size=cols.shape)
    if padding == (0, 0):
        np.testing.assert_array_equal(im2col(x, kernel, stride), cols)
        both = col2im(dcols, size, kernel, stride), col2im_by_rows(dcols, size, kernel, stride)
        np.testing.assert_allclose(*both, rtol=1e-12, atol=1e-12)
    for transposed in (col2im, col2im_by_rows):
        back = transposed(dcols, size, kernel, stride, padding)
        np.testing.assert_allclose((cols * dcols).sum(), (x * back).sum(), rtol=1e-9, atol=1e-9)


@both
def test_the_backward_of_a_convolution_holds_for_rows_no_window_covers(Conv2d):
    layer = Conv2d(1, 1, 2, stride=2, rng=0, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 1))  # the last row is in no window
    y, cache = layer.forward(x)
    dx = layer.backward(np.ones_like(y), cache)
    assert dx.shape == x.shape and (dx[:, 4] == 0).all() and (dx[:, :4] != 0).all()


@given(seeds, pairs, pairs, st.tuples(st.integers(4, 7), st.integers(4, 7)))
def test_max_pooling_takes_the_largest_of_each_window(seed, window, stride, size):
    x = np.random.default_rng(seed).normal(size=(2, *size, 3))
    y = MaxPool2d(window, stride=stride)(x)
    for p, q in np.ndindex(*y.shape[1:3]):
        row, column = p * stride[0], q * stride[1]
        part = x[:, row : row + window[0], column : column + window[1]]
        np.testing.assert_array_equal(y[:, p, q], part.max(axis=(1, 2)))


def test_in_a_tie_the_first_pixel_takes_the_gradient():
    layer = MaxPool2d(2)
    y, cache = layer.forward(np.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(layer.backward(np.ones_like(y), cache)[0, :, :, 0], [[1, 0], [0, 0]])


@pytest.mark.parametrize("options", [{"kernel_size": 0}, {"kernel_size": 2, "stride": 0},
                                     {"kernel_size": 2, "padding": -1}, {"kernel_size": (1, 2, 3)},
                                     {"kernel_size": 2.5}])  # fmt: skip
def test_impossible_windows_are_refused(options):
    with pytest.raises(ValueError, match="expected one or two whole numbers"):
        fast.Conv2d(1, 1, **options)


def test_a_kernel_larger_than_the_image_is_told_with_the_cure():
    with pytest.raises(ValueError, match=r"height 9 does not fit an image of height 8.*larger image"):
        fast.Conv2d(1, 1, 9, rng=0)(np.zeros((1, 8, 8, 1), np.float32))
    for cls in (fast.Conv2d, layers.Conv2d):
        with pytest.raises(
            ValueError, match="Conv2d: a window of height 9 does not fit an image of height 8"
        ):
            cls(1, 1, 9, rng=0)(np.zeros((1, 8, 10, 1), np.float32))
        with pytest.raises(ValueError, match="Conv2d: a window of width 9 does not fit an image of width 8"):
            cls(1, 1, 9, rng=0)(np.zeros((1, 10, 8, 1), np.float32))
    assert output_size("here", (8, 8), (9, 9), (1, 1), (1, 1)) == (2, 2)


def test_the_number_of_channels_is_checked():
    with pytest.raises(ValueError, match=r"axis 3 \(channels C\) is 1, not 3"):
        fast.Conv2d(3, 1, 2, rng=0)(np.zeros((1, 8, 8, 1), np.float32))


@pytest.mark.parametrize("ReLU", [layers.ReLU, ReLU], ids=["plain", "fast"])
def test_the_rectifier_passes_no_gradient_at_0(ReLU):
    x = np.array([[-1.0, 0.0, 2.0]])
    y, cache = ReLU().forward(x)
    np.testing.assert_array_equal(y, [[0, 0, 2]])
    np.testing.assert_array_equal(ReLU().backward(np.full_like(x, 3.0), cache), [[0, 0, 3]])
