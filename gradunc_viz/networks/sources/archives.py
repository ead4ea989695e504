"""Archives that programs come in, which PyTorch reads without looking at their checksums."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...schema.errors import ModelError, brief

__all__ = ["damage", "opened"]

# of an archive or a member: checksum, header, compression, encryption
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)
_CHUNK = 2**20


@contextmanager
def opened(file: str | Path) -> Iterator[zipfile.ZipFile]:
    """An archive every byte of which is as it was written.

    Raises
    ------
    ModelError
        If a member is damaged; the text names it.
    """
    try:
        archive = zipfile.ZipFile(Path(file).expanduser())
    except _DAMAGE as error:
        raise damage(file, "the archive", error) from error
    with archive:
        for member in archive.infolist():
            try:
                with archive.open(member) as content:
                    while content.read(_CHUNK):
                        pass
            except _DAMAGE as error:
                raise damage(file, member.filename, error) from error
        yield archive


def damage(file: str | Path, what: str, error: Exception) -> ModelError:
    """The error that says of which part of a file that it is damaged."""
    return ModelError(f"{file}: {what} is damaged ({brief(error)}); expected it as it was written: copy the file anew")
