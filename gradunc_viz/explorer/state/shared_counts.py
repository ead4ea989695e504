"""Counts of a set of frames behind the charts: pooled once per score, shared by all sessions, read at a threshold."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress

from ...counts.histogram import Histogram
from ...counts.pool import pool
from ...metrics import evaluate
from ...schema.errors import CacheError, GraduncError
from ...schema.tasks import NEEDS, TASKS
from ...store.cache import Cache
from ...store.choice import Selection, choose_scores, class_ids, frame_key
from .memo import cache_version, remember, shared

__all__ = ["auprc_by_frame", "class_histogram", "set_histograms", "unreadable"]

_AT_ONCE = 8
"""Frames evaluated before others get a chance."""


_under_way: dict[Hashable, threading.Lock] = {}
"""One lock for each pass that somebody makes now."""


def _pooled(
    cache: Cache, task: str, scores: Sequence[str], frames: tuple[str, ...] | None, by: str | None
) -> dict[str, Histogram]:
    """Pool the scores that are not in the store, in one pass over the frames; who wants the same meanwhile waits."""
    version = cache_version(cache)
    keys = {name: (version, ("counts", task, name, frames, by)) for name in scores}
    found = {name: shared.get(key) for name, key in keys.items()}
    if all(histogram is not None for histogram in found.values()):
        return found
    which = (version, task, frames, by)
    try:
        with _under_way.setdefault(which, threading.Lock()):
            found = {name: shared.get(key) for name, key in keys.items()}
            missing = [name for name, histogram in found.items() if histogram is None]
            sums = _pass(cache, task, missing, frames, by) if missing else {}
            for name in missing:
                found[name] = sums[name]
                shared.put(keys[name], sums[name])
    finally:
        _under_way.pop(which, None)
    return found


def _pass(
    cache: Cache, task: str, scores: Sequence[str], frames: tuple[str, ...] | None, by: str | None
) -> dict[str, Histogram]:
    problems = unreadable(cache)

    def leave_out(frame: str, error: CacheError) -> None:
        problems[frame] = str(error)

    selection = Selection.of(cache, task, scores=scores, frames=frames)
    sums = pool(selection, by=by, damaged=leave_out).histograms
    if not sums and problems:
        raise CacheError(next(iter(problems.values())))
    if not sums:
        whose = "no frame" if frames is None else "none of the chosen frames"
        raise GraduncError(f"{cache.name}: {whose} has {NEEDS[task]}, which this needs")
    return sums


def unreadable(cache: Cache) -> dict[str, str]:
    """Frames that a pass had to leave out, and why."""
    return remember(cache, ("unreadable",), dict)


def set_histograms(
    cache: Cache,
    task: str,
    scores: Sequence[str],
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> dict[str, Histogram]:
    """Pooled counts of each score; the axes of ``weights["counts"]`` are (positive or negative, bins).

    Parameters
    ----------
    task : "error" or "anomaly"
    frames : optional
        Ids; all by default.
    classes : optional
        Names; only pixels predicted as one of them.

    Raises
    ------
    GraduncError
        For a cache without frames or without labels of the task, or an unknown or empty choice.
    """
    names = choose_scores(cache, tuple(scores))
    chosen, index = frame_key(cache, frames), class_ids(cache, classes)
    if task not in TASKS:
        raise GraduncError(f"unknown task {task!r}; expected one of {', '.join(TASKS)}")
    if index is None:
        return _pooled(cache, task, names, chosen, None)
    found = {}
    for name, histogram in _pooled(cache, task, names, chosen, "class").items():
        counts = histogram.weights["counts"][:, list(index)].sum(1)
        found[name] = Histogram(histogram.start, histogram.level, {"counts": counts}, histogram.low, histogram.high)
    return found


def class_histogram(cache: Cache, task: str, score: str, frames: Sequence[str] | None = None) -> Histogram:
    """Pooled counts of a score per predicted class: (positive or negative, class, bins).

    Raises
    ------
    GraduncError
        As `set_histograms`.
    """
    names = choose_scores(cache, (score,))
    return _pooled(cache, task, names, frame_key(cache, frames), "class")[score]


def auprc_by_frame(cache: Cache, score: str, task: str, pause: Callable[[], None]) -> Iterator[dict[str, float]]:
    """Yield the AuPRC of a score in each frame so far, from cached counts; NaN without labels; kept for everybody.

    `pause` is called between a few frames and the next.
    """
    found: dict[str, float] = remember(cache, ("auprc by frame", task, score), dict)
    missing = [name for name in cache.ids if name not in found]
    for start in range(0, len(missing), _AT_ONCE):
        some = missing[start : start + _AT_ONCE]
        found |= dict.fromkeys(some, math.nan)
        try:
            found |= _auprc(cache, score, task, some)
        except GraduncError:  # one of them is damaged, or none has labels
            for name in some:
                with suppress(GraduncError):
                    found |= _auprc(cache, score, task, [name])
        yield dict(found)
        pause()
    yield dict(found)


def _auprc(cache: Cache, score: str, task: str, frames: Sequence[str]) -> dict[str, float]:
    table = evaluate(cache, task, scores=score, frames=frames, by="frame", bootstrap=0).isel(cache=0, score=0)
    return dict(zip([str(name) for name in table["frame"].values], table["auprc"].values.tolist(), strict=True))
