"""The files of a group: members of one stored zip, or (until schema version 2) files in a folder.

A zip whose members are stored, not compressed: what is in it is compressed already. It is one file on a disk and one
object in a store, appears whole, and plain zarr reads it: ``xarray.open_zarr(zarr.storage.ZipStore(path, mode="r"))``.
Small arrays and the group's own file are its last members: with the directory, at the end, they come in one read.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import BinaryIO, Protocol

from ..schema.errors import CacheError
from .backend import Backend
from .file import Version

__all__ = ["ZIP", "Members", "members_of", "write_members"]

ZIP = ".zip"
"""Ending of the name of a group's file."""

_TAIL = 1 << 16
"""Bytes of a zip that are read to begin with."""

_HEADER = struct.Struct("<4s22sHH")
"""Of a member: its signature, what the directory says as well, lengths of its name and of what else stands there."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member: equal frames are equal files."""


class Members(Protocol):
    """Files of a group.

    Attributes
    ----------
    sizes : dict of name -> int
        Bytes of each.
    """

    @property
    def sizes(self) -> Mapping[str, int]: ...  # noqa: D102

    def read(self, name: str) -> bytes:
        """Content of one.

        Raises
        ------
        FileNotFoundError
            If there is none.
        CacheError
            If it does not lie where the directory says.
        """
        ...


def write_members(files: Iterable[tuple[str, bytes]], file: BinaryIO) -> None:
    """Write a zip of files, each by its name and content."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)


def members_of(backend: Backend, group: str) -> Members:
    """The files of a group.

    Raises
    ------
    CacheError
        If what lies there is no zip of stored members.
    OSError
        If there is nothing, or it cannot be read.
    """
    try:
        return _ZipMembers(backend, group + ZIP)
    except FileNotFoundError:
        with suppress(OSError):
            return _FolderMembers(backend, group)
        raise


class _ZipMembers:
    """Members of a stored zip, of which the end is kept."""

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend, self.name = backend, name
        tail = backend.read(name, -_TAIL)
        version = backend.version(name) if len(tail) == _TAIL else len(tail)
        self._size = version.size if isinstance(version, Version) else len(tail)
        self._start, self._tail = self._size - len(tail), tail
        try:
            with zipfile.ZipFile(_Ranges(self)) as archive:  # type: ignore[arg-type]
                entries = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise CacheError(f"{backend.where}/{name}: damaged, its directory cannot be read ({error})") from error
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries) or any(entry.compress_type for entry in entries):
            raise CacheError(f"{backend.where}/{name}: damaged, expected stored members of different names")

    @property
    def sizes(self) -> dict[str, int]:
        return {name: entry.file_size for name, entry in self._entries.items()}

    def read(self, name: str) -> bytes:
        if name not in self._entries:
            raise FileNotFoundError(f"{self.backend.where}/{self.name} has no member {name}")
        entry = self._entries[name]
        before = _HEADER.size + len(name.encode())
        content = self.range(entry.header_offset, before + entry.file_size)
        if len(content) == before + entry.file_size:
            signature, _, length, more = _HEADER.unpack_from(content)
            if (signature, length, more) == (b"PK\3\4", len(name.encode()), 0):
                return content[before:]
        raise CacheError(f"{self.backend.where}/{self.name}/{name}: damaged, is not where the directory says")

    def range(self, start: int, size: int) -> bytes:
        """Bytes of the zip, as many as there are."""
        if start >= self._start:
            return self._tail[start - self._start :][:size]
        return self.backend.read(self.name, start, start + size)


class _Ranges(io.RawIOBase):
    """What `zipfile` reads a directory from."""

    def __init__(self, members: _ZipMembers) -> None:
        self.members, self.position = members, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.members._size)[whence]
        if self.position < 0:
            raise ValueError(f"position {self.position} before the beginning")
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1) -> bytes:
        size = self.members._size - self.position if size < 0 else size
        content = self.members.range(self.position, size)
        self.position += len(content)
        return content


class _FolderMembers:
    """Files of the arrays of a folder, and its own; what is not zarr's does not count."""

    def __init__(self, backend: Backend, group: str) -> None:
        self.backend, self.group = backend, group
        self._sizes: dict[str, int] = {}
        for array in backend.names(group):
            if array == "zarr.json":
                continue
            with suppress(NotADirectoryError):
                for file, version in backend.versions(f"{group}/{array}").items():
                    if file in ("zarr.json", "c") or file.startswith("c."):
                        self._sizes[f"{array}/{file}"] = version.size

    @property
    def sizes(self) -> dict[str, int]:
        return self._sizes

    def read(self, name: str) -> bytes:
        return self.backend.read(f"{self.group}/{name}")
