"""Adding frames to a cache."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from ..schema.errors import CacheError, CacheMismatchError
from ..schema.frame import check_frame_id, validate
from .local import _KIND, _complete_attrs, _encoded, _published, _put_files, _read_root, _staging, _write_error

__all__ = ["CacheWriter"]


class CacheWriter:
    """Creates or resumes a cache, and commits frames to it. A context manager.

    A cache that it created and that no frame was put into goes again where the context ends with an error: it would
    refuse the next run, which may well be asked for something else.

    Parameters
    ----------
    path : path-like
        Folder of the cache: absent, empty, or a cache with the same key.
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
        path: str | os.PathLike[str],
        key: Mapping[str, Any],
        classes: tuple[str, ...],
        colors: tuple[tuple[int, int, int], ...],
    ) -> None:
        self.path = Path(path)
        self.key = json.loads(json.dumps(key))
        self._created = False
        try:
            self._create_or_check(classes, colors)
        except OSError as error:
            raise _write_error(self.path, error) from error
        self.existing = set(_published(self.path))

    def _create_or_check(self, classes: tuple[str, ...], colors: tuple[tuple[int, int, int], ...]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise CacheError(f"{self.path}: is a file; expected a folder for the cache")
        if self.path.is_dir() and any(self.path.iterdir()):
            if not (self.path / "zarr.json").is_file():
                some = sorted(entry.name for entry in self.path.iterdir())[:3]
                raise CacheError(
                    f"{self.path}: holds something else ({', '.join(some)}); expected an empty folder or a cache"
                )
            differences = _differences(_read_root(self.path)["key"], self.key)
            if differences:
                raise CacheMismatchError(
                    f"{self.path}: was computed differently: {'; '.join(differences)}; choose another "
                    "--out, or remove it"
                )
            if not os.access(self.path / "frames", os.W_OK):
                raise CacheError(f"{self.path}: no permission to write there")
            return
        self.path.resolve().parent.mkdir(parents=True, exist_ok=True)
        with _staging(self.path) as staging:
            attrs = {
                "kind": _KIND,
                "key": self.key,
                "classes": list(classes),
                "colors": [list(c) for c in colors],
            }
            zarr.create_group(staging / "root", zarr_format=3, attributes=attrs)
            zarr.create_group(staging / "root" / "frames", zarr_format=3)
            try:
                os.rename(staging / "root", self.path)  # onto nothing, or onto an empty folder
                self._created = True
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._create_or_check(classes, colors)  # another writer came first

    def __enter__(self) -> CacheWriter:
        try:
            self._staging = _staging(self.path)
            self._folder = self._staging.__enter__()
        except OSError as error:
            raise _write_error(self._staging.parent, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None and self._created:
            self._withdraw()
        self._staging.__exit__(kind, *exc)

    def _withdraw(self) -> None:
        """Take the cache away if it is empty and no other writer is at work."""
        with suppress(OSError, CacheError):
            if not _published(self.path) and list(self._staging.parent.iterdir()) == [self._folder]:
                os.rename(self.path, self._folder / uuid.uuid4().hex)

    def frame_digest(self, frame_id: str) -> str:
        """Content hash that the frame in the cache was computed from."""
        return str(_complete_attrs(self.path / "frames" / frame_id).get("digest"))

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
        staged = self._folder / uuid.uuid4().hex
        target = self.path / "frames" / frame_id
        try:
            with stages("encode"):
                files = _encoded(dataset)
            with stages("write"):
                _put_files(files, staged)
                self._withdraw_summary()
                os.rename(staged, target)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise _write_error(target, error) from error
        self.existing.add(frame_id)
        return True

    def _withdraw_summary(self) -> None:
        """Take the table away before a frame comes: one of the same id may have been removed by hand."""
        with suppress(FileNotFoundError):
            os.rename(self.path / "summary", self._folder / uuid.uuid4().hex)


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
