"""Cells of float32 numbers against the order of the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest

from gradunc_viz.counts.cells import cell_scores, float_keys

LARGEST = np.finfo("f4").max
NUMBERS = np.array(
    [-LARGEST, -1e30, -20, -1, -1e-30, -1e-45, 0, 1e-45, 1e-38, 0.1, 1 - 2**-24, 1, 66.5, 1e30, LARGEST], "f4"
)


def test_keys_rise_with_the_number():
    random = np.random.default_rng(0).integers(-(2**31), 2**31, 100_000).astype("i4").view("f4")
    numbers = np.r_[NUMBERS, random[np.isfinite(random)]]
    order = np.argsort(numbers, kind="stable")
    keys, sorted_numbers = float_keys(numbers[order]).astype("i8"), numbers[order]
    assert (np.diff(keys)[np.diff(sorted_numbers) > 0] > 0).all()
    assert (np.diff(keys)[np.diff(sorted_numbers) == 0] == 0).all()


def test_neighbours_have_neighbouring_keys():
    numbers = NUMBERS[(NUMBERS < LARGEST) & (np.float32(-1e-45) != NUMBERS)]  # above that is the other zero
    above = np.nextafter(numbers, np.float32(np.inf))
    np.testing.assert_array_equal(float_keys(above) - float_keys(numbers), 1)


def test_both_zeros_are_one():
    assert float_keys(np.array([-0.0, 0.0])).tolist() == [0, 0]


def test_keys_come_back():
    np.testing.assert_array_equal(cell_scores(float_keys(NUMBERS), 0), NUMBERS)


@pytest.mark.parametrize("shift", [1, 7, 16, 23, 31])
def test_a_cell_starts_at_or_below_its_numbers(shift):
    cells = float_keys(NUMBERS) >> shift
    low, above = cell_scores(cells, shift), cell_scores(cells + 1, shift)
    assert (low <= NUMBERS).all()
    assert ((above > NUMBERS) | (NUMBERS == LARGEST)).all()
    if shift == 16:  # seven bits of the mantissa are left
        normal = np.abs(NUMBERS) > 1e-37
        np.testing.assert_allclose(low[normal], NUMBERS[normal], rtol=2.0**-7)
