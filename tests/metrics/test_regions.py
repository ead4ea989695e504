"""Failures: regions against a flood fill over pixels, ranks, crops."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from frame_files import unpacked
from PIL import Image, ImageColor
from synthetic import write_cache

from gradunc_viz.explorer.charts.crops import _outline, crop
from gradunc_viz.explorer.page import Explorer
from gradunc_viz.figures.gallery import gallery
from gradunc_viz.metrics import evaluate
from gradunc_viz.metrics import regions as failures
from gradunc_viz.schema.errors import CacheError, GraduncError
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.frame import score
from gradunc_viz.style.palette import FAILURE_COLORS

THRESHOLD = 1.1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("failures") / "cache", ["a", "b", "c"], [(64, 128), (50, 46)])


def masks(cache: Cache, frame: str, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives, evaluated pixels and scores of a frame, from its maps."""
    dataset = cache[frame]
    truth = dataset["label" if task == "error" else "anomaly"].values
    positive = dataset["prediction"].values != truth if task == "error" else truth == 1
    return positive & (truth != 255), truth != 255, score(dataset, "entropy").values


def flood_fill(mask: np.ndarray) -> list[np.ndarray]:
    """8-connected components as masks, pixel after pixel."""
    left = {(int(y), int(x)) for y, x in zip(*mask.nonzero(), strict=True)}
    found = []
    while left:
        own, queue = np.zeros(mask.shape, bool), [left.pop()]
        while queue:
            y, x = queue.pop()
            own[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue += near
        found.append(own)
    return found


def regions(cache: Cache, kind: str, task: str) -> list[tuple[float, str, int, tuple[int, int, int, int]]]:
    """(rank, frame, pixels, box) of every failure, one component after another."""
    found = []
    for frame in cache.ids:
        positive, evaluated, values = masks(cache, frame, task)
        above = values >= np.float32(THRESHOLD)
        mask = {
            "confident_mistakes": positive & ~above,
            "missed_objects": positive,
            "false_alarms": above & evaluated,
            "needless_doubt": above & evaluated & ~positive,
        }[kind]
        for own in flood_fill(mask):
            if kind == "missed_objects" and above[own].mean() >= 0.25:
                continue
            if kind == "false_alarms" and positive[own].mean() >= 0.25:
                continue
            margin = np.abs(values - THRESHOLD)[own]
            if kind == "missed_objects":
                margin = np.where(above[own], 0, margin)
            ys, xs = own.nonzero()
            box = int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1
            found.append((float(margin.sum()), frame, int(own.sum()), box))
    return sorted(found, key=lambda item: -item[0])


@pytest.mark.parametrize("task", ["error", "anomaly"])
@pytest.mark.parametrize("kind", list(failures.FAILURES))
def test_failures_are_the_components_of_the_pixels(cache: Cache, kind: str, task: str) -> None:
    expected = regions(cache, kind, task)
    found = failures.find_failures(cache, kind, "entropy", task, THRESHOLD, n=12)
    assert len(found) == min(12, len(expected))
    for failure, (rank, frame, pixels, box) in zip(found, expected, strict=False):
        assert failure.rank == pytest.approx(rank, rel=1e-4)
        if [other[0] for other in expected].count(rank) == 1:
            assert (failure.frame, failure.pixels) == (frame, pixels)
            assert (failure.top, failure.left, failure.bottom, failure.right) == box
        assert failure.rank == pytest.approx(failure.pixels * failure.margin, rel=1e-4)
        assert failure.step == 1
        assert failure.mask.sum() == failure.pixels
        _, _, values = masks(cache, failure.frame, task)
        window = np.s_[failure.top : failure.bottom, failure.left : failure.right]
        inside = values[window][failure.mask]
        assert failure.found == pytest.approx((inside >= np.float32(THRESHOLD)).mean())
        assert failure.mean == pytest.approx(inside.mean(), rel=1e-4)
        if kind in ("confident_mistakes", "missed_objects"):
            assert values[failure.y, failure.x] == inside.min()
        else:
            assert values[failure.y, failure.x] == inside.max()


@pytest.mark.parametrize("kind", list(failures.FAILURES))
def test_blocks_lose_no_pixel(cache: Cache, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse search finds the same pixels, joined into no more regions; sizes stay in pixels."""
    threshold = THRESHOLD if kind == "missed_objects" else 0.7
    query = failures.FailureQuery(kind, "entropy", "error", threshold, 10_000)
    fine = failures.frame_failures(cache["b"], query)
    monkeypatch.setattr(failures, "_COARSE", 300)
    coarse = failures.frame_failures(cache["b"], query)
    assert failures._block(cache["b"]["prediction"].shape) == 3
    assert 0 < len(coarse) <= len(fine) - (kind != "missed_objects")  # the errors of this scene touch as they are
    if kind in ("confident_mistakes", "needless_doubt"):  # the others leave out what is found by a fourth
        assert sum(f.pixels for f in coarse) == sum(f.pixels for f in fine)
        drawn = np.zeros(cache["b"]["prediction"].shape, bool)
        for failure in coarse:
            drawn[failure.top : failure.bottom, failure.left : failure.right] |= failure.mask
            assert failure.mask.sum() == failure.pixels
        assert drawn.sum() == sum(f.pixels for f in fine)


def test_a_single_pixel_is_found_in_a_large_frame(tmp_path: Path) -> None:
    """The synthetic scene has an unknown object of one pixel, three rows from the bottom."""
    cache = write_cache(tmp_path / "cache", ["a"], [(900, 900)])
    assert failures._block((900, 900)) == 2
    found = failures.find_failures(cache, "missed_objects", "entropy", "anomaly", 10.0, n=5)
    single = [failure for failure in found if failure.pixels == 1]
    assert [(failure.y, failure.x) for failure in single] == [(897, 2)]
    assert (single[0].top, single[0].bottom, single[0].left, single[0].right) == (897, 898, 2, 3)


def test_search_fills_the_list_frame_by_frame(cache: Cache) -> None:
    steps = list(
        failures.search_failures(cache, failures.FailureQuery("confident_mistakes", "entropy", "error", THRESHOLD, 5))
    )
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert {failure.frame for failure in steps[0].found} == {"a"}
    assert {failure.frame for failure in steps[1].found} <= {"a", "b"}
    ranks = [failure.rank for failure in steps[2].found]
    assert ranks == sorted(ranks, reverse=True)
    found = failures.find_failures(cache, "confident_mistakes", "entropy", "error", THRESHOLD, n=5)
    assert [f.rank for f in found] == ranks
    only = failures.find_failures(cache, "confident_mistakes", "entropy", "error", THRESHOLD, n=5, frames=["c"])
    assert {failure.frame for failure in only} == {"c"}


def test_classes_of_a_failure(cache: Cache) -> None:
    for failure in failures.find_failures(cache, "confident_mistakes", "entropy", "error", THRESHOLD, n=5):
        dataset = cache[failure.frame]
        window = np.s_[failure.top : failure.bottom, failure.left : failure.right]
        for name, variable in ((failure.predicted, "prediction"), (failure.labelled, "label")):
            inside = dataset[variable].values[window][failure.mask]
            counts = np.bincount(inside)
            assert counts[cache.classes.index(name)] == counts.max()
        assert f"{failure.labelled} taken for {failure.predicted}" in failure.text


def test_a_damaged_frame_is_named_and_passed_over(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a", "b"])
    cache.summary.load()
    with unpacked(tmp_path / "cache" / "frames" / "a") as files:
        (files / "prediction" / "zarr.json").unlink()
    last = list(
        failures.search_failures(cache, failures.FailureQuery("needless_doubt", "entropy", "error", THRESHOLD))
    )[-1]
    assert list(last.problems) == ["a"]
    assert {failure.frame for failure in last.found} == {"b"}
    with pytest.raises(CacheError, match="'a' cannot be read"):
        failures.find_failures(cache, "needless_doubt", "entropy", "error", THRESHOLD)


def test_what_cannot_be_searched_says_why(cache: Cache, tmp_path: Path) -> None:
    plain = write_cache(tmp_path / "plain", ["a"], label=False)
    for arguments, words in [
        ((plain, "false_alarms", "entropy", "error", 0.5), "no frame has class labels"),
        ((cache, "nonsense", "entropy", "error", 0.5), "unknown kind of failure 'nonsense'"),
        ((cache, "false_alarms", "energy", "error", 0.5), "'energy' is not cached"),
        ((cache, "false_alarms", "entropy", "error", float("nan")), "NaN"),
        ((cache, "false_alarms", "entropy", "both", 0.5), "unknown task 'both'"),
        ((write_cache(tmp_path / "empty", []), "false_alarms", "entropy", "error", 0.5), "no frames yet"),
    ]:
        with pytest.raises(GraduncError, match=words):
            failures.find_failures(*arguments)
    # a threshold that nothing misses: no failure is no error
    assert failures.find_failures(plain, "false_alarms", "entropy", "anomaly", 100.0) == ()


@pytest.mark.parametrize("task", ["error", "anomaly"])
@pytest.mark.parametrize("kind", list(failures.FAILURES))
def test_page_figure_and_python_list_the_same(cache: Cache, kind: str, task: str) -> None:
    found = [(f.frame, f.box, f.pixels) for f in failures.find_failures(cache, kind, "entropy", task, THRESHOLD)]
    explorer = Explorer([cache], view=f"tab=failures&score=entropy&threshold={THRESHOLD}&task={task}&failure={kind}")
    listed = explorer.desk.built["failures"].gallery.items
    assert [(f.frame, f.box, f.pixels) for f in listed] == found
    if not found:
        with pytest.raises(GraduncError, match="found no"):
            gallery(cache, kind, score="entropy", task=task, threshold=THRESHOLD)
        return
    figure = gallery(cache, kind, 24, score="entropy", task=task, threshold=THRESHOLD)
    cells = [str(axis.get_gid()) for axis in figure.axes if str(axis.get_gid()).endswith(":image")]
    assert cells == [f"{frame}:{box}:image" for frame, box, _ in found]


@pytest.mark.parametrize("kind", list(failures.FAILURES))
def test_fewer_of_them(cache: Cache, kind: str) -> None:
    every = failures.find_failures(cache, kind, "entropy", "error", 0.7, n=10_000)
    large = failures.find_failures(cache, kind, "entropy", "error", 0.7, n=10_000, min_pixels=4)
    one = failures.find_failures(cache, kind, "entropy", "error", 0.7, n=10_000, per_frame=1)
    assert [f.box for f in large] == [f.box for f in every if f.pixels >= 4]
    worst = {f.frame: f.box for f in reversed(every)}
    assert {f.frame: f.box for f in one} == worst
    assert len(one) == len(worst)


def test_what_is_meant_if_nothing_is_said(cache: Cache) -> None:
    threshold = failures.best_threshold(cache, "entropy", "anomaly")
    best = evaluate(cache, "anomaly", scores="entropy", bootstrap=0)["threshold"].sel(pooling="pixels")
    assert threshold == float(best.item())
    found = failures.find_failures(cache.path)
    assert {(f.kind, f.score, f.threshold) for f in found} == {("confident_mistakes", "entropy", threshold)}
    assert [f.box for f in found] == [
        f.box for f in failures.find_failures(cache, "confident_mistakes", "entropy", "anomaly", threshold)
    ]
    for options in ({"n": 0}, {"min_pixels": 0}, {"per_frame": 0}):
        with pytest.raises(GraduncError, match=f"{next(iter(options))} is 0; expected 1 or more"):
            failures.find_failures(cache, **options)


@pytest.mark.parametrize("kind", ["missed_objects", "false_alarms"])
def test_crop_shows_the_surroundings_and_the_outline(cache: Cache, kind: str) -> None:
    failure = failures.find_failures(cache, kind, "entropy", "anomaly", 1.2, n=1)[0]
    data = crop(cache, failure, width=200)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (200, 150)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    distance = np.abs(pixels - ImageColor.getrgb(FAILURE_COLORS[kind])).sum(-1)
    drawn = distance < 90
    assert drawn.sum() > 20
    assert crop(cache, failure, width=200) is data  # from the store of the process
    assert len(crop(cache, failure, width=80)) < len(data)


def test_outline_lies_around_the_region() -> None:
    """At twice the size, the line runs one pixel off the region, on all sides."""
    mask = np.ones((4, 6), bool)
    failure = failures.Failure(
        "false_alarms", "a", "msp", 0.5, 10, 20, 14, 26, 10, 20, 24, 0.1, 2.4, 0.6, 1.0, "road", "", mask
    )
    picture = np.zeros((60, 80, 3), "u1")
    _outline(picture, failure, left=0.0, top=0.0, scale=0.5)
    line = (picture == ImageColor.getrgb(FAILURE_COLORS["false_alarms"])).all(-1)
    ys, xs = line.nonzero()
    assert (ys.min(), ys.max()) == (2 * 10 - 3, 2 * 14 - 1 + 3)
    assert (xs.min(), xs.max()) == (2 * 20 - 3, 2 * 26 - 1 + 3)
    assert not line[2 * 10 - 1 : 2 * 14 + 1, 2 * 20 - 1 : 2 * 26 + 1].any()
