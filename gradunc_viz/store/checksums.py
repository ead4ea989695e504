"""Checksums of the files of a group: made when it is written, compared whenever one of them is read.

A group's attributes hold the CRC-32C of every other file by its name, and of themselves. So a flipped bit, a chunk that
is another frame's, or one that was cut off is an error that names the file. Groups of earlier versions have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from ..schema.errors import CacheError

__all__ = ["ALGORITHM", "CheckedStore", "attributes_checksum", "checksum"]

ALGORITHM = "crc32c"
"""Its name in attributes."""


def checksum(content: bytes) -> str:
    """CRC-32C in eight hexadecimal digits."""
    return f"{google_crc32c.value(content):08x}"


def attributes_checksum(attributes: Mapping[str, Any]) -> str:
    """Checksum of attributes, however their JSON is laid out."""
    return checksum(json.dumps(attributes, sort_keys=True, separators=(",", ":")).encode())


class CheckedStore(WrapperStore[Store]):
    """What zarr reads a group from, every file compared with its checksum.

    Parameters
    ----------
    store : zarr store or path
    where : str
        What it is, for errors.
    expected : mapping of file name -> checksum

    Raises
    ------
    CacheError
        On reading a file that is missing, or is not the one that was written.
    """

    def __init__(self, store: Store | str | Path, where: str, expected: Mapping[str, str]) -> None:
        super().__init__(store if isinstance(store, Store) else LocalStore(store, read_only=True))
        self.where, self.expected = where, expected

    def _with_store(self, store: Store) -> CheckedStore:
        return CheckedStore(store, self.where, self.expected)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Content of a file, which zarr reads whole: chunks are stored one by one."""
        content = await super().get(key, prototype, byte_range)
        if byte_range is None and key in self.expected:
            self.check(key, None if content is None else content.to_bytes())
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
