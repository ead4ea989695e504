"""Records, CSV, LaTeX and terminal tables say what the evaluation holds, losses included."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from tiny import SCORES

import gradunc_viz as gv
from gradunc_viz.tables import evaluation as tables


@pytest.fixture(scope="module")
def result(tiny_cache: gv.Cache) -> xr.Dataset:
    return gv.evaluate({"first": tiny_cache, "second_set": tiny_cache}, task="error", bootstrap=20)


def test_records_are_json_with_nan_as_null(result: xr.Dataset) -> None:
    rows = tables.records(result)
    assert len(rows) == 2 * len(SCORES) * 2
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    row = next(r for r in rows if (r["cache"], r["score"], r["pooling"]) == ("second_set", "msp", "pixels"))
    assert row["auroc"] == float(result["auroc"].sel(cache="second_set", score="msp", pooling="pixels"))
    assert row["auroc_std"] is None
    assert row["n_frames"] == 4
    assert isinstance(row["n_pixels"], int)


@pytest.mark.parametrize(("by", "column"), [("frame", "frame"), ("class", "class"), ("label", "class")])
def test_records_by_row(tiny_cache: gv.Cache, by: str, column: str) -> None:
    rows = tables.records(gv.evaluate(tiny_cache, task="error", by=by, scores=["msp"]))
    assert {r["pooling"] for r in rows} == {by}
    assert all(r["n_pixels"] > 0 for r in rows)
    names = [r[column] for r in rows]
    assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize(
    ("values", "orientation", "expected"),
    [
        ([0.1, 0.3, 0.2], +1, [0, 1, 0]),
        ([0.1, 0.3, 0.2], -1, [1, 0, 0]),
        ([0.3, np.nan, 0.3], +1, [1, 0, 1]),
        ([np.nan, np.nan], +1, [0, 0]),
    ],
)
def test_best(values: list[float], orientation: int, expected: list[int]) -> None:
    assert tables.best(np.array(values), orientation).tolist() == [bool(e) for e in expected]


def test_latex_marks_one_best_per_column(result: xr.Dataset) -> None:
    text = tables.latex(result)
    assert text.count(r"\multicolumn{4}{c}{second\_set}") == 1
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(SCORES)
    bold = np.array([[r"\bfseries" in cell for cell in line.split("&")[1:]] for line in body])
    assert (bold.sum(0) >= 1).all()
    assert "\n% first: task error, pooled over all pixels" in text
    with pytest.raises(ValueError, match="one row per score"):
        tables.latex(result.assign_attrs(by="frame"))


def test_comparison_states_losses_and_wins(result: xr.Dataset) -> None:
    value = result["auprc"].copy()
    value.loc[{"score": "entropy", "pooling": "pixels"}] = 2.0
    lost = result.assign(auprc=value)
    assert all("no gradient score beats entropy" in line for line in tables.comparison(lost))
    value.loc[{"score": "entropy", "pooling": "pixels"}] = -1.0
    won = result.assign(auprc=value)
    assert all("4 of 4 gradient scores beat entropy" in line for line in tables.comparison(won))


def test_caption_reports_what_is_missing(result: xr.Dataset) -> None:
    text = " ".join(tables.caption(result.assign(frames_without_positives=("cache", np.array([3, 0])))))
    assert "3 frames without positives" in text
    assert text.count("without") == 1


def test_csv_has_every_record(result: xr.Dataset) -> None:
    lines = tables.to_csv(result).splitlines()
    assert len(lines) == 1 + len(tables.records(result))
    assert lines[0].startswith("cache,task,score,pooling,auroc")
