"""Distributions against numpy on the pixels, and page and figure against each other."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pytest
from charting import exact_cache, pixels
from synthetic import CLASSES, SCORES

from gradunc_viz import figures
from gradunc_viz.counts.histogram import Histogram
from gradunc_viz.explorer.charts.distributions import score_distribution, set_distribution
from gradunc_viz.metrics.distributions import INTERVALS, density, quantile, score_distributions, score_limits, spread
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.schema.tasks import TASKS
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.choice import Selection


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return exact_cache(tmp_path_factory.mktemp("distributions") / "cache")


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("classes", [None, [CLASSES[0], CLASSES[3]]])
@pytest.mark.parametrize("name", SCORES)
def test_page_and_figure_show_the_same_numbers(cache: Cache, name: str, task: str, classes: list[str] | None) -> None:
    found = score_distributions(cache, task, scores=name, classes=classes).isel(score=0)
    whole = found.isel({"class": 0})
    chart = set_distribution(Selection.of(cache, task, scores=name, classes=classes))
    figure = figures.distributions(cache, task, scores=name, classes=classes, min_pixels=1).axes[0]
    bars = {part.label.split(",")[0]: part for part in chart if isinstance(part, hv.Rectangles)}
    assert list(bars) == list(TASKS[task].outcomes[::-1])
    for outcome, part in bars.items():
        share = whole["share"].sel(outcome=outcome).values
        edges = found["edges"].values
        used = share > 0
        np.testing.assert_array_equal(part.dimension_values(0), edges[:-1][used])
        np.testing.assert_array_equal(part.dimension_values(2), edges[1:][used])
        np.testing.assert_allclose(part.dimension_values("share"), 100 * share[used], rtol=1e-12)
        heights, drawn, _ = next(p for p in figure.patches if p.get_gid() == f"all:{outcome}").get_data()
        np.testing.assert_array_equal(drawn, edges)
        np.testing.assert_allclose(np.abs(heights), 0.46 * share / share.max(), rtol=1e-9)


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("name", SCORES)
def test_shares_and_quantiles_are_those_of_the_pixels(cache: Cache, name: str, task: str) -> None:
    found = score_distributions(cache, task, scores=name).isel(score=0)
    np.testing.assert_allclose(found["share"].sum("bin").where(found["pixels"] > 0, 1), 1)
    for number, whose in enumerate(found["class"].values):
        truth, values = pixels(cache, name, task, classes=None if number == 0 else [str(whose)])
        for outcome, own in zip(TASKS[task].outcomes, (values[truth], values[~truth]), strict=True):
            one = found.isel({"class": number}).sel(outcome=outcome)
            assert int(one["pixels"]) == len(own)
            if len(own) < 100:
                continue
            edges = one["edges"].values
            expected, _ = np.histogram(own.clip(edges[0], edges[-1]), edges)
            # a bin of the cache may straddle an edge
            assert np.abs(np.cumsum(one["share"].values) - np.cumsum(expected) / len(own)).max() < 0.06
            for share, value in zip(one["quantile"].values, one["quantiles"].values, strict=True):
                assert (own <= value).mean() == pytest.approx(share, abs=0.05)


def test_one_frame_is_counted_like_a_set(cache: Cache) -> None:
    dataset, limits = cache["b"], (0.0, 1.4)
    edges = np.linspace(*limits, INTERVALS + 1)
    chart = score_distribution(dataset, "entropy", "error", limits, 0.5)
    assert chart is not None
    truth, values = pixels(cache, "entropy", "error", ["b"])
    for outcome, own in (("right", values[~truth]), ("wrong", values[truth])):
        share = density(dataset, "entropy", outcome, edges)
        assert share.sum() == pytest.approx(1)
        part = next(p for p in chart if isinstance(p, hv.Histogram) and p.label == outcome)
        np.testing.assert_allclose(part.dimension_values("share"), 100 * share)
        expected, _ = np.histogram(own.clip(*limits), edges)
        assert np.abs(np.cumsum(share) - np.cumsum(expected) / len(own)).max() < 0.06
    with pytest.raises(GraduncError, match="unknown task 'neither'"):
        score_distributions(cache, "neither")


def test_parts() -> None:
    low, high = np.array([0.0, 1.0, np.nan, 3.0, 9.0]), np.array([0.0, 1.5, np.nan, 3.0, 9.0])
    counts = np.array([[5, 0, 0, 5, 1], [0, 8, 0, 0, 0]])
    histogram = Histogram(0, 0, {"counts": counts}, low, high)
    np.testing.assert_array_equal(spread(histogram, counts, np.array([1.0, 2.0, 4.0])), [[5, 6], [8, 0]])
    np.testing.assert_allclose(quantile(histogram, counts[1], (0, 0.5, 1)), [1, 1.25, 1.5])
    assert np.isnan(quantile(histogram, counts[1] * 0, (0.5,))).all()
    assert score_limits(histogram, tail=0) == (0, 9)
    assert score_limits(histogram, tail=0.2) == (0, 3)
    assert score_limits(histogram, tail=0, least=9) == (0, 9)
    assert score_limits(histogram, tail=0, least=100) == (0, 9)  # no group is large: all of them
    nothing = Histogram(0, 0, {"counts": counts * 0}, low, high)
    assert score_limits(nothing) == (0, 1)
    single = Histogram(0, 0, {"counts": counts[:1, 3:4]}, low[3:4], high[3:4])
    assert score_limits(single) == (2.5, 3.5)
