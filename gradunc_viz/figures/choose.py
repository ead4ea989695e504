"""Which caches, tasks and scores a figure shows when nothing is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..cache import Cache
from ..metrics.evaluation import Caches, default_task, named_caches
from ..schema.errors import GraduncError, UnknownScoreError
from ..schema.scores import DEFAULT_SCORES, score_entry
from ..schema.tasks import TASK_TEXT

__all__ = ["chosen", "representative", "task_of"]

MANY = 8
"""Lines that one plot can hold and still be read in grey."""


def representative(cache: Cache) -> tuple[str, ...]:
    """All scores of a cache where they are few, else those that are computed by default and imported ones."""
    if len(cache.scores) <= MANY:
        return cache.scores
    few = tuple(n for n in cache.scores if n in DEFAULT_SCORES or score_entry(n).family == "external")
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
        score_entry(name)
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
