"""Sums of counts in cells against counting all numbers at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradunc_viz.counts import cell_sums as cell_counts
from gradunc_viz.counts.cell_sums import CellCounts, CellSum
from gradunc_viz.counts.cells import float_keys


def counted(values: np.ndarray, shift: int = 0) -> CellCounts:
    """Counts of (below 1, from 1 on), in cells that are single where one number is in them."""
    values = values.astype("f4")
    cells, place = np.unique(float_keys(values) >> shift, return_inverse=True)
    counts = np.stack([np.bincount(place[half], minlength=len(cells)) for half in (values < 1, values >= 1)])
    single = np.array([len(np.unique(values[place == i])) == 1 for i in range(len(cells))], bool)
    return CellCounts(cells.astype("i4"), shift, counts.astype("u4"), single)


def frames(sizes=(200, 300, 50), seed=0):
    random = np.random.default_rng(seed)
    return [np.round(random.normal(1, 10.0**i, size), 2) for i, size in enumerate(sizes)]


def assert_same(found: CellCounts, expected: CellCounts) -> None:
    assert found.shift == expected.shift
    np.testing.assert_array_equal(found.number, expected.number)
    np.testing.assert_array_equal(found.counts, expected.counts)


@pytest.mark.parametrize("shift", [0, 1, 9, 20])
def test_larger_cells_are_those_of_the_numbers(shift):
    values = frames()[1]
    found, expected = counted(values).at(shift), counted(values, shift)
    assert_same(found, expected)
    np.testing.assert_array_equal(found.single, expected.single)


def test_cells_do_not_become_smaller():
    with pytest.raises(ValueError, match="finer"):
        counted(frames()[0], 3).at(2)


def test_as_few_cells_as_asked_for():
    whole = counted(frames()[1])
    few = whole.at_most(20)
    assert len(few.number) <= 20 < len(whole.at(few.shift - 1).number)
    assert few.counts.sum() == whole.counts.sum()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_sum_is_that_of_all_numbers_in_any_order(order):
    parts = frames()
    total = CellSum(waiting=1)
    for i in order:
        total.add(counted(parts[i], shift=i))
    assert total.total is not None
    assert_same(total.total, counted(np.concatenate(parts), 2))


@pytest.mark.parametrize("waiting", [1, 4])
def test_memory_is_bounded(waiting):
    total = CellSum(cells=100, waiting=waiting)
    values = [np.random.default_rng(i).normal(size=80) * 10.0 ** (i % 5) for i in range(40)]
    for part in values:
        total.add(counted(part))
        assert total._size <= 100 * waiting
    assert total.total is not None
    assert len(total.total.number) <= 100
    assert_same(total.total, counted(np.concatenate(values), total.total.shift))


def test_what_is_added_stays_as_it_is():
    part = counted(frames()[0])
    before = part.counts.copy()
    total = CellSum(waiting=1)
    total.add(part)
    total.add(part)
    assert total.total is not None
    np.testing.assert_array_equal(total.total.counts, 2 * before.astype("i8"))
    np.testing.assert_array_equal(part.counts, before)


def test_nothing_to_add():
    assert CellSum().total is None
    empty = CellCounts(np.empty(0, "i4"), 5, np.empty((2, 0), "u4"), np.empty(0, bool))
    total = CellSum()
    total.add(empty)
    total.add(empty)
    assert total.total is not None
    assert total.total.counts.shape == (2, 0)
    total.add(counted(frames()[0], 6))
    assert total.total.counts.sum() == 200


def test_histogram_tells_ties_from_spread():
    h = counted(np.array([1.0, 1, 1, 2, 2.000001, 3])).at(6).histogram()
    np.testing.assert_array_equal(h.low[1:-1], [1, 2, 3])
    np.testing.assert_array_equal(h.tied[1:-1], [True, False, True])
    np.testing.assert_array_equal(h.weights["counts"], [[0, 0, 0, 0, 0], [0, 3, 2, 1, 0]])
    assert 2.000001 < h.high[2] < 2.0001


def test_a_tie_with_another_frames_spread_is_none():
    total = CellSum()
    for values in ([2.0, 2.0, 3.0], [2.0, 2.000001, 3.0]):
        total.add(counted(np.array(values)).at(6))
    assert total.total is not None
    np.testing.assert_array_equal(total.total.single, [False, True])


def test_the_most_cells_are_more_than_a_frames():
    from gradunc_viz.schema.frame import MAX_CELLS

    assert cell_counts.POOLED_CELLS > MAX_CELLS
