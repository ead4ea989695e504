"""Writers of a folder: each has a lock while it lives; what killed ones left behind is swept, and nothing else."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import UnixFileLock
from foreign import litter

from gradunc_viz.schema.errors import CacheError
from gradunc_viz.store.file import Version
from gradunc_viz.store.local import LocalBackend

WRITER = """
import os, socket, sys
os.getpid, socket.gethostname = lambda: 7, lambda: "a.container"
from gradunc_viz.store.local import LocalBackend

def wait(file):
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.readline()

with LocalBackend(sys.argv[1]).writing() as writing:
    writing.put("zarr.json", b"root")
    writing.put("frames/a.zip", wait)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache's folder, for a writer of the same host and process number as `other` has."""
    monkeypatch.setattr(socket, "gethostname", lambda: "a.container")
    monkeypatch.setattr(os, "getpid", lambda: 7)
    return tmp_path / "cache"


@pytest.fixture
def other(place: Path) -> Iterator[subprocess.Popen]:
    """A writer in the middle of a frame."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def everything(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_living_writer_of_the_same_name_keeps_its_files_and_a_killed_one_does_not(
    place: Path, other: subprocess.Popen
) -> None:
    assert other.stdout.readline() == "ready\n"
    (part,) = place.glob("frames/.*.part")
    assert part.name.startswith(".a-container@7@")
    with LocalBackend(place).writing() as writing:
        assert writing.put("frames/b.zip", b"1")
        assert part.exists()
    assert part.exists()
    assert LocalBackend(place).names("frames") == ["b.zip"]
    other.kill()
    other.wait()
    with LocalBackend(place).writing():
        assert not part.exists()
    assert everything(place) == ["frames/b.zip", "zarr.json"]
    assert not (place / ".writers").exists()


def test_writers_of_one_process_leave_each_other_alone(place: Path) -> None:
    def second(file: object) -> None:
        with LocalBackend(place).writing() as two:
            assert two.put("frames/a.zip", b"second")

    with LocalBackend(place).writing() as one:
        assert one.put("zarr.json", b"1")
        assert not one.put("zarr.json", b"2")
        assert not one.put("frames/a.zip", second)
    assert (place / "frames/a.zip").read_bytes() == b"second"
    assert everything(place) == ["frames/a.zip", "zarr.json"]


def test_a_writer_gone_before_us_makes_us_start_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, failures = Path.mkdir, [FileNotFoundError(errno.ENOENT, "swept")]

    def once(self: Path, *args: object, **options: object) -> None:
        if self.name == ".writers" and failures:
            raise failures.pop()
        make(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", once)
    with LocalBackend(place).writing() as writing:
        assert writing.put("zarr.json", b"1")
    assert not failures


def test_where_files_cannot_be_locked_one_writes_and_sweeps_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / ".writers").mkdir(parents=True)
    (place / ".writers/left.lock").write_text("")
    (place / ".left.0.part").write_text("half")

    def refuse(self: UnixFileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(UnixFileLock, "_acquire", refuse)
    with LocalBackend(place).writing() as writing:
        assert writing.put("zarr.json", b"1")
    assert (place / ".left.0.part").exists()


def test_where_files_cannot_be_linked_they_are_renamed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with LocalBackend(place).writing() as writing:
        assert writing.put("zarr.json", b"1")
        assert not writing.put("zarr.json", b"2")
    assert everything(place) == ["zarr.json"]
    assert (place / "zarr.json").read_bytes() == b"1"


def test_a_file_is_synced_before_it_has_its_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut may leave an empty file under the name of a frame, or of the cache itself."""
    synced, named = set(), []
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def put(source: Path, target: Path, call) -> None:
        assert os.stat(source).st_ino in synced
        named.append(Path(target).name)
        call(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    for name in ("link", "replace", "rename"):
        own = getattr(os, name)
        monkeypatch.setattr(os, name, lambda source, target, own=own: put(source, target, own))
    with LocalBackend(place).writing() as writing:
        writing.put("zarr.json", b"1")
        writing.put("frames/a.zip", lambda file: file.write(b"2"))
        writing.put("frames/a.zip", b"3", replace=True)
    assert named == ["zarr.json", "a.zip", "a.zip"]
    assert {os.stat(place).st_ino, os.stat(place / "frames").st_ino} <= synced


def test_a_file_takes_the_place_of_another_whatever_happens(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend(place)

    def fail(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with backend.writing() as writing:
        writing.put("zarr.json", b"old")
        before = backend.version(), backend.version("zarr.json")
        with pytest.raises(OSError, match="No space"):
            writing.put("zarr.json", fail, replace=True)
        assert (backend.read("zarr.json"), everything(place / "frames")) == (b"old", [])
        writing.put("zarr.json", b"newer", replace=True)
        writing.delete("absent")
    assert backend.read("zarr.json") == b"newer"
    assert backend.version("zarr.json") != before[1]
    assert backend.version() != before[0]
    assert isinstance(backend.version("zarr.json"), Version)
    assert backend.version("absent") is None
    with pytest.raises(FileNotFoundError):
        backend.read("absent")
    with pytest.raises(CacheError, match="no such folder"):
        LocalBackend(place / "nowhere").read("zarr.json")


@pytest.mark.parametrize(("start", "stop"), [(0, None), (2, 5), (-3, None), (-30, None), (4, 99), (20, 30), (5, 2)])
def test_a_part_of_a_file_is_read(place: Path, start: int, stop: int | None) -> None:
    with LocalBackend(place).writing() as writing:
        writing.put("zarr.json", b"0123456789")
    assert LocalBackend(place).read("zarr.json", start, stop) == b"0123456789"[start:stop]


def test_what_is_foreign_is_passed_over(place: Path) -> None:
    place.mkdir()
    litter(place)
    before = set(os.listdir(place))
    backend = LocalBackend(place)
    assert not backend.is_cache()
    with backend.writing() as one, backend.writing() as two:
        assert one.put("frames/zarr.json", b"1")
        assert one.put("zarr.json", b"1")
        assert not two.put("zarr.json", b"2")
    assert backend.is_cache()
    assert backend.read("zarr.json") == b"1"
    litter(place / "frames")
    assert backend.names("frames") == ["zarr.json"]
    assert list(backend.versions("frames")) == ["zarr.json"]
    with backend.writing() as writing:
        writing.abandon()
    assert before <= set(os.listdir(place)) <= {*before, "frames"}
    assert not backend.is_cache()


@pytest.mark.parametrize("name", ["notes.txt", "frames/notes.txt", "frames/a.zip"])
def test_a_cache_with_something_of_the_user_is_not_taken_away(place: Path, name: str) -> None:
    with LocalBackend(place).writing() as writing:
        writing.put("frames/zarr.json", b"")
        writing.put("zarr.json", b"")
        (place / name).write_text("mine")
        writing.abandon()
    assert (place / name).read_text() == "mine"
    assert LocalBackend(place).is_cache()


def test_a_cache_of_another_writer_is_not_taken_away(place: Path) -> None:
    with LocalBackend(place).writing() as writing, LocalBackend(place).writing():
        writing.put("frames/zarr.json", b"")
        writing.put("zarr.json", b"")
        writing.abandon()
    assert LocalBackend(place).is_cache()


def test_nothing_is_left_of_a_cache_that_is_given_up(place: Path) -> None:
    with LocalBackend(place).writing():
        pass
    assert not place.exists()
    with LocalBackend(place).writing() as writing:
        for name in ("frames/zarr.json", "zarr.json", "cost.json", "index/a.zip"):
            writing.put(name, b"")
        writing.abandon()
    assert not place.exists()


def test_what_a_killed_writer_began_is_no_cache_and_no_obstacle(place: Path) -> None:
    (place / "frames").mkdir(parents=True)
    assert not LocalBackend(place).is_cache()
    (place / "frames/zarr.json").write_text("")
    assert not LocalBackend(place).is_cache()
    (place / "frames/mine.txt").write_text("")
    with pytest.raises(CacheError, match="holds something else"):
        LocalBackend(place).is_cache()


def test_a_link_to_a_folder_stays_one(place: Path) -> None:
    there = place.parent / "there"
    there.mkdir()
    place.symlink_to(there)
    with LocalBackend(place).writing() as writing:
        assert writing.put("frames/zarr.json", b"1")
        assert writing.put("zarr.json", b"1")
        assert writing.put("frames/a.zip", b"")
        assert (there / "frames/a.zip").is_file()
        writing.delete("frames/a.zip")
        writing.abandon()
    assert place.is_symlink()
    assert list(there.iterdir()) == []


def test_a_relative_path_stays_where_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    backend = LocalBackend("cache")
    monkeypatch.chdir("/")
    with backend.writing() as writing:
        writing.put("zarr.json", b"1")
    assert backend.read("zarr.json") == b"1"
    assert backend.where == str(place)
