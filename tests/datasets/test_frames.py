"""A folder as a sequence of frames: by position, by id, by slice, and the hash of what a frame holds."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_images import HEIGHT, WIDTH, fails, mask, picture

from gradunc_viz.datasets.frames import Frames, open_frames


def test_sequence(trio: Frames) -> None:
    assert trio.ids == ("a", "b", "c")
    assert len(trio) == 3
    assert [frame.id for frame in trio] == ["a", "b", "c"]
    assert trio[1].id == trio["b"].id == trio[-2].id == trio[np.int64(1)].id == "b"
    assert trio[1:].ids == ("b", "c")
    assert isinstance(trio[1:], Frames)
    assert trio[:0].ids == ()
    assert "a" in trio
    assert "z" not in trio
    assert trio[0] in trio
    assert trio.index(trio["c"]) == 2
    assert trio.layout == "folder"
    assert trio.classes is None
    assert trio.colors is None
    assert "3 frames" in repr(trio)
    fails(lambda: trio["z"], trio.path, "'z'", "'a' .. 'c'")
    with pytest.raises(IndexError):
        trio[3]
    with pytest.raises(TypeError):
        trio[1.0]  # type: ignore[call-overload]


def test_is_immutable(trio: Frames) -> None:
    for target, name in ((trio, "classes"), (trio[0], "id"), (trio[0], "files")):
        with pytest.raises(AttributeError):
            setattr(target, name, None)
    with pytest.raises(TypeError):
        trio[0] = trio[1]  # type: ignore[index]


def test_survives_pickling(trio: Frames) -> None:
    copy = pickle.loads(pickle.dumps(trio))
    assert copy.ids == trio.ids
    np.testing.assert_array_equal(copy["a"].label, trio["a"].label)


def test_arrays_are_fresh_and_writable(trio: Frames) -> None:
    frame = trio["a"]
    for name in ("image", "label"):
        first = getattr(frame, name)
        first[:] = 7
        assert (getattr(frame, name) != 7).any()


def test_opening_decodes_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    picture(tmp_path / "fine.png")
    frames = open_frames(tmp_path)
    assert frames.ids == ("broken", "fine")
    for name in ("image", "size", "image_format"):
        fails(lambda name=name: getattr(frames["broken"], name), tmp_path / "broken.png", "cannot be decoded")
    assert frames["broken"].image_bytes == b"no image at all"
    assert frames["fine"].image.shape == (HEIGHT, WIDTH, 3)


def test_size_reads_only_the_header(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 200, 300)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:200])
    frame = open_frames(tmp_path)[0]
    assert frame.size == (200, 300)
    fails(lambda: frame.image, tmp_path / "a.png")


def test_does_not_import_torch() -> None:
    code = (
        "import sys, gradunc_viz.datasets.frames; print({'torch', 'panel', 'matplotlib', 'xarray'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_digest(tmp_path: Path) -> None:
    for place in ("one", "two"):
        picture(tmp_path / place / "images" / f"{place}.png")
        mask(tmp_path / place / "labels" / f"{place}.png", 0, 1)
    frame = open_frames(tmp_path / "one")[0]
    same = frame.digest()
    assert same == frame.digest() == open_frames(tmp_path / "two")[0].digest()
    assert len(bytes.fromhex(same)) == 16
    seen = {same, open_frames(tmp_path / "one", labels={0: 1, 1: 0})[0].digest()}
    (tmp_path / "one" / "labels").rename(tmp_path / "one" / "anomalies")
    seen.add(open_frames(tmp_path / "one")[0].digest())
    mask(tmp_path / "one" / "anomalies" / "one.png", 1, 0)
    seen.add(open_frames(tmp_path / "one")[0].digest())
    (tmp_path / "one" / "anomalies" / "one.png").unlink()
    (tmp_path / "one" / "anomalies").rmdir()
    seen.add(open_frames(tmp_path / "one")[0].digest())
    picture(tmp_path / "one" / "images" / "one.png", 5, 5)
    seen.add(open_frames(tmp_path / "one")[0].digest())
    assert len(seen) == 6
