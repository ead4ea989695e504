"""Whatever fails while frames are written: what is in the cache stays whole, one line says why, a next run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr
from frame_files import members
from soak import SOAK

import gradunc_viz as gv
from gradunc_viz.schema.errors import CacheError
from gradunc_viz.store.writer import CacheWriter

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="uses what Linux has")]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def started(script: str, *arguments: object, **options: object) -> subprocess.Popen:
    """A process that runs a script beside this one."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        **options,
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code, and what it printed; nothing on stderr, where tracebacks go."""
    out, err = process.communicate(timeout=600)
    assert err == ""
    return process.returncode, out


def assert_right(path: Path, source: gv.Cache, frames: int | None = None) -> None:
    """Every frame that is there is the source's, and nothing else is there."""
    cache = gv.open_cache(path)
    assert frames is None or len(cache) == frames
    for frame_id in cache:
        assert members(path / "frames" / frame_id) == members(source.path / "frames" / frame_id)
    assert {name.removesuffix(".zip") for name in os.listdir(path / "frames")} == {*cache.ids, "zarr.json"}


@pytest.fixture(scope="module")
def source(tiny_cache: gv.Cache, tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    """Frames as they are when they were read and written again."""
    path = tmp_path_factory.mktemp("source") / "cache"
    assert ended(started("writing.py", tiny_cache.path, path)) == (0, "")
    return gv.open_cache(path)


def test_a_commit_is_killed_at_its_system_calls(source: gv.Cache, tmp_path: Path) -> None:
    step = 1 if SOAK > 1 else 12
    process = started("committing.py", source.path, "f00", tmp_path / "out", step)
    out, err = process.communicate(timeout=3600)
    if "ptrace" in err and "PermissionError" in err:
        pytest.skip("this system lets no process trace another")
    assert err == ""
    found = json.loads(out)
    assert found["calls"] > 200
    assert {"no cache yet", "cache without a frame", "frame"} <= found.keys()


@pytest.mark.parametrize("writers", [2, 4])
def test_several_writers_of_one_cache(source: gv.Cache, tmp_path: Path, writers: int) -> None:
    for number in range(SOAK):
        out = tmp_path / str(number)
        processes = [started("writing.py", source.path, out) for _ in range(writers)]
        assert [ended(process) for process in processes] == [(0, "")] * writers
        assert_right(out, source, len(source))
        xr.testing.assert_equal(gv.open_cache(out).summary, source.summary)


@pytest.mark.parametrize(
    ("limit", "said"),
    [("fsize=30000", "File too large"), ("nofile=24", ""), ("user=65534", "no permission to write there")],
)
def test_limits_of_a_process(source: gv.Cache, tmp_path: Path, limit: str, said: str) -> None:
    if limit.startswith("user") and os.geteuid() != 0:
        pytest.skip("needs to become another user")
    tmp_path.chmod(0o755)
    out = tmp_path / "out"
    code, printed = ended(started("writing.py", source.path, out, limit))
    assert code == bool(said)
    assert said in printed
    assert printed.count("\n") == bool(said)
    assert not list(tmp_path.rglob("*.part"))
    assert ended(started("writing.py", source.path, out)) == (0, "")
    assert_right(out, source, len(source))


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own, as long as it lasts."""
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this system lets nobody mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(("little", "much"), [("size=200k", "size=20m"), ("nr_inodes=9", "nr_inodes=100")])
def test_a_full_disk(source: gv.Cache, tmp_path: Path, little: str, much: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, little):
        code, printed = ended(started("writing.py", source.path, disk / "out"))
        assert (code, printed.count("\n")) == (1, 1)
        assert "the disk is full; free some space and run again, finished frames are kept" in printed
        assert_right(disk / "out", source)
        assert 0 < len(gv.open_cache(disk / "out")) < len(source)
        subprocess.run(["mount", "-o", f"remount,{much}", disk], check=True)
        assert ended(started("writing.py", source.path, disk / "out")) == (0, "")
        assert_right(disk / "out", source, len(source))


def test_a_cache_removed_under_a_reader(source: gv.Cache, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(source.path, out)
    cache = gv.open_cache(out)
    shutil.rmtree(out)
    for use in (
        lambda: cache["f00"],
        lambda: cache.read("f00", ["counts"]),
        lambda: cache.thumbnail("f00"),
        lambda: gv.evaluate(cache, "error", bootstrap=0),
        lambda: gv.open_cache(out),
        cache.reopened,
    ):
        with pytest.raises(CacheError) as raised:
            use()
        assert str(out) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_cache_removed_under_a_writer(source: gv.Cache, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with CacheWriter(out, source.key, source.classes, source.colors) as writer:
        writer.commit(source["f00"].load())
        shutil.rmtree(out)
        with pytest.raises(CacheError, match="cannot be written") as raised:
            writer.commit(source["f01"].load())
        assert "\n" not in str(raised.value)
    assert not out.exists()
