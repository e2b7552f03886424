"""Shifts: every image by its own whole number of pixels, zeros where nothing comes from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps.augment import shift, shift_by


def numbered(batch, height, width, channels=1, dtype=np.int64):
    """Images in which every pixel has its own number, from 1."""
    return np.arange(1, batch * height * width * channels + 1, dtype=dtype).reshape(
        batch, height, width, channels
    )


def shift_slowly(images, down, right):
    moved = np.zeros_like(images)
    batch, height, width, _ = images.shape
    for k in range(batch):
        for row in range(height):
            for column in range(width):
                to_row, to_column = row + down[k], column + right[k]
                if 0 <= to_row < height and 0 <= to_column < width:
                    moved[k, to_row, to_column] = images[k, row, column]
    return moved


def found_offsets(images, moved):
    """How far the pixel in the middle of each image has gone."""
    height, width = images.shape[1:3]
    middle = height // 2, width // 2
    places = [
        np.argwhere(after[..., 0] == before[middle][0])[0]
        for before, after in zip(images, moved, strict=True)
    ]
    return np.array(places) - middle


@st.composite
def images_and_offsets(draw):
    batch, height, width, channels = (draw(st.integers(1, most)) for most in (4, 6, 5, 3))
    offsets = st.lists(st.integers(-9, 9), min_size=batch, max_size=batch).map(np.array)
    return numbered(batch, height, width, channels), draw(offsets), draw(offsets)


@given(images_and_offsets())
def test_equals_the_slow_twin_for_any_size_and_shift(case):
    np.testing.assert_array_equal(shift_by(*case), shift_slowly(*case))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_keeps_shape_and_dtype(dtype):
    images = numbered(3, 5, 4, 2, dtype)
    moved = shift(images, 2, np.random.default_rng(0))
    assert (moved.shape, moved.dtype) == (images.shape, images.dtype)


@pytest.mark.parametrize("largest", [0, 2])
def test_input_is_not_changed_and_not_shared(largest):
    images = numbered(3, 5, 4)
    before = images.copy()
    shift(images, largest, np.random.default_rng(0))[...] = -1
    np.testing.assert_array_equal(images, before)


def test_offsets_stay_in_range_and_all_of_them_occur():
    images = numbered(600, 7, 9)
    offsets = found_offsets(images, shift(images, 2, np.random.default_rng(0)))
    assert {(y, x) for y, x in offsets.tolist()} == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_every_offset_is_equally_likely():
    images = numbered(5000, 3, 3)
    offsets = found_offsets(images, shift(images, 1, np.random.default_rng(0)))
    counts = np.unique(offsets, axis=0, return_counts=True)[1]
    assert len(counts) == 9 and np.abs(counts - 5000 / 9).max() < 5 * np.sqrt(5000 / 9)


def test_rows_and_columns_move_independently():
    images = numbered(4000, 7, 7)
    down, right = found_offsets(images, shift(images, 2, np.random.default_rng(0))).T
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.1


def test_zeros_come_in_where_the_image_went_away():
    moved = shift_by(np.ones((1, 4, 5, 1)), np.array([1]), np.array([-2]))[0, ..., 0]
    assert moved.tolist() == [[0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]


def test_one_seed_gives_the_same_shifts_and_another_seed_others():
    images = numbered(50, 9, 9)
    first, again, other = (shift(images, 3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_largest_zero_is_the_identity():
    images = numbered(5, 4, 3, 2)
    np.testing.assert_array_equal(shift(images, 0, np.random.default_rng(0)), images)


def test_largest_beyond_the_image_is_allowed():
    moved = shift(numbered(200, 2, 3), 10, np.random.default_rng(0))
    assert (moved == 0).all(axis=(1, 2, 3)).any() and (moved != 0).any()


def test_negative_largest_is_refused():
    with pytest.raises(ValueError, match="largest is -1, expected a whole number, 0 or more"):
        shift(numbered(2, 3, 3), -1, np.random.default_rng(0))
