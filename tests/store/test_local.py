"""Staging folders: kept while their writer lives, whatever its name and number, and swept once it is gone."""

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
from gradunc_viz.store.local import LocalBackend

WRITER = """
import os, socket, sys
os.getpid, socket.gethostname = lambda: 7, lambda: "container"
from gradunc_viz.store.local import LocalBackend

with LocalBackend(sys.argv[1]).writing() as writing:
    (writing.staging / "frame").mkdir()
    print(writing.staging, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache's folder, for a writer of the same host and process number as `other` has."""
    monkeypatch.setattr(socket, "gethostname", lambda: "container")
    monkeypatch.setattr(os, "getpid", lambda: 7)
    return tmp_path / "cache"


@pytest.fixture
def other(place: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_a_living_writer_of_the_same_name_keeps_its_staging_and_a_killed_one_does_not(
    place: Path, other: subprocess.Popen
) -> None:
    theirs = Path(other.stdout.readline().strip())
    assert theirs.name.startswith("container@7@")
    with LocalBackend(place).writing() as writing:
        assert writing.staging.name.startswith("container@7@")
        assert (theirs / "frame").is_dir()
    assert (theirs / "frame").is_dir()
    other.kill()
    other.wait()
    with LocalBackend(place).writing():
        assert not theirs.exists()
    assert not theirs.parent.exists()


def test_writers_of_one_process_leave_each_other_alone(place: Path) -> None:
    with LocalBackend(place).writing() as one, LocalBackend(place).writing() as two:
        assert one.staging.is_dir()
        assert two.staging.is_dir()
        assert one.publish("", {"zarr.json": b"1"})
        assert not two.publish("", {"zarr.json": b"2"})
    assert (place / "zarr.json").read_bytes() == b"1"
    assert [entry.name for entry in place.parent.iterdir()] == ["cache"]


def test_what_holds_no_lock_is_left_alone(place: Path) -> None:
    foreign = place.parent / ".cache.staging" / "something"
    foreign.mkdir(parents=True)
    with LocalBackend(place).writing():
        pass
    assert foreign.is_dir()


def test_a_writer_gone_before_us_makes_us_start_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, failures = Path.mkdir, [FileNotFoundError(errno.ENOENT, "swept")]

    def once(self: Path, *args: object, **options: object) -> None:
        if "@" in self.name and failures:
            raise failures.pop()
        make(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", once)
    with LocalBackend(place).writing() as writing:
        assert writing.staging.is_dir()
    assert not failures


def test_where_files_cannot_be_locked_one_writes_and_sweeps_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = place.parent / ".cache.staging" / "left"
    left.mkdir(parents=True)
    (left / ".lock").write_text("")

    def refuse(self: UnixFileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(UnixFileLock, "_acquire", refuse)
    with LocalBackend(place).writing() as writing:
        assert writing.publish("", {"zarr.json": b"1"})
    assert left.is_dir()


def test_a_file_is_put_in_place_whole(place: Path) -> None:
    backend = LocalBackend(place)
    with backend.writing() as writing:
        writing.publish("", {"zarr.json": b"old"})
        before = backend.version()
        writing.put("zarr.json", b"new")
        writing.withdraw("absent")
    assert backend.read("zarr.json") == b"new"
    assert backend.version() != before
    with pytest.raises(FileNotFoundError):
        backend.read("absent")
    with pytest.raises(CacheError, match="no such folder"):
        LocalBackend(place / "nowhere").read("zarr.json")


def test_a_folder_is_a_group_by_its_file_and_stays_one_that_lost_it(place: Path) -> None:
    backend = LocalBackend(place)
    with backend.writing() as writing:
        writing.publish("", {"frames/zarr.json": b"", "zarr.json": b""})
        for name in ("a", "lost"):
            writing.publish(f"frames/{name}", {"label/zarr.json": b"", "zarr.json": b""})
    (place / "frames/lost/zarr.json").unlink()
    litter(place)
    for name in ("empty", "notes"):
        (place / "frames" / name).mkdir()
    (place / "frames/notes/todo.txt").write_text("")
    assert sorted(backend.groups("frames")) == ["a", "lost"]


def test_the_size_of_a_group_is_that_of_its_own_files(place: Path) -> None:
    backend = LocalBackend(place)
    with backend.writing() as writing:
        writing.publish("", {"frames/zarr.json": b"", "zarr.json": b""})
        writing.publish("frames/a", {"label/zarr.json": b"12", "label/c.0.0": b"345", "zarr.json": b""})
    before = backend.sizes("frames/a")
    litter(place)
    assert backend.sizes("frames/a") == before == {"label/zarr.json": 2, "label/c.0.0": 3}


def test_foreign_files_do_not_fill_a_folder(place: Path) -> None:
    place.mkdir()
    litter(place)
    before = set(os.listdir(place))
    backend = LocalBackend(place)
    assert not backend.is_cache()
    with backend.writing() as one, backend.writing() as two:
        assert one.publish("", {"frames/zarr.json": b"", "zarr.json": b"1"})
        assert not two.publish("", {"frames/zarr.json": b"", "zarr.json": b"2"})
    assert backend.is_cache()
    assert backend.read("zarr.json") == b"1"
    with backend.writing() as writing:
        writing.abandon()
    assert set(os.listdir(place)) == before


@pytest.mark.parametrize("name", ["notes.txt", "frames/notes.txt"])
def test_a_cache_with_something_of_the_user_is_not_taken_away(place: Path, name: str) -> None:
    with LocalBackend(place).writing() as writing:
        writing.publish("", {"frames/zarr.json": b"", "zarr.json": b""})
        (place / name).write_text("mine")
        writing.abandon()
    assert (place / name).read_text() == "mine"
    assert LocalBackend(place).is_cache()


def test_a_link_to_a_folder_stays_one(place: Path) -> None:
    there = place.parent / "there"
    there.mkdir()
    place.symlink_to(there)
    for foreign in (False, True):
        with LocalBackend(place).writing() as writing:
            assert writing.publish("", {"frames/zarr.json": b"", "zarr.json": b"1"})
            assert writing.publish("frames/a", {"zarr.json": b""})
            assert (there / "frames/a/zarr.json").is_file()
            writing.withdraw("frames/a")
            if foreign:
                litter(there)
            writing.abandon()
        assert place.is_symlink()
        assert not (there / "zarr.json").exists()


def test_a_relative_path_stays_where_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)
    backend = LocalBackend("cache")
    monkeypatch.chdir("/")
    with backend.writing() as writing:
        writing.publish("", {"zarr.json": b"1"})
    assert backend.read("zarr.json") == b"1"
    assert backend.where == str(place)
