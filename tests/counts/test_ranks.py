"""Ranks among counted pixels: mid-ranks of scipy where cells hold one number, and close to them elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from gradunc_viz.counts.ranks import Ranks, pixel_cells


def expected(counted: np.ndarray, values: np.ndarray) -> np.ndarray:
    below = np.searchsorted(np.sort(counted), values, side="left")
    upto = np.searchsorted(np.sort(counted), values, side="right")
    return (below + upto) / 2 / len(counted)


@pytest.mark.parametrize("kind", ["tied", "spread", "both signs", "constant"])
def test_ranks_are_mid_ranks(kind: str) -> None:
    random = np.random.default_rng(0)
    counted = {
        "tied": random.integers(-3, 4, 5000) / 2,
        "spread": random.lognormal(size=5000),
        "both signs": random.standard_normal(5000),
        "constant": np.full(5000, 2.5),
    }[kind].astype("f4")
    parts = np.array_split(counted, 4)
    ranks = Ranks(pixel_cells(part) for part in parts)
    np.testing.assert_allclose(ranks(counted), (rankdata(counted) - 0.5) / len(counted), atol=1e-12)
    others = np.r_[random.standard_normal(500).astype("f4"), counted.min() - 1, counted.max() + 1]
    between = ~np.isin(others, counted)
    assert between.any()
    np.testing.assert_allclose(ranks(others[between]), expected(counted, others[between]), atol=1e-12)
    assert ranks.pixels == 5000


def test_many_numbers_share_cells_and_keep_their_order() -> None:
    random = np.random.default_rng(1)
    counted = random.standard_normal(400_000).astype("f4")
    cells = pixel_cells(counted)
    assert len(cells.number) <= 2**16
    found = Ranks([cells])(np.sort(counted))
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found, (rankdata(np.sort(counted)) - 0.5) / len(counted), atol=1e-4)


def test_numbers_beyond_float32_take_its_ends() -> None:
    counted = np.array([-1e300, 0.0, 1.0, 1e300])
    np.testing.assert_allclose(Ranks([pixel_cells(counted)])(counted), [0.125, 0.375, 0.625, 0.875])


def test_ranks_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no pixel was counted"):
        Ranks([])
