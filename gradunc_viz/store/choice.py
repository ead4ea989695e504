"""Which caches, frames, classes and scores are meant."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..schema.errors import GraduncError, UnknownScoreError
from ..schema.scores import DEFAULT_SCORES, lookup
from ..schema.tasks import TASK_TEXT
from .cache import Cache, open_cache

__all__ = [
    "choose_frames",
    "choose_scores",
    "chosen",
    "class_ids",
    "default_task",
    "frame_key",
    "named_caches",
    "representative",
    "task_of",
]


def choose_frames(cache: Cache, frames: Sequence[str] | None) -> tuple[str, ...]:
    """Ids of the frames to evaluate, all of them by default.

    Raises
    ------
    GraduncError
        If one is not in the cache.
    """
    if frames is None:
        return cache.ids
    unknown = [frame for frame in frames if frame not in cache]
    if unknown:
        raise GraduncError(f"{cache.path}: no frame {unknown[0]!r} among its {len(cache)} frames")
    return tuple(frames)


def choose_scores(cache: Cache, scores: Sequence[str] | str | None) -> tuple[str, ...]:
    """Scores to evaluate, all cached ones by default.

    Raises
    ------
    UnknownScoreError
        If one was not cached.
    """
    if scores is None:
        return cache.scores
    names = (scores,) if isinstance(scores, str) else tuple(scores)
    for name in names:
        if name not in cache.scores:
            raise UnknownScoreError(f"{cache.path}: score {name!r} is not cached; it has {', '.join(cache.scores)}")
    return names


def frame_key(cache: Cache, frames: Sequence[str] | None) -> tuple[str, ...] | None:
    """Chosen frames in the cache's order, each once; None for all of them.

    Raises
    ------
    GraduncError
        If none is chosen, or one is not in the cache.
    """
    if not len(cache):
        raise GraduncError(f"{cache.path}: this cache holds no frames yet")
    if frames is None:
        return None
    wanted = set(choose_frames(cache, tuple(frames)))
    if not wanted:
        raise GraduncError("no frame is chosen; choose at least one")
    return None if len(wanted) == len(cache) else tuple(name for name in cache.ids if name in wanted)


def class_ids(cache: Cache, classes: Sequence[str] | None) -> tuple[int, ...] | None:
    """Ids of chosen classes; None for all.

    Raises
    ------
    GraduncError
        If none is chosen, or the network has no such class.
    """
    if classes is None:
        return None
    unknown = [name for name in classes if name not in cache.classes]
    if unknown:
        raise GraduncError(f"{cache.path}: no class {unknown[0]!r}; it has {', '.join(cache.classes)}")
    if not classes:
        raise GraduncError("no class is chosen; choose at least one")
    return tuple(sorted({cache.classes.index(name) for name in classes}))


Caches = Cache | str | os.PathLike[str] | Sequence[Any] | Mapping[str, Any]


def named_caches(caches: Caches) -> dict[str, Cache]:
    """Caches by name; a name taken twice gets the folder above it in front.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    """
    if isinstance(caches, Mapping) and not isinstance(caches, Cache):
        return {str(name): _opened(cache) for name, cache in caches.items()}
    some = [caches] if isinstance(caches, (Cache, str, os.PathLike)) else list(caches)
    opened = [_opened(cache) for cache in some]
    if not opened:
        raise GraduncError("no cache was given; expected at least one")
    names = [cache.name for cache in opened]
    result: dict[str, Cache] = {}
    for cache, name in zip(opened, names, strict=True):
        path = cache.path.resolve()
        unique = name if names.count(name) == 1 else f"{path.parent.name}/{name}"
        result[unique if unique not in result else str(path)] = cache
    return result


def _opened(cache: Any) -> Cache:
    return cache if isinstance(cache, Cache) else open_cache(cache)


def default_task(caches: Mapping[str, Cache]) -> str:
    """``anomaly`` where a cache has anomaly labels, else ``error``."""
    return "anomaly" if any(bool(cache.summary["has_anomaly"].any()) for cache in caches.values()) else "error"


def _labelled(cache: Cache, task: str) -> bool:
    return bool(cache.summary["has_label" if task == "error" else "has_anomaly"].any())


def shared_scores(cache: Cache, scores: Sequence[str] | str | None, opened: Mapping[str, Cache]) -> tuple[str, ...]:
    """The scores asked for that this cache has; an error only if it is the only one."""
    if scores is None or len(opened) == 1:
        return choose_scores(cache, scores)
    wanted = [scores] if isinstance(scores, str) else list(scores)
    return tuple(name for name in wanted if name in cache.scores)


def class_index(cache: Cache, classes: Sequence[str]) -> list[int]:
    unknown = [name for name in classes if name not in cache.classes]
    if unknown:
        raise GraduncError(f"{cache.path}: no class {unknown[0]!r}; it has {', '.join(cache.classes)}")
    return [cache.classes.index(name) for name in classes]


MANY = 8
"""Lines that one plot can hold and still be read in grey."""


def representative(cache: Cache) -> tuple[str, ...]:
    """All scores of a cache where they are few, else those that are computed by default and imported ones."""
    if len(cache.scores) <= MANY:
        return cache.scores
    few = tuple(n for n in cache.scores if n in DEFAULT_SCORES or lookup(n).family == "external")
    return few[:MANY] or cache.scores[:MANY]


def chosen(
    caches: Caches, scores: Sequence[str] | str | None, all_scores: bool = False
) -> tuple[dict[str, Cache], tuple[str, ...]]:
    """Caches by name, and the scores to show: those asked for, else `representative` ones (or all) of any cache.

    Raises
    ------
    UnknownScoreError
        If a score that was asked for is in none of the caches.
    """
    opened = named_caches(caches)
    if scores is None:
        found = (name for c in opened.values() for name in (c.scores if all_scores else representative(c)))
        return opened, tuple(dict.fromkeys(found))
    names = (scores,) if isinstance(scores, str) else tuple(scores)
    for name in names:
        lookup(name)
        if not any(name in cache.scores for cache in opened.values()):
            paths = ", ".join(str(cache.path) for cache in opened.values())
            raise UnknownScoreError(f"{paths}: score {name!r} is not cached")
    return opened, names


def task_of(opened: Mapping[str, Cache], task: str | None) -> str:
    """Task that was asked for, else ``anomaly`` where there are anomaly labels.

    Raises
    ------
    GraduncError
        If there is no such task.
    """
    task = task or default_task(opened)
    if task not in TASK_TEXT:
        raise GraduncError(f"unknown task {task!r}; expected one of {', '.join(TASK_TEXT)}")
    return task
