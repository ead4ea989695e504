"""Runs of query models: caches, batches, fits, and whoever reads what they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from query_zoo import CLASSES, OwnQueries
from tiny import TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.explorer.panes.pixel import norm_parts, probability_bars
from gradunc_viz.explorer.state.frame_store import FrameData
from gradunc_viz.metrics.segment_table import segment_statistics
from gradunc_viz.run.compute import compute_report
from gradunc_viz.schema.errors import GraduncError, ModelError
from gradunc_viz.store.cache import Cache

SCORES = "queries,pgn_uni_p2_embedding,pgn_oh_p1_decoder,label_oh_p1,feature_p1"
NAMES = [f"class {number}" for number in range(CLASSES)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> gv.Frames:
    return gv.open_frames(write_set(tmp_path_factory.mktemp("set") / "set", 4))


@pytest.fixture(scope="module")
def cache(frames: gv.Frames, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    out = tmp_path_factory.mktemp("cache") / "cache"
    return gv.compute(OwnQueries(), frames, out, scores=SCORES, progress=False)


def test_a_batch_gives_what_single_frames_give(frames: gv.Frames, cache: Cache, tmp_path: Path) -> None:
    batched = gv.compute(
        OwnQueries(), frames, tmp_path / "b", scores=SCORES, batch=3, input_size=(33, 47), progress=False
    )
    single = gv.compute(OwnQueries(), frames, tmp_path / "s", scores=SCORES, input_size=(33, 47), progress=False)
    for frame_id in single.ids:
        for name in ("head_score", "pixel_score", "logits"):
            one, other = batched[frame_id][name].values, single[frame_id][name].values
            np.testing.assert_allclose(one.astype("f4"), other.astype("f4"), rtol=2e-3, atol=5e-3)
    assert set(gv.evaluate(cache)["score"].values) == set(cache.scores)


def test_the_norm_in_a_cache_is_the_sum_of_its_factors(cache: Cache) -> None:
    norm, label, feature = (gv.score(cache["f00"], name).values for name in ("pgn_oh_p1", "label_oh_p1", "feature_p1"))
    assert np.isfinite(norm).all()
    assert (norm <= label.max() + (-feature).max() + 0.01).all()


def test_half_precision_keeps_the_prediction(frames: gv.Frames, cache: Cache, tmp_path: Path) -> None:
    half = gv.compute(
        OwnQueries(), frames, tmp_path / "h", scores="rba,pgn_oh_p2", autocast="bf16", limit=2, progress=False
    )
    for frame_id in half.ids:
        assert (half[frame_id]["prediction"] == cache[frame_id]["prediction"]).mean() > 0.95
        difference = gv.score(half[frame_id], "pgn_oh_p2") - gv.score(cache[frame_id], "pgn_oh_p2")
        assert float(abs(difference).median()) < 0.1


def test_the_explorer_shows_class_scores(cache: Cache) -> None:
    frame = FrameData(cache["f00"])
    assert frame.of_queries
    scores = frame.probabilities(5, 7)
    assert scores.argmax() == int(frame.prediction[5, 7])
    assert abs(scores.sum() - 1) > 0.01
    assert norm_parts(frame, "pgn_oh_p1", 5, 7) is None
    bars = probability_bars(frame, (5, 7), NAMES, [(0, 0, 0)] * CLASSES, "pgn_oh_p1")
    assert "Class scores S of the queries" in bars
    assert "label part" not in bars


def test_what_is_made_of_class_scores_need_not_be_cached(frames: gv.Frames, cache: Cache, tmp_path: Path) -> None:
    few = gv.compute(OwnQueries(), frames, tmp_path / "few", scores="msp", limit=1, progress=False)["f00"]
    for name in ("max_mask", "rba", "neg_sum", "mask_energy", "entropy"):
        one, other = gv.score(few, name), gv.score(cache["f00"], name)
        np.testing.assert_allclose(one, other, rtol=5e-3, atol=5e-3)
    with pytest.raises(GraduncError, match="'eam' is not in the cache"):
        gv.score(few, "eam")
    ordinary = gv.compute(TinyNet(), frames, tmp_path / "t", scores="msp", limit=1, progress=False)["f00"]
    for name, need in (("rba", "queries"), ("void", "void"), ("odin", "input_grad")):
        with pytest.raises(GraduncError, match=f"'{name}' is not cached, and needs {need} beside the logits"):
            gv.score(ordinary, name)


def test_segments_have_mean_class_scores(cache: Cache) -> None:
    table = segment_statistics(cache, "rba", frames=["f00"])
    assert table["probability_0"].attrs["long_name"] == "mean class score S of class 0"
    total = sum(table[f"probability_{number}"].values for number in range(CLASSES))
    assert abs(total - 1).max() > 0.01


@pytest.mark.filterwarnings("ignore:score '")  # few classes are predicted
def test_fitted_scores_read_the_pixel_embeddings(frames: gv.Frames, tmp_path: Path) -> None:
    names = "mahalanobis,mahalanobis_rel,knn_k3,neco,sml"
    fit = gv.fit(OwnQueries(), frames[:3], scores=names, pixels=500, progress=False)
    cache = gv.compute(OwnQueries(), frames[3:], tmp_path / "f", scores=names, fit=fit, progress=False)
    assert all(np.isfinite(gv.score(cache["f03"], name)).all() for name in names.split(","))
    for name in ("vim", "gradorth"):
        with pytest.raises(GraduncError, match=f"score '{name}' has no meaning for a query model: .* kernel"):
            gv.fit(OwnQueries(), frames[:3], scores=name, pixels=100, progress=False)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ("void,vim", "score 'void' has no meaning for a query model"),
        ("msp,vim", "score 'vim' has no meaning for a query model: .* kernel"),
        ("mcd", "classes and masks of queries, .*: passes of .* have no mean softmax"),
    ],
)
def test_what_a_query_model_never_has_is_not_asked_for(
    frames: gv.Frames, tmp_path: Path, scores: str, reason: str
) -> None:
    with pytest.raises(GraduncError, match=reason):
        gv.compute(OwnQueries(), frames, tmp_path / "c", scores=scores, progress=False)
    with pytest.raises(GraduncError, match="a fit is needed"):
        gv.compute(OwnQueries(), frames, tmp_path / "c", scores="knn", progress=False)
    assert not (tmp_path / "c").exists()


def test_the_uniform_norm_is_told_by_its_right_name(frames: gv.Frames, tmp_path: Path) -> None:
    report = compute_report(OwnQueries(), frames[:1], tmp_path / "c", scores="pgn_uni_p0.5,msp", progress=False)
    assert report.remarks[-1] == (
        "for query models a large uniform norm means uncertain, and pgn_uni_p0.5 assumes the opposite; the right name "
        "is pgn_uni_p0.5_masks"
    )


def test_what_knows_nothing_of_queries_says_so() -> None:
    with pytest.raises(ModelError, match="OwnQueries returns classes and masks of queries, which a ScoredModel"):
        gv.ScoredModel(OwnQueries(), "msp", example=torch.rand(1, 3, 16, 16))


def test_a_frame_whose_masks_are_nan_is_named(frames: gv.Frames, tmp_path: Path) -> None:
    net = OwnQueries()
    net.embed[2].bias.data[0] = torch.nan
    with pytest.raises(GraduncError, match=r"frame 'f00': \d+ of \d+ logits are NaN"):
        gv.compute(net, frames, tmp_path / "n", scores="msp", progress=False)


def test_windows_say_what_the_whole_image_says(tmp_path: Path) -> None:
    net = OwnQueries()
    net.context.weight.data.zero_()  # queries that are the same for every window
    frames = gv.open_frames(write_set(tmp_path / "set", 1, ((64, 80),)))
    settings = gv.Settings(scores=SCORES)
    whole = gv.compute(net, frames, tmp_path / "w", settings, progress=False)["f00"]
    tiled = gv.compute(net, frames, tmp_path / "t", settings, tile=(32, 48), overlap=16, progress=False)["f00"]
    assert tiled.attrs["logits_are"] == whole.attrs["logits_are"]
    for name in ("head_score", "pixel_score", "logits", "prediction"):
        np.testing.assert_allclose(
            tiled[name].values.astype("f4"), whole[name].values.astype("f4"), rtol=2e-3, atol=5e-3
        )
    with pytest.raises(GraduncError, match="'gradnorm' has no meaning for a query model"):
        gv.compute(net, frames, tmp_path / "x", scores="gradnorm", tile=(32, 48), progress=False)
