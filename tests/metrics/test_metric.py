"""The registry: one entry says everything about a metric, and a metric from outside is one like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from synthetic import write_cache
from test_architecture import loaded_by

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.metrics.metric import METRICS, BinCounts, Metric, find_metric, pixel_metrics, register_metric
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.tables import evaluation as tables


def best_youden(counts: BinCounts) -> np.ndarray:
    """Largest TPR - FPR over all thresholds."""
    found = [np.cumsum(c[..., ::-1], -1) / c.sum(-1, keepdims=True) for c in (counts.positive, counts.negative)]
    return (found[0] - found[1]).max(-1)


@pytest.fixture
def youden() -> Iterator[Metric]:
    metric = Metric("youden", "best Youden index", "Youden", +1, best_youden, tex=r"$J$")
    yield gv.metrics.register_metric(metric)
    del METRICS[metric.name]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    return write_cache(tmp_path_factory.mktemp("metric") / "cache", ["a", "b", "c"])


def test_the_registry_loads_nothing_but_numpy() -> None:
    assert loaded_by((".metrics.metric",), ("scipy", "xarray", "torch", "zarr", "pandas", "sklearn")) == []


def test_functions_keep_their_names_beside_modules_of_the_same_name() -> None:
    import gradunc_viz.metrics.calibration
    import gradunc_viz.metrics.segmentation
    import gradunc_viz.metrics.threshold_curves  # noqa: F401

    assert all(callable(getattr(gv.metrics, name)) for name in ("calibration", "segmentation", "threshold_curves"))


def test_what_a_metric_says_of_itself() -> None:
    assert find_metric("fpr95").arrow == "↓"
    assert find_metric("auprc").arrow == "↑"
    assert find_metric("fpr95").formatted == r"FPR$_{95}$"
    assert find_metric("auroc").formatted == "AuROC"
    assert list(pixel_metrics()) == ["auroc", "auprc", "fpr95", "f1"]
    with pytest.raises(GraduncError, match="unknown metric 'nonsense'; expected one of auroc,"):
        find_metric("nonsense")
    with pytest.raises(GraduncError, match="'component_f1' is of objects"):
        _ = find_metric("component_f1").function


def test_functions_of_the_registry_are_what_the_fast_way_gives(cache: gv.Cache) -> None:
    from gradunc_viz.counts.pool import pool
    from gradunc_viz.metrics.pixel_metrics import bin_metrics, set_metrics
    from gradunc_viz.store.choice import Selection

    for histogram in pool(Selection.of(cache, "error")).histograms.values():
        one_by_one, at_once = bin_metrics(histogram), set_metrics(histogram)
        assert list(one_by_one) == list(at_once)
        for name, value in at_once.items():
            assert float(one_by_one[name]) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "auroc"}, "registered already"),
        ({"name": "Mine"}, "expected a name of lower-case letters"),
        ({"name": "auroc_low"}, "that no variable of an evaluation has"),
        ({"name": "threshold"}, "that no variable of an evaluation has"),
        ({"orientation": 0}, r"orientation is 0; expected \+1 or -1"),
        ({"compute": ""}, "compute is empty"),
    ],
)
def test_what_is_no_metric(change: dict, message: str) -> None:
    before = dict(METRICS)
    with pytest.raises(GraduncError, match=message):
        register_metric(
            Metric(**{"name": "mine", "title": "t", "short": "s", "orientation": 1, "compute": "a:b", **change})
        )
    assert before == METRICS


def test_a_metric_from_outside_is_evaluated_everywhere(cache: gv.Cache, youden: Metric) -> None:
    result = gv.evaluate(cache, "error", bootstrap=20)
    assert result["youden"].attrs == {"long_name": "best Youden index", "orientation": "larger is better"}
    for name in cache.scores:
        curve = gv.threshold_curves(cache, "error", scores=name).isel(score=0)
        row = result.isel(cache=0).sel(score=name)
        best = float((curve["tpr"] - curve["fpr"]).max())
        assert float(row["youden"].sel(pooling="pixels")) == pytest.approx(best)
        for pooling in ("pixels", "frames"):
            one = row.sel(pooling=pooling)
            assert float(one["youden_low"]) <= float(one["youden_high"])
    frames = gv.evaluate(cache, "error", by="frame", bootstrap=0)["youden"]
    np.testing.assert_allclose(frames.mean("frame"), result["youden"].sel(pooling="frames"))
    for by in ("class", "label"):
        assert gv.evaluate(cache, "error", by=by, bootstrap=0)["youden"].notnull().any()


def test_a_metric_from_outside_is_in_every_table(cache: gv.Cache, youden: Metric) -> None:
    result = gv.evaluate(cache, "error", bootstrap=5)
    (table,) = tables.terminal_tables(result)
    assert "Youden (up)" in [str(column.header) for column in table.columns]
    assert all("youden" in record for record in tables.records(result))
    assert "youden" in tables.to_csv(result).splitlines()[0].split(",")
    assert r"{Youden $\uparrow$}" in tables.latex(result)
    assert gv.tables.evaluation_table(result, metrics=["youden"]).columns[0].name == "Youden"
    assert "in Youden" in " ".join(tables.comparison(result, "youden"))


def test_a_metric_from_outside_is_a_choice_of_the_command_line(
    cache: gv.Cache, youden: Metric, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["evaluate", str(cache.path), "--task", "error", "--bootstrap", "0"]
    assert main([*words, "--by", "class", "--metric", "youden"]) == 0
    assert "Youden in %" in capsys.readouterr().out
    assert main([*words, "--json", str(tmp_path / "found.json")]) == 0
    assert all("youden" in record for record in json.loads((tmp_path / "found.json").read_text()))


def test_the_command_line_knows_only_registered_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "cache", "--metric", "youden"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_a_registered_metric_is_a_column_of_the_page_and_is_drawn(cache: gv.Cache, youden: Metric) -> None:
    from gradunc_viz.explorer import page
    from gradunc_viz.explorer.charts.overview import metric_table
    from gradunc_viz.store.choice import Selection

    rows = metric_table(Selection.of(cache, "error"))
    wanted = gv.evaluate(cache, "error", bootstrap=0)["youden"].isel(cache=0).sel(pooling="pixels")
    np.testing.assert_allclose(rows["youden"], 100 * wanted.sel(score=list(rows["score"])))
    explorer = page.Explorer([cache], view="tab=overview")
    explorer.desk.built["overview"]._show_metrics(rows)
    table = explorer.desk.built["overview"].metrics
    assert table.titles["youden"] == "Youden ↑"
    assert {"youden", "auroc"} <= set(table.formatters)
    assert "$J$" in gv.figures.metric_bars(cache, "youden", "error", bootstrap=0).axes[0].get_xlabel()


def test_failures_are_found_from_the_package(cache: gv.Cache) -> None:
    assert gv.metrics.find_failures(cache, next(iter(gv.metrics.FAILURES)), n=2)
    with pytest.raises(TypeError, match="'color'"):
        gv.metrics.find_failures(cache, color="red")
    with pytest.raises(TypeError, match="unexpected keyword argument 'color'"):
        gv.figures.metric_bars(cache, color="red")
