"""Where a cache lies: the few things that a place for caches does, a folder or anything else.

Names are those of files within the cache, with slashes: ``zarr.json``, ``frames/<frame id>/prediction/zarr.json``. A
*group* is what lies below a name: ``frames/<frame id>``, or ``summary``; the empty name is the whole cache.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from ..schema.errors import CacheError

__all__ = ["Backend", "Place", "Writing", "backend_of"]


class Writing(Protocol):
    """What a writer may do between the beginning and the end of `Backend.writing`; several threads at once."""

    def publish(self, group: str, files: Mapping[str, bytes]) -> bool:
        """Let a group appear whole, or not at all.

        Parameters
        ----------
        group : str
        files : mapping of name below the group -> content
            The last of them makes it a group. Each is to be asked for once, in order: it may be made then.

        Returns
        -------
        bool
            False if the group is there already, which then stays as it is.

        Raises
        ------
        OSError
            If it cannot be written; nothing of it is left then.
        """
        ...

    def put(self, name: str, content: bytes) -> None:
        """Put one file in place of what is there, whole or not at all."""
        ...

    def replace(self, group: str, files: Mapping[str, bytes]) -> None:
        """Put a group in place of the one that is there; whatever happens, one of the two is there in the end.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        ...

    def withdraw(self, group: str) -> None:
        """Take a group away, if it is there."""
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

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        ...

    def groups(self, name: str) -> list[str]:
        """Names of the groups right below a name, without opening any."""
        ...

    def sizes(self, group: str) -> dict[str, int]:
        """Bytes of every file of a group by its name below the group; those of the group itself may be left out."""
        ...

    def store(self, name: str) -> Any:
        """What zarr reads a group or an array from: a path, or a store of its own."""
        ...

    def version(self, group: str = "") -> Hashable:
        """What changes whenever a group is published anew; of the whole cache, whenever a frame is."""
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
        """Whatever is needed to publish, for as long as somebody writes."""
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
