"""Curves of one histogram: page, figure and Python draw the same."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import pytest
from charting import exact_cache
from synthetic import SCORES

import gradunc_viz as gv
from gradunc_viz import figures
from gradunc_viz.counts.pool import pool
from gradunc_viz.explorer.charts import curves as charts
from gradunc_viz.metrics.arrays.risk import sparsification_curve
from gradunc_viz.metrics.threshold_curves import CURVES, curve, log_start, oracle_sparsification
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.choice import Selection


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return exact_cache(tmp_path_factory.mktemp("curves") / "cache")


def test_page_figure_and_python_sparsify_alike(cache: Cache) -> None:
    result = gv.sparsification(cache).isel(cache=0).sel(error="error_rate")
    chart = charts.sparsification(Selection.of(cache, "error", scores=SCORES))
    figure = figures.sparsification(cache, error="error_rate").axes[0]
    dropped = result["dropped"].values
    for name in SCORES:
        line = next(part for part in chart if isinstance(part, hv.Curve) and part.label.startswith(f"{name} "))
        expected = result["curve"].sel(score=name).values
        order = np.argsort(line.dimension_values("dropped"), kind="stable")
        on_page = np.interp(dropped, line.dimension_values("dropped")[order], line.dimension_values("error")[order])
        # the page counts in finer bins than a Brier score is summed in, and draws straight lines between them
        assert np.abs(on_page - expected)[:-5].mean() < 5e-3
        on_paper = next(found for found in figure.lines if found.get_gid() == name).get_ydata()
        np.testing.assert_array_equal(on_paper, expected)
        assert float(line.label.split()[-1]) == pytest.approx(float(result["ause"].sel(score=name)), abs=0.01)
    oracle = next(part for part in chart if isinstance(part, hv.Curve) and len(part) == 100)
    np.testing.assert_allclose(oracle.dimension_values("error"), result["oracle"].values, atol=1e-9)


def test_sparsification_is_that_of_the_kernel_at_every_threshold(cache: Cache) -> None:
    for histogram in pool(Selection.of(cache, "error")).histograms.values():
        found = curve("sparsification", histogram)
        wrong, right = histogram.weights["counts"]
        at = found.x < 1
        np.testing.assert_allclose(found.y[at], sparsification_curve(wrong, wrong + right, found.x[at]), rtol=1e-9)


@pytest.mark.parametrize("task", ["error", "anomaly"])
@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_a_curve_is_that_of_the_table(cache: Cache, kind: str, task: str) -> None:
    table = gv.threshold_curves(cache, task, kind)
    metrics = gv.evaluate(cache, task, bootstrap=0).isel(cache=0).sel(pooling="pixels")
    for name, histogram in pool(Selection.of(cache, task)).histograms.items():
        found = curve(kind, histogram)
        one = table.sel(score=name).dropna("point", how="all")
        x, y = ("fpr", "tpr") if kind == "roc" else ("recall", "precision")
        np.testing.assert_array_equal(found.x, one[x])
        np.testing.assert_array_equal(found.y, one[y])
        np.testing.assert_array_equal(found.threshold, one["threshold"])
        assert found.area == pytest.approx(float(metrics["auroc" if kind == "roc" else "auprc"].sel(score=name)))
        assert found.base_rate == pytest.approx(table.attrs["positive_rate"])


def test_page_and_figure_start_a_logarithmic_axis_alike(cache: Cache) -> None:
    for task in ("error", "anomaly"):
        left = charts.roc(Selection.of(cache, task, scores=SCORES), log_x=True).opts.get("plot").kwargs["xlim"][0]
        low = figures.roc(cache, task, log_x=True).axes[0].get_xlim()[0]
        assert left == pytest.approx(low)


def test_parts(cache: Cache) -> None:
    histogram = next(iter(pool(Selection.of(cache, "error")).histograms.values()))
    for kind in CURVES:
        found = curve(kind, histogram)
        assert len(found.x) == len(found.y) == len(found.threshold) > 0
    with pytest.raises(GraduncError, match="unknown curve 'cost'"):
        curve("cost", histogram)
    np.testing.assert_allclose(oracle_sparsification(0.2, np.array([0, 0.1, 0.2, 0.5])), [1, 0.1 / 0.9 / 0.2, 0, 0])
    assert np.isnan(oracle_sparsification(0.0, np.zeros(3))).all()
    assert log_start(np.array([0, 3e-3, 1]), np.array([0, 0.5, 1])) == pytest.approx(1e-3)
    assert log_start(np.array([0, 0.4, 1]), np.array([0, 0.5, 1])) == pytest.approx(1e-2)
    assert log_start(np.array([np.nan]), np.array([np.nan])) == pytest.approx(1e-4)
    assert log_start(np.array([1e-12]), np.array([1.0])) == pytest.approx(1e-6)
