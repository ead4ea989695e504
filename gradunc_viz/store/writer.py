"""Adding frames to a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import xarray as xr

from ..schema.errors import CacheError, CacheMismatchError
from ..schema.frame import SCHEMA_VERSION, check_frame_id, validate
from ..schema.scores import BUILT_IN, GradientScore, lookup
from .backend import Backend, Place, Writing, backend_of
from .group import (
    COST,
    KIND,
    ROOT,
    SUMMARY,
    frame_group,
    group_content,
    open_group,
    published,
    put_root,
    read_root,
    root_content,
    withdraw,
)
from .local import write_error
from .members import ZIP

__all__ = ["CacheWriter", "described"]


class CacheWriter:
    """Creates or resumes a cache, and commits frames to it. A context manager.

    A cache without a frame holds nothing that anybody waits for: one of another key is taken over unless another writer
    is at work, and one that it created itself goes again where the context ends with an error.

    Parameters
    ----------
    path : path-like or Backend
        Folder of the cache: absent, empty, a cache with the same key or one without frames; or another place.
    key : dict
        JSON-able; what decides whether existing frames may be reused.
    classes : sequence of str
    colors : sequence of (r, g, b)

    Raises
    ------
    CacheError
        If the folder holds something else or cannot be written.
    CacheMismatchError
        If it is a cache of another network or other settings; the message says what differs.
    """

    def __init__(
        self,
        path: Place,
        key: Mapping[str, Any],
        classes: tuple[str, ...],
        colors: tuple[tuple[int, int, int], ...],
    ) -> None:
        self.backend: Backend = backend_of(path)
        self.path = Path(self.backend.where)
        self.key = json.loads(json.dumps(key))
        self._classes: dict[str, Any] = {"classes": list(classes), "colors": [list(color) for color in colors]}
        self._created = False
        try:
            while not self._resumes():
                with self.backend.writing() as writing:
                    # if another writer comes first, its key is looked at
                    self._created = put_root(writing, self._root())
        except OSError as error:
            raise write_error(self.backend.where, error) from error
        self.existing = set(published(self.backend))
        self._outdated: set[str] = set()

    def _root(self) -> dict[str, Any]:
        scores = described(self.key.get("settings", {}).get("scores", ()))
        return {"kind": KIND, "key": self.key, **self._classes, "scores": scores}

    def _resumes(self) -> bool:
        """Whether there is a cache, which then has the same key."""
        if not self.backend.is_cache():
            return False
        differences = self._mismatch()
        if differences and not published(self.backend):
            with self.backend.writing() as writing, suppress(FileNotFoundError):  # another writer may do the same
                writing.abandon()
            if not self.backend.is_cache():
                return False
            if not (differences := self._mismatch()):
                return True
            raise CacheMismatchError(
                f"{self.path}: is being computed differently: {'; '.join(differences)}; another run is at work there, "
                "or something of yours lies in it; choose another folder for the cache"
            )
        if differences:
            raise CacheMismatchError(
                f"{self.path}: was computed differently: {'; '.join(differences)}; choose another folder for the "
                "cache, or remove it"
            )
        return True

    def _mismatch(self) -> list[str]:
        return _differences(read_root(self.backend, SCHEMA_VERSION)["key"], self.key)

    def __enter__(self) -> CacheWriter:
        self._open = self.backend.writing()
        try:
            self._writing: Writing = self._open.__enter__()
        except OSError as error:
            raise write_error(self.backend.where, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: Any) -> None:
        if kind is not None and self._created and not self.existing:
            with suppress(OSError):
                self._writing.abandon()
        self._open.__exit__(kind, *exc)

    def frame_digest(self, frame_id: str) -> str:
        """Content hash that the frame in the cache was computed from."""
        return str(open_group(self.backend, frame_group(frame_id)).attrs.get("digest"))

    def put_key(self, key: Mapping[str, Any]) -> None:
        """Put another key in place of the cache's own, which says as much of its frames.

        Raises
        ------
        CacheError
            If it cannot be written.
        """
        self.key = json.loads(json.dumps(key))
        try:
            self._writing.put(ROOT, root_content(self._root()), replace=True)
            withdraw(self._writing, SUMMARY)
        except OSError as error:
            raise write_error(self.backend.where, error) from error

    def put_cost(self, measured: Mapping[str, Any]) -> None:
        """Keep what was measured of the scores' cost, see `gradunc_viz.store.cost`; it is part of no key.

        Raises
        ------
        CacheError
            If it cannot be written.
        """
        try:
            self._writing.put(COST, json.dumps(measured, indent=1).encode(), replace=True)
        except OSError as error:
            raise write_error(self.backend.where, error) from error

    def renew(self, frame_ids: Iterable[str]) -> None:
        """Take frames of the cache for missing: what is committed of them takes the place of what is there."""
        self._outdated |= {frame_id for frame_id in frame_ids if frame_id in self.existing}
        self.existing -= self._outdated

    def commit(
        self, dataset: xr.Dataset, stages: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
    ) -> bool:
        """Publish a frame whole, or not at all; several threads may do so at once.

        Parameters
        ----------
        dataset : xarray.Dataset
            See `gradunc_viz.schema.frame.VARIABLES`.
        stages : callable, optional
            Told when it enters the stages "encode" and "write", see `gradunc_viz.run.stages.Stages`.

        Returns
        -------
        bool
            False if another writer published the same frame first.

        Raises
        ------
        CacheError
            If it cannot be written (disk full, no permission); what is in the cache already is untouched.
        SchemaError
            If it does not follow the schema.
        """
        validate(dataset)
        frame_id = check_frame_id(dataset.attrs["frame_id"])
        name = frame_group(frame_id)
        try:
            with stages("encode"):
                content = group_content(dataset)
            with stages("write"):
                # the table goes before a frame comes: one of the same id may have been removed by hand
                withdraw(self._writing, SUMMARY)
                outdated = frame_id in self._outdated
                new = self._writing.put(name + ZIP, content, replace=outdated)
        except OSError as error:
            raise write_error(str(self.path / name), error) from error
        if new:
            self.existing.add(frame_id)
        elif not self._readable(name):
            raise CacheError(f"{self.path / name}{ZIP}: is in the way of a frame and is none; remove it")
        return new

    def _readable(self, name: str) -> bool:
        try:
            return bool(open_group(self.backend, name, partly=True).arrays)
        except CacheError:
            return False


def described(scores: Sequence[str]) -> list[dict[str, Any]]:
    """What a cache says of its scores that are not built in, so that it can be read where nobody registered them."""
    fields = ("name", "family", "orientation", "units", "formula", "title", "source", "at", "lattice", "upper")
    entries = [lookup(name) for name in scores if name not in BUILT_IN]
    return [
        {field: getattr(entry, field) for field in fields} | ({"parts": list(entry.parts)} if entry.parts else {})
        for entry in entries
        if not isinstance(entry, GradientScore) and entry.family != "external"  # whose names tell all
    ]


_DECIDES_NOTHING = {"name", "frames"}
"""Entries of a key that say what a network is called, and (in earlier keys) how a folder of frames is arranged."""


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Name what differs between two keys, one text per leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for name in sorted({*old, *new} - _DECIDES_NOTHING)
            for text in _differences(old.get(name), new.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if old == new else [f"{where} was {_brief(old)}, now {_brief(new)}"]


def _brief(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:28] + "..." + text[-28:]
