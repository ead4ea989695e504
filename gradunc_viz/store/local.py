"""A cache in a folder: files are written beside their place, synced, and put there by one rename."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import uuid
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from ..schema.errors import CacheError
from ..schema.file_names import is_foreign
from .file import Content, Version

__all__ = ["LocalBackend", "write_error"]

_ROOT = "zarr.json"
"""What makes a folder a cache."""

_FOLDERS = ("frames", "index", "runs")
"""Folders of a cache."""

_OWN = frozenset((_ROOT, "summary", "summary.zip", "cost.json", *_FOLDERS))
"""What a cache's folder holds; the table over frames was a folder once."""

_WRITERS = ".writers"
"""Folder of one lock for each writer, whose owner lives as long as nobody else can take it."""

_PART = ".part"
"""Ending of the names of files that are being written: ``.<writer>.<number>.part``."""

_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks answer."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links answer."""


class LocalBackend:
    """A folder; see `gradunc_viz.store.backend.Backend`.

    A file is written under a hidden name beside its place, on the same file system, synced, and becomes visible by one
    link or rename: one that exists is complete, also after a power cut. To link to a name that exists fails: that is
    how the second writer of a frame learns that it lost. What is foreign (`gradunc_viz.schema.file_names`) is passed
    over.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # the process may go to another folder

    @property
    def where(self) -> str:
        """Path of the folder."""
        return str(self.path)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Content of a file, or of a part of it.

        Raises
        ------
        CacheError
            If the whole folder is missing.
        """
        try:
            with open(self.path / name, "rb") as file:
                first, last, _ = slice(start, stop).indices(os.fstat(file.fileno()).st_size)
                file.seek(first)
                return file.read(max(0, last - first))
        except FileNotFoundError:
            if not self.path.exists():
                raise CacheError(f"{self.path}: no such folder; expected a cache made by 'gradunc compute'") from None
            raise

    def names(self, folder: str) -> list[str]:
        """Names right below a folder."""
        return [name for name in os.listdir(self.path / folder) if not is_foreign(name)]

    def versions(self, folder: str) -> dict[str, Version]:
        """Versions of the files right below a folder."""
        with os.scandir(self.path / folder) as entries:
            return {
                entry.name: _version(entry.stat())
                for entry in entries
                if entry.is_file() and not is_foreign(entry.name)
            }

    def version(self, name: str = "") -> Hashable:
        """Size and time of a file; of the cache, when a file of it, or a frame, was put last; None where it is gone."""
        if name:
            return _found(self.path / name)
        return str(self.path.resolve()), _found(self.path / _ROOT), _found(self.path / "frames")

    def is_cache(self) -> bool:
        """Whether the folder holds a cache that may be written to; False if it is absent or holds nothing of a user.

        Raises
        ------
        CacheError
            If it is a file, holds something else, or may not be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CacheError(f"{self.path}: is a file; expected a folder for the cache")
        own = sorted(name for name in os.listdir(self.path) if not is_foreign(name)) if self.path.is_dir() else []
        if not (self.path / _ROOT).is_file():
            # of a writer that was killed, or is about to put the root
            if own and (own != ["frames"] or set(self.names("frames")) - {_ROOT}):
                raise CacheError(
                    f"{self.path}: holds something else ({', '.join(own[:3])}); expected an empty folder or a cache"
                )
            return False
        for folder in (self.path, self.path / "frames"):
            if folder.exists() and not os.access(folder, os.W_OK):
                raise CacheError(f"{self.path}: no permission to write there")
        return True

    @contextmanager
    def writing(self) -> Iterator[_LocalWriting]:
        """A lock that says that the writer lives; what killed writers left behind is removed on the way."""
        path = self.path.resolve()  # not the link to it
        made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        writer, lock = _locked(path / _WRITERS)
        writing = _LocalWriting(path, writer)
        try:
            _sweep(path)
            yield writing
        finally:
            lock.release()  # before: Windows removes no open file
            Path(lock.lock_file).unlink(missing_ok=True)
            with suppress(OSError):  # another writer may be at work
                (path / _WRITERS).rmdir()
                if made and (path / "frames").exists():  # of a cache that could not be written
                    (path / "frames").rmdir()
                if made or (writing.abandoned and not self.path.is_symlink()):
                    path.rmdir()


class _LocalWriting:
    """Puts files by renames in their folder."""

    def __init__(self, path: Path, writer: str) -> None:
        self.path = path
        self.writer = writer
        self.abandoned = False
        self._numbers = count()

    def put(self, name: str, content: Content, *, replace: bool = False) -> bool:
        """Let a file appear whole by a link, which fails where there is one, or by a rename."""
        target = self.path / name
        if target.parent != self.path:
            target.parent.mkdir(exist_ok=True)  # not above: the cache may have been removed
        staged = target.with_name(f".{self.writer}.{next(self._numbers)}{_PART}")
        try:
            with open(staged, "xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
            if replace:
                os.replace(staged, target)
            elif not _linked(staged, target):
                return False
            _sync(target.parent)
            return True
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file, or a folder."""
        place = self.path / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Remove the files of the cache and its folders, where nothing else is in them and no other writer at work."""
        names = {name for name in os.listdir(self.path) if not is_foreign(name)}
        frames = {name for name in os.listdir(self.path / "frames") if not is_foreign(name)}
        writers = {name for name in os.listdir(self.path / _WRITERS) if not is_foreign(name)}
        if names - _OWN or frames - {_ROOT} or writers != {f"{self.writer}.lock"}:
            return
        for name in names - set(_FOLDERS) - {"summary"}:
            self.delete(name)
        for folder in (folder for folder in _FOLDERS if folder in names):
            for name in os.listdir(self.path / folder):
                if not is_foreign(name):
                    self.delete(f"{folder}/{name}")
            with suppress(OSError):  # foreign files
                (self.path / folder).rmdir()
        self.abandoned = True


def _sync(folder: Path) -> None:
    """Let the names in a folder outlive a power cut, as the contents of its files do."""
    with suppress(OSError):  # not every system syncs folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _linked(staged: Path, target: Path) -> bool:
    try:
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():  # two writers that ask in the same instant put equal frames
            return False
        os.rename(staged, target)
    return True


def _version(stat: os.stat_result) -> Version:
    return Version(stat.st_size, stat.st_mtime_ns)


def _found(file: Path) -> Version | None:
    try:
        return _version(os.stat(file))
    except OSError:  # gone meanwhile: whoever reads it will say so
        return None


def _locked(folder: Path) -> tuple[str, FileLock]:
    """A new writer's name and its lock."""
    while True:
        # host and process are for people to read; the lock alone tells who lives
        writer = f"{socket.gethostname()}@{os.getpid()}@{uuid.uuid4().hex}".replace(".", "-")
        lock = FileLock(folder / f"{writer}.lock", thread_local=False)
        with suppress(FileNotFoundError, Timeout):  # somebody removes the empty folder, or sweeps, just now
            folder.mkdir(exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                Path(lock.lock_file).touch()
                return writer, lock  # nobody can take it there, so that nobody sweeps
            if Path(lock.lock_file).exists():
                return writer, lock
            lock.release()


def _sweep(path: Path) -> None:
    """Remove what killed writers left behind: their locks, which can be taken, and the files that they were writing."""
    locks = path / _WRITERS
    for file in locks.glob("*.lock"):
        lock = FileLock(file, thread_local=False)
        with suppress(Timeout, OSError, NotImplementedError):
            lock.acquire(timeout=0)
            lock.release()
            file.unlink(missing_ok=True)
    for folder in (path, *(path / name for name in _FOLDERS)):
        # a writer has its lock before it writes: whose is gone writes no more
        for file in folder.glob(f".*{_PART}"):
            writer = file.name[1:].partition(".")[0]
            if not (locks / f"{writer}.lock").exists():
                file.unlink(missing_ok=True)


def write_error(where: str, error: OSError) -> CacheError:
    """What went wrong in the words of a user."""
    if error.errno == errno.ENOSPC:
        return CacheError(f"{where}: the disk is full; free some space and run again, finished frames are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(f"{where}: no permission to write there")
    return CacheError(f"{where}: cannot be written ({error.strerror or error})")
