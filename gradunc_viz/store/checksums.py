"""Checksums of the files of a group: made when it is written, compared whenever one of them is read.

A group's attributes hold the CRC-32C of every other file by its name, and of themselves. So a flipped bit, a chunk that
is another frame's, or one that was cut off is an error that names the file. Groups of earlier versions have none.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import google_crc32c
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from ..schema.errors import CacheError
from .members import Members

__all__ = ["ALGORITHM", "CheckedStore", "attributes_checksum", "checksum"]

ALGORITHM = "crc32c"
"""Its name in attributes."""


def checksum(content: bytes) -> str:
    """CRC-32C in eight hexadecimal digits."""
    return f"{google_crc32c.value(content):08x}"


def attributes_checksum(attributes: Mapping[str, Any]) -> str:
    """Checksum of attributes, however their JSON is laid out."""
    return checksum(json.dumps(attributes, sort_keys=True, separators=(",", ":")).encode())


class CheckedStore(Store):
    """What zarr reads a group from, every file compared with its checksum.

    Parameters
    ----------
    members : Members
        The files.
    where : str
        What it is, for errors.
    expected : mapping of file name -> checksum

    Raises
    ------
    CacheError
        On reading a file that is missing, or is not the one that was written.
    """

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, members: Members, where: str, expected: Mapping[str, str]) -> None:
        super().__init__(read_only=True)
        self.members, self.where, self.expected = members, where, expected

    def read(self, name: str) -> bytes | None:
        """Content of a file, None where there is none and none is expected."""
        try:
            content = self.members.read(name)
        except FileNotFoundError:
            content = None
        if name in self.expected:
            self.check(name, content)
        return content

    def check(self, name: str, content: bytes | None) -> None:
        """Compare the content of a file, None where there is none, with its checksum.

        Raises
        ------
        CacheError
            Naming it, if it differs.
        """
        found = "none" if content is None else checksum(content)
        if found != self.expected[name]:
            what = "is missing" if content is None else f"has checksum {found}, expected {self.expected[name]}"
            raise CacheError(
                f"{self.where}/{name}: damaged, {what}; 'gradunc check CACHE --repair' takes damaged frames out, "
                "to be computed again"
            )

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Content of a file, which zarr reads whole: chunks are stored one by one."""
        if byte_range is not None:
            raise NotImplementedError("chunks are read whole")
        content = self.read(key)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Contents of several files."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is a file."""
        return key in self.members.sizes

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse to delete."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Names of all files."""
        for name in self.members.sizes:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Names of the files that begin so."""
        for name in self.members.sizes:
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below one."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        for name in sorted(
            {name[len(start) :].partition("/")[0] for name in self.members.sizes if name.startswith(start)}
        ):
            yield name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckedStore) and (self.members, self.where) == (other.members, other.where)

    __hash__ = None  # type: ignore[assignment]
