"""What grades a reader's own lines tells exact from close from wrong, and says where."""

import numpy as np
import pytest

from minicaps.proof import cmp

EXPECTED = np.array([[1.0, -2.0, 0.0], [4.0, 0.5, 3.0]])


def grade(mine, expected=EXPECTED):
    said = []
    right = cmp("dz", mine, expected, said.append)
    (line,) = said
    return right, line


def changed(value, index=(1, 2)):
    mine = EXPECTED.copy()
    mine[index] = value
    return mine


@pytest.mark.parametrize("nothing", [None, ...])
def test_a_blank_is_no_mistake_but_not_right_either(nothing):
    assert grade(nothing) == (False, "dz: not written yet")


@pytest.mark.parametrize("mine", [EXPECTED.copy(), EXPECTED.tolist(), EXPECTED.astype(np.float32)])
def test_the_same_numbers_are_exact(mine):
    assert grade(mine) == (True, "dz: exact")


def test_other_rounding_is_close():
    assert grade(changed(3 + 3e-7)) == (True, "dz: close, at most 3e-07 off")


@pytest.mark.parametrize(
    "mine, says",
    [
        (changed(3 + 1e-5), "dz: wrong at [1, 2], 3.00001, expected 3; 1 of 6 numbers are off"),
        (-EXPECTED, "dz: wrong at [1, 0], -4, expected 4; 5 of 6 numbers are off"),
        (changed(np.nan, (0, 1)), "dz: wrong at [0, 1], nan, expected -2; 1 of 6 numbers are off"),
        (changed(np.inf), "dz: wrong at [1, 2], inf, expected 3; 1 of 6 numbers are off"),
        (EXPECTED.T, "dz: wrong, it has shape (3, 2), expected (2, 3)"),
        (4.0, "dz: wrong, it has shape (), expected (2, 3)"),
        (EXPECTED[None], "dz: wrong, it has shape (1, 2, 3), expected (2, 3)"),
        ("abc", "dz: wrong, str is no array of numbers"),
        ([[1], [2, 3]], "dz: wrong, list is no array of numbers"),
        ({}, "dz: wrong, dict is no array of numbers"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(mine, says):
    assert grade(mine) == (False, says)


def test_where_zeros_are_expected_only_zeros_are_right():
    assert grade(np.zeros(3), np.zeros(3)) == (True, "dz: exact")
    assert grade(np.full(3, 1e-9), np.zeros(3))[0] is False


def test_a_single_number_has_no_place():
    assert grade(2.0, np.float64(3.0)) == (False, "dz: wrong, 2, expected 3; 1 of 1 numbers are off")


def test_the_line_is_printed_by_default(capsys):
    assert cmp("c", [0.5], [0.5])
    assert capsys.readouterr().out == "c: exact\n"
