"""Tables from caches against scikit-learn on the scores of every pixel."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import real
from exact import exact_metrics
from PIL import Image
from sklearn import metrics as sk
from tiny import SCORES, TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.counts.pool import Bootstrap, pool
from gradunc_viz.metrics.intervals import moved_samples
from gradunc_viz.metrics.metric import pixel_metrics
from gradunc_viz.metrics.pixel_metrics import bin_metrics
from gradunc_viz.schema.errors import GraduncError, UnknownScoreError
from gradunc_viz.store.choice import Selection, default_task, named_caches

# some 5,000 pixels: one pixel of a bin is 1e-3 of the positives, and all that bins lose is their own order
CLOSE = {"auroc": 3e-4, "auprc": 2e-3, "fpr95": 1e-2, "f1": 5e-3}


@dataclass
class Pixels:
    """Every pixel of a set of frames as the network sees it."""

    frame: np.ndarray
    label: np.ndarray
    anomaly: np.ndarray
    prediction: np.ndarray
    scores: dict[str, np.ndarray]

    def task(self, task: str, score: str, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(oriented score, positive) of the pixels that count."""
        counts = (self.label if task == "error" else self.anomaly) != 255
        if keep is not None:
            counts = counts & keep
        positive = self.prediction != self.label if task == "error" else self.anomaly == 1
        return self.scores[score][counts], positive[counts]


def read_pixels(folder: Path, net: TinyNet, scores: Sequence[str]) -> Pixels:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("frame", "label", "anomaly", "prediction", *scores)}
    for path in sorted((folder / "images").iterdir()):
        found = gv.score_image(net, path, scores=scores, device="cpu")
        size = found["prediction"].shape
        columns["frame"].append(np.full(size, path.stem))
        for name, sub in (("label", "labels"), ("anomaly", "anomalies")):
            file = folder / sub / f"{path.stem}.png"
            columns[name].append(np.array(Image.open(file)) if file.exists() else np.full(size, 255, "u1"))
        for name in ("prediction", *scores):
            columns[name].append(found[name].values)
    flat = {name: np.concatenate([part.ravel() for part in parts]) for name, parts in columns.items()}
    return Pixels(*(flat[name] for name in ("frame", "label", "anomaly", "prediction")), {s: flat[s] for s in scores})


def exact(values: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    if positive.all() or not positive.any():
        nan = float("nan")
        one = 1.0 if len(positive) and positive.all() else nan
        return {"auroc": nan, "auprc": one, "fpr95": nan, "f1": one}
    fpr, tpr, _ = sk.roc_curve(positive, values, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(positive, values)
    return {
        "auroc": sk.roc_auc_score(positive, values),
        "auprc": sk.average_precision_score(positive, values),
        "fpr95": float(fpr[(tpr >= 0.95).argmax()]),
        "f1": float((2 * precision * recall / np.maximum(precision + recall, 1e-30)).max()),
    }


def assert_close(table, wanted: dict[str, float], limits: dict[str, float] = CLOSE, **where: str) -> None:
    row = table.isel(cache=0).sel(**where)
    for name, limit in limits.items():
        assert float(row[name]) == pytest.approx(wanted[name], abs=limit, nan_ok=True), (name, where)


def compute(folder: Path, out: Path, scores: Sequence[str] = SCORES, seed: int = 0, **options) -> gv.Cache:
    return gv.compute(TinyNet(seed).eval(), gv.open_frames(folder), out, scores=scores, progress=False, **options)


@pytest.fixture(scope="module")
def pixels(tiny_set) -> Pixels:
    return read_pixels(tiny_set, TinyNet().eval(), SCORES)


@pytest.fixture(scope="module")
def gaps_set(tmp_path_factory) -> Path:
    """f00 has everything, f01 no label, f02 no unknown object, f03 nothing else, f04 only ignored pixels."""
    folder = write_set(tmp_path_factory.mktemp("gaps") / "set", 5, ((24, 30),))
    for frame, value in (("f02", 0), ("f03", 1), ("f04", 255)):
        Image.fromarray(np.full((24, 30), value, "u1")).save(folder / f"anomalies/{frame}.png")
    (folder / "anomalies/f01.png").unlink()
    Image.fromarray(np.full((24, 30), 255, "u1")).save(folder / "labels/f01.png")
    return folder


@pytest.fixture(scope="module")
def gaps(gaps_set, tmp_path_factory) -> gv.Cache:
    return compute(gaps_set, tmp_path_factory.mktemp("gaps") / "cache")


# --------------------------------------------------------------------------------------------------------------------
# pixel metrics


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_pooled_over_pixels(tiny_cache, pixels, task):
    table = gv.evaluate(tiny_cache, task, bootstrap=0)
    for score in SCORES:
        assert_close(table, exact(*pixels.task(task, score)), score=score, pooling="pixels")
    _, positive = pixels.task(task, "msp")
    row = table.isel(cache=0)
    assert int(row["n_pixels"]) == len(positive)
    assert float(row["positive_rate"]) == pytest.approx(positive.mean())
    assert int(row["n_frames"]) == 4


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_mean_over_frames_and_each_frame(tiny_cache, pixels, task):
    pooled, each = gv.evaluate(tiny_cache, task, bootstrap=0), gv.evaluate(tiny_cache, task, by="frame")
    for score in SCORES:
        wanted = {f: exact(*pixels.task(task, score, pixels.frame == f)) for f in tiny_cache.ids}
        for frame, values in wanted.items():
            assert_close(each, values, {k: 3 * v for k, v in CLOSE.items()}, frame=frame, score=score)
        means = {name: np.mean([w[name] for w in wanted.values()]) for name in pixel_metrics()}
        assert_close(pooled, means, score=score, pooling="frames")
        for name in pixel_metrics():
            spread = float(pooled[f"{name}_std"].isel(cache=0).sel(score=score, pooling="frames"))
            assert spread == pytest.approx(np.std([w[name] for w in wanted.values()]), abs=2 * CLOSE[name])
    sizes = [len(pixels.task(task, "msp", pixels.frame == f)[1]) for f in tiny_cache.ids]
    assert each["n_pixels"].isel(cache=0).values.tolist() == sizes


@pytest.mark.parametrize(("task", "by"), [("error", "class"), ("anomaly", "class"), ("error", "label")])
def test_each_class(tiny_cache, pixels, task, by):
    table = gv.evaluate(tiny_cache, task, by=by)
    own = pixels.prediction if by == "class" else pixels.label
    for i, name in enumerate(tiny_cache.classes):
        values, positive = pixels.task(task, "entropy", own == i)
        row = table.isel(cache=0).sel({"class": name})
        assert int(row["n_pixels"]) == len(values)
        if len(values):
            assert float(row["positive_rate"]) == pytest.approx(positive.mean())
            if positive.sum() > 50:
                wide = {k: 3 * v for k, v in CLOSE.items()}
                assert_close(table, exact(values, positive), wide, score="entropy", **{"class": name})


def test_subset_of_frames(tiny_cache, pixels):
    frames = [tiny_cache.ids[2], tiny_cache.ids[0]]
    table = gv.evaluate(tiny_cache, "error", frames=frames, bootstrap=0)
    keep = np.isin(pixels.frame, frames)
    assert_close(table, exact(*pixels.task("error", "msp", keep)), score="msp", pooling="pixels")
    assert int(table["n_frames"].item()) == 2
    each = gv.evaluate(tiny_cache, "error", frames=frames, by="frame")
    assert each["frame"].values.tolist() == frames


@pytest.mark.parametrize("by", [None, "frame", "class"])
def test_subset_of_classes(tiny_cache, pixels, by):
    names = [tiny_cache.classes[2], tiny_cache.classes[0]]
    table = gv.evaluate(tiny_cache, "anomaly", classes=names, by=by, bootstrap=0)
    keep = np.isin(pixels.prediction, [2, 0])
    assert int(table["n_pixels"].sum()) == len(pixels.task("anomaly", "msp", keep)[0])
    if by is None:
        assert_close(table, exact(*pixels.task("anomaly", "msp", keep)), score="msp", pooling="pixels")
    if by == "class":
        assert table["class"].values.tolist() == names


def test_metrics_do_not_depend_on_the_subset_of_scores(tiny_cache):
    all_scores = gv.evaluate(tiny_cache, "error", bootstrap=30)
    some = gv.evaluate(tiny_cache, "error", scores=["entropy", "pgn_oh_p1"], bootstrap=30)
    assert some["score"].values.tolist() == ["entropy", "pgn_oh_p1"]
    for name in some.data_vars:
        wanted = all_scores[name].sel(score=some["score"]) if "score" in all_scores[name].dims else all_scores[name]
        np.testing.assert_array_equal(some[name].values, wanted.values)
    alone = gv.evaluate(tiny_cache, "error", scores="entropy", bootstrap=0)
    assert alone.sizes["score"] == 1


def test_threshold_of_the_best_f1(tiny_cache, pixels):
    table = gv.evaluate(tiny_cache, "error", bootstrap=0).isel(cache=0).sel(pooling="pixels")
    for score in SCORES:
        values, positive = pixels.task("error", score)
        row = table.sel(score=score)
        assert sk.f1_score(positive, values >= float(row["threshold"])) == pytest.approx(float(row["f1"]), abs=1e-12)


# --------------------------------------------------------------------------------------------------------------------
# intervals


@pytest.mark.slow
def test_intervals_hold_the_estimate_and_repeat(tiny_cache):
    first = gv.evaluate(tiny_cache, "error", bootstrap=300, seed=1)
    for name in pixel_metrics():
        low, high = first[f"{name}_low"], first[f"{name}_high"]
        slack = 0.01 if name == "fpr95" else 2e-3  # replicates are counted on coarser bins
        assert (low - slack <= first[name]).all()
        assert (first[name] <= high + slack).all()
        assert (high > low).all()
    assert first.identical(gv.evaluate(tiny_cache, "error", bootstrap=300, seed=1))
    other = gv.evaluate(tiny_cache, "error", bootstrap=300, seed=2)
    assert not first["auroc_low"].equals(other["auroc_low"])
    assert first["auroc"].equals(other["auroc"])


def test_a_single_frame_has_no_interval(tiny_cache):
    found = gv.evaluate(tiny_cache, "error", scores="msp,pgn_oh_p0.1", frames=["f01"])
    assert np.isfinite(found["auroc"]).all()
    assert np.isnan(found["auroc_low"]).all()
    assert np.isnan(found["auroc_high"]).all()
    assert not found["wrong_side"].any()


def test_samples_that_are_counted_coarsely_are_moved_to_the_exact_metric(tiny_cache):
    """A sample that draws each frame once has the exact metric: what wider bins change is taken off the interval."""
    exact = gv.evaluate(tiny_cache, "error", scores="msp", bootstrap=0)
    selection = Selection.of(tiny_cache, "error", scores="msp")
    pooled = pool(selection, bootstrap=Bootstrap(50, 0))
    whole = exact["auprc"].sel(pooling="pixels").item()
    coarse = float(bin_metrics(pooled.coarse["msp"])["auprc"])
    assert moved_samples(np.array([coarse]), whole - coarse) == pytest.approx([whole], abs=1e-12)


def test_replicates_are_sums_of_drawn_frames(tiny_cache):
    drawn = (
        pool(Selection.of(tiny_cache, "error", scores=["msp"]), bootstrap=Bootstrap(20, 3))
        .replicates["msp"]
        .weights["counts"]
        .sum(-1)
    )
    draws = np.random.default_rng(3).multinomial(4, np.full(4, 0.25), 20)
    each = [pool(Selection.of(tiny_cache, "error", scores=["msp"], frames=[f])) for f in tiny_cache.ids]
    np.testing.assert_array_equal(drawn[:, 0], draws @ [p.positives[0] for p in each])
    np.testing.assert_array_equal(drawn[:, 1], draws @ [p.negatives[0] for p in each])


def test_frames_without_labels_are_not_drawn(gaps):
    found = pool(Selection.of(gaps, "anomaly", scores=["msp"]), bootstrap=Bootstrap(50))
    size = 24 * 30
    drawn = pool(
        Selection.of(gaps, "anomaly", scores=["msp"], frames=["f02", "f03", "f01"]), bootstrap=Bootstrap(50)
    ).replicates["msp"]
    assert (drawn.weights["counts"].sum((-2, -1)) == 2 * size).all()
    assert found.replicates["msp"].weights["counts"].shape[0] == 50


def test_cache_without_any_of_the_frames(tiny_cache, gaps):
    """f04 is in one of two caches only."""
    table = gv.evaluate({"a": tiny_cache, "b": gaps}, "error", frames=["f04"], bootstrap=5)
    assert table["n_frames"].values.tolist() == [0, 1]
    assert np.isnan(table["auroc"].sel(cache="a")).all()


def test_no_bootstrap_no_interval(tiny_cache):
    table = gv.evaluate(tiny_cache, "error", bootstrap=0)
    assert np.isnan(table["auroc_low"]).all()
    assert np.isfinite(table["auroc"]).all()


# --------------------------------------------------------------------------------------------------------------------
# frames that lack something


def test_gaps_are_reported(gaps):
    table = gv.evaluate(gaps, "anomaly", bootstrap=20).isel(cache=0)
    assert int(table["n_frames"]) == 4
    assert int(table["frames_without_labels"]) == 1
    assert int(table["frames_without_positives"]) == 2
    assert int(table["frames_without_negatives"]) == 2
    assert np.isfinite(table["auroc"].sel(pooling="pixels")).all()


def test_frames_with_gaps_keep_their_rows(gaps):
    each = gv.evaluate(gaps, "anomaly", by="frame").isel(cache=0)
    assert each["frame"].values.tolist() == list(gaps.ids)
    found = np.isfinite(each["auroc"].sel(score="msp").values)
    assert found.tolist() == [True, False, False, False, False]
    assert each["n_pixels"].values[[1, 4]].tolist() == [0, 0]
    assert each["positive_rate"].values[2:4].tolist() == [0, 1]
    assert each["auprc"].sel(score="msp", frame="f03") == 1


def test_mean_over_frames_is_over_those_that_have_a_value(gaps):
    table = gv.evaluate(gaps, "anomaly", bootstrap=20).isel(cache=0).sel(pooling="frames", score="msp")
    each = gv.evaluate(gaps, "anomaly", by="frame").isel(cache=0).sel(score="msp")
    assert float(table["auroc"]) == float(each["auroc"].sel(frame="f00"))


def test_frame_with_only_one_kind_of_pixel(gaps):
    for frame in ("f02", "f03"):
        table = gv.evaluate(gaps, "anomaly", frames=[frame], bootstrap=5).isel(cache=0)
        assert np.isnan(table["auroc"]).all()
        assert int(table["n_frames"]) == 1


@pytest.mark.parametrize("frame", ["f01", "f04"])
def test_frames_of_which_no_pixel_counts(gaps, frame):
    with pytest.raises(GraduncError, match="no frame has anomaly labels, which 'anomaly' needs"):
        gv.evaluate(gaps, "anomaly", frames=[frame])


def test_set_without_labels(tmp_path):
    cache = compute(write_set(tmp_path / "set", 2, ((16, 20),), labels=False), tmp_path / "cache", ["msp"])
    with pytest.raises(GraduncError, match="cache: no frame has class labels, which 'error' needs"):
        gv.evaluate(cache, "error")
    for function in (gv.sparsification, gv.calibration):
        with pytest.raises(GraduncError, match="no frame has class labels"):
            function(cache)
    assert default_task({"": cache}) == "anomaly"
    assert gv.evaluate(cache).attrs["task"] == "anomaly"


def test_default_task_without_anomalies(tmp_path):
    cache = compute(write_set(tmp_path / "set", 2, ((16, 20),), anomalies=False), tmp_path / "cache", ["msp"])
    assert gv.evaluate(cache).attrs["task"] == "error"


# --------------------------------------------------------------------------------------------------------------------
# several caches


@pytest.fixture(scope="module")
def other_cache(tiny_set, tmp_path_factory) -> gv.Cache:
    """Another network with other scores, in a folder of the same name."""
    return compute(tiny_set, tmp_path_factory.mktemp("other") / "cache", ["entropy", "margin"], seed=1)


def test_scores_that_a_cache_lacks_are_nan(tiny_cache, other_cache):
    table = gv.evaluate({"a": tiny_cache, "b": other_cache}, "error", bootstrap=0).sel(pooling="pixels")
    assert table["cache"].values.tolist() == ["a", "b"]
    assert table["score"].values.tolist() == [*SCORES, "margin"]
    assert np.isnan(table["auroc"].sel(cache="b", score="msp"))
    assert np.isnan(table["auroc"].sel(cache="a", score="margin"))
    for name, cache in (("a", tiny_cache), ("b", other_cache)):
        own = gv.evaluate(cache, "error", scores="entropy", bootstrap=0).sel(pooling="pixels")
        assert table["auroc"].sel(cache=name, score="entropy").item() == own["auroc"].item()


@pytest.mark.parametrize("by", [None, "frame", "class", "label"])
def test_tables_of_several_caches(tiny_cache, other_cache, by):
    table = gv.evaluate([tiny_cache, other_cache], "error", by=by, bootstrap=5)
    assert table.sizes["cache"] == 2
    frame = table.to_dataframe()
    assert set(pixel_metrics()) <= set(frame.columns)
    assert frame.index.names[0] == "cache" or "cache" in frame.index.names
    assert len(frame) == np.prod([table.sizes[d] for d in table["auroc"].dims])
    assert not any(frame[name].dtype == object for name in frame.columns)


def test_other_classes_and_frames(tiny_cache, tmp_path):
    """Classes and frames that one cache lacks are NaN in its rows."""
    folder = write_set(tmp_path / "set", 2, ((16, 20),))
    for path in (folder / "images").iterdir():
        path.rename(path.with_name("g" + path.name))
    for sub in ("labels", "anomalies"):
        for path in (folder / sub).iterdir():
            path.rename(path.with_name("g" + path.name))
    other = compute(folder, tmp_path / "second", ["msp"], classes=["road", "sky", "car", "tree"])
    table = gv.evaluate([tiny_cache, other], "error", by="class", scores="msp")
    assert table.sizes["class"] == 8
    assert np.isnan(table["auroc"].sel(cache="second").values).sum() >= 4
    frames = gv.evaluate([tiny_cache, other], "error", by="frame", scores="msp")
    assert set(frames["frame"].values) == {*tiny_cache.ids, *other.ids}


def test_names_of_caches(tiny_cache, other_cache, tmp_path):
    assert list(named_caches(tiny_cache)) == ["cache"]
    both = named_caches([tiny_cache, str(other_cache.path)])
    assert list(both) == [f"{c.path.parent.name}/cache" for c in (tiny_cache, other_cache)]
    for parent in ("a", "b"):
        shutil.copytree(tiny_cache.path, tmp_path / parent / "x/cache")
    names = list(named_caches([tmp_path / "a/x/cache", tmp_path / "b/x/cache"]))
    assert len(names) == 2
    assert list(named_caches({"mine": tiny_cache.path})) == ["mine"]
    with pytest.raises(GraduncError, match="no cache was given"):
        named_caches([])


# --------------------------------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "errors"}, "unknown task 'errors'; expected one of error, anomaly"),
        ({"by": "image"}, "by is 'image'; expected None, 'set', 'frame', 'class' or 'label'"),
        ({"scores": ["msp", "energy"]}, "score 'energy' is not cached; it has pgn_oh_p0.1,"),
        ({"frames": ["f00", "f77"]}, "no frame 'f77' among its 4 frames"),
        ({"classes": ["zebra"]}, "no class 'zebra'; it has"),
        ({"task": "anomaly", "by": "label"}, "task 'anomaly' has no classes of labels"),
    ],
)
def test_errors_name_what_is_wrong(tiny_cache, options, message):
    with pytest.raises(GraduncError, match=message):
        gv.evaluate(tiny_cache, **options)


def test_errors_with_several_caches(tiny_cache, other_cache):
    both = [tiny_cache, other_cache]
    with pytest.raises(UnknownScoreError, match="score 'energy' is not cached"):
        gv.evaluate(both, "error", scores=["energy", "msp"])
    with pytest.raises(UnknownScoreError, match="unknown score 'entropie'; did you mean entropy"):
        gv.evaluate(both, "error", scores=["entropie"])
    with pytest.raises(GraduncError, match="no frame 'f77'"):
        gv.evaluate(both, "error", frames=["f00", "f77"])


# --------------------------------------------------------------------------------------------------------------------
# curves, sparsification, calibration, segmentation


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_threshold_curves(tiny_cache, pixels, kind):
    found = gv.threshold_curves(tiny_cache, "error", kind)
    assert found["score"].values.tolist() == list(SCORES)
    for score in SCORES:
        values, positive = pixels.task("error", score)
        curve = found.sel(score=score).dropna("point")
        x, y = ("fpr", "tpr") if kind == "roc" else ("recall", "precision")
        for i in range(1 if kind == "roc" else 0, curve.sizes["point"], 40):
            point = curve.isel(point=i)
            called = values >= float(point["threshold"])
            true = called[positive].mean()
            wanted = (called[~positive].mean(), true) if kind == "roc" else (true, positive[called].mean())
            assert (float(point[x]), float(point[y])) == pytest.approx(wanted, abs=1e-12)
    with pytest.raises(GraduncError, match="kind is 'det'; expected 'roc' or 'pr'"):
        gv.threshold_curves(tiny_cache, "error", "det")


def probabilities(tiny_set: Path) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, classes) softmax in float64 and labels, of all labelled pixels."""
    import torch

    from gradunc_viz.networks.load import load_model
    from gradunc_viz.networks.network import network_input

    net = load_model(TinyNet().eval())
    rows, labels = [], []
    for path in sorted((tiny_set / "images").iterdir()):
        image = np.array(Image.open(path).convert("RGB"))
        with torch.inference_mode():
            logits = net.net(network_input(image, net, None))[0].double()
        label = np.array(Image.open(tiny_set / f"labels/{path.stem}.png"))
        known = label != 255
        rows.append(logits.softmax(0).permute(1, 2, 0).numpy()[known])
        labels.append(label[known])
    return np.concatenate(rows), np.concatenate(labels)


@pytest.fixture(scope="module")
def softmax(tiny_set) -> tuple[np.ndarray, np.ndarray]:
    return probabilities(tiny_set)


@pytest.mark.parametrize("by", [None, "class"])
def test_calibration(tiny_cache, softmax, by):
    pi, label = softmax
    table = gv.calibration(tiny_cache, by=by, bins=10).isel(cache=0)
    prediction, confidence = pi.argmax(1), pi.max(1)
    brier = ((pi - np.eye(4)[label]) ** 2).sum(1)
    nll = -np.log(pi[np.arange(len(label)), label])
    for c in range(4) if by else [None]:
        row = table if c is None else table.isel({"class": c})
        own, truth = (prediction == c, label == c) if by else (np.ones(len(label), bool),) * 2
        if not own.any():
            assert np.isnan(row["ece"])
            continue
        gaps, shares = [], []
        for b in range(10):
            inside = own & (confidence >= b / 10) & ((confidence < (b + 1) / 10) | (b == 9))
            assert float(row["pixels"][b]) == pytest.approx(inside.sum(), abs=1)
            if inside.any():
                gaps.append(abs((prediction == label)[inside].mean() - confidence[inside].mean()))
                shares.append(inside.sum() / own.sum())
        assert float(row["ece"]) == pytest.approx(np.dot(gaps, shares), abs=1e-3)
        assert float(row["brier"]) == pytest.approx(brier[own].mean(), abs=1e-5)
        if truth.any():
            assert float(row["nll"]) == pytest.approx(nll[truth].mean(), rel=1e-4)
        if min(shares) > 0.01:
            assert float(row["mce"]) == pytest.approx(max(gaps), abs=1e-3)


def test_calibration_says_which_bins_there_are(tiny_cache):
    with pytest.raises(ValueError, match="bins is 7; expected a divisor of the 300"):
        gv.calibration(tiny_cache, bins=7)
    with pytest.raises(GraduncError, match="by is 'frame'; expected None or 'class'"):
        gv.calibration(tiny_cache, by="frame")


def risks(score: np.ndarray, error: np.ndarray) -> np.ndarray:
    return np.cumsum(error[np.argsort(score, kind="stable")]) / np.arange(1, len(score) + 1)


@pytest.mark.parametrize("by", [None, "class"])
def test_sparsification(tiny_cache, pixels, softmax, by):
    pi, label = softmax
    table = gv.sparsification(tiny_cache, by=by, points=20).isel(cache=0)
    known = pixels.label != 255
    prediction = pixels.prediction[known]
    errors = {
        "error_rate": (prediction != label) * 1.0,
        "brier": ((pi - np.eye(4)[label]) ** 2).sum(1),
    }
    for c in range(4) if by else [None]:
        own = np.ones(len(label), bool) if c is None else prediction == c
        if own.sum() < 100:
            continue
        for kind, all_errors in errors.items():
            error = all_errors[own]
            best = risks(error, error)
            row = table.sel(error=kind) if c is None else table.sel(error=kind).isel({"class": c})
            kept = np.rint((1 - np.arange(20) / 20) * len(error)).astype(int)
            np.testing.assert_allclose(row["oracle"], best[kept - 1] / error.mean(), atol=5e-3)
            for score in SCORES:
                mine = risks(pixels.scores[score][known][own], error)
                one = row.sel(score=score)
                assert float(one["aurc"]) == pytest.approx(mine.mean(), abs=5e-3)
                assert float(one["ause"]) == pytest.approx((mine - best).mean() / error.mean(), abs=8e-3)
                np.testing.assert_allclose(one["curve"], mine[kept - 1] / error.mean(), atol=0.03)
    assert (table["ause"] > -1e-3).where(table["ause"].notnull(), True).all()


def test_segmentation(tiny_cache, pixels):
    found = gv.segmentation(tiny_cache)
    known = pixels.label != 255
    label, prediction = pixels.label[known], pixels.prediction[known]
    matrix = sk.confusion_matrix(label, prediction, labels=range(4))
    np.testing.assert_array_equal(found["confusion"], matrix)
    present = np.unique(np.r_[label, prediction])
    wanted = sk.jaccard_score(label, prediction, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose(found["iou"].values[present], wanted)
    assert found["miou"].item() == pytest.approx(wanted.mean())
    assert found["accuracy"].item() == pytest.approx((label == prediction).mean())
    one = gv.segmentation(tiny_cache, frames=["f01"])
    assert one["confusion"].sum() == (known & (pixels.frame == "f01")).sum()


# --------------------------------------------------------------------------------------------------------------------
# real frames


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("track", "ends"), [("anomaly", ("0001", "0004")), ("obstacle", ("1", "2"))])
def test_real_frames_against_exact_metrics(real_data, real_cache, track, ends):
    """Frames of a track, scored at full resolution in float32; together and one by one."""
    net = gv.load_model(f"{real_data / 'enet.py'}:load_enet", real_data / "enet_cityscapes.pth", drop_channels=[19])
    frames = [frame for frame in gv.open_frames(real_data / real.SETS[track][0], "smiyc") if frame.id.endswith(ends)]
    frames = frames[:2]
    assert len(frames) == 2
    cache, ids = real_cache(track), [frame.id for frame in frames]
    table = gv.evaluate(cache, "anomaly", scores=real.BOTH_TRACKS, bootstrap=0, frames=ids)
    single = gv.evaluate(cache, "anomaly", scores=real.BOTH_TRACKS, by="frame", frames=ids)
    values: dict[str, list[np.ndarray]] = {score: [] for score in real.BOTH_TRACKS}
    positive = []
    for frame in frames:
        found = gv.score_image(net, frame.image, scores=real.BOTH_TRACKS, input_size=(512, 1024), device="cpu")
        known = frame.anomaly != 255
        positive.append(frame.anomaly[known] == 1)
        for score in real.BOTH_TRACKS:
            values[score].append(found[score].values[known])
            # one frame may have some hundred unknown pixels: each counts in precision
            limits = {"auroc": 1e-4, "auprc": 2e-4, "fpr95": 2e-4, "f1": 5e-4}
            wanted = exact_metrics(values[score][-1], positive[-1])
            assert_close(single, wanted, limits, score=score, frame=frame.id)
    for score in real.BOTH_TRACKS:
        wanted = exact_metrics(np.concatenate(values[score]), np.concatenate(positive))
        assert_close(table, wanted, dict.fromkeys(pixel_metrics(), 1e-4), score=score, pooling="pixels")
