"""What reaches a threshold, said once: pixels, bins, objects and panes agree on a threshold that is a score."""

from __future__ import annotations

import numpy as np
import pytest

import gradunc_viz as gv
from gradunc_viz.counts.pool import pool
from gradunc_viz.explorer.state.state import ExplorerState
from gradunc_viz.metrics.operating_point import reaches, read_at, threshold_counts
from gradunc_viz.metrics.regions import FailureQuery, frame_failures
from gradunc_viz.schema.tasks import TASKS
from gradunc_viz.store.choice import Selection


def test_a_score_reaches_itself_however_it_was_written() -> None:
    values = np.random.default_rng(0).random(1000).astype("f4")
    for value in values[:50]:
        for written in (value, float(value), np.float64(value), float(repr(float(value))), float(f"{value:.9g}")):
            np.testing.assert_array_equal(reaches(values, written), values >= value)
    assert reaches(np.array([0.1], "f4"), 0.1).all()  # 0.1 in float64 is smaller than in float32, 0.3 larger
    assert reaches(np.array([0.3], "f4"), 0.3).all()
    assert not reaches(np.array([np.nan], "f4"), -np.inf).any()


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_everything_counts_alike(tiny_cache: gv.Cache, task: str, place: float) -> None:
    frame = tiny_cache.ids[0]
    values = gv.score(tiny_cache[frame], "msp").values
    threshold = float(np.quantile(values, place, method="nearest"))
    truth = TASKS[task].truth(tiny_cache[frame])
    assert truth is not None
    positive, counted = truth
    found = (values >= np.float32(threshold)) & counted
    expected = (found & positive).sum(), (found & ~positive).sum(), (~found & positive).sum()

    by_pixel = threshold_counts(values, truth, threshold)
    assert (by_pixel.tp, by_pixel.fp, by_pixel.fn) == expected
    state = ExplorerState(tiny_cache, frame_id=frame, score="msp", task=task, threshold=threshold)
    assert state.counts() == by_pixel
    assert state.share_above() == (values >= np.float32(threshold)).mean()
    doubt = frame_failures(tiny_cache[frame], FailureQuery("needless_doubt", "msp", task, threshold, 10**6))
    assert sum(failure.pixels for failure in doubt) == by_pixel.fp
    histogram = pool(Selection.of(tiny_cache, task, scores="msp", frames=[frame])).histograms["msp"]
    near = np.nanmin(np.where(histogram.low >= np.float32(threshold), histogram.low, np.nan))
    point = read_at("msp", histogram, float(near))
    # maps are stored in half precision, counts were made before
    assert point.tp + point.fp == pytest.approx(((values >= np.float32(near)) & counted).sum(), abs=0.02 * values.size)
