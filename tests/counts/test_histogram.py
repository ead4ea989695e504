"""Sums of cached counts: exact, whatever the order, at fixed memory."""

from __future__ import annotations

import numpy as np
import pytest

from gradunc_viz.counts.histogram import POOLED_BINS, Histogram, HistogramSum, coarsen

RANDOM = np.random.default_rng


def histogram(seed: int, start: int = 0, inner: int = 40, level: int = 0, dtype: str = "u4", pad: int = 0) -> Histogram:
    """Random counts, some bins empty, with both end bins in use; `pad` empty bins behind."""
    random = RANDOM(seed)
    counts = random.integers(0, 9, (2, inner + 2)).astype(dtype)
    counts[:, random.random(inner + 2) < 0.2] = 0
    counts[:, 1] += 1
    counts[:, -2] += 1
    step = 2.0**level / 64
    left = (start + np.arange(-1, inner + 1)) * step
    low = np.where(counts.any(0), left + step * random.uniform(0, 0.5, inner + 2), np.nan)
    high = np.where(counts.any(0), low + step * random.choice([0, 0.4], inner + 2), np.nan)
    low[[0, -1]] = high[[0, -1]] = np.where(counts[:, [0, -1]].any(0), [-1e9, 1e9], np.nan)
    weights = {"counts": counts, "brier_sum": random.integers(0, 9, (inner + 2)) * 0.5 * counts.any(0)}
    if pad:
        at = inner + 1
        weights = {k: np.insert(v, [at] * pad, 0, axis=-1) for k, v in weights.items()}
        low, high = (np.insert(x, [at] * pad, np.nan) for x in (low, high))
    return Histogram(start, level, weights, low, high)


def total(parts: list[Histogram]) -> Histogram:
    result = HistogramSum()
    for part in parts:
        result.add(part)
    assert result.total is not None
    return result.total


def content(h: Histogram) -> dict[object, tuple[float, ...]]:
    """What each bin that is in use holds, by its number on the lattice."""
    names = ["first", *range(h.start, h.start + h.inner), "last"]
    rows = np.vstack([np.atleast_2d(h.weights[k]) for k in sorted(h.weights)] + [h.low, h.high])
    return {name: tuple(row) for name, row in zip(names, rows.T, strict=True) if np.isfinite(row[-1])}


def assert_same(a: Histogram, b: Histogram) -> None:
    assert a.level == b.level
    assert content(a) == content(b)


@pytest.fixture
def parts() -> list[Histogram]:
    random = RANDOM(5)
    return [
        histogram(i, int(random.integers(-200, 200)), int(random.integers(1, 90)), int(random.integers(-3, 4)))
        for i in range(12)
    ]


def test_sum_on_one_window_is_the_sum_of_arrays():
    a, b = histogram(0), histogram(1)
    found = total([a, b])
    for name in a.weights:
        np.testing.assert_array_equal(found.weights[name], a.weights[name] + b.weights[name].astype("f8"))
    np.testing.assert_array_equal(found.low, np.fmin(a.low, b.low))
    np.testing.assert_array_equal(found.high, np.fmax(a.high, b.high))


def test_bins_add_up_where_windows_overlap():
    a = Histogram(
        10, 0, {"counts": np.array([1, 2, 3, 0])}, np.array([-9, 0.1, 0.2, np.nan]), np.array([-9, 0.1, 0.3, np.nan])
    )
    b = Histogram(
        11, 0, {"counts": np.array([0, 5, 7, 4])}, np.array([np.nan, 0.2, 0.4, 9]), np.array([np.nan, 0.25, 0.4, 9])
    )
    found = total([a, b])
    assert (found.start, found.inner) == (10, 3)
    np.testing.assert_array_equal(found.weights["counts"], [1, 2, 8, 7, 4])
    np.testing.assert_array_equal(found.low, [-9, 0.1, 0.2, 0.4, 9])
    np.testing.assert_array_equal(found.high, [-9, 0.1, 0.3, 0.4, 9])
    np.testing.assert_array_equal(found.tied, [True, True, False, True, True])


@pytest.mark.parametrize("seed", range(5))
def test_order_and_grouping_do_not_matter(parts, seed):
    wanted = total(parts)
    order = RANDOM(seed).permutation(len(parts))
    assert_same(total([parts[i] for i in order]), wanted)
    groups = np.split(order, sorted(RANDOM(seed).choice(range(1, len(parts)), 3, replace=False)))
    assert_same(total([total([parts[i] for i in group]) for group in groups]), wanted)


def test_nothing_is_lost(parts):
    found = total(parts)
    assert found.level == max(p.level for p in parts)
    for name in ("counts", "brier_sum"):
        np.testing.assert_allclose(found.weights[name].sum(-1), sum(p.weights[name].sum(-1, dtype="f8") for p in parts))
    for place in (0, -1):
        np.testing.assert_array_equal(
            found.weights["counts"][:, place], sum(p.weights["counts"][:, place].astype("i8") for p in parts)
        )


def test_arguments_are_left_as_they_are(parts):
    before = [content(p) for p in parts]
    total(parts)
    assert [content(p) for p in parts] == before


@pytest.mark.parametrize("start", [-7, -1, 0, 5])
@pytest.mark.parametrize("level", [-2, 0, 3])
def test_coarsening_twice_is_coarsening_once(start, level):
    fine = histogram(3, start, 50, level)
    assert_same(coarsen(coarsen(fine, level + 1), level + 3), coarsen(fine, level + 3))


def test_coarse_bins_are_unions_of_fine_ones():
    fine = histogram(4, -5, 33)
    coarse = coarsen(fine, 2)
    for name, row in content(coarse).items():
        if isinstance(name, int):
            own = [v for k, v in content(fine).items() if isinstance(k, int) and k // 4 == name]
            np.testing.assert_allclose(row[:-2], np.sum(own, 0)[:-2])
            assert row[-2] == min(v[-2] for v in own)
            assert row[-1] == max(v[-1] for v in own)


def test_coarsening_commutes_with_adding(parts):
    level = max(p.level for p in parts) + 2
    assert_same(coarsen(total(parts), level), total([coarsen(p, level) for p in parts]))


@pytest.mark.parametrize("level", [40, 63, 64, 130])
def test_levels_far_apart(level):
    """A frame of scores around 1 beside one of scores around 1e30."""
    fine, coarse = histogram(0, -30, 60), histogram(1, -20, 40, level)
    found = total([fine, coarse])
    assert found.level == level
    assert found.inner == 40
    fine_inner = fine.weights["counts"][:, 1:-1].sum()
    at = slice(19 + 1, 21 + 1)  # bins -1 and 0
    assert found.weights["counts"][:, at].sum() == fine_inner + coarse.weights["counts"][:, at].sum()


def test_a_level_cannot_become_finer():
    with pytest.raises(ValueError, match="level 0 is finer"):
        coarsen(histogram(0, level=1), 0)


@pytest.mark.parametrize("first", [True, False])
def test_windows_without_a_bin(first):
    """All pixels at the ends of a score's range."""
    empty = Histogram(0, 0, {"counts": np.array([[3, 1], [2, 0]], "u4"), "brier_sum": np.zeros(2)},
                      np.array([0.0, 1.0]), np.array([0.0, 1.0]))  # fmt: skip
    other = histogram(0, 100)
    found = total([empty, other] if first else [other, empty])
    assert found.start == 100
    np.testing.assert_array_equal(found.weights["counts"][:, 0], other.weights["counts"][:, 0] + [3, 2])
    np.testing.assert_array_equal(found.weights["counts"][:, 1:-1], other.weights["counts"][:, 1:-1])
    assert total([empty, empty]).inner == 0
    assert coarsen(empty, 3).inner == 0


def test_padding_is_dropped():
    assert_same(total([histogram(0, 5, 20, pad=300)]), total([histogram(0, 5, 20)]))
    assert total([histogram(0, 5, 20, pad=300)]).inner == 20


@pytest.mark.parametrize("dtype", ["u4", "u8", "i4", "i8"])
def test_counts_do_not_overflow(dtype):
    part = Histogram(0, 0, {"counts": np.full((2, 3), 2**31 - 1, dtype)}, np.ones(3), np.ones(3))
    found = total([part] * 9)
    assert found.weights["counts"].dtype == np.int64
    assert (found.weights["counts"] == 9 * (2**31 - 1)).all()


def test_memory_does_not_grow_with_frames():
    sums = HistogramSum()
    sizes = []
    for i in range(300):
        sums.add(histogram(i, int(RANDOM(i).integers(-50, 50)), 60))
        assert sums.total is not None
        sizes.append(sums.total.inner)
    assert max(sizes) <= 160


def test_frames_that_lie_apart_share_a_coarser_window():
    """Unbounded by anything but float32, two narrow windows would span billions of bins."""
    parts = [histogram(i, start, 60) for i, start in enumerate([0, 10**9, -(10**9), 77])]
    found = total(parts)
    assert found.inner <= POOLED_BINS
    assert found.weights["counts"].sum() == sum(p.weights["counts"].sum() for p in parts)
    for order in ([3, 2, 1, 0], [1, 0, 3, 2]):
        assert_same(total([parts[i] for i in order]), found)
