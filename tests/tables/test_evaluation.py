"""Records, CSV, LaTeX and terminal tables say what the evaluation holds, losses included."""

from __future__ import annotations

import io
import json
from pathlib import Path

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


@pytest.fixture(scope="module")
def turned(tiny_set: Path, tiny_cache: gv.Cache, tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    """Ten methods of long names, of which one is the network's confidence: it finds what it should not."""
    folder = tmp_path_factory.mktemp("methods")
    random = np.random.default_rng(0)
    maps = {}
    for i in range(10):
        name = f"method_number_{i}_with_a_name_that_is_as_long_as_a_path"
        maps[name] = folder / name
        maps[name].mkdir()
        for frame in tiny_cache:
            unknown = tiny_cache[frame]["anomaly"].values
            values = (unknown == 1) * (0.05 * i + 0.2) + random.random(unknown.shape)
            np.save(maps[name] / f"{frame}.npy", -values if i == 4 else values)
    return gv.import_maps(maps, gv.open_frames(tiny_set), folder / "cache", progress=False)


WRONG = "ext:method_number_4_with_a_name_that_is_as_long_as_a_path"


def shown(result: xr.Dataset, width: int) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    for table in tables.terminal_tables(result, width=width):
        console.print(table)
    return console.export_text()


@pytest.mark.parametrize("bootstrap", [0, 30])
def test_a_score_on_the_wrong_side_is_marked_with_what_it_would_be(turned: gv.Cache, bootstrap: int) -> None:
    result = gv.evaluate(turned, "anomaly", bootstrap=bootstrap)
    assert [str(name) for name in result["score"].values[result["wrong_side"].sel(pooling="pixels").values[0]]] == [
        WRONG
    ]
    own = result.sel(score=WRONG, pooling="pixels").isel(cache=0)
    assert float(own["auroc_turned"]) == pytest.approx(1 - float(own["auroc"]))
    (note,) = tables.wrong_side_notes(result)
    assert note.startswith(f"† cache: {WRONG} stands on the wrong side, AuROC {100 * float(own['auroc']):.1f}")
    assert (
        f"turned round: AuROC {100 * float(own['auroc_turned']):.1f}, AuPRC {100 * float(own['auprc_turned']):.1f}"
        in note
    )
    assert note in tables.caption(result)
    assert note in gv.tables.evaluation_table(result).notes
    rows = {(row["score"], row["pooling"]): row for row in tables.records(result)}
    assert rows[WRONG, "pixels"]["wrong_side"] is True
    assert rows[WRONG, "pixels"]["auroc_turned"] == float(own["auroc_turned"])
    assert sum(row["wrong_side"] for row in rows.values()) == 2
    assert rows[WRONG.replace("4", "5"), "pixels"]["auprc_turned"] is None
    assert "wrong_side,auroc_turned,auprc_turned,fpr95_turned" in tables.to_csv(result)
    assert "dagger" in tables.latex(result)


@pytest.mark.parametrize("by", ["frame", "class", None])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_table_of_ten_methods_is_readable(turned: gv.Cache, by: str | None, width: int) -> None:
    result = gv.evaluate(turned, "anomaly", by=by, bootstrap=20)
    text = shown(result, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("†") == 1
    assert sum("wrong side" in line for line in tables.caption(result, by or "pixels")) == 1
    if by is None and width == 200:
        names = [line.split("│")[1].strip() for line in text.splitlines() if "ext:" in line]
        assert names == [str(name) for name in gv.tables.evaluation_table(result).rows[:4]] + names[4:]
        assert names[-1] == f"{WRONG} †"
        assert names[0].startswith("ext:method_number_9")


def test_a_turned_score_that_would_be_the_best_is_said(turned: gv.Cache, result: xr.Dataset) -> None:
    wrong = result["wrong_side"].copy()
    wrong.loc[{"cache": "first", "score": "msp"}] = True
    best = result["auprc_turned"].copy()
    best.loc[{"cache": "first", "score": "msp"}] = 0.99
    lines = tables.comparison(result.assign(wrong_side=wrong, auprc_turned=best))
    assert lines[1] == "first: turned round, msp would be the best of all in AuPRC: 99.00"
    assert len(lines) == 3
