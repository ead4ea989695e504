"""A cache in a folder: staged beside it, published by one rename."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from zarr.storage import LocalStore

from ..schema.errors import CacheError
from ..schema.file_names import is_foreign

__all__ = ["LocalBackend", "put_files", "write_error"]

_LOCK = ".lock"

_REPLACED = ".replaced"
"""Ending of the name of a group that stepped aside for another, behind a dot."""

_ROOT = "zarr.json"
"""What makes a folder a group, and that of a cache a cache."""

_OWN = frozenset((_ROOT, "frames", "summary", "cost.json"))
"""What a cache's folder holds."""

_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks answer."""


class LocalBackend:
    """A folder; see `gradunc_viz.store.backend.Backend`.

    A group is written to a staging folder beside the cache, on the same file system, and becomes visible by one
    `os.rename`, so that a group that exists is complete. `os.rename` onto a folder that holds something fails: that is
    how the second writer of a group learns that it lost. What is foreign (`gradunc_viz.schema.file_names`) is passed
    over.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # the process may go to another folder

    @property
    def where(self) -> str:
        """Path of the folder."""
        return str(self.path)

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises
        ------
        CacheError
            If the whole folder is missing.
        """
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            if not self.path.exists():
                raise CacheError(f"{self.path}: no such folder; expected a cache made by 'gradunc compute'") from None
            raise

    def groups(self, name: str) -> list[str]:
        """Names of the folders below a name that are groups; one whose own file alone was lost stays one, damaged."""
        with os.scandir(self.path / name) as entries:
            return [entry.name for entry in entries if entry.is_dir() and _is_group(Path(entry))]

    def sizes(self, group: str) -> dict[str, int]:
        """Bytes of the files of a group's arrays; what is not zarr's does not count."""
        return {
            f"{array.name}/{file.name}": file.stat().st_size
            for array in os.scandir(self.path / group)
            if array.is_dir() and not is_foreign(array.name)
            for file in os.scandir(array)
            if file.name in ("zarr.json", "c") or file.name.startswith("c.")
        }

    def store(self, name: str) -> LocalStore:
        """What zarr opens."""
        return _OwnFiles(self.path / name, read_only=True)

    def version(self, group: str = "") -> Hashable:
        """When the group, or the last frame, was published, in nanoseconds; -1 where it is gone."""
        if group:
            return _changed(self.path / group / _ROOT)
        return str(self.path.resolve()), _changed(self.path / _ROOT), _changed(self.path / "frames")

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
        if not own:
            return False
        if not (self.path / _ROOT).is_file():
            raise CacheError(
                f"{self.path}: holds something else ({', '.join(own[:3])}); expected an empty folder or a cache"
            )
        if not os.access(self.path / "frames", os.W_OK):
            raise CacheError(f"{self.path}: no permission to write there")
        return True

    @contextmanager
    def writing(self) -> Iterator[_LocalWriting]:
        """A staging folder, removed in the end; what killed writers left behind is removed on the way."""
        self.path.resolve().parent.mkdir(parents=True, exist_ok=True)
        with _staging(self.path) as folder:
            _put_back(self.path, folder)
            yield _LocalWriting(self.path.resolve(), folder)  # not the link to it


class _OwnFiles(LocalStore):
    """A folder without what is foreign in it, of each of which zarr would say that it knows it not."""

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for name in super().list_dir(prefix):
            if not is_foreign(name):
                yield name


class _LocalWriting:
    """Publishes from a staging folder."""

    def __init__(self, path: Path, staging: Path) -> None:
        self.path = path
        self.staging = staging

    def _new(self) -> Path:
        return self.staging / uuid.uuid4().hex

    def publish(self, group: str, files: Mapping[str, bytes]) -> bool:
        """Let a group appear whole by a rename onto nothing, or onto an empty folder."""
        staged = self._new()
        try:
            put_files(files, staged)
            if not group and _holds_foreign_alone(self.path):
                return self._fill(staged)
            os.rename(staged, self.path / group)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True

    def _fill(self, staged: Path) -> bool:
        """Let a cache appear beside foreign files, which forbid the rename: what makes it one comes last."""
        for file in sorted(staged.rglob("*"), key=lambda file: file == staged / _ROOT):
            target = self.path / file.relative_to(staged)
            if file.is_dir():
                target.mkdir(exist_ok=True)
            elif target == self.path / _ROOT:
                os.link(file, target)  # fails where another writer was faster
            else:
                os.replace(file, target)
        return True

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place by a rename."""
        staged = self._new()
        staged.write_bytes(content)
        os.replace(staged, self.path / name)

    def replace(self, group: str, files: Mapping[str, bytes]) -> None:
        """Rename the group aside and the new one in its place; should that end between the two, see `_put_back`."""
        staged, place = self._new(), self.path / group
        aside = place.with_name(f".{place.name}{_REPLACED}")
        try:
            put_files(files, staged)
            os.rename(place, aside)
            try:
                os.rename(staged, place)
            except OSError:
                os.rename(aside, place)
                raise
            os.rename(aside, self._new())
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def withdraw(self, group: str) -> None:
        """Rename a group into the staging folder, which goes away with all it holds."""
        with suppress(FileNotFoundError):
            os.rename(self.path / group, self._new())

    def abandon(self) -> None:
        """Rename the cache into the staging folder, where nothing else is in it and no other writer has one."""
        there = set(os.listdir(self.path))
        kept = {name for name in there - _OWN if not is_foreign(name)}
        kept |= {name for name in os.listdir(self.path / "frames") if name != _ROOT and not is_foreign(name)}
        writers = {name for name in os.listdir(self.staging.parent) if not is_foreign(name)}
        if kept or writers != {self.staging.name}:
            return
        if there <= _OWN:
            os.rename(self.path, self._new())
        else:
            for name in (_ROOT, "summary", "frames"):
                self.withdraw(name)


def _put_back(path: Path, staging: Path) -> None:
    """Restore frames that a writer was killed over between renaming one aside and the next in its place."""
    for aside in path.glob(f"frames/.*{_REPLACED}"):
        place = aside.with_name(aside.name[1:].removesuffix(_REPLACED))
        with suppress(FileNotFoundError):  # another writer is at work on it, and done now
            os.rename(aside, staging / uuid.uuid4().hex if place.exists() else place)


def put_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files below a folder; what makes it a group, the last of them, comes last."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _is_group(folder: Path) -> bool:
    return not is_foreign(folder.name) and ((folder / _ROOT).is_file() or any(folder.glob(f"*/{_ROOT}")))


def _holds_foreign_alone(folder: Path) -> bool:
    names = os.listdir(folder) if folder.is_dir() else []
    return bool(names) and all(map(is_foreign, names))


def _changed(file: Path) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:  # gone meanwhile: whoever reads it will say so
        return -1


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A folder beside the cache, on the same file system, whose lock says that its owner lives."""
    root = path.resolve()
    parent = root.parent / f".{root.name}.staging"
    folder, lock = _locked_folder(parent)
    try:
        _sweep(parent)
        yield folder
    finally:
        lock.release()  # before: Windows removes no open file
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another writer may be at work
            parent.rmdir()


def _locked_folder(parent: Path) -> tuple[Path, FileLock]:
    while True:
        # host and process are for people to read; the lock alone tells who lives
        folder = parent / f"{socket.gethostname()}@{os.getpid()}@{uuid.uuid4().hex}"
        parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, thread_local=False)
        with suppress(FileNotFoundError, Timeout):  # somebody removes the empty parent, or sweeps, just now
            folder.mkdir()
            try:
                lock.acquire(timeout=0)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return folder, lock  # nobody can take it there, so that nobody sweeps
            if (folder / _LOCK).exists():
                return folder, lock
            lock.release()


def _sweep(parent: Path) -> None:
    """Remove what killed writers left behind: folders whose lock can be taken."""
    for folder in parent.iterdir():
        if not (folder / _LOCK).is_file():
            continue
        lock = FileLock(folder / _LOCK, thread_local=False)
        with suppress(Timeout, OSError, NotImplementedError):
            lock.acquire(timeout=0)
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                lock.release()
            shutil.rmtree(folder, ignore_errors=True)  # Windows keeps a locked file


def write_error(where: str, error: OSError) -> CacheError:
    """What went wrong in the words of a user."""
    if error.errno == errno.ENOSPC:
        return CacheError(f"{where}: the disk is full; free some space and run again, finished frames are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(f"{where}: no permission to write there")
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return CacheError(f"{where}: lies on another file system than the folder it is in; choose a folder inside it")
    return CacheError(f"{where}: cannot be written ({error.strerror or error})")
