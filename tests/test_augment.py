"""Shifts, positions, pairs and warps: every image by its own, zeros where nothing comes from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicaps.datasets.augment import Warps, overlay, pairs, place, shift, shift_by, warp


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
    positions = [
        np.argwhere(after[..., 0] == before[middle][0])[0]
        for before, after in zip(images, moved, strict=True)
    ]
    return np.array(positions) - middle


@st.composite
def images_and_offsets(draw):
    batch, height, width, channels = (draw(st.integers(1, maximum)) for maximum in (4, 6, 5, 3))
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


# -- frames and pairs --------------------------------------------------------------------------


def test_a_placed_image_is_whole_and_every_position_occurs_about_equally_often():
    placed = place(np.ones((4000, 3, 2, 1), np.uint8), 4, np.random.default_rng(0))
    assert placed.shape == (4000, 4, 4, 1) and placed.dtype == np.uint8
    assert (placed.sum(axis=(1, 2, 3)) == 6).all()
    corners, counts = np.unique(placed.reshape(4000, -1).argmax(axis=1), return_counts=True)
    assert corners.tolist() == [0, 1, 2, 4, 5, 6]  # two rows, three columns
    assert np.abs(counts - 4000 / 6).max() < 5 * np.sqrt(4000 / 6)


def test_a_frame_smaller_than_the_image_is_refused():
    with pytest.raises(ValueError, match="size is 4, expected 5 or more"):
        place(numbered(2, 3, 5), 4, np.random.default_rng(0))


def first_pairs(seed=0, batch_size=500):
    images = numbered(30, 3, 3, dtype=np.int64)
    labels = np.arange(30) % 3
    return next(pairs(images, labels, batch_size, 5, np.random.default_rng(seed)))


def test_the_two_parts_of_a_pair_are_whole_images_of_different_classes():
    parts, labels = first_pairs()
    assert parts.shape == (500, 2, 5, 5, 1) and labels.shape == (500, 2)
    assert (labels[:, 0] != labels[:, 1]).all()
    number = (parts.max(axis=(2, 3, 4)) - 1) // 9  # of the image that a part shows
    np.testing.assert_array_equal(number % 3, labels)
    expected = np.arange(1, 10) + 9 * number[..., None]  # (B, 2, 9), the image's pixels in order
    shown = parts.reshape(500, 2, -1)
    np.testing.assert_array_equal(np.sort(shown, axis=-1)[..., -9:], expected)


def test_the_parts_of_pairs_move_independently_by_up_to_the_margin():
    parts, _ = first_pairs(batch_size=3000)
    middle = parts.argmax(axis=2).max(axis=2)[..., 0], parts.argmax(axis=3).max(axis=2)[..., 0]
    for positions_of in middle:  # of the last pixel, in row or column: (B, 2)
        assert set(positions_of.reshape(-1).tolist()) == {2, 3, 4}
        assert abs(np.corrcoef(positions_of.T)[0, 1]) < 0.1


def test_all_combinations_of_classes_occur():
    _, labels = first_pairs()
    assert len({tuple(pair) for pair in labels.tolist()}) == 6


def test_pairs_are_the_same_from_one_seed_and_new_in_every_batch():
    images, labels = numbered(30, 3, 3), np.arange(30) % 3
    one, again = (pairs(images, labels, 20, 5, np.random.default_rng(4)) for _ in range(2))
    first, second = next(one), next(one)
    np.testing.assert_array_equal(first[0], next(again)[0])
    np.testing.assert_array_equal(second[0], next(again)[0])
    assert (first[0] != second[0]).any() and (first_pairs(1)[1] != first_pairs(2)[1]).any()


def test_pairs_need_two_classes():
    with pytest.raises(ValueError, match="all labels are of one class"):
        next(pairs(numbered(4, 3, 3), np.zeros(4, int), 2, 5, np.random.default_rng(0)))


def test_an_overlay_is_the_sum_clipped_at_white():
    parts = np.array([[100, 0], [200, 7]], np.uint8).reshape(1, 2, 1, 2, 1)
    assert overlay(parts).tolist() == [[[[255], [7]]]] and overlay(parts).dtype == np.uint8
    floats = parts.astype(np.float32) / np.float32(255)
    assert overlay(floats).dtype == np.float32
    np.testing.assert_allclose(overlay(floats), overlay(parts) / 255, rtol=1e-6)


# -- affine warps ------------------------------------------------------------------------------


def warped(images, **changes):
    """Warp every image in the same way."""
    none = Warps.none(len(images))
    changes = {key: np.broadcast_to(value, getattr(none, key).shape) for key, value in changes.items()}
    return warp(images, none._replace(**changes))


def bytes_of(*shape):
    return np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_the_warp_that_does_nothing_is_exact(dtype):
    images = bytes_of(3, 6, 5, 2).astype(dtype)
    same = warped(images)
    assert same.dtype == dtype and same is not images
    np.testing.assert_array_equal(same, images)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns_equal_rot90(size, quarters):
    images = bytes_of(3, size, size, 2)
    turned = warped(images, angle=90.0 * quarters)
    np.testing.assert_array_equal(turned, np.rot90(images, quarters, axes=(1, 2)))


@given(st.integers(-8, 8), st.integers(-8, 8))
def test_moves_equal_shifts(down, right):
    images = bytes_of(2, 6, 7, 3)
    expected = shift_by(images, np.full(2, down), np.full(2, right))
    np.testing.assert_array_equal(warped(images, move=(down, right)), expected)


def test_every_image_has_its_own_warp():
    images = bytes_of(2, 5, 5, 1)
    both = warp(images, Warps.none(2)._replace(angle=np.array([0.0, 90.0])))
    np.testing.assert_array_equal(both[0], images[0])
    np.testing.assert_array_equal(both[1], np.rot90(images[1]))


def test_half_a_pixel_mixes_two_neighbours_and_black_outside():
    image = np.array([[10.0, 20.0, 40.0]]).reshape(1, 1, 3, 1)
    assert warped(image, move=(0, 0.5)).ravel().tolist() == [5.0, 15.0, 30.0]


def test_shear_moves_lower_rows_to_the_right():
    image = np.zeros((1, 5, 5, 1))
    image[0, :, 2] = 1  # an upright line
    rows, columns = np.nonzero(warped(image, shear=1.0)[0, ..., 0])
    np.testing.assert_array_equal(columns, rows)


def test_scale_stretches_rows_and_columns_apart():
    image = np.zeros((1, 9, 9, 1))
    image[0, 2:7, 3:6] = 1  # 5 rows and 3 columns about the centre
    larger = warped(image, scale=(1.0, 3.0))[0, ..., 0]
    np.testing.assert_array_equal(np.nonzero(larger.any(axis=1))[0], [2, 3, 4, 5, 6])
    assert np.isclose(larger[4].sum(), 9 * 1.0, atol=1)  # three times as wide, cut at the border


def test_scale_comes_first_then_shear_then_the_turn_then_the_move():
    """A dot two rows above the centre: 2·2 rows above, 4 left, a quarter turn, and moved."""
    image = np.zeros((1, 15, 15, 1))
    image[0, 7 - 2, 7] = 1
    dot = warped(image, scale=(2.0, 1.0), shear=1.0, angle=90.0, move=(1, 2))[0, ..., 0]
    row, column = np.unravel_index(dot.argmax(), dot.shape)
    assert (row - 7 - 1, column - 7 - 2) == (4, -4)  # (-4, -4), turned counter-clockwise


def test_values_stay_within_those_of_the_image():
    images = np.where(bytes_of(200, 9, 8, 1) > 127, 255, 0).astype(np.uint8)
    random = Warps.random(200, np.random.default_rng(1))
    result = warp(images, random)
    assert result.dtype == np.uint8 and 0 < result.mean() < 255  # an overflow would wrap around
    floats = warp(images.astype(float), random)
    assert floats.min() >= 0 and floats.max() <= 255 + 1e-9
    np.testing.assert_allclose(result, floats, atol=0.5 + 1e-9)


def test_random_warps_fill_their_ranges_and_no_more():
    warps = Warps.random(5000, np.random.default_rng(0))
    for values, low, high in [
        (warps.angle, -20, 20),
        (warps.shear, -0.2, 0.2),
        (warps.scale[:, 0], 0.8, 1.2),
        (warps.scale[:, 1], 0.8, 1.2),
    ]:
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high
    assert abs(np.corrcoef(warps.scale.T)[0, 1]) < 0.1
    assert (warps.move == 0).all()


def test_as_many_warps_as_images_are_asked_for():
    with pytest.raises(ValueError, match="got 3 warps for 2 images"):
        warp(bytes_of(2, 4, 4, 1), Warps.none(3))
