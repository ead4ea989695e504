"""Charts draw what the metrics say: lines, bars and matrices are held against the functions that compute them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from tiny import SCORES

import gradunc_viz as gv
from gradunc_viz import figures
from gradunc_viz.figures.curves import LEAST_RECALL
from gradunc_viz.metrics.distributions import score_distributions
from gradunc_viz.schema.errors import GraduncError


def line(axis: Axes, gid: str) -> np.ndarray:
    return np.array(next(found for found in axis.lines if found.get_gid() == gid).get_xydata())


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_roc_draws_every_threshold(tiny_cache: gv.Cache, task: str) -> None:
    axis = figures.roc(tiny_cache, task).axes[0]
    curves = gv.threshold_curves(tiny_cache, task, "roc")
    for score in SCORES:
        one = curves.sel(score=score).dropna("point")
        np.testing.assert_array_equal(line(axis, score), np.stack([one["fpr"], one["tpr"]], 1))
    assert {"error": "wrong prediction", "anomaly": "unknown object"}[task] in axis.get_ylabel()


def test_pr_leaves_out_what_jumps_and_shows_chance(tiny_cache: gv.Cache) -> None:
    axis = figures.pr(tiny_cache, "error").axes[0]
    curves = gv.threshold_curves(tiny_cache, "error", "pr")
    for score in SCORES:
        one = curves.sel(score=score).dropna("point")
        expected = np.stack([one["recall"], one["precision"]], 1)
        np.testing.assert_array_equal(line(axis, score), expected[expected[:, 0] >= LEAST_RECALL])
    assert set(line(axis, "chance")[:, 1]) == {curves.attrs["positive_rate"]}


@pytest.mark.parametrize(("draw", "metric"), [(figures.roc, "auroc"), (figures.pr, "auprc")])
def test_legend_ranks_scores_honestly(tiny_cache: gv.Cache, draw, metric: str) -> None:
    figure = draw(tiny_cache, "error")
    values = [float(text.get_text().split()[-1]) for text in figure.legends[0].get_texts()]
    found = gv.evaluate(tiny_cache, "error", bootstrap=0)[metric].sel(pooling="pixels").values.ravel()
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values, np.sort(100 * found)[::-1], atol=0.051)


def test_logarithmic_axis_starts_where_something_is_found(tiny_cache: gv.Cache) -> None:
    axis = figures.roc(tiny_cache, "error", log_x=True).axes[0]
    low, high = axis.get_xlim()
    curves = gv.threshold_curves(tiny_cache, "error", "roc")
    fpr, tpr = curves["fpr"].values, curves["tpr"].values
    assert axis.get_xscale() == "log"
    assert low <= fpr[(tpr >= 0.01) & (fpr > 0)].min()
    assert high == 1


@pytest.mark.parametrize("error", ["brier", "error_rate"])
def test_sparsification_draws_curve_and_oracle(tiny_cache: gv.Cache, error: str) -> None:
    axis = figures.sparsification(tiny_cache, error=error).axes[0]
    result = gv.sparsification(tiny_cache).isel(cache=0).sel(error=error)
    for score in SCORES:
        np.testing.assert_array_equal(line(axis, score)[:, 1], result["curve"].sel(score=score))
    np.testing.assert_array_equal(line(axis, "oracle")[:, 1], result["oracle"])


def test_reliability_draws_accuracy_gap_and_counts(tiny_cache: gv.Cache) -> None:
    axis = figures.reliability(tiny_cache, bins=10).axes[0]
    result = gv.calibration(tiny_cache, bins=10).isel(cache=0)
    used = result["pixels"].values > 0
    accuracy, gap = (next(c for c in axis.containers if c[0].get_gid() == gid) for gid in ("accuracy", "gap"))
    np.testing.assert_array_equal([bar.get_height() for bar in accuracy], result["accuracy"].values[used])
    expected = np.abs(result["accuracy"] - result["confidence"]).values[used]
    np.testing.assert_allclose([bar.get_height() for bar in gap], expected)
    (counts,) = axis.child_axes
    np.testing.assert_allclose([bar.get_height() for bar in counts.patches], result["pixels"] / result["pixels"].sum())
    text = next(t.get_text() for t in axis.texts if t.get_gid() == "ece")
    assert f"ECE {100 * float(result['ece']):.1f} %" in text


def test_distributions_draw_shares_and_medians(tiny_cache: gv.Cache) -> None:
    figure = figures.distributions(tiny_cache, "error", scores="entropy", min_pixels=1)
    axis = figure.axes[0]
    found = score_distributions(tiny_cache, "error", scores="entropy").isel(score=0)
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == [str(n) for n in found["class"].values[found["pixels"].values.any(1)]]
    for row, name in enumerate(names):
        for group, side in (("right", -1), ("wrong", +1)):
            own = found.sel({"class": name, "outcome": group})
            assert int(own["pixels"]) > 0
            patch = next(p for p in axis.patches if p.get_gid() == f"{name}:{group}")
            values, edges, baseline = patch.get_data()
            share = own["share"].values
            np.testing.assert_allclose((values - row) * side, 0.46 * share / share.max())
            np.testing.assert_array_equal(edges, found["edges"])
            assert baseline == row
            assert line(axis, f"{name}:{group}:median")[0, 0] == float(own["quantiles"].sel(quantile=0.5))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["right", "wrong"]


def test_confusion_shows_shares_of_the_label(tiny_cache: gv.Cache) -> None:
    figure = figures.confusion(tiny_cache)
    axis = figure.axes[0]
    counts = gv.segmentation(tiny_cache)["confusion"].values
    share = 100 * counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(axis.images[0].get_array(), share)
    assert {t.get_position(): t.get_text() for t in axis.texts} == {
        (c, r): f"{share[r, c]:.0f}" for r in range(4) for c in range(4) if share[r, c] >= 0.5
    }
    two = figures.confusion(tiny_cache, classes=tiny_cache.classes[2:])
    np.testing.assert_allclose(two.axes[0].images[0].get_array(), share[2:, 2:])


@pytest.mark.parametrize("metric", ["auroc", "auprc", "fpr95", "f1"])
def test_bars_and_intervals(tiny_cache: gv.Cache, metric: str) -> None:
    axis = figures.metric_bars(tiny_cache, metric, "error", bootstrap=30).axes[0]
    result = 100 * gv.evaluate(tiny_cache, "error", bootstrap=30).isel(cache=0).sel(pooling="pixels")
    np.testing.assert_allclose([p.get_width() for p in axis.patches], result[metric])
    (_, _, (bars,)) = next(c for c in axis.containers if c.get_label() == "" or (hasattr(c, "has_xerr") and c.has_xerr))
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends[:, 0], np.minimum(result[metric + "_low"], result[metric]))
    np.testing.assert_allclose(ends[:, 1], np.maximum(result[metric + "_high"], result[metric]))
    assert line(axis, "entropy")[0, 0] == float(result[metric].sel(score="entropy"))


def test_sorted_bars_put_the_best_first(tiny_cache: gv.Cache) -> None:
    for metric, sign in (("auroc", 1), ("fpr95", -1)):
        axis = figures.metric_bars(tiny_cache, metric, "error", bootstrap=0, sort=True).axes[0]
        widths = sign * np.array([p.get_width() for p in axis.patches])
        assert (np.diff(widths) <= 0).all()
        assert not axis.collections


def test_p_ablation_has_a_line_per_label_and_formula(tiny_cache: gv.Cache) -> None:
    axis = figures.p_ablation(tiny_cache, "auroc", "error", bootstrap=10).axes[0]
    result = 100 * gv.evaluate(tiny_cache, "error", bootstrap=0)["auroc"].isel(cache=0).sel(pooling="pixels")
    names = {"oh:exact": ["pgn_oh_p0.1", "pgn_oh_p1"], "uni:exact": ["pgn_uni_p0.5"], "uni:paper": ["pgn_uni_p2_paper"]}
    for gid, scores in names.items():
        np.testing.assert_allclose(line(axis, gid)[:, 1], result.sel(score=scores))
    for level in ("entropy", "msp"):
        assert line(axis, level)[0, 1] == float(result.sel(score=level))
    assert list(axis.xaxis.get_major_locator().locs) == [0.1, 0.5, 1, 2]


@pytest.fixture(scope="module")
def turned(tiny_set: Path, tiny_cache: gv.Cache, tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    """Two methods of long names, the second of which stands on the wrong side."""
    folder, random = tmp_path_factory.mktemp("turned"), np.random.default_rng(0)
    maps = {}
    for name, shift in (("right", 0.3), ("wrong", -0.3)):
        maps[f"a_method_that_stands_on_the_{name}_side_of_things"] = folder / name
        (folder / name).mkdir()
        for frame in tiny_cache:
            unknown = tiny_cache[frame]["anomaly"].values == 1
            np.save(folder / f"{name}/{frame}.npy", random.random(unknown.shape) + shift * unknown)
    return gv.import_maps(maps, gv.open_frames(tiny_set), folder / "cache", progress=False)


RIGHT, WRONG = (f"ext:a_method_that_stands_on_the_{name}_side_of_things" for name in ("right", "wrong"))


def lines_of(text: str) -> str:
    return text.replace("\n", "")


def test_bars_mark_scores_on_the_wrong_side_and_draw_them_turned_round(turned: gv.Cache) -> None:
    for metric in ("auroc", "auprc", "fpr95"):
        axis = figures.metric_bars(turned, metric, "anomaly", bootstrap=20).axes[0]
        found = gv.evaluate(turned, "anomaly", bootstrap=20).isel(cache=0).sel(pooling="pixels", score=WRONG)
        np.testing.assert_allclose(
            line(axis, "turned"), [[100 * float(found[f"{metric}_turned"]), axis.get_yticks()[1]]]
        )
        right, wrong = (lines_of(text.get_text()) for text in axis.get_yticklabels())
        assert right == RIGHT[4:]
        assert wrong == WRONG[4:] + r"$^\dagger$"
        assert "AuROC < 50 %" in axis.get_xlabel()
    axis = figures.metric_bars(turned, "auroc", "anomaly", scores=RIGHT, bootstrap=0).axes[0]
    assert "AuROC <" not in axis.get_xlabel()


@pytest.mark.parametrize(("draw", "metric"), [(figures.roc, "auroc"), (figures.pr, "auprc")])
def test_curves_mark_scores_on_the_wrong_side(turned: gv.Cache, draw, metric: str) -> None:
    figure = draw(turned, "anomaly")
    own = gv.evaluate(turned, "anomaly", bootstrap=0).isel(cache=0).sel(pooling="pixels", score=WRONG)
    right, wrong = (lines_of(text.get_text()) for text in figure.legends[0].get_texts())
    assert right.startswith(f"{RIGHT[4:]}  ")
    value, other = 100 * float(own[metric]), 100 * float(own[f"{metric}_turned"])
    assert wrong == rf"{WRONG[4:]}$^\dagger$ (turned {other:.1f})  {value:.1f}"


def test_distributions_and_panels_mark_scores_on_the_wrong_side(turned: gv.Cache) -> None:
    figure = figures.distributions(turned, "anomaly", scores=[RIGHT, WRONG], min_pixels=1)
    assert [lines_of(axis.get_xlabel()) for axis in figure.axes] == [RIGHT[4:], WRONG[4:] + r"$^\dagger$"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["all"]
    titles = [lines_of(axis.get_title()) for axis in figures.panel(turned).axes]
    assert [title for title in titles if title][:4] == ["image", "label", RIGHT[4:], WRONG[4:] + r"$^\dagger$"]
    failures = figures.gallery(turned, "false_alarms", score=WRONG, task="anomaly")
    assert any(rf"{WRONG[4:]}$^\dagger$" in text.get_text() for text in failures.texts)


def test_p_ablation_draws_norms_on_the_wrong_side_turned_round(
    tiny_cache: gv.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradunc_viz.figures import bars

    def turned(*args, **options):
        found = gv.evaluate(*args, **options)
        found["wrong_side"].loc[{"score": "pgn_oh_p1"}] = True
        found["auroc_turned"].loc[{"score": "pgn_oh_p1"}] = 0.75
        return found

    monkeypatch.setattr(bars, "evaluate", turned)
    axis = figures.p_ablation(tiny_cache, "auroc", "error", bootstrap=0).axes[0]
    np.testing.assert_allclose(line(axis, "oh:exact:turned")[:, 1], 75)
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()].count("AuROC below 50 %, turned round") == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", ["cvpr-single", "cvpr-double"])
def test_long_names_fit_their_figures(turned: gv.Cache, width: str) -> None:
    for draw in (figures.roc, figures.pr, figures.metric_bars):
        figure = draw(turned, task="anomaly", width=width)
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert box.x0 >= -0.02
        assert box.x1 <= figure.get_figwidth() + 0.02
        assert box.y0 >= -0.02


def test_meta_scatter_draws_the_tested_segments(tiny_cache: gv.Cache) -> None:
    result = gv.meta_regression(gv.segment_statistics(tiny_cache, "entropy"), seeds=2, test_size=0.5)
    axis = figures.meta_scatter(result, seed=1).axes[0]
    own = result["test_seed"].values == 1
    expected = [result["test_truth"].values[own], result["test_predicted"].sel(estimator="model").values[own]]
    np.testing.assert_allclose(axis.collections[0].get_offsets(), np.stack(expected, 1))
    with pytest.raises(GraduncError, match="seed 7"):
        figures.meta_scatter(result, seed=7)
    with pytest.raises(GraduncError, match="meta_regression"):
        figures.meta_scatter(gv.meta_classification(gv.segment_statistics(tiny_cache, "entropy"), seeds=1))


@pytest.mark.parametrize(
    "draw",
    [figures.roc, figures.pr, figures.sparsification, figures.reliability, figures.metric_bars, figures.p_ablation],
)
def test_caches_stand_side_by_side(tiny_cache: gv.Cache, draw) -> None:
    figure = draw({"one $x$": tiny_cache, "two": tiny_cache})
    titles = [a.get_title() or a.child_axes[0].get_title() for a in figure.axes]
    assert titles == [r"one \$x\$", "two"]


@pytest.mark.parametrize("draw", [figures.roc, figures.pr, figures.sparsification, figures.p_ablation])
def test_own_axes_are_drawn_on_as_they_are(tiny_cache: gv.Cache, draw) -> None:
    own, axis = plt.subplots()
    try:
        size, font = own.get_size_inches().tolist(), axis.xaxis.label.get_fontsize()
        assert draw(tiny_cache, ax=axis) is own
        assert axis.lines
        assert own.get_size_inches().tolist() == size
        assert axis.xaxis.label.get_fontsize() == font
        with pytest.raises(GraduncError, match="ax holds 1 Axes; expected 2"):
            draw({"a": tiny_cache, "b": tiny_cache}, ax=axis)
    finally:
        plt.close(own)


def test_scores_look_the_same_in_every_figure(tiny_cache: gv.Cache) -> None:
    roc, sparse = (f(tiny_cache).axes[0] for f in (figures.roc, figures.sparsification))
    for axis in (roc, sparse):
        for found in axis.lines:
            if found.get_gid() in SCORES:
                look = figures.score_style(found.get_gid())
                assert (found.get_color(), found.get_marker()) == (look["color"], look["marker"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: figures.roc(c, "nothing"), "unknown task 'nothing'"),
        (lambda c: figures.roc(c, scores="margin"), "'margin' is not cached"),
        (lambda c: figures.roc(c, frames=["nope"]), "no frame 'nope'"),
        (lambda c: figures.roc(c, classes=["nope"]), "no class 'nope'"),
        (lambda c: figures.roc(c, width="a4"), "unknown width 'a4'"),
        (lambda c: figures.roc(c, width=0.1), "0.5 to 60 inches"),
        (lambda c: figures.metric_bars(c, "iou"), "unknown metric 'iou'"),
        (lambda c: figures.metric_bars(c, pooling="mean"), "pooling is 'mean'"),
        (lambda c: figures.sparsification(c, error="mse"), "error is 'mse'"),
        (lambda c: figures.confusion(c, classes=["nope"]), "no class 'nope'"),
        (lambda c: figures.distributions(c, scores="margin"), "'margin' is not cached"),
    ],
)
def test_errors_name_the_value(tiny_cache: gv.Cache, call, message: str) -> None:
    with pytest.raises(GraduncError, match=message):
        call(tiny_cache)


def test_figures_keep_no_state(tiny_cache: gv.Cache) -> None:
    before = dict(plt.rcParams)
    figure = figures.roc(tiny_cache)
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []
    assert isinstance(figure, matplotlib.figure.Figure)


def test_plots_side_by_side_keep_their_height_above_a_long_legend(tiny_cache: gv.Cache) -> None:
    two = {"one": tiny_cache, "other": tiny_cache}
    for figure in (figures.roc(two, "error", width=2), figures.sparsification(two, width=2)):
        figure.draw_without_rendering()
        for axis in figure.axes:
            assert axis.get_window_extent().height / figure.dpi > 0.35
