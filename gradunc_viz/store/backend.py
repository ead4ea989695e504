"""Where a cache lies: the few things that a place for caches does, a folder, an object store or anything else.

Names are those of files within the cache, with slashes: ``zarr.json``, ``frames/<frame id>.zip``. Files are put whole
or not at all, and what was put is only ever replaced as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from ..schema.errors import CacheError
from .file import Content, Version

__all__ = ["Backend", "Place", "Writing", "backend_of"]


class Writing(Protocol):
    """What a writer may do between the beginning and the end of `Backend.writing`; several threads at once."""

    def put(self, name: str, content: Content, *, replace: bool = False) -> bool:
        """Let a file appear whole, or not at all.

        Parameters
        ----------
        name : str
        content : bytes, or callable that writes them
        replace : bool
            Whether it takes the place of one that is there.

        Returns
        -------
        bool
            False if there is one already, which then stays as it is.

        Raises
        ------
        OSError
            If it cannot be written; nothing of it is left then.
        """
        ...

    def delete(self, name: str) -> None:
        """Take a file away, if it is there; or a folder, of which frames were made until schema version 2."""
        ...

    def abandon(self) -> None:
        """Take the whole cache away, unless it holds a frame, or anything else, or another writer is at work."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A place for one cache. Anything with these methods is one; what is read may be read by several threads."""

    @property
    def where(self) -> str:
        """Where it lies, for messages and as an identity."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Content of a file, or of a part of it; a negative `start` counts from its end, as in Python.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        ...

    def names(self, folder: str) -> list[str]:
        """Names right below a folder, whose own is left out; of what is not foreign there.

        Raises
        ------
        FileNotFoundError
            If there is nothing.
        """
        ...

    def versions(self, folder: str) -> dict[str, Version]:
        """Versions of the files right below a folder by their names, in one go.

        Raises
        ------
        FileNotFoundError
            If there is nothing.
        """
        ...

    def version(self, name: str = "") -> Hashable:
        """What changes whenever a file is put anew, `Version` where it is there; of the cache, whenever a frame is."""
        ...

    def is_cache(self) -> bool:
        """Whether there is something; whoever wants to write asks.

        Raises
        ------
        CacheError
            If something else lies there, or nothing may be written.
        """
        ...

    def writing(self) -> AbstractContextManager[Writing]:
        """Whatever is needed to put files, for as long as somebody writes."""
        ...


Place = str | os.PathLike[str] | Backend
"""A folder, or another place."""


def backend_of(place: Place) -> Backend:
    """The backend of a place: of a path, that of its folder.

    Raises
    ------
    CacheError
        If it is neither a path nor a backend.
    """
    if isinstance(place, (str, os.PathLike)):
        from .local import LocalBackend

        return LocalBackend(place)
    if not isinstance(place, Backend):
        raise CacheError(f"{place!r} of type {type(place).__name__} is no place of a cache; expected its folder")
    return place
