"""Counts of a set of frames behind the charts: pooled once per score, shared by all sessions, read at a threshold."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from ...counts.histogram import Histogram
from ...counts.pool import Bootstrap, pool
from ...metrics import evaluate
from ...metrics.metric import pixel_metrics
from ...metrics.wrong_side import TURNED, doubtful_scores, wrong_side
from ...schema.errors import CacheError, GraduncError
from ...store.cache import Cache
from ...store.choice import Selection
from .memo import keep, kept, remember

__all__ = ["auprc_by_frame", "class_histogram", "on_wrong_side", "set_histograms", "unreadable"]

_AT_ONCE = 8
"""Frames evaluated before others get a chance."""


_under_way: dict[Hashable, threading.Lock] = {}
"""One lock for each pass that somebody makes now."""


def _pooled(selection: Selection, by: str | None) -> dict[str, Histogram]:
    """Pool the scores that are not in the store, in one pass over the frames; who wants the same meanwhile waits."""
    cache, task, frames = selection.require_frames().cache, selection.task.name, selection.key
    keys = {name: ("counts", task, name, frames, by) for name in selection.scores}
    found = {name: kept(cache, key) for name, key in keys.items()}
    if all(histogram is not None for histogram in found.values()):
        return found
    which = (cache.version, task, frames, by)  # not `remember`: several of its keys are filled by one pass
    try:
        with _under_way.setdefault(which, threading.Lock()):
            found = {name: kept(cache, key) for name, key in keys.items()}
            missing = tuple(name for name, histogram in found.items() if histogram is None)
            sums = _pass(replace(selection, scores=missing), by) if missing else {}
            for name in missing:
                found[name] = sums[name]
                keep(cache, keys[name], sums[name])
    finally:
        _under_way.pop(which, None)
    return found


def _pass(selection: Selection, by: str | None) -> dict[str, Histogram]:
    cache = selection.cache
    problems = _problems(cache)

    def leave_out(frame: str, error: CacheError) -> None:
        problems[frame] = str(error)

    # in the order of the cache, whoever asks: what is kept is for everybody
    sums = pool(
        replace(selection, frames=selection.key or cache.ids, classes=None), by=by, damaged=leave_out
    ).histograms
    if not sums and problems:
        raise CacheError(next(iter(unreadable(cache).values())))
    if not sums:
        whose = "no frame" if selection.key is None else "none of the chosen frames"
        raise GraduncError(f"{cache.name}: {whose} has {selection.task.needs}, which this needs")
    return sums


def _problems(cache: Cache) -> dict[str, str]:
    return remember(cache, ("unreadable",), dict)


def unreadable(cache: Cache) -> dict[str, str]:
    """Frames that a pass had to leave out so far, and why."""
    return _problems(cache).copy()  # passes of other sessions go on


def set_histograms(selection: Selection) -> dict[str, Histogram]:
    """Pooled counts of each score; the axes of ``weights["counts"]`` are (positive or negative, bins).

    Where classes are chosen, only pixels predicted as one of them count.

    Raises
    ------
    GraduncError
        For a cache without frames or without labels of the task.
    """
    if selection.classes is None:
        return _pooled(selection, None)
    found = {}
    for name, histogram in _pooled(selection, "class").items():
        counts = histogram.weights["counts"][:, list(selection.classes)].sum(1)
        found[name] = replace(histogram, weights={"counts": counts})
    return found


def on_wrong_side(selection: Selection) -> dict[str, dict[str, float]]:
    """Scores that stand on the wrong side, and their metrics turned round, in [0, 1]; kept for everybody.

    Raises
    ------
    GraduncError
        As `set_histograms`.
    """
    doubtful = doubtful_scores(set_histograms(selection))
    if not doubtful:
        return {}
    cache = selection.cache
    key = ("wrong side", selection.task.name, doubtful, selection.key, selection.classes)
    readable = tuple(frame for frame in selection.frames if frame not in _problems(cache))
    return remember(cache, key, partial(_turned, replace(selection, frames=readable, scores=doubtful)))


def _turned(selection: Selection) -> dict[str, dict[str, float]]:
    found = wrong_side(selection, selection.scores, Bootstrap()).sel(pooling="pixels")
    return {
        str(score): {name: float(found[name + TURNED].sel(score=score)) for name in pixel_metrics()}
        for score in found["score"].values[found["wrong_side"].values]
    }


def class_histogram(selection: Selection) -> Histogram:
    """Pooled counts of the one score of a selection per predicted class: (positive or negative, class, bins).

    Raises
    ------
    GraduncError
        As `set_histograms`.
    """
    return _pooled(selection, "class")[selection.score]


def auprc_by_frame(cache: Cache, score: str, task: str, pause: Callable[[], None]) -> Iterator[dict[str, float]]:
    """Yield the AuPRC of a score in each frame so far, from cached counts; NaN without labels; kept for everybody.

    `pause` is called between a few frames and the next. A few frames are kept together once they are computed; who
    wants the same meanwhile waits for them.
    """
    some = [cache.ids[start : start + _AT_ONCE] for start in range(0, len(cache.ids), _AT_ONCE)]
    keys = {ids: ("auprc by frame", task, score, ids) for ids in some}
    parts = {ids: kept(cache, key) for ids, key in keys.items()}
    found: dict[str, float] = {}
    for part in parts.values():
        found |= part or {}
    for ids in (ids for ids, part in parts.items() if part is None):
        found |= remember(cache, keys[ids], partial(_auprc, cache, score, task, ids))
        yield dict(found)
        pause()
    yield dict(found)


def _auprc(cache: Cache, score: str, task: str, frames: Sequence[str]) -> dict[str, float]:
    def read(some: Sequence[str]) -> dict[str, float]:
        table = evaluate(cache, task, scores=score, frames=some, by="frame", bootstrap=0).isel(cache=0, score=0)
        return dict(zip([str(name) for name in table["frame"].values], table["auprc"].values.tolist(), strict=True))

    found = dict.fromkeys(frames, math.nan)
    try:
        found |= read(frames)
    except GraduncError:  # one of them is damaged, or none has labels
        for name in frames:
            with suppress(GraduncError):
                found |= read([name])
    return found
