"""A score on the wrong side is known by its interval, and turned round it does what scikit-learn says of it negated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from exact import exact_metrics

import gradunc_viz as gv
from gradunc_viz.counts.histogram import Histogram
from gradunc_viz.metrics.metric import pixel_metrics
from gradunc_viz.metrics.pixel_metrics import set_metrics
from gradunc_viz.metrics.wrong_side import turned_round

SHIFTS = {"wrong": -0.4, "chance": 0.0, "right": 0.4}


@pytest.fixture(scope="module")
def frames(tiny_set: Path) -> gv.Frames:
    return gv.open_frames(tiny_set)


@pytest.fixture(scope="module")
def maps(frames: gv.Frames, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Maps that tell unknown objects on the wrong side, not at all, and on the right side."""
    folder, random = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for name, shift in SHIFTS.items():
        (folder / name).mkdir()
        for frame in frames:
            unknown = frame.anomaly == 1
            values = random.random(unknown.shape) + shift * unknown
            if name == "chance":
                values[:] = random.random()  # one value in a frame: AuROC is 50 %, whatever the frames
            np.save(folder / name / f"{frame.id}.npy", values)
    return {name: folder / name for name in SHIFTS}


@pytest.fixture(scope="module")
def cache(maps: dict[str, Path], frames: gv.Frames, tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    return gv.import_maps(maps, frames, tmp_path_factory.mktemp("cache") / "cache", progress=False)


def exact_negated(folder: Path, frames: gv.Frames) -> dict[str, float]:
    values = [(np.load(folder / f"{f.id}.npy")[f.anomaly != 255], f.anomaly[f.anomaly != 255] == 1) for f in frames]
    return exact_metrics(-np.concatenate([v for v, _ in values]), np.concatenate([t for _, t in values]))


@pytest.mark.parametrize("bootstrap", [0, 40])
def test_scores_on_the_wrong_side(cache: gv.Cache, maps: dict[str, Path], frames: gv.Frames, bootstrap: int) -> None:
    table = gv.evaluate(cache, "anomaly", bootstrap=bootstrap).isel(cache=0)
    assert table["wrong_side"].dtype == bool
    assert table["wrong_side"].sel(score="ext:wrong").all()
    assert not table["wrong_side"].sel(score=["ext:right", "ext:chance"]).any()
    own = table.sel(score="ext:wrong", pooling="pixels")
    wanted = exact_negated(maps["wrong"], frames)
    for name in ("auroc", "auprc", "fpr95"):
        assert float(own[f"{name}_turned"]) == pytest.approx(wanted[name], abs=2e-3), name
    each = [exact_negated(maps["wrong"], [frame]) for frame in frames]
    over_frames = table.sel(score="ext:wrong", pooling="frames")
    for name in ("auroc", "auprc"):
        mean = np.mean([one[name] for one in each])
        assert float(over_frames[f"{name}_turned"]) == pytest.approx(mean, abs=5e-3), name
    others = table.sel(score=["ext:right", "ext:chance"])
    assert all(np.isnan(others[f"{name}_turned"]).all() for name in pixel_metrics())


@pytest.mark.parametrize("by", ["frame", "class"])
def test_by_row_it_is_about_all_pixels(cache: gv.Cache, by: str) -> None:
    table = gv.evaluate(cache, "anomaly", by=by)
    assert table["wrong_side"].dims == ("cache", "score")
    assert table["wrong_side"].sel(score="ext:wrong").all()
    assert int(table["wrong_side"].sum()) == 1


def test_an_interval_that_reaches_the_half_is_no_mark(frames: gv.Frames, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    for i, frame in enumerate(frames):
        unknown = frame.anomaly == 1
        np.save(tmp_path / f"maps/{frame.id}.npy", np.where(unknown, -1.0, 0) if i else np.where(unknown, 1.0, 0))
    cache = gv.import_maps(tmp_path / "maps", frames, tmp_path / "cache", progress=False)
    table = gv.evaluate(cache, "anomaly").isel(cache=0, score=0).sel(pooling="pixels")
    assert float(table["auroc"]) < 0.5 <= float(table["auroc_high"])
    assert not table["wrong_side"]


def test_a_cache_that_lacks_the_score_is_not_marked(
    cache: gv.Cache, maps: dict[str, Path], frames: gv.Frames, tmp_path: Path
) -> None:
    other = gv.import_maps(maps["right"], frames, tmp_path / "other", progress=False)
    table = gv.evaluate({"all": cache, "one": other}, "anomaly", bootstrap=10)
    assert table["wrong_side"].dtype == bool
    assert table["wrong_side"].sel(score="ext:wrong").any("pooling").values.tolist() == [True, False]


def test_nothing_more_is_read_where_no_score_is_in_doubt(cache: gv.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = gv.Cache.read
    monkeypatch.setattr(gv.Cache, "read", lambda self, frame, *rest: read.append(frame) or plain(self, frame, *rest))
    gv.evaluate(cache, "anomaly", scores="ext:right", bootstrap=0)
    assert len(read) == len(cache)


@pytest.mark.parametrize("untied", [False, True])
def test_counts_read_backwards_are_those_of_the_negated_score(untied: bool) -> None:
    random = np.random.default_rng(1)
    low = np.sort(random.normal(size=12))
    histogram = Histogram(0, 0, {"counts": random.integers(0, 9, (2, 12))}, low, low + 0.01 * untied)
    found, back = set_metrics(turned_round(histogram)), set_metrics(turned_round(turned_round(histogram)))
    assert found["auroc"] == pytest.approx(1 - set_metrics(histogram)["auroc"])
    assert back == set_metrics(histogram)
    if not untied:
        pixels = [np.repeat(low, counts) for counts in histogram.weights["counts"]]
        wanted = exact_metrics(-np.concatenate(pixels), np.repeat([True, False], [len(part) for part in pixels]))
        for name in ("auroc", "auprc", "fpr95", "f1"):
            assert found[name] == pytest.approx(wanted[name]), name


def test_metrics_of_ones_own_are_turned_too(cache: gv.Cache) -> None:
    table: xr.Dataset = gv.evaluate(cache, "anomaly", bootstrap=0)
    assert {f"{name}_turned" for name in pixel_metrics()} <= set(table)
