"""What is drawn of classes against numpy and scikit-learn on the pixels of the cached maps."""

from __future__ import annotations

from pathlib import Path

import holoviews as hv
import numpy as np
import pytest
from charting import exact_cache, pixels, words
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score
from synthetic import CLASSES, write_cache

from gradunc_viz.explorer.charts import classes
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.schema.tasks import TASKS
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.choice import Selection


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return exact_cache(tmp_path_factory.mktemp("classes") / "cache")


@pytest.mark.parametrize("task", ["error", "anomaly"])
@pytest.mark.parametrize("frames", [None, ["b"]])
def test_class_table(cache: Cache, task: str, frames: list[str] | None) -> None:
    table = classes.class_table(Selection.of(cache, task, scores="entropy", frames=frames)).set_index("class")
    assert list(table.index) == list(CLASSES)
    label = np.concatenate([cache[f]["label"].values.ravel() for f in frames or cache.ids])
    prediction = np.concatenate([cache[f]["prediction"].values.ravel() for f in frames or cache.ids])
    known = label != 255
    wrong, msp = pixels(cache, "msp", "error", frames)
    for number, name in enumerate(CLASSES):
        row = table.loc[name]
        truth, values = pixels(cache, "entropy", task, frames, [name])
        assert row["pixels"] == (label == number).sum()
        assert row["predicted"] == len(truth)
        assert row["positives"] == pytest.approx(100 * truth.mean())
        own, taken = (label == number) & known, (prediction == number) & known
        assert row["iou"] == pytest.approx(100 * (own & taken).sum() / (own | taken).sum())
        if 0 < truth.sum() < len(truth):
            assert row["auroc"] == pytest.approx(100 * roc_auc_score(truth, values), abs=0.3)
            assert row["auprc"] == pytest.approx(100 * average_precision_score(truth, values), abs=1.5)
        else:
            assert np.isnan(row["auroc"])
        mine = prediction[known] == number
        confidence, right = 1 - msp[mine].astype("f8"), ~wrong[mine]
        place = np.minimum((confidence * 15).astype(int), 14)
        ece = sum(
            abs(confidence[place == b].sum() - right[place == b].sum()) for b in range(15)
        ) / max(mine.sum(), 1)  # fmt: skip
        assert row["ece"] == pytest.approx(100 * ece, abs=0.3)


def test_class_table_without_class_labels(tmp_path: Path) -> None:
    plain = write_cache(tmp_path / "plain", ["a"], label=False)
    table = classes.class_table(Selection.of(plain, "anomaly", scores="entropy"))
    assert (table["pixels"] == 0).all()
    assert table["iou"].isna().all()
    assert table["ece"].isna().all()
    assert table["predicted"].sum() == (plain["a"]["anomaly"].values != 255).sum()
    with pytest.raises(GraduncError, match="class labels"):
        classes.class_table(Selection.of(plain, "error", scores="entropy"))


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_ridges_have_the_quantiles_of_the_pixels(cache: Cache, task: str) -> None:
    chart = classes.class_distributions(Selection.of(cache, task, scores="entropy"), threshold=0.7)
    dots = [part for part in chart if isinstance(part, hv.Points)]
    assert [part.label for part in dots] == list(TASKS[task].outcomes[::-1])
    for positive, part in enumerate(dots):
        for name, count, median, q25, q75 in zip(
            *(part.dimension_values(d) for d in ("class", "pixels", "median", "q25", "q75")), strict=True
        ):
            truth, values = pixels(cache, "entropy", task, classes=[name])
            own = values[truth == bool(positive)]
            assert count == len(own)
            if len(own) > 200:
                for found, share in ((q25, 0.25), (median, 0.5), (q75, 0.75)):
                    # ranks, as the distance between two pixels may be large
                    assert (own <= found).mean() == pytest.approx(share, abs=0.03)
    ridges = [part for part in chart if isinstance(part, hv.Polygons)]
    assert len(ridges) == 2
    rows = {tick[0]: tick[1] for tick in chart.opts.get("plot").kwargs["yticks"]}
    for shape in ridges[0].split(datatype="dictionary"):
        x, y = shape["score_value"], shape["row"]
        base = int(y.min())
        truth, values = pixels(cache, "entropy", task, classes=[rows[base]])
        own = values[~truth]
        peak = x[1:-1][np.argmax(y[1:-1])]
        density, edges = np.histogram(own, np.linspace(x.min(), x.max(), 25))
        # the highest point is where the pixels are
        assert density[np.clip(np.searchsorted(edges, peak) - 1, 0, 23)] >= 0.5 * density.max()
        assert y.max() <= base + 0.9
    assert [part.data for part in chart if isinstance(part, hv.VLine)] == [0.7]
    hv.renderer("bokeh").get_plot(chart)


def test_ridges_of_chosen_classes_and_frames(cache: Cache) -> None:
    chart = classes.class_distributions(
        Selection.of(cache, "error", scores="msp", frames=["c"], classes=[CLASSES[3], CLASSES[0]])
    )
    assert [name for _, name in chart.opts.get("plot").kwargs["yticks"]] == [CLASSES[3], CLASSES[0]]
    count = sum(int(part.dimension_values("pixels").sum()) for part in chart if isinstance(part, hv.Points))
    assert count == len(pixels(cache, "msp", "error", ["c"], [CLASSES[3], CLASSES[0]])[0])


@pytest.mark.parametrize("frames", [None, ["a", "c"]])
def test_confusion_is_scikit_learns(cache: Cache, frames: list[str] | None) -> None:
    label = np.concatenate([cache[f]["label"].values.ravel() for f in frames or cache.ids])
    prediction = np.concatenate([cache[f]["prediction"].values.ravel() for f in frames or cache.ids])
    expected = confusion_matrix(label[label != 255], prediction[label != 255], labels=range(len(CLASSES)))
    chart = classes.confusion(Selection.of(cache, frames=frames))
    heat = next(part for part in chart if isinstance(part, hv.HeatMap))
    assert len(heat) == len(CLASSES) ** 2
    for predicted, labelled, share, count in zip(
        *(heat.dimension_values(d) for d in ("prediction", "label", "share", "pixels")), strict=True
    ):
        row = expected[CLASSES.index(labelled)]
        assert count == row[CLASSES.index(predicted)]
        assert share == pytest.approx(100 * count / row.sum())
    figure = hv.renderer("bokeh").get_plot(chart).state
    # labels read from the top, as a matrix is
    assert list(figure.y_range.factors) == list(CLASSES[::-1])
    assert list(figure.x_range.factors) == list(CLASSES)


def test_what_cannot_be_drawn_is_a_note(tmp_path: Path) -> None:
    plain = write_cache(tmp_path / "plain", ["a"], label=False)
    empty = write_cache(tmp_path / "empty", [])
    assert "class labels" in words(classes.confusion(Selection.of(plain)))
    assert "no frames yet" in words(classes.confusion(Selection.of(empty)))
    assert "class labels" in words(classes.class_distributions(Selection.of(plain, "error", scores="msp")))
