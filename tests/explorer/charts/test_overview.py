"""The overview against scikit-learn and numpy on the pixels of the cached maps."""

from __future__ import annotations

import io
from pathlib import Path

import holoviews as hv
import numpy as np
import pytest
from charting import exact_cache, pixels, words
from frame_files import unpacked
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from synthetic import CLASSES, SCORES, write_cache

import gradunc_viz as gv
from gradunc_viz.explorer.charts import curves, overview
from gradunc_viz.metrics.worst import WORST, worst_frames
from gradunc_viz.schema.errors import CacheError, GraduncError
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.choice import Selection


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return exact_cache(tmp_path_factory.mktemp("overview") / "cache")


def test_card(cache: Cache) -> None:
    card = overview.set_card(cache)
    wrong, _ = pixels(cache, "msp", "error")
    unknown, _ = pixels(cache, "msp", "anomaly")
    assert (card.frames, card.labelled, card.with_anomaly_labels) == (3, 3, 3)
    assert card.sizes == "46 × 50 to 128 × 64"
    assert card.classes == CLASSES
    assert card.scores == SCORES
    assert card.tasks == ("error", "anomaly")
    assert card.error_rate == pytest.approx(wrong.mean())
    assert card.accuracy == pytest.approx(1 - wrong.mean())
    assert card.anomaly_rate == pytest.approx(unknown.mean())
    ious = []
    for number in range(len(CLASSES)):
        union = hit = 0
        for frame in cache.values():
            label, prediction = frame["label"].values, frame["prediction"].values
            known = label != 255
            hit += ((label == number) & (prediction == number) & known).sum()
            union += (((label == number) | (prediction == number)) & known).sum()
        ious.append(hit / union)
    assert card.miou == pytest.approx(np.mean(ious))


def test_card_of_little(tmp_path: Path) -> None:
    empty = overview.set_card(write_cache(tmp_path / "empty", []))
    assert (empty.frames, empty.tasks) == (0, ())
    assert np.isnan(empty.miou)
    plain = overview.set_card(write_cache(tmp_path / "plain", ["a"], label=False))
    assert (plain.labelled, plain.with_anomaly_labels, plain.tasks) == (0, 1, ("anomaly",))
    assert np.isnan(plain.miou)
    assert plain.sizes == "128 × 64"


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_metric_table(cache: Cache, task: str) -> None:
    table = overview.metric_table(Selection.of(cache, task))
    assert sorted(table["score"]) == sorted(SCORES)
    assert list(table["auprc"]) == sorted(table["auprc"], reverse=True)
    for row in table.itertuples():
        truth, values = pixels(cache, row.score, task)
        assert row.auroc == pytest.approx(100 * roc_auc_score(truth, values), abs=0.1)
        assert row.auprc == pytest.approx(100 * average_precision_score(truth, values), abs=0.6)
        found = values >= np.float32(row.threshold)
        f1 = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert row.f1 == pytest.approx(100 * f1, abs=1e-6)
    same = gv.evaluate(cache, task, bootstrap=0).isel(cache=0)
    for pooling in ("pixels", "frames"):
        table = overview.metric_table(Selection.of(cache, task), pooling=pooling).set_index("score")
        for name in ("auroc", "auprc", "fpr95", "f1"):
            expected = 100 * same[name].sel(pooling=pooling).to_series()
            np.testing.assert_allclose(table[name][list(expected.index)], expected)
    best = table.index[["FPR95" in marks for marks in table["best"]]]
    assert list(best) == list(table.index[table["fpr95"] == table["fpr95"].min()])
    # callers may change what they get
    mine = overview.metric_table(Selection.of(cache, task))
    mine["auroc"] = 0.0
    assert overview.metric_table(Selection.of(cache, task))["auroc"].min() > 0


def test_metric_table_of_chosen_frames(cache: Cache) -> None:
    table = overview.metric_table(Selection.of(cache, "error", frames=["c"])).set_index("score")
    truth, values = pixels(cache, "msp", "error", ["c"])
    assert table.loc["msp", "auroc"] == pytest.approx(100 * roc_auc_score(truth, values), abs=0.2)


@pytest.mark.parametrize("task", ["error", "anomaly"])
@pytest.mark.parametrize("log", [False, True])
def test_distribution_counts_every_pixel(cache: Cache, task: str, log: bool) -> None:
    for frames, classes in [(None, None), (["a"], [CLASSES[0]])]:
        chart = overview.set_distribution(
            Selection.of(cache, task, scores="pgn_oh_p0.5", frames=frames, classes=classes), log=log, threshold=1.5
        )
        truth, values = pixels(cache, "pgn_oh_p0.5", task, frames, classes)
        lower, upper = [part for part in chart if isinstance(part, hv.Rectangles)]
        for bars, group in ((lower, values[~truth]), (upper, values[truth])):
            edges = np.r_[bars.dimension_values(0), bars.dimension_values(2)[-1]]
            counted = bars.dimension_values("pixels")
            assert counted.sum() == len(group)
            assert bars.dimension_values("share").sum() == pytest.approx(100)
            height = bars.dimension_values(3)
            np.testing.assert_allclose(height, counted if log else bars.dimension_values("share"))
            # a bin of the cache lies on one side of an edge or the other
            low, high = edges[0], np.median(edges)
            expected = ((group >= low) & (group < high)).sum() + (group < low).sum()
            assert counted[bars.dimension_values(0) < high - 1e-9].sum() == pytest.approx(
                expected, abs=0.06 * len(group)
            )
            assert f"{len(group):,}" in bars.label
        lines = [part for part in chart if isinstance(part, hv.VLine)]
        assert [line.data for line in lines] == [1.5]
        hv.renderer("bokeh").get_plot(chart)


def test_worst_frames(cache: Cache) -> None:
    def order(values: dict[str, float]) -> list[str]:
        return sorted(values, key=lambda frame: -values[frame])

    each = {frame: {task: pixels(cache, "entropy", task, [frame]) for task in ("error", "anomaly")} for frame in cache}
    expected = {
        "error_rate": {f: 100 * e["error"][0].mean() for f, e in each.items()},
        "anomaly_area": {f: 100 * e["anomaly"][0].mean() for f, e in each.items()},
        "lowest_auroc": {f: -100 * roc_auc_score(*e["error"]) for f, e in each.items()},
        "lowest_auprc": {f: -100 * average_precision_score(*e["error"]) for f, e in each.items()},
        "highest_mean": {f: gv.score(cache[f], "entropy").values.mean(dtype="f8") for f in cache},
        "highest_99": {f: np.quantile(gv.score(cache[f], "entropy").values, 0.99) for f in cache},
    }
    for definition, values in expected.items():
        table = worst_frames(cache, definition, "entropy", "error", n=3)
        assert list(table["frame"]) == order(values), definition
        for frame, value in zip(table["frame"], table["value"], strict=True):
            assert value == pytest.approx(abs(values[frame]), abs=1.0 if definition == "lowest_auprc" else 0.2)
    worst = worst_frames(cache, "highest_fpr95", "entropy", "error", n=2)
    assert len(worst) == 2
    assert worst["value"].is_monotonic_decreasing


@pytest.mark.parametrize(("definition", "task"), [("confident_mistakes", "error"), ("missed_anomaly", "anomaly")])
def test_worst_by_what_stays_below_the_threshold(cache: Cache, definition: str, task: str) -> None:
    histogram_low = float(np.float32(0.5))
    table = worst_frames(cache, definition, "entropy", task, threshold=histogram_low).set_index("frame")
    for frame in cache:
        truth, values = pixels(cache, "entropy", task, [frame])
        below = (truth & (values < np.float32(histogram_low))).sum()
        assert table.loc[frame, "value"] == pytest.approx(below, abs=0.02 * truth.sum() + 1)
        assert table.loc[frame, "text"] == f"{int(table.loc[frame, 'value']):,} px"
    # without a threshold: a usual one
    assert len(worst_frames(cache, definition, "entropy", task)) == 3


def test_every_definition_has_words_and_frames(cache: Cache) -> None:
    for name, definition in WORST.items():
        assert definition.title
        assert definition.meaning.endswith(".")
        table = worst_frames(cache, name, "msp", "anomaly", n=1)
        assert table["frame"][0] in cache
        assert table["text"][0]


def test_what_cannot_be_told_says_why(cache: Cache, tmp_path: Path) -> None:
    plain = write_cache(tmp_path / "plain", ["a"], label=False)
    empty = write_cache(tmp_path / "empty", [])
    with pytest.raises(GraduncError, match="no frame has class labels"):
        overview.metric_table(Selection.of(plain, "error"))
    with pytest.raises(GraduncError, match="no frame has class labels, which 'Highest error rate' needs"):
        worst_frames(plain, "error_rate", "msp", "anomaly")
    with pytest.raises(GraduncError, match="holds no frames yet"):
        worst_frames(empty, "highest_mean", "msp", "anomaly")
    with pytest.raises(GraduncError, match="unknown definition"):
        worst_frames(cache, "ugliest", "msp", "anomaly")
    with pytest.raises(GraduncError, match="expected 'pixels' or 'frames'"):
        overview.metric_table(Selection.of(cache, "error"), pooling="images")
    assert "no frame has class labels" in words(overview.set_distribution(Selection.of(plain, "error", scores="msp")))
    assert "no frames yet" in words(overview.set_distribution(Selection.of(empty, "error", scores="msp")))


def test_thumbnails_are_the_cached_ones(cache: Cache, tmp_path: Path) -> None:
    found = overview.thumbnails(cache, ["c", "a"])
    assert list(found) == ["c", "a"]
    for name, data in found.items():
        assert data == cache[name]["thumbnail"].values.tobytes()
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) <= 240
    assert overview.thumbnails(Cache(cache.path), ["a"])["a"] is found["a"]
    with pytest.raises(GraduncError, match=r"no frame '\.\./a'"):
        overview.thumbnails(cache, ["../a"])
    broken = write_cache(tmp_path / "broken", ["a"])
    with unpacked(broken.path / "frames" / "a") as files:
        (files / "thumbnail" / "zarr.json").unlink()
    with pytest.raises(CacheError, match=r"frames/a/thumbnail/zarr.json: damaged, is missing"):
        overview.thumbnails(broken, ["a"])


@pytest.fixture(scope="module")
def turned(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One method on the right side and one on the wrong side, of the frames of `cache`."""
    folder, random = tmp_path_factory.mktemp("turned"), np.random.default_rng(0)
    (folder / "set/images").mkdir(parents=True)
    (folder / "set/anomalies").mkdir()
    for frame, dataset in cache.items():
        if "anomaly" not in dataset:
            continue
        unknown = dataset["anomaly"].values
        Image.fromarray(np.zeros((*unknown.shape, 3), "u1")).save(folder / f"set/images/{frame}.png")
        Image.fromarray(unknown).save(folder / f"set/anomalies/{frame}.png")
        for name, shift in (("right", 0.3), ("wrong", -0.3)):
            (folder / name).mkdir(exist_ok=True)
            np.save(folder / f"{name}/{frame}.npy", random.random(unknown.shape) + shift * (unknown == 1))
    frames = gv.open_frames(folder / "set")
    return gv.import_maps([folder / "right", folder / "wrong"], frames, folder / "cache", progress=False)


def test_scores_on_the_wrong_side_are_marked_with_what_they_would_be(turned: Cache) -> None:
    table = overview.metric_table(Selection.of(turned, "anomaly")).set_index("score")
    own = gv.evaluate(turned, "anomaly", bootstrap=0).isel(cache=0).sel(score="ext:wrong", pooling="pixels")
    assert own["wrong_side"]
    assert table.loc["ext:right", "turned"] == ""
    assert table.loc["ext:wrong", "turned"].startswith(
        f"† AuROC {100 * float(own['auroc_turned']):.1f}, AuPRC {100 * float(own['auprc_turned']):.1f}, FPR95 "
    )
    for kind in (curves.roc, curves.pr):
        labels = [line.label for line in kind(Selection.of(turned, "anomaly")) if isinstance(line, hv.Curve)]
        assert [label.split("  ")[0] for label in labels if label] == ["ext:right", "ext:wrong †"]
