"""Which caches, scores, frames and classes are meant: what a caller names, resolved once into a `Selection`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypedDict

import numpy as np

from ..schema.errors import GraduncError, UnknownFrameError, UnknownScoreError
from ..schema.scores import DEFAULT_SCORES, lookup, split_names
from ..schema.tasks import TASKS, Task, find_task
from .cache import Cache, open_cache

__all__ = [
    "MANY",
    "Caches",
    "Choice",
    "Selection",
    "by_set",
    "chosen",
    "default_task",
    "listed_caches",
    "named_caches",
    "opened",
    "representative",
]

Caches = Cache | str | os.PathLike[str] | Sequence[Any] | Mapping[str, Any]
"""A cache, a path, a sequence of these, or a mapping from names to these."""


class Choice(TypedDict, total=False):
    """What a caller may narrow down; everything that is cached where nothing is said.

    Attributes
    ----------
    scores : sequence of str, or one
        Names of scores, also as a text with commas between them.
    frames : sequence of str
        Ids of frames.
    classes : sequence of str
        Names of classes; only pixels predicted as one of them count.
    """

    scores: Sequence[str] | str | None
    frames: Sequence[str] | None
    classes: Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Selection:
    """What is meant of one cache.

    Attributes
    ----------
    cache : Cache
    task : Task
    scores : tuple of str
        Names, in the order asked for, each once.
    frames : tuple of str
        Ids, likewise.
    classes : tuple of int, or None
        Ids of the predicted classes whose pixels count; None for all pixels.
    """

    cache: Cache
    task: Task
    scores: tuple[str, ...]
    frames: tuple[str, ...]
    classes: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        cache: Caches,
        task: str | None = None,
        *,
        scores: Sequence[str] | str | None = None,
        frames: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Selection:
        """Resolve names within one cache.

        Parameters
        ----------
        cache : Cache or path
        task : "error" or "anomaly"
            By default ``anomaly`` where there are anomaly labels.
        scores, frames, classes : optional
            As in `Choice`.

        Raises
        ------
        UnknownScoreError
            If a score is not cached.
        GraduncError
            If a task, frame or class is unknown, or no frame or class is chosen.
        """
        (own,) = cls.of_each({"": opened(cache)}, task, scores=scores, frames=frames, classes=classes).values()
        return own

    @classmethod
    def of_each(
        cls,
        caches: Caches,
        task: str | None = None,
        *,
        scores: Sequence[str] | str | None = None,
        frames: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> dict[str, Selection]:
        """Resolve names within several caches, which need not have the same scores and frames: each gives what it has.

        Parameters
        ----------
        caches : Cache, path, a sequence of these, or a mapping from names to these
        task : "error" or "anomaly"
            By default ``anomaly`` where any of the caches has anomaly labels.
        scores, frames, classes : optional
            As in `Choice`.

        Returns
        -------
        dict of name -> Selection

        Raises
        ------
        UnknownScoreError
            If a score is in none of the caches.
        GraduncError
            If a task is unknown, a frame is in none of the caches, a cache has no such class, or no frame or class is
            chosen.
        """
        named = named_caches(caches)
        aim = find_task(task or default_task(named))
        names, ids = _scores(named, scores), _frames(named, frames)
        return {
            name: cls(
                cache,
                aim,
                cache.scores if names is None else tuple(score for score in names if score in cache.scores),
                cache.ids if ids is None else tuple(frame for frame in ids if frame in cache),
                _classes(cache, classes),
            )
            for name, cache in named.items()
        }

    @property
    def key(self) -> tuple[str, ...] | None:
        """Frames in the cache's order, None for all of them: the same for the same set, to remember results by."""
        wanted = set(self.frames)
        return None if len(wanted) == len(self.cache) else tuple(name for name in self.cache.ids if name in wanted)

    @property
    def score(self) -> str:
        """The score that is chosen.

        Raises
        ------
        GraduncError
            If it is not exactly one.
        """
        if len(self.scores) != 1:
            raise GraduncError(f"{len(self.scores) or 'no'} scores are chosen; choose one")
        return self.scores[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the chosen classes, of all where none is chosen."""
        names = self.cache.classes
        return names if self.classes is None else tuple(names[index] for index in self.classes)

    @property
    def labelled(self) -> tuple[str, ...]:
        """Chosen frames that have labels of the task."""
        if not self.frames:
            return ()
        flags = self.cache.summary[self.task.flag].sel(frame=list(self.frames)).values
        return tuple(frame for frame, flag in zip(self.frames, np.asarray(flags, bool), strict=True) if flag)

    def require_frames(self) -> Selection:
        """The selection itself, of a cache that holds frames.

        Raises
        ------
        GraduncError
            If the cache holds no frames yet.
        """
        if not len(self.cache):
            raise GraduncError(f"{self.cache.path}: this cache holds no frames yet")
        return self

    def without_labels(self, what: str) -> GraduncError:
        """The error of a cache that has not the labels that `what` needs."""
        summary = self.cache.summary.sel(frame=list(self.frames))
        lack = self.task.lack(summary) or f"no frame has {self.task.needs}"
        return GraduncError(f"{self.cache.path}: {lack}, which {what} needs")


def named_caches(caches: Caches) -> dict[str, Cache]:
    """Caches by name; a name taken twice gets the folder above it in front.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these

    Raises
    ------
    GraduncError
        If none was given, or one cannot be opened.
    """
    if isinstance(caches, Mapping) and not isinstance(caches, Cache):
        return {str(name): opened(cache) for name, cache in caches.items()}
    some = listed_caches(caches)
    if not some:
        raise GraduncError("no cache was given; expected at least one")
    names = [cache.name for cache in some]
    result: dict[str, Cache] = {}
    for cache, name in zip(some, names, strict=True):
        path = cache.path.resolve()
        unique = name if names.count(name) == 1 else f"{path.parent.name}/{name}"
        result[unique if unique not in result else str(path)] = cache
    return result


def by_set(caches: Caches) -> dict[str, Cache]:
    """The sets of caches (see `Cache.sets`), each as a cache by its name; of several caches as ``CACHE/SET``."""
    named = named_caches(caches)
    return {
        name if len(named) == 1 else f"{cache_name}/{name}": part
        for cache_name, cache in named.items()
        for name, part in cache.sets.items()
    }


def listed_caches(caches: Caches) -> list[Cache]:
    """One cache or several, opened."""
    several: Any = [caches] if _is_one(caches) else caches
    return [opened(cache) for cache in several]


def opened(cache: Caches) -> Cache:
    """One cache, opened if it is a path.

    Raises
    ------
    GraduncError
        If several are given, or none.
    """
    if isinstance(cache, Cache):
        return cache
    if _is_one(cache):
        return open_cache(cache)  # type: ignore[arg-type]
    several: list[Any] = list(cache.values() if isinstance(cache, Mapping) else cache)  # type: ignore[arg-type]
    if len(several) != 1:
        raise GraduncError(f"{len(several)} caches were given; expected one")
    return opened(several[0])


def _is_one(caches: object) -> bool:
    return isinstance(caches, (Cache, str, os.PathLike)) or not isinstance(caches, Iterable)


def default_task(caches: Mapping[str, Cache]) -> str:
    """``anomaly`` where pixels of a cache's anomaly labels count, else ``error``."""
    return "error" if all(TASKS["anomaly"].lack(cache.summary) for cache in caches.values()) else "anomaly"


def _scores(caches: Mapping[str, Cache], scores: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Scores asked for, each once; None for whatever is cached."""
    if scores is None:
        return None
    names = tuple(dict.fromkeys(split_names(scores)))
    if isinstance(scores, str) and not names:
        raise UnknownScoreError("no score is chosen; choose at least one")
    for name in names:
        if not any(name in cache.scores for cache in caches.values()):
            if len(caches) > 1:
                lookup(name)  # offers names that are alike
            cached = ", ".join(dict.fromkeys(score for cache in caches.values() for score in cache.scores))
            raise UnknownScoreError(f"{_paths(caches)}: score {name!r} is not cached; it has {cached}")
    return names


def _frames(caches: Mapping[str, Cache], frames: Iterable[str] | None) -> tuple[str, ...] | None:
    """Frames asked for, each once; None for all there are."""
    if frames is None:
        return None
    ids = tuple(dict.fromkeys((frames,) if isinstance(frames, str) else frames))
    if not ids:
        raise GraduncError("no frame is chosen; choose at least one")
    for frame in ids:
        if not any(frame in cache for cache in caches.values()):
            raise UnknownFrameError(_paths(caches), frame, [name for cache in caches.values() for name in cache.ids])
    return ids


def _classes(cache: Cache, classes: Iterable[str] | None) -> tuple[int, ...] | None:
    """Ids of the classes asked for, each once; None for all."""
    if classes is None:
        return None
    names = tuple(dict.fromkeys((classes,) if isinstance(classes, str) else classes))
    for name in names:
        if name not in cache.classes:
            raise GraduncError(f"{cache.path}: no class {name!r}; it has {', '.join(cache.classes)}")
    if not names:
        raise GraduncError("no class is chosen; choose at least one")
    return tuple(cache.classes.index(name) for name in names)


def _paths(caches: Mapping[str, Cache]) -> str:
    return ", ".join(str(cache.path) for cache in caches.values())


MANY = 8
"""Lines that one plot can hold and still be read in grey."""


_FEWEST = 4
"""Of those computed by default, which others may not displace: two gradient norms and both baselines."""


def representative(cache: Cache) -> tuple[str, ...]:
    """All scores of a cache where they are few, else the most telling ones.

    These are the scores that are computed by default, those that were combined or imported, and one of every other
    family; of what is left, of these families in turn, as many as fit. A score of several passes that the mean
    prediction has under a name of its own, ``ens_entropy`` where there is ``entropy``, comes last.
    """
    held = cache.scores
    if len(held) <= MANY:
        return held
    # the baselines are what the first norms are held against
    usual = sorted((n for n in DEFAULT_SCORES if n in held), key=lambda name: lookup(name).family == "gradient")
    known = {lookup(name).family for name in usual}
    families: dict[str, list[str]] = {}
    for name in sorted(held, key=lambda name: lookup(name).family == "passes" and name.partition("_")[2] in held):
        if (family := lookup(name).family) not in known:
            families.setdefault(family, []).append(name)
    made = [name for family in ("combined", "external") for name in families.pop(family, [])]
    first, *rest = [[n for n in turn if n] for turn in zip_longest(*families.values())] or [[]]
    wanted = [*made, *first]
    kept = usual[: max(_FEWEST, MANY - len(wanted))]
    few = [*kept, *wanted, *chain.from_iterable(rest)][:MANY]
    return tuple(name for name in held if name in few) or held[:MANY]


def chosen(
    caches: Caches, scores: Sequence[str] | str | None, all_scores: bool = False
) -> tuple[dict[str, Cache], tuple[str, ...]]:
    """Caches by name, and the scores to show: those asked for, else `representative` ones (or all) of any cache.

    Raises
    ------
    UnknownScoreError
        If a score that was asked for is in none of the caches.
    """
    named = named_caches(caches)
    wanted = _scores(named, scores)
    if wanted is None:
        found = (name for c in named.values() for name in (c.scores if all_scores else representative(c)))
        return named, tuple(dict.fromkeys(found))
    return named, wanted
