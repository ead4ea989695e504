"""Files that others made of frames, found by the frames' ids."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from ..schema.errors import FrameError, SettingsError
from ..schema.file_names import natural_key
from .layouts.files import files_below

__all__ = ["FilesById", "combined_digest", "content_digest"]


class FilesById:
    """Files below a folder by the id of the frame they belong to.

    The id is the file's path below the folder, without its suffix and with ``__`` for slashes, as the layout ``folder``
    names its frames. Where no file has that id, one of that name in a folder below belongs to the frame.

    Parameters
    ----------
    folder : path-like
    suffixes : container of str
        In lower case, of the files that count.
    what : str
        What they are, for errors.
    stores : container of str
        Suffixes of folders that count as one file each.

    Raises
    ------
    FrameError
        If the folder is missing or cannot be listed, or two files are of one id.
    SettingsError
        If it is no path.
    """

    def __init__(
        self, folder: str | os.PathLike[str], suffixes: Container[str], what: str, stores: Container[str] = ()
    ) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise SettingsError(f"{folder!r} is no path; expected a folder of {what}s")
        self.path = Path(folder).absolute()  # the process may go to another folder
        self.what = what
        self.suffixes, self.stores = suffixes, stores
        self.files: dict[str, Path] = {}
        self._by_name: dict[str, list[Path]] = {}
        if not self.path.is_dir():
            raise FrameError(f"{self.path}: no such folder; expected a folder of {what}s")
        try:
            found = sorted(self.listed(), key=lambda pair: natural_key(pair[1].as_posix()))
        except OSError as error:
            raise FrameError(f"{error.filename or self.path}: cannot be listed ({error.strerror or error})") from error
        for parts, file in found:
            frame_id = "__".join(parts)
            if frame_id in self.files:
                raise FrameError(
                    f"{self.files[frame_id]} and {file}: both are the {what} of {frame_id!r}, expected one"
                )
            self.files[frame_id] = file
            self._by_name.setdefault(parts[-1], []).append(file)

    def listed(self) -> Iterator[tuple[tuple[str, ...], Path]]:
        """Every file that counts, behind the names of the folders it is in and its own."""
        seen: set[Path] = set()
        for file in files_below(self.path, True):
            inside = file.relative_to(self.path)
            store = next((one for one in reversed(inside.parents) if one.suffix.lower() in self.stores), None)
            if store is not None and store not in seen:
                seen.add(store)
                yield store.with_suffix("").parts, self.path / store
            elif store is None and file.suffix.lower() in self.suffixes:
                yield inside.with_suffix("").parts, file

    def find(self, frame_id: str) -> Path | None:
        """The file of a frame, if there is one.

        Raises
        ------
        FrameError
            If several folders hold one of that name.
        """
        if frame_id in self.files:
            return self.files[frame_id]
        named = self._by_name.get(frame_id, [])
        if len(named) > 1:
            raise FrameError(f"{named[0]} and {named[1]}: both may be the {self.what} of {frame_id!r}, expected one")
        return named[0] if named else None

    def unused(self, frame_ids: Iterable[str]) -> list[Path]:
        """Files that belong to none of some frames."""
        used = set()
        for frame_id in frame_ids:
            with suppress(FrameError):  # of several, which is told of a frame that takes part
                used.add(self.find(frame_id))
        return [file for file in self.files.values() if file not in used]


def content_digest(path: Path) -> str:
    """Hash of a file's content, or of the names and contents of all files of a folder, 32 hex digits.

    Raises
    ------
    FrameError
        If it cannot be read.
    """
    digest = blake2b(digest_size=16)
    try:
        if path.is_dir():
            files = sorted(Path(parent, name) for parent, _, names in os.walk(path) for name in names)
            parts = [f"{file.relative_to(path).as_posix()} {content_digest(file)}" for file in files]
            return combined_digest(parts)
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def combined_digest(parts: Iterable[str]) -> str:
    """Hash of hashes and other lines, 32 hex digits."""
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
