"""Caches of imported maps have no logits: what can be told is told, and what is left out is named with its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gradunc_viz as gv
from gradunc_viz.metrics.meta import feature_table
from gradunc_viz.schema.errors import GraduncError, UnknownScoreError
from gradunc_viz.tables.paper import segment_table


@pytest.fixture(scope="module")
def imported(tiny_set: Path, tiny_cache: gv.Cache, tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    """Maps of the entropy, with the predictions of the network they came from."""
    folder = tmp_path_factory.mktemp("imported")
    for name in ("maps", "predictions"):
        (folder / name).mkdir()
    for frame in tiny_cache:
        np.save(folder / f"maps/{frame}.npy", gv.score(tiny_cache[frame], "entropy").values)
        Image.fromarray(tiny_cache[frame]["prediction"].values).save(folder / f"predictions/{frame}.png")
    return gv.import_maps(
        folder / "maps",
        gv.open_frames(tiny_set),
        folder / "cache",
        predictions=folder / "predictions",
        classes=tiny_cache.classes,
        progress=False,
    )


def test_segments_have_all_statistics_but_probabilities(imported: gv.Cache, tiny_cache: gv.Cache) -> None:
    ours, theirs = gv.segment_statistics(imported), gv.segment_statistics(tiny_cache, "entropy")
    assert ours.attrs["left_out"] == f"{imported.path}: class probabilities, as it holds imported maps without logits"
    assert theirs.attrs["left_out"] == ""
    for name in theirs.data_vars:
        if str(name).startswith("probability_"):
            assert name not in ours
        elif not str(name).startswith("entropy_"):
            np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["ext:maps_mean"], theirs["entropy_mean"], atol=1e-2)


@pytest.mark.parametrize("scores", ["ext:maps", ["ext:maps"], ("ext:maps", "ext:maps")])
def test_imported_scores_can_be_asked_for(imported: gv.Cache, scores: Any) -> None:
    assert gv.segment_statistics(imported, scores).attrs["scores"] == ["ext:maps"]


def test_what_is_not_there_is_named(imported: gv.Cache) -> None:
    with pytest.raises(UnknownScoreError, match="'ext:other' cannot be computed: its maps are imported"):
        gv.segment_statistics(imported, "ext:other")
    with pytest.raises(GraduncError, match="score 'entropy' is not cached, and there are no logits"):
        gv.segment_statistics(imported, ["ext:maps", "entropy"])
    with pytest.raises(GraduncError, match=r"none of the features probability \(left out: .*without logits\)"):
        feature_table(gv.segment_statistics(imported), "probability")


@pytest.mark.parametrize("meta", [gv.meta_classification, gv.meta_regression])
@pytest.mark.parametrize("features", [None, "external", "ext:maps", ["shape", "ext:maps_mean"]])
def test_meta_classification_learns_from_what_there_is(imported: gv.Cache, meta: Any, features: Any) -> None:
    few = gv.segment_statistics(imported)
    segments = few.isel(segment=np.tile(np.arange(few.sizes["segment"]), 20))
    count, random = segments.sizes["segment"], np.random.default_rng(0)
    segments["frame"] = "segment", np.arange(count).astype(str).astype(object)
    for target in ("iou", "iou_adj"):
        segments[target] = "segment", random.random(count) * (random.random(count) > 0.4)
    found = meta(segments, features, seeds=2, min_interior=0)
    assert any(str(name).startswith("ext:maps") for name in found["feature"].values)
    assert found.attrs["entropy_baseline"] == "absent"
    assert "evaluated" in found["state"].values


def test_the_table_of_segments_says_what_is_left_out(imported: gv.Cache, tiny_cache: gv.Cache) -> None:
    table = segment_table({"theirs": imported, "ours": tiny_cache}, scores=["ext:maps", "entropy"], seeds=1)
    assert sum(note.startswith(f"left out: {imported.path}: class probabilities") for note in table.notes) == 1


def test_every_figure_is_drawn_or_left_out_with_its_reason(imported: gv.Cache, tmp_path: Path) -> None:
    done = gv.figures.figure_set(imported, tmp_path / "figures", format="png", dpi=40, progress=False)
    assert done.files
    for name, reason in done.skipped:
        assert str(imported.path) in reason or imported.name in reason, (name, reason)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_numbers_that_have_no_variance_are_evaluated_and_their_segments_left_out(
    imported: gv.Cache, tiny_set: Path, tmp_path: Path, scale: float
) -> None:
    (tmp_path / "far").mkdir()
    for frame in imported:
        np.save(
            tmp_path / f"far/{frame}.npy", scale * (0.5 + gv.score(imported[frame], "ext:maps").values.astype("f8"))
        )
    frames = gv.open_frames(tiny_set)
    predictions = imported.path.parent / "predictions"
    options = {"predictions": predictions, "classes": imported.classes, "progress": False}
    far = gv.import_maps(tmp_path / "far", frames, tmp_path / "cache", **options)
    here, there = (gv.evaluate(cache, "error", bootstrap=0).isel(cache=0, score=0) for cache in (far, imported))
    for name in ("auroc", "auprc", "fpr95"):
        np.testing.assert_allclose(here[name], there[name], atol=1e-6)
    with pytest.raises(GraduncError, match=r"score 'ext:far' reaches .*variances of it are beyond float64"):
        gv.segment_statistics(far)
