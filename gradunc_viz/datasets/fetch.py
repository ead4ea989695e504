"""Getting a known data set whose terms allow it: downloads that go on where they stopped, checked and unpacked.

pooch checks what arrived and moves it into place; how the bytes come is said here, as pooch begins anew each time.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..schema.errors import GraduncError
from .fits import fitting_layouts

__all__ = ["Archive", "Progress", "archive_size", "archives_of", "download", "fetch", "found_in", "unpack"]

Progress = Callable[[str, int, int | None], None]
"""Told the name of a file, how many bytes of it are there, and of how many if that is known."""

_TRIES = 5  # in a row that bring nothing
_TIMEOUT = (20, 60)  # seconds until there is a connection, and between two pieces of a file
_CHUNK = 2**16  # what is lost at most where a connection breaks

_LARGEST, _LARGEST_SHARE = 2**30, 100
"""Bytes that may come out of an archive at most, beside so many times those that it has."""


@dataclass(frozen=True)
class Archive:
    """A file of a data set.

    Attributes
    ----------
    url
    checksum
        ``"md5:..."`` or ``"sha256:..."`` as somebody published it; None where nobody did.
    size
        Bytes, where they are known.
    into
        Folder of the set in which it is unpacked.
    """

    url: str
    checksum: str | None = None
    size: int | None = None
    into: str = ""

    @property
    def name(self) -> str:
        """Name of the file."""
        return PurePosixPath(self.url.partition("?")[0]).name


def archives_of(name: str, entry: Mapping[str, Any]) -> list[Archive]:
    """Files of a data set of the catalogue.

    Raises
    ------
    GraduncError
        If it has to be got by hand; the text says how.
    """
    if not entry.get("archives"):
        steps = "; ".join(f"{number}. {step}" for number, step in enumerate(entry["steps"], 1))
        raise GraduncError(f"{name} cannot be fetched ({entry['licence']}); by hand, from {entry['url']}: {steps}")
    return [Archive(**archive) for archive in entry["archives"]]


def fetch(archives: list[Archive], out: Path, told: Progress = lambda *_: None) -> dict[str, str]:
    """Download and unpack a data set.

    Parameters
    ----------
    archives
    out
        Folder of the set, which appears when all is unpacked. What was downloaded waits beside it until then.
    told
        Told how far it is.

    Returns
    -------
    dict of str to str
        SHA-256 of the files that nobody published a checksum of, by their names.

    Raises
    ------
    GraduncError
        If there is something in `out`; as of `download` and `unpack`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GraduncError(f"{out}: is there already; expected a new folder (--out DIR)")
    waiting = out.with_name(f"{out.name}.download")
    waiting.mkdir(parents=True, exist_ok=True)
    try:
        files = [download(archive, waiting, told) for archive in archives]
    except BaseException:
        with suppress(OSError):  # something came, which waits for the next try
            waiting.rmdir()
        raise
    found = {file.name: _sha256(file) for archive, file in zip(archives, files, strict=True) if not archive.checksum}
    unpacked = waiting / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    for archive, file in zip(archives, files, strict=True):
        try:
            unpack(file, unpacked / archive.into)
        except GraduncError:
            if not archive.checksum:  # as it may not be what was asked for, it is not to be taken up again
                file.unlink()
            raise
    if out.exists():
        out.rmdir()
    unpacked.rename(out)
    shutil.rmtree(waiting)
    return found


def _sha256(file: Path) -> str:
    import pooch

    return str(pooch.file_hash(str(file)))


def download(archive: Archive, folder: Path, told: Progress = lambda *_: None) -> Path:
    """Download a file, from where an earlier try stopped.

    Raises
    ------
    GraduncError
        If the server cannot be reached or does not give it, the connection breaks again and again (what came stays, and
        the next try goes on from there), or its checksum is another than it should be (it is removed).
    """
    try:
        import pooch
    except ImportError as error:
        raise GraduncError("fetching needs pooch: pip install pooch; or follow 'gradunc data list NAME'") from error
    file = folder / archive.name
    pooch.get_logger().setLevel(logging.WARNING)
    resumed = _Resumed(archive, file.with_name(f"{file.name}.part"), told)
    try:
        pooch.retrieve(archive.url, archive.checksum, fname=file.name, path=folder, downloader=resumed)
    except ValueError as error:  # of the checksum
        raise GraduncError(
            f"{archive.url}: what came is not the file that was published ({archive.checksum}), and was removed; it "
            "has changed there, or was changed on its way"
        ) from error
    except OSError as error:
        raise GraduncError(f"{error.filename or file}: cannot be written ({error.strerror or error})") from error
    return file


class _Resumed:
    """A downloader of pooch that appends to what is there."""

    def __init__(self, archive: Archive, part: Path, told: Progress) -> None:
        self.archive, self.part, self.told = archive, part, told
        self._answered = False
        self._version = part.with_name(f"{part.name}.version")  # which version of the file the server called it

    def __call__(self, url: str, output: str, _pooch: object) -> None:
        import requests

        fruitless = 0
        while True:
            before = self._have
            try:
                self._continue(url)
                break
            except requests.RequestException as error:
                fruitless = 0 if self._have > before else fruitless + 1
                if fruitless >= _TRIES:
                    reason = type(error).__name__
                    if not self._answered:
                        also = (
                            f"; {self._have} bytes of it are here, and wait for the same command" if self._have else ""
                        )
                        raise GraduncError(f"{url}: the server cannot be reached ({reason}){also}") from error
                    size = "" if self.archive.size is None else f" of {self.archive.size}"
                    raise GraduncError(
                        f"{url}: the connection broke ({reason}) with {self._have}{size} bytes here; the same command "
                        "goes on from there"
                    ) from error
        os.replace(self.part, output)
        self._version.unlink(missing_ok=True)

    @property
    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _continue(self, url: str) -> None:
        import requests

        have, version = self._have, self._version.read_text() if self._version.exists() else ""
        if have and not version and self.archive.checksum is None:
            have = 0  # nothing would tell that two versions were joined
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if version:
                headers["If-Range"] = version
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            self._answered = True
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return None  # it was all there
                self.part.unlink()
                return self._continue(url)
            if not response.ok:
                raise GraduncError(f"{url}: the server answers {response.status_code} {response.reason}")
            if response.status_code != requests.codes.partial_content or not response.headers.get(
                "Content-Range", ""
            ).startswith(f"bytes {have}-"):
                if response.status_code == requests.codes.partial_content:
                    self.part.unlink(missing_ok=True)
                    raise requests.ConnectionError("a part that was not asked for")
                have = 0
            length = response.headers.get("Content-Length", "")
            whole = have + int(length) if length.isdigit() else None
            if None not in (whole, self.archive.size) and whole != self.archive.size:
                raise GraduncError(
                    f"{url}: is of {whole} bytes, expected {self.archive.size}: it is not the file that was published"
                )
            if whole is not None and shutil.disk_usage(self.part.parent).free < whole - have:
                raise GraduncError(f"{self.part.parent}: no room for {archive_size(whole - have)} more")
            etag = response.headers.get("ETag", "")
            strong = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
            self._version.write_text(strong)
            with self.part.open("ab" if have else "wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    self.told(self.archive.name, have, whole or self.archive.size)
        if (whole or self.archive.size or have) != have:
            raise requests.ConnectionError("it ended early")
        return None


def archive_size(size: int | None) -> str:
    """Bytes in words."""
    return "unknown size" if size is None else f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file into a folder, and nothing outside of it.

    Raises
    ------
    GraduncError
        If it is neither, or damaged; if a file in it would lie elsewhere; if it holds far more than its size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    most = _LARGEST + _LARGEST_SHARE * archive.stat().st_size
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder, most)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, folder, most)
        else:
            with archive.open("rb") as file:
                begins = file.read(16)
            raise GraduncError(f"{archive}: is no zip or tar file, it begins with {begins!r}; a page to log in?")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as error:
        raise GraduncError(f"{archive}: cannot be unpacked ({error})") from error
    except OSError as error:
        raise GraduncError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from error


def _unpack_zip(archive: Path, folder: Path, most: int) -> None:
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        for entry in entries:
            parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
            link = stat.S_ISLNK(entry.external_attr >> 16)
            if link or ".." in parts or parts[:1] == ("/",) or (parts and ":" in parts[0]):
                raise GraduncError(f"{archive}: {entry.filename!r} would lie outside of {folder}; nothing was unpacked")
        _check_size(archive, sum(entry.file_size for entry in entries), most)
        file.extractall(folder)


def _unpack_tar(archive: Path, folder: Path, most: int) -> None:
    total = 0
    with tarfile.open(archive) as file:
        for entry in file:
            total += entry.size
            _check_size(archive, total, most)
            file.extract(entry, folder, filter="data")


def _check_size(archive: Path, size: int, most: int) -> None:
    if size > most:
        raise GraduncError(f"{archive}: holds more than {archive_size(most)}, out of all proportion to its size")


def found_in(out: Path, layout: str) -> tuple[Path, str] | None:
    """Where in a folder a layout finds frames, and the options that say so."""
    for folder in (out, *sorted(path for depth in ("*", "*/*") for path in out.glob(depth) if path.is_dir())):
        for fit in fitting_layouts(folder):
            if fit.layout == layout:
                return folder, fit.options
    return None
