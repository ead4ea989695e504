"""Frames of a video in compute and on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import TinyNet
from videos import scenes, write_video

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.schema.errors import CacheMismatchError, FrameError


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "my drive.mp4", scenes(12))


def test_frames_are_numbered(drive: Path) -> None:
    frames = gv.open_frames(drive)
    assert frames.layout == "video"
    assert len(frames) == 12
    assert frames.ids[:2] == ("my drive__000000", "my drive__000001")
    assert sorted(frames.ids) == list(frames.ids)
    assert frames[3].label is frames[3].anomaly is None
    assert frames[3].image_format == "png"
    assert len({frame.digest() for frame in frames}) == 12


def test_a_cache_is_resumed_from_the_same_video_wherever_it_lies(drive: Path, tmp_path: Path) -> None:
    net = TinyNet().eval()
    frames = gv.open_frames(drive)
    cache = gv.compute(net, frames[:4], tmp_path / "cache", scores="msp", progress=False)
    moved = tmp_path / "my drive.mp4"
    moved.write_bytes(drive.read_bytes())
    cache = gv.compute(net, gv.open_frames(moved), tmp_path / "cache", scores="msp", progress=False)
    assert cache.ids == frames.ids
    stored = cache[5]["image"].values.tobytes()
    assert stored[:4] == b"\x89PNG"
    assert cache[5].attrs["source"] == "my drive.mp4, frame 5"
    write_video(moved, scenes(13))
    with pytest.raises(CacheMismatchError, match=r"frame 0 and its labels have now"):
        gv.compute(net, gv.open_frames(moved), tmp_path / "cache", scores="msp", progress=False)


def test_the_network_sees_the_frame(drive: Path, tmp_path: Path) -> None:
    net = TinyNet().eval()
    frame = gv.open_frames(drive)[7]
    cache = gv.compute(net, frame, tmp_path / "cache", scores="msp", progress=False)
    alone = gv.score_image(net, frame.image, scores="msp")
    np.testing.assert_array_equal(cache[0]["prediction"].values, alone["prediction"].values)
    np.testing.assert_array_equal(gv.score_image(net, frame.image_path, scores="msp")["msp"], alone["msp"])


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--every", "5"), [0, 5, 10]),
        (("--start", "4", "--stop", "8"), [4, 5, 6, 7]),
        (("--start", "0.35s", "--stop", "0.9s", "--every", "2"), [4, 6, 8]),
        (("--start", "9", "--stop", "400"), [9, 10, 11]),
        (("--start", "2", "--limit", "2"), [2, 3]),
    ],
)
def test_a_part_on_the_command_line(drive: Path, tmp_path: Path, options: tuple[str, ...], numbers: list[int]) -> None:
    out = tmp_path / "cache"
    arguments = ["compute", "--model", "demo", "--data", str(drive), "--layout", "video", "--scores", "msp", "--quiet"]
    assert main([*arguments, "--input-size", "32x48", "--no-images", *options, "--out", str(out)]) == 0
    assert list(gv.open_cache(out).ids) == [f"my drive__{number:06}" for number in numbers]


def test_an_empty_part_and_a_time_of_images(drive: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compute", "--model", "demo", "--out", "nowhere", "--data"]
    assert main([*arguments, str(drive), "--start", "5s"]) == 1
    assert "leave none of 12 frames (0 to 11, 1.10 s)" in capsys.readouterr().err
    assert main([*arguments, str(tiny_set), "--start", "5s"]) == 1
    assert "--start 5s: only frames of a video have a time" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, str(tiny_set), "--start", "-3"])
    assert "'-3' is no moment; expected a frame such as 120, or seconds as 4.5s" in capsys.readouterr().err


def test_a_check_of_a_video(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(drive), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "layout video; 12 frames, my drive__000000 .. my drive__000011" in out
    assert "48 x 64 (12)" in out


def test_a_folder_is_no_video(tiny_set: Path) -> None:
    with pytest.raises(FrameError, match=r"no images in layout 'video', expected a file such as NAME\.mp4"):
        gv.open_frames(tiny_set, "video")
