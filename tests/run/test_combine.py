"""Scores made of others: against scipy and scikit-learn on all pixels, never fitted on what they are applied to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from exact import exact_metrics
from PIL import Image
from scipy.special import expit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from tiny import SCORES, TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.run import combine as module
from gradunc_viz.schema.errors import (
    CacheError,
    CacheMismatchError,
    GraduncError,
    SettingsError,
    UnknownScoreError,
)
from gradunc_viz.schema.scores import lookup, resolve_scores
from gradunc_viz.schema.tasks import TASKS
from gradunc_viz.store.choice import Selection
from gradunc_viz.store.writer import CacheWriter

PARTS = ("entropy", "pgn_oh_p1")
LOGISTIC = "logistic:entropy+pgn_oh_p1"
RANK = "rank:entropy+pgn_oh_p1"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A cache of four frames, to be copied."""
    folder = tmp_path_factory.mktemp("combine")
    frames = gv.open_frames(write_set(folder / "set"))
    gv.compute(TinyNet().eval(), frames, folder / "cache", scores=SCORES, progress=False)
    return folder / "cache"


@pytest.fixture
def cache(original, tmp_path) -> gv.Cache:
    return gv.open_cache(shutil.copytree(original, tmp_path / "cache"))


def combined(cache, *args, **options) -> gv.Cache:
    return gv.combine(cache, *args, progress=False, **options)


def maps(cache: gv.Cache, frame: str) -> np.ndarray:
    return np.stack([gv.score(cache[frame], name).values.ravel() for name in PARTS])


def folds_of(cache: gv.Cache, task: str, folds: int) -> dict[str, int]:
    chosen = Selection.of(cache, task)
    return module._dealt(chosen, chosen.labelled, folds, 0)


def ranks(fitted: np.ndarray, values: np.ndarray) -> np.ndarray:
    below, upto = (np.searchsorted(np.sort(fitted), values, side) for side in ("left", "right"))
    return (below + upto) / 2 / len(fitted)


def test_ranks_are_those_among_other_folds(cache):
    now = combined(cache, PARTS, "rank", folds=3)
    assert now.scores == (*cache.scores, RANK)
    fold = folds_of(cache, "anomaly", 3)
    assert sorted(fold.values()) == [0, 0, 1, 2]
    for frame in now.ids:
        others = np.concatenate([maps(cache, other) for other in cache.ids if fold[other] != fold[frame]], 1)
        wanted = np.mean([ranks(f, v) for f, v in zip(others, maps(cache, frame), strict=True)], axis=0)
        np.testing.assert_allclose(gv.score(now[frame], RANK).values.ravel(), wanted, atol=1e-6)


def test_a_rank_needs_no_label(tmp_path):
    frames = gv.open_frames(write_set(tmp_path / "set", 3, labels=False, anomalies=False))
    cache = gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores=PARTS, progress=False)
    now = combined(cache, PARTS, "rank")
    assert 0 < float(gv.score(now[0], RANK).min()) < float(gv.score(now[0], RANK).max()) < 1
    with pytest.raises(GraduncError, match="holds 0 frames with class labels; expected two or more"):
        combined(cache, PARTS, "logistic")


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_logistic_is_that_of_scikit_learn_on_all_pixels(cache, task):
    now = combined(cache, PARTS, "logistic", folds=3, task=task)  # more pixels asked for than there are
    fold = folds_of(cache, task, 3)
    for frame in now.ids[:2]:
        others = [other for other in cache.ids if fold[other] != fold[frame]]
        whole = [maps(cache, other) for other in others]
        fitted = np.concatenate(whole, 1)
        mask = {"error": "label", "anomaly": "anomaly"}[task]
        ids = np.concatenate([cache[other][mask].values.ravel() for other in others])
        predicted = np.concatenate([cache[other]["prediction"].values.ravel() for other in others])
        known = ids != 255
        truth = (ids != predicted if task == "error" else ids == 1)[known]

        def quantiles(values, fitted=fitted):
            end = 0.5 / fitted.shape[1]
            return np.stack([norm.ppf(ranks(f, v).clip(end, 1 - end)) for f, v in zip(fitted, values, strict=True)], 1)

        model = LogisticRegression(max_iter=1000).fit(quantiles(fitted[:, known]), truth)
        wanted = expit(quantiles(maps(cache, frame)) @ model.coef_[0] + model.intercept_[0])
        np.testing.assert_allclose(gv.score(now[frame], LOGISTIC).values.ravel(), wanted, atol=2e-3)
        assert abs(wanted.mean() - truth.mean()) < 0.05  # a probability


def test_drawn_pixels_stand_for_all():
    random = np.random.default_rng(0)
    found = random.random(20_000) < 0.02
    values = random.standard_normal((2, 20_000)) + found
    drawn = module._drawn(values, found, np.ones_like(found), 200, random)
    assert drawn.positive.sum() == (~drawn.positive).sum() == 200
    assert drawn.weight[drawn.positive].sum() == pytest.approx(found.sum())
    assert drawn.weight.sum() == pytest.approx(20_000)
    few = LogisticRegression().fit(drawn.values, drawn.positive, drawn.weight / drawn.weight.mean())
    whole = LogisticRegression().fit(values.T, found)
    assert few.intercept_[0] == pytest.approx(whole.intercept_[0], abs=0.4)
    np.testing.assert_allclose(few.coef_, whole.coef_, atol=0.4)


def test_a_map_never_saw_the_labels_of_its_frame(original, tmp_path):
    first = gv.open_cache(shutil.copytree(original, tmp_path / "one"))
    source = original.parent / "set"
    changed = shutil.copytree(source, tmp_path / "set")
    labels = changed / "anomalies" / "f01.png"
    ids = np.array(Image.open(labels))
    Image.fromarray(np.where(ids < 2, 1 - ids, ids).astype("u1")).save(labels)
    other = gv.compute(TinyNet().eval(), gv.open_frames(changed), tmp_path / "two", scores=SCORES, progress=False)
    before, after = (combined(one, PARTS, "logistic") for one in (first, other))
    assert np.array_equal(*(gv.score(one["f01"], LOGISTIC) for one in (before, after)))
    assert not np.allclose(*(gv.score(one["f02"], LOGISTIC) for one in (before, after)), atol=1e-4)


def test_only_the_order_of_a_score_matters(tmp_path):
    frames = gv.open_frames(write_set(tmp_path / "set", 3))
    random = np.random.default_rng(0)
    values = {frame.id: random.standard_normal((2, *frame.image.shape[:2])) for frame in frames}
    folders = {}
    for name, change in (("a", lambda v: v[0]), ("b", lambda v: v[1]), ("c", lambda v: np.exp(3 * v[1]))):
        (tmp_path / name).mkdir()
        for frame_id, own in values.items():
            np.save(tmp_path / name / f"{frame_id}.npy", change(own).astype("f4"))
        folders[name] = tmp_path / name
    cache = gv.import_maps(folders, frames, tmp_path / "cache", progress=False)
    for how in ("rank", "logistic"):
        cache = combined(combined(cache, "ext:a,ext:b", how), "ext:a,ext:c", how)
        one, two = (gv.score(cache[0], f"{how}:ext:a+ext:{name}").values for name in "bc")
        np.testing.assert_allclose(one, two, atol=1e-6)
    # further maps come beside them, and the import is resumed
    (tmp_path / "d").mkdir()
    for frame_id, own in values.items():
        np.save(tmp_path / "d" / f"{frame_id}.npy", own[0].astype("f4"))
    before = gv.score(cache[1], "rank:ext:a+ext:b").values
    for _ in range(2):
        cache = gv.import_maps(tmp_path / "d", frames, tmp_path / "cache", progress=False)
    assert cache.scores[-1] == "ext:d"
    assert len(cache.scores) == 8
    assert np.array_equal(gv.score(cache[1], "rank:ext:a+ext:b").values, before)
    assert combined(cache, "ext:a,ext:b", "rank").scores == cache.scores
    assert gv.evaluate(cache, "anomaly", bootstrap=0)["auroc"].sel(pooling="pixels").notnull().all()


def test_frames_without_labels_get_what_all_others_fit(tmp_path):
    folder = write_set(tmp_path / "set", 5)
    (folder / "anomalies" / "f04.png").unlink()
    cache = gv.compute(TinyNet().eval(), gv.open_frames(folder), tmp_path / "cache", scores=PARTS, progress=False)
    now = combined(cache, PARTS, "logistic", task="anomaly")
    fit = module._Fit.of(
        module._Plan("logistic", PARTS, 5, 0, "anomaly", 100_000, ""),
        Selection.of(cache, "anomaly", scores=PARTS),
        False,
    )
    assert set(fit.fold) == {"f00", "f01", "f02", "f03"}
    assert sorted(fit.models) == [-1, 0, 1, 2, 3]
    np.testing.assert_allclose(gv.score(now["f04"], LOGISTIC), fit.combined(cache["f04"]), atol=1e-6)


# --------------------------------------------------------------------------------------------------------------------
# a score like any other


def test_what_was_there_stays_and_counts_are_those_of_the_map(cache):
    before = {frame: cache[frame].load() for frame in cache.ids}
    now = combined(combined(cache, PARTS, "rank"), PARTS, "logistic", task="error")
    for frame, old in before.items():
        new = now[frame].load()
        assert set(new.variables) == set(old.variables)
        for name, variable in old.variables.items():
            found = new[name].isel(score=slice(0, len(SCORES))) if "score" in variable.dims else new[name]
            if name not in ("score_pixel", "pixel_score"):
                assert found.dtype == variable.dtype
            if name == "pixel_score":
                found = found.isel(score_pixel=slice(0, variable.shape[0]))
            if name != "score_pixel":
                inner = tuple(slice(0, size) for size in variable.shape)
                if "bin" in variable.dims:  # the last bin stays the last
                    np.testing.assert_array_equal(found.values[..., -1], variable.values[..., -1])
                    inner = (*inner[:-1], slice(0, variable.shape[-1] - 1))
                np.testing.assert_array_equal(found.values[inner], variable.values[inner])
        values = gv.score(new, RANK).values
        assert float(new["score_mean"].sel(score=RANK)) == pytest.approx(float(values.mean()), abs=1e-6)
        np.testing.assert_allclose(
            new["score_quantile"].sel(score=RANK), np.quantile(values, new["quantile"]), atol=1e-4
        )
        gv.validate(now[frame])
    for task in ("error", "anomaly"):
        table = gv.evaluate(now, task, bootstrap=0, scores=[RANK, LOGISTIC]).sel(pooling="pixels").isel(cache=0)
        for name in (RANK, LOGISTIC):
            truth = [TASKS[task].truth(now[frame]) for frame in now.ids]
            values = np.concatenate([gv.score(now[f], name).values[t[1]] for f, t in zip(now.ids, truth, strict=True)])
            exact = exact_metrics(values, np.concatenate([found[counted] for found, counted in truth]))
            for metric in ("auroc", "auprc", "fpr95"):
                assert table[metric].sel(score=name).item() == pytest.approx(exact[metric], abs=1e-4)
    brier = gv.sparsification(now, scores=["entropy", RANK])["ause"].sel(error="brier")
    assert brier.notnull().all()


def test_a_cache_may_have_got_a_score_since_it_was_opened(cache):
    combined(cache, PARTS, "rank")
    now = combined(cache, PARTS, "logistic", task="error")
    assert {RANK, LOGISTIC} <= set(now.scores)


def test_it_is_tabulated_drawn_and_exported(cache, tmp_path):
    now = combined(cache, PARTS, "logistic")
    assert LOGISTIC in gv.tables.evaluation_table(gv.evaluate(now, bootstrap=5)).to_markdown()
    gv.figures.save(gv.figures.roc(now, scores=[LOGISTIC, "entropy"]), tmp_path / "roc.svg")
    gv.figures.save(gv.figures.panel(now, columns=("image", LOGISTIC)), tmp_path / "panel.png")
    assert len(gv.write_submission(now, LOGISTIC, tmp_path / "out", progress=False)) == len(now)
    assert gv.segment_statistics(now, ["entropy", LOGISTIC]).sizes["segment"] > 0
    assert LOGISTIC in gv.open_cache(now.path).summary["score"].values


def test_a_name_of_ones_own(cache, monkeypatch):
    from gradunc_viz.schema import scores as registry

    monkeypatch.setattr(registry, "SCORES", dict(registry.SCORES))
    now = combined(cache, PARTS, "logistic", name="both")
    assert now.scores[-1] == "both"
    assert combined(now, PARTS, "logistic", name="both").scores == now.scores
    monkeypatch.setattr(registry, "SCORES", {n: s for n, s in registry.SCORES.items() if n != "both"})
    assert gv.open_cache(now.path).scores[-1] == "both"
    assert (lookup("both").family, lookup("both").parts, lookup("both").upper) == ("combined", PARTS, "1")
    with pytest.raises(UnknownScoreError, match="'both' cannot be computed from a network: it is made of the maps"):
        resolve_scores("both")
    with pytest.raises(UnknownScoreError, match="a combined score cannot be called 'both': this is sigma"):
        combined(now, ("entropy", "msp"), "rank", name="both")


# --------------------------------------------------------------------------------------------------------------------
# resuming


def test_a_killed_run_is_resumed_by_the_same_call(cache, original, tmp_path, monkeypatch):
    whole = combined(gv.open_cache(shutil.copytree(original, tmp_path / "whole")), PARTS, "logistic")
    commit, done = CacheWriter.commit, []

    def dying(self, dataset, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(dataset.attrs["frame_id"])
        return commit(self, dataset, *rest)

    monkeypatch.setattr(CacheWriter, "commit", dying)
    with pytest.raises(KeyboardInterrupt):
        combined(cache, PARTS, "logistic")
    between = gv.open_cache(cache.path)
    assert between.scores == SCORES
    gv.evaluate(between, bootstrap=2)  # still whole
    done.clear()
    monkeypatch.setattr(CacheWriter, "commit", lambda self, dataset, *rest: bool(done.append(0)) or commit(
        self, dataset, *rest
    ))  # fmt: skip
    now = combined(between, PARTS, "logistic")
    assert len(done) == len(cache) - 2
    for frame in now.ids:
        assert now[frame].identical(whole[frame])


def test_frames_of_another_plan_are_made_anew(cache, original, tmp_path, monkeypatch):
    whole = combined(gv.open_cache(shutil.copytree(original, tmp_path / "whole")), PARTS, "rank", folds=2)
    commit = CacheWriter.commit
    monkeypatch.setattr(CacheWriter, "put_key", lambda *_: (_ for _ in ()).throw(CacheError("full")))
    with pytest.raises(CacheError, match="full"):
        combined(cache, PARTS, "rank", folds=3)
    monkeypatch.undo()
    assert CacheWriter.commit is commit
    now = combined(gv.open_cache(cache.path), PARTS, "rank", folds=2)
    for frame in now.ids:
        assert np.array_equal(gv.score(now[frame], RANK), gv.score(whole[frame], RANK))
        assert now[frame].attrs["combined"] == whole[frame].attrs["combined"]
    found, wanted = (gv.evaluate({"one": one}, bootstrap=0, scores=RANK) for one in (now, whole))
    assert found.equals(wanted)


def test_a_cache_that_another_run_changes_is_told(cache, tmp_path, monkeypatch):
    commit = CacheWriter.commit

    def beside(self, dataset, *rest):
        new = commit(self, dataset, *rest)
        if dataset.attrs["frame_id"] == "f03":
            extra = dataset.assign_attrs(frame_id="f99", combined={})
            commit(self, extra, *rest)
        return new

    monkeypatch.setattr(CacheWriter, "commit", beside)
    with pytest.raises(CacheError, match="is being changed by another run; combine again"):
        combined(cache, PARTS, "rank")


# --------------------------------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize(
    ("scores", "options", "error", "says"),
    [
        (("entropy",), {}, SettingsError, "scores are entropy; expected two or more different ones"),
        (("entropy", "entropy"), {}, SettingsError, "expected two or more"),
        (PARTS, {"how": "sum"}, SettingsError, "how is 'sum'; expected one of rank, logistic"),
        (PARTS, {"folds": 1}, SettingsError, "folds is 1; expected a whole number of 2 or more"),
        (PARTS, {"folds": 2.5}, SettingsError, "folds is 2.5"),
        (PARTS, {"how": "logistic", "pixels": 0}, SettingsError, "pixels is 0; expected a whole number of 1 or more"),
        (PARTS, {"seed": -1}, SettingsError, "seed is -1"),
        (PARTS, {"task": "moon"}, GraduncError, "unknown task 'moon'"),
        (("entropy", "energy"), {}, UnknownScoreError, "score 'energy' is not cached; it has"),
        (PARTS, {"name": "a b"}, UnknownScoreError, "a combined score cannot be called 'a b'; expected 1 to 64"),
        (PARTS, {"name": "msp"}, UnknownScoreError, "a combined score cannot be called 'msp': this is 1 - max"),
    ],
)
def test_what_makes_no_sense_is_refused(cache, scores, options, error, says):
    with pytest.raises(error, match=says):
        combined(cache, scores, **options)
    assert gv.open_cache(cache.path).scores == SCORES


def test_the_same_name_for_something_else_is_refused(cache):
    now = combined(cache, PARTS, "rank")
    assert combined(now, PARTS[::-1], "rank").scores == now.scores
    with pytest.raises(CacheMismatchError, match="was combined differently: folds was 5, now 3; give it another name"):
        combined(now, PARTS, "rank", folds=3)
    with pytest.raises(UnknownScoreError, match=r"score 'rank:entropy\+pgn_oh_p1' cannot be combined"):
        combined(now, ("msp", RANK))


def test_positives_in_one_frame_alone_are_too_few(tmp_path):
    folder = write_set(tmp_path / "set", 3)
    for name in ("f00", "f02"):
        file = folder / "anomalies" / f"{name}.png"
        ids = np.array(Image.open(file))
        Image.fromarray(np.where(ids == 1, 0, ids).astype("u1")).save(file)
    cache = gv.compute(TinyNet().eval(), gv.open_frames(folder), tmp_path / "cache", scores=PARTS, progress=False)
    with pytest.raises(GraduncError, match="no pixel counts as 'anomaly' in the 2 frames that are fitted on for 'f01'"):
        combined(cache, PARTS, "logistic", task="anomaly")
    combined(cache, PARTS, "logistic", task="error")


def test_a_network_cannot_compute_it(tiny_set, tmp_path):
    with pytest.raises(UnknownScoreError, match="from a network: it is made of the maps of a cache"):
        gv.ScoredModel(TinyNet().eval(), [RANK])
    with pytest.raises(UnknownScoreError, match="made of the maps of a cache"):
        gv.compute(TinyNet().eval(), gv.open_frames(tiny_set), tmp_path / "cache", scores=[RANK], progress=False)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rank:pgn_oh_p1+entropy", r"write it 'rank:entropy\+pgn_oh_p1'"),
        ("rank:entropy+entropy", "unknown score"),
        ("rank:entropy", "unknown score"),
        ("rank:entropy+nonsense", "unknown score 'nonsense'"),
        ("rank:entropy+pgn_oh_p1.0", "write it 'pgn_oh_p1'"),
        ("mean:entropy+msp", "unknown score"),
        ("logistic:entropy+rank:msp", "unknown score 'rank:msp'"),
    ],
)
def test_parts_of_a_name_have_to_be_scores(name, says):
    with pytest.raises(UnknownScoreError, match=says):
        lookup(name)


def test_from_the_command_line(cache, capsys, tmp_path):
    assert main(["combine", str(cache.path), "--scores", "entropy,pgn_oh_p1", "--how", "logistic", "--quiet"]) == 0
    told = capsys.readouterr()
    assert f"{LOGISTIC} less entropy in AuPRC: " in told.out
    assert "Δ AuPRC" in told.out
    assert f"holds {LOGISTIC} of 4 frames" in told.err
    assert (
        main(["combine", str(cache.path), "--scores", "entropy,msp", "--csv", str(tmp_path / "t.csv"), "--quiet"]) == 0
    )
    assert (tmp_path / "t.csv").read_text().startswith("score,AuPRC,Δ AuPRC,p AuPRC")
    assert main(["combine", str(cache.path), "--scores", "entropy", "--quiet"]) == 1
    assert "expected two or more different ones" in capsys.readouterr().err
