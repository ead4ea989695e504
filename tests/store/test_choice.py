"""What a caller names is resolved in one place: the same words are understood, and refused, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from frame_files import unpacked
from synthetic import write_cache

import gradunc_viz as gv
from gradunc_viz.metrics.objects import with_components
from gradunc_viz.schema.errors import GraduncError, UnknownScoreError
from gradunc_viz.schema.scores import DEFAULT_SCORES, PAPER_SCORES, SCORES, resolve_scores
from gradunc_viz.schema.tasks import TASKS
from gradunc_viz.store.choice import MANY, Selection, chosen, named_caches, representative


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, gv.Cache]:
    folder = tmp_path_factory.mktemp("choice")
    return {
        "one": write_cache(folder / "one", ["a", "b", "c"], ((24, 32),)),
        "two": write_cache(folder / "two", ["b", "d"], ((24, 32),), scores=("msp", "margin"), anomaly=False),
    }


def test_by_default_everything_is_meant(caches: dict[str, gv.Cache]) -> None:
    cache = caches["one"]
    selection = Selection.of(cache)
    assert selection.cache is cache
    assert selection.task is TASKS["anomaly"]
    assert (selection.scores, selection.frames, selection.classes) == (cache.scores, cache.ids, None)
    assert selection.key is None
    assert selection.class_names == cache.classes
    assert Selection.of(caches["two"].path).task is TASKS["error"]


def test_names_keep_their_order_and_count_once(caches: dict[str, gv.Cache]) -> None:
    selection = Selection.of(
        caches["one"], "error", scores=["msp", "entropy", "msp"], frames=["c", "a", "c"], classes=["sky", "road", "sky"]
    )
    assert selection.scores == ("msp", "entropy")
    assert selection.frames == ("c", "a")
    assert selection.key == ("a", "c")
    assert selection.classes == (2, 0)
    assert selection.class_names == ("sky", "road")
    assert Selection.of(caches["one"], scores="msp").scores == ("msp",)
    assert Selection.of(caches["one"], frames=["c", "b", "a"]).key is None


def test_several_caches_give_what_they_have(caches: dict[str, gv.Cache]) -> None:
    found = Selection.of_each(caches, scores=["margin", "msp", "entropy"], frames=["d", "b", "a"])
    assert {name: own.scores for name, own in found.items()} == {"one": ("msp", "entropy"), "two": ("margin", "msp")}
    assert {name: own.frames for name, own in found.items()} == {"one": ("b", "a"), "two": ("d", "b")}
    assert {own.task.name for own in found.values()} == {"anomaly"}
    assert found["one"].labelled == ("b", "a")
    assert found["two"].labelled == ()
    assert gv.calibration(caches, frames=["a", "d"]).sizes["cache"] == 2
    assert gv.sparsification(caches, frames=["a", "d"], scores=["msp"])["ause"].notnull().all()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "evaluate": lambda c, **choice: gv.evaluate(c, "error", bootstrap=0, **choice),
    "threshold_curves": lambda c, **choice: gv.threshold_curves(c, "error", **choice),
    "sparsification": gv.sparsification,
    "score_calibration": gv.metrics.score_calibration,
    "calibration": gv.calibration,
    "segmentation": gv.segmentation,
}
TAKES = {
    "scores": ("evaluate", "threshold_curves", "sparsification", "score_calibration"),
    "frames": tuple(FUNCTIONS),
    "classes": ("evaluate", "threshold_curves"),
}


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        (name, {what: value}, message)
        for what, value, message in (
            ("scores", ["msp", "energy"], "score 'energy' is not cached; it has pgn_oh_p0.5,"),
            ("scores", "nonsense", "score 'nonsense' is not cached"),
            ("scores", "msp, energy", "score 'energy' is not cached"),
            ("scores", " , ", "no score is chosen; choose at least one"),
            ("frames", ["a", "x"], "no frame 'x' among its 3 frames"),
            ("frames", [], "no frame is chosen; choose at least one"),
            ("classes", ["road", "tram"], "no class 'tram'; it has road,"),
            ("classes", [], "no class is chosen; choose at least one"),
        )
        for name in TAKES[what]
    ],
)
def test_the_same_words_are_refused_everywhere(
    caches: dict[str, gv.Cache], name: str, choice: dict[str, Any], message: str
) -> None:
    with pytest.raises(GraduncError, match=message) as raised:
        FUNCTIONS[name](caches["one"], **choice)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_misspelt_keyword_is_no_choice(caches: dict[str, gv.Cache], name: str) -> None:
    with pytest.raises(TypeError, match="frame"):
        FUNCTIONS[name](caches["one"], frame=["a"])


def test_what_no_cache_has_is_refused(caches: dict[str, gv.Cache]) -> None:
    with pytest.raises(UnknownScoreError, match="'energy' is not cached; it has"):
        Selection.of_each(caches, scores="energy")
    with pytest.raises(UnknownScoreError, match="did you mean entropy"):
        Selection.of_each(caches, scores="entrophy")
    with pytest.raises(GraduncError, match="no frame 'x' among its 5 frames"):
        Selection.of_each(caches, frames=["x"])
    with pytest.raises(GraduncError, match="unknown task 'nonsense'; expected one of error, anomaly"):
        Selection.of_each(caches, "nonsense")
    with pytest.raises(GraduncError, match="no cache was given"):
        named_caches([])


def test_scores_are_named_as_for_a_run(caches: dict[str, gv.Cache]) -> None:
    for scores in ("msp,entropy", " msp , entropy ,msp", ["msp", "entropy"]):
        assert Selection.of(caches["one"], scores=scores).scores == ("msp", "entropy")
    assert list(gv.evaluate(caches["one"], "error", scores="msp,entropy", bootstrap=0)["score"]) == ["msp", "entropy"]


def test_what_is_shown(caches: dict[str, gv.Cache]) -> None:
    assert chosen(caches, None)[1] == (*caches["one"].scores, "margin")
    assert chosen(caches, ["margin", "margin"])[1] == ("margin",)


@dataclass(frozen=True)
class Held:
    """What is asked of a cache to choose from its scores."""

    scores: tuple[str, ...]


PASSES = tuple(name for name in SCORES if name.startswith("ens_"))
FITTED = tuple(name for name, entry in SCORES.items() if entry.family == "fitted")
EVERY = (*resolve_scores("all"), *FITTED, "odin")


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        (PAPER_SCORES, set(DEFAULT_SCORES)),
        (FITTED, set(FITTED[:MANY])),
        ((*PASSES, *DEFAULT_SCORES), {*DEFAULT_SCORES, "ens_expected_entropy", "ens_mutual_information"}),
        ((*PASSES, "gini", "gen", "margin"), {*PASSES[:5], "gini", "gen", "margin"}),
        (EVERY, {*DEFAULT_SCORES, "energy", "mahalanobis"}),
        (
            ("ext:a", *EVERY, "rank:entropy+msp"),
            {"ext:a", "rank:entropy+msp", "energy", "mahalanobis", "pgn_oh_p0.5", "pgn_oh_p1", "msp", "entropy"},
        ),
        (
            ("ext:a", "ext:b", "ext:c", "ext:d", "ext:e", *DEFAULT_SCORES),
            {"ext:a", "ext:b", "ext:c", "ext:d", "pgn_oh_p0.5", "pgn_oh_p1", "msp", "entropy"},
        ),
        (tuple(f"pgn_oh_p0.{i}1" for i in range(9)), {f"pgn_oh_p0.{i}1" for i in range(8)}),
        ((), set()),
    ],
)
def test_of_many_scores_the_usual_are_shown_and_some_of_every_other_family(
    scores: tuple[str, ...], shown: set[str]
) -> None:
    found = representative(Held(scores))  # type: ignore[arg-type]
    assert set(found) == shown
    assert found == tuple(name for name in scores if name in shown)  # in the order of the cache


def test_components_take_the_thresholds_that_were_evaluated(
    caches: dict[str, gv.Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradunc_viz.metrics import objects

    monkeypatch.setitem(objects.TRACKS, "obstacle", objects.TRACKS["obstacle"]._replace(min_truth=2, min_predicted=2))
    result = gv.evaluate(caches["one"], "anomaly", bootstrap=0)
    wanted = [gv.evaluate_components(caches["one"], name, track="obstacle") for name in caches["one"].scores]
    monkeypatch.setattr(objects, "evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    found = with_components(result, {"one": caches["one"]}, "obstacle")
    for name in ("siou", "ppv", "f1"):
        assert found[f"component_{name}"].values[0].tolist() == pytest.approx(
            [float(w[name]) for w in wanted], nan_ok=True
        )


def test_a_damaged_frame_is_an_error_that_names_it(caches: dict[str, gv.Cache], tmp_path: Path) -> None:
    import shutil

    path = Path(shutil.copytree(caches["one"].path, tmp_path / "copy"))
    with unpacked(path / "frames/b") as files:
        (files / "cell_counts/zarr.json").write_text("")
    for name, function in FUNCTIONS.items():
        if name != "segmentation":  # reads the table, which is there
            with pytest.raises(GraduncError, match="frames/b: damaged"):
                function(gv.open_cache(path))


ONE = {
    "find_failures": lambda c: gv.metrics.find_failures(c, "confident_mistakes", "entropy", task="error"),
    "evaluate_components": lambda c: gv.evaluate_components(c, "entropy"),
    "segment_statistics": lambda c: gv.segment_statistics(c, "entropy"),
    "segmentation": gv.segmentation,
    "threshold_curves": lambda c: gv.threshold_curves(c, "error", scores="entropy"),
    "confusion": gv.figures.confusion,
    "gallery": lambda c: gv.figures.gallery(c, kind="needless_doubt", score="entropy", task="error"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a set this small has empty classes
@pytest.mark.parametrize("name", ONE)
def test_what_takes_one_cache_takes_a_path_and_refuses_two(name, tiny_cache):
    assert ONE[name](str(tiny_cache.path)) is not None
    with pytest.raises(GraduncError, match="2 caches were given; expected one"):
        ONE[name]([tiny_cache, tiny_cache])


def test_a_single_name_is_a_name(tiny_cache):
    frame, kind = tiny_cache.ids[1], tiny_cache.classes[2]
    selection = Selection.of(tiny_cache, frames=frame, classes=kind, scores="entropy")
    assert (selection.frames, selection.class_names, selection.scores) == ((frame,), (kind,), ("entropy",))
