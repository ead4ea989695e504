from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from component_loop import loop_component_metrics
from scipy import ndimage
from synthetic import write_cache

import gradunc_viz as gv
from gradunc_viz.metrics.arrays import components
from gradunc_viz.metrics.arrays.components import (
    SIOU_THRESHOLDS,
    TRACKS,
    ComponentTable,
    component_metrics,
    overlaps,
    pool_components,
)
from gradunc_viz.metrics.objects import evaluate_components, frame_components
from gradunc_viz.schema.errors import GraduncError, SchemaError, UnknownScoreError

DATA = Path(__file__).parents[2] / "data"
FIELDS = ("truth_size", "truth_siou", "predicted_size", "predicted_siou", "predicted_ppv")


def measure(mask, predicted, min_truth=1, min_predicted=1) -> ComponentTable:
    return component_metrics(
        np.asarray(mask, "u1"), np.asarray(predicted, bool), min_truth=min_truth, min_predicted=min_predicted
    )


def assert_equal(ours: ComponentTable, theirs: ComponentTable) -> None:
    for field in FIELDS:
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=0, atol=1e-12, err_msg=field)


# --------------------------------------------------------------------------------------------------------------------
# the benchmark's own values


@pytest.fixture(scope="module")
def golden() -> tuple[np.ndarray, np.ndarray, dict]:
    with np.load(DATA / "smiyc_maps.npz") as maps:
        return maps["labels"], maps["scores"], json.loads((DATA / "smiyc_metrics.json").read_text())


@pytest.mark.parametrize(
    ("track", "name"), [("anomaly", "SegEval-AnomalyTrack"), ("obstacle", "SegEval-ObstacleTrack")]
)
def test_equals_the_benchmark(golden, track, name):
    labels, scores, metrics = golden
    expected, limits = metrics[name], TRACKS[track]
    assert (limits.min_truth, limits.min_predicted) == (expected["min_instance_area"], expected["min_predicted_area"])
    tables = [
        component_metrics(mask, values > np.float64(expected["threshold"]), **limits._asdict())
        for mask, values in zip(labels, scores, strict=True)
    ]
    for table, frame in zip(tables, expected["per_image"], strict=True):
        theirs = (frame[key] for key in ("size_gt", "sIoU_gt", "size_pred", "sIoU_pred", "prec_pred"))
        for field, values in zip(FIELDS, theirs, strict=True):
            np.testing.assert_allclose(getattr(table, field), values, rtol=0, atol=1e-12, err_msg=field)
    pooled = pool_components(tables)
    assert pooled["siou"] == pytest.approx(expected["sIoU_gt_mean"], abs=1e-12)
    assert pooled["ppv"] == pytest.approx(expected["ppv_mean"], abs=1e-12)
    assert pooled["f1"] == pytest.approx(expected["f1_mean"], abs=1e-12)
    assert (pooled["n_truth"], pooled["n_predicted"]) == (expected["n_gt"], expected["n_pred"])


@pytest.mark.parametrize("track", TRACKS)
def test_loop_equals_it_too(golden, track):
    labels, scores, metrics = golden
    predicted = scores[1] > metrics["SegEval-AnomalyTrack"]["threshold"]
    limits = TRACKS[track]._asdict()
    assert_equal(
        component_metrics(labels[1], predicted, **limits), loop_component_metrics(labels[1], predicted, **limits)
    )


# --------------------------------------------------------------------------------------------------------------------
# the slow and obvious loop


@pytest.mark.parametrize("limits", [(1, 1), (4, 6), (12, 3), (30, 30)])
@pytest.mark.parametrize("smooth", [0.0, 0.8, 2.0])
def test_equals_the_loop_on_random_masks(smooth, limits):
    random = np.random.default_rng([int(10 * smooth), *limits])
    for _ in range(25):
        size = tuple(random.integers(1, 40, 2))
        fields = ndimage.gaussian_filter(random.normal(size=(3, *size)), (0, smooth, smooth))
        level = np.quantile(fields, random.uniform(0.1, 0.9, 3))
        mask = (fields[0] > level[0]).astype("u1")
        mask[fields[1] > max(level[1], level[2])] = 255
        predicted = fields[2] + random.choice([0, 0.7]) * fields[0] > level[2]
        assert_equal(
            measure(mask, predicted, *limits),
            loop_component_metrics(mask, predicted, min_truth=limits[0], min_predicted=limits[1]),
        )


def test_more_component_pairs_than_pixels():
    # isolated pixels all over: the dense contingency table would be far larger than the frame
    mask = np.zeros((80, 80), "u1")
    mask[::2, ::2] = 1
    table = measure(mask, mask == 1)
    assert table.n_truth == table.n_predicted == 1600
    assert (table.truth_siou == 1).all()
    assert (table.predicted_ppv == 1).all()


def test_overlaps_count_every_pixel_of_both():
    first = np.array([[0, 1, 1], [2, 2, 0]])
    second = np.array([[3, 3, 1], [3, 3, 3]])
    assert [column.tolist() for column in overlaps(first, second)] == [[1, 1, 2], [1, 3, 3], [1, 1, 2]]
    assert all(len(column) == 0 for column in overlaps(first, np.zeros_like(first)))


# --------------------------------------------------------------------------------------------------------------------
# by hand


def test_one_prediction_over_two_objects_is_not_punished_for_the_other():
    mask = [[1, 1, 0, 1, 1, 1]]
    table = measure(mask, [[1, 1, 1, 1, 1, 1]])
    np.testing.assert_allclose(table.truth_siou, [2 / 3, 3 / 4])
    np.testing.assert_allclose(table.predicted_ppv, [5 / 6])
    np.testing.assert_allclose(table.predicted_siou, [5 / 6])


def test_two_predictions_of_one_object():
    table = measure([[1, 1, 1, 1, 1, 0]], [[1, 1, 0, 0, 1, 1]])
    np.testing.assert_allclose(table.truth_siou, [3 / 6])
    np.testing.assert_allclose(table.predicted_siou, [2 / 4, 1 / 4])  # without what the other one found
    np.testing.assert_allclose(table.predicted_ppv, [1, 1 / 2])


def test_corners_connect():
    diagonal = np.eye(5, dtype="u1")
    table = measure(diagonal, diagonal)
    assert table.truth_size.tolist() == table.predicted_size.tolist() == [5]


def test_ignored_pixels_cut_a_prediction_and_count_nowhere():
    table = measure([[1, 1, 255, 255, 0, 0]], [[1, 1, 1, 1, 1, 1]])
    assert table.predicted_size.tolist() == [2, 2]
    np.testing.assert_allclose(table.truth_siou, [1])
    np.testing.assert_allclose(table.predicted_ppv, [1, 0])


def test_small_objects_are_neither_rewarded_nor_punished():
    mask = [[1, 1, 1, 1, 0, 0, 0, 1]]
    table = measure(mask, [[0, 0, 1, 1, 1, 0, 0, 1]], min_truth=2)
    assert table.truth_size.tolist() == [4]
    assert table.predicted_size.tolist() == [3]  # the pixel on the small object is no component any more
    # but its pixels count where a prediction's size is held against the limit
    table = measure([[1, 0, 0]], [[1, 1, 0]], min_truth=2, min_predicted=2)
    assert table.predicted_size.tolist() == [1]
    assert table.predicted_ppv.tolist() == [0]


def test_sizes_equal_to_the_limits_count():
    table = measure([[1, 1, 0, 0]], [[0, 1, 1, 1]], min_truth=2, min_predicted=3)
    assert (table.n_truth, table.n_predicted) == (1, 1)


@pytest.mark.parametrize("size", [(0, 0), (0, 4), (1, 1), (6, 7)])
def test_nothing_at_all(size):
    table = measure(np.zeros(size), np.zeros(size))
    assert (table.n_truth, table.n_predicted) == (0, 0)
    pooled = pool_components([table])
    assert np.isnan([pooled["siou"], pooled["ppv"], pooled["f1"]]).all()
    assert np.isnan(pooled["f1_per_threshold"]).all()


def test_everything_ignored():
    table = measure(np.full((5, 6), 255), np.ones((5, 6)))
    assert (table.n_truth, table.n_predicted) == (0, 0)


def test_nothing_predicted_and_nothing_annotated():
    missed = pool_components([measure(np.ones((4, 4)), np.zeros((4, 4)))])
    assert (missed["siou"], missed["f1"]) == (0, 0)
    assert np.isnan(missed["ppv"])
    false = pool_components([measure(np.zeros((4, 4)), np.ones((4, 4)))])
    assert (false["ppv"], false["f1"]) == (0, 0)
    assert np.isnan(false["siou"])


def test_one_giant_component():
    table = measure(np.ones((50, 60)), np.ones((50, 60)), 100, 500)
    assert table.truth_siou.tolist() == table.predicted_ppv.tolist() == [1]
    assert pool_components([table])["f1"] == 1


def test_a_value_at_a_threshold_counts_as_reached():
    # sIoU and PPV are 0.5 exactly
    table = measure([[1, 1, 0, 0]], [[1, 1, 1, 1]])
    reached = SIOU_THRESHOLDS <= 0.5
    assert table.tp.tolist() == reached.astype(int).tolist()
    assert table.fn.tolist() == table.fp.tolist() == (~reached).astype(int).tolist()


def test_counts_add_over_frames(golden):
    labels, scores, _ = golden
    tables = [measure(mask, values > 0.6, 10, 50) for mask, values in zip(labels, scores, strict=True)]
    pooled = pool_components(tables)
    for name in ("tp", "fp", "fn"):
        np.testing.assert_array_equal(pooled[name], sum(getattr(table, name) for table in tables))
    np.testing.assert_array_equal(pooled["tp"] + pooled["fn"], pooled["n_truth"])
    assert pool_components(iter(tables))["f1"] == pooled["f1"]


def test_wrong_input_is_named():
    with pytest.raises(SchemaError, match=r"\(2, 3\).*\(3, 2\)"):
        measure(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(SchemaError, match="holds 7"):
        measure(np.full((2, 3), 7), np.zeros((2, 3)))


# --------------------------------------------------------------------------------------------------------------------
# caches


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> components.SizeLimits:
    """The size limits suit benchmark frames; the tests' frames are smaller."""
    limits = components.SizeLimits(min_truth=2, min_predicted=3)
    monkeypatch.setitem(TRACKS, "anomaly", limits)
    return limits


def test_cache_is_evaluated_frame_by_frame(tiny_cache, low_limits):
    threshold = float(gv.score(tiny_cache[0], "entropy").median())
    result = evaluate_components(tiny_cache, "entropy", threshold)
    tables = []
    for number, frame_id in enumerate(tiny_cache.ids):
        frame = tiny_cache[frame_id]
        predicted = gv.score(frame, "entropy").values >= np.float32(threshold)
        table = loop_component_metrics(frame["anomaly"].values, predicted, **low_limits._asdict())
        tables.append(table)
        row = result.isel(frame=number)
        assert row.frame.item() == frame_id
        assert row["state"].item() == "evaluated"
        assert row["frame_siou"].item() == pytest.approx(table.truth_siou.mean())
        assert row["frame_ppv"].item() == pytest.approx(table.predicted_ppv.mean())
        np.testing.assert_array_equal(row["frame_fp"], table.fp)
    pooled = pool_components(tables)
    assert result["siou"].item() == pytest.approx(pooled["siou"])
    assert result["f1"].item() == pytest.approx(pooled["f1"])
    np.testing.assert_allclose(result["f1_per_threshold"], pooled["f1_per_threshold"])
    np.testing.assert_array_equal(result["tp"], result["frame_tp"].sum("frame"))
    assert result.attrs["n_frames"] == 4
    assert result[["frame_siou", "frame_ppv", "frame_f1"]].to_dataframe().shape == (4, 3)


def test_frames_can_be_chosen(tiny_cache, low_limits):
    some = evaluate_components(tiny_cache, "msp", 0.3, frames=["f02", 0])
    assert some.frame.values.tolist() == ["f02", "f00"]
    none = evaluate_components(tiny_cache, "msp", 0.3, frames=[])
    assert none.sizes["frame"] == 0
    assert np.isnan(none["f1"])
    with pytest.raises(KeyError, match="f99"):
        evaluate_components(tiny_cache, "msp", 0.3, frames=["f99"])


def test_frames_that_lack_something_are_reported(tiny_cache, tmp_path, low_limits):
    nothing = evaluate_components(tiny_cache, "entropy", 1e9)
    assert set(nothing["state"].values) == {"no predicted component"}
    assert nothing["f1"] == 0
    assert np.isnan(nothing["ppv"])

    unlabelled = write_cache(tmp_path / "cache", ["a", "b"], anomaly=False)
    result = evaluate_components(unlabelled, "entropy", 0.1)
    assert result["state"].values.tolist() == ["no anomaly labels"] * 2
    assert result.attrs["n_frames"] == 0
    assert frame_components(unlabelled, "entropy", 0.1) == {"a": None, "b": None}


def test_a_frame_without_annotated_components_counts_with_its_false_positives(tiny_cache, monkeypatch):
    monkeypatch.setitem(TRACKS, "anomaly", components.SizeLimits(min_truth=10**6, min_predicted=1))
    result = evaluate_components(tiny_cache, "entropy", -1.0)
    assert set(result["state"].values) == {"no annotated component"}
    assert (result["f1"], result["ppv"]) == (0, 0)
    monkeypatch.setitem(TRACKS, "anomaly", components.SizeLimits(min_truth=10**6, min_predicted=10**6))
    result = evaluate_components(tiny_cache, "entropy", -1.0)
    assert set(result["state"].values) == {"no annotated and no predicted component"}


def test_a_score_reaches_a_threshold_that_is_its_own(tiny_cache, monkeypatch):
    monkeypatch.setitem(TRACKS, "anomaly", components.SizeLimits(min_truth=1, min_predicted=1))
    frame = tiny_cache[0]
    entropy = gv.score(frame, "entropy").where(frame["anomaly"] != 255)
    largest = float(entropy.max())
    above = float(np.nextafter(np.float32(largest), np.float32(np.inf)))
    for threshold, count in ((largest, 1), (np.nextafter(largest, 9), 1), (above, 0)):
        assert frame_components(tiny_cache, "entropy", threshold, frames=[0])["f00"].n_predicted == count


def test_wrong_requests_are_named(tiny_cache):
    with pytest.raises(GraduncError, match="unknown track 'road', expected one of anomaly, obstacle"):
        evaluate_components(tiny_cache, "entropy", 0.5, track="road")
    with pytest.raises(GraduncError, match="NaN"):
        evaluate_components(tiny_cache, "entropy", float("nan"))
    with pytest.raises(UnknownScoreError, match="entropi"):
        evaluate_components(tiny_cache, "entropi", 0.5)
