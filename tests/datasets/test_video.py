"""Videos, frame by frame."""

from __future__ import annotations

import random
import re
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from videos import scenes, write_video

import gradunc_viz as gv
from gradunc_viz.datasets.video import Video
from gradunc_viz.schema.errors import FrameError

IMAGES = scenes(20)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "3"}),
        ("a.mkv", "libx264", {}),
        ("a.ts", "libx264", {}),
        ("a.mov", "libx264", {"g": "1", "bf": "0"}),
        ("a.avi", "mpeg4", {}),
        ("b.avi", "libx264", {}),
        ("a.webm", "libvpx", {"deadline": "realtime", "bf": "0"}),
        ("a.mpg", "mpeg2video", {}),
    ],
)
def test_frames_come_as_they_are_shown_in_any_order(tmp_path: Path, name: str, codec: str, options: dict) -> None:
    video = Video(write_video(tmp_path / name, IMAGES, codec=codec, **options))
    assert len(video) == 20
    assert video.rate == 10
    np.testing.assert_allclose(video.seconds, np.arange(20) / 10, atol=1e-3)
    shown = list(video)
    assert max(map(apart, shown, IMAGES)) < 8
    order = random.Random(0).sample(range(20), 20)
    again = Video(tmp_path / name)
    assert all(np.array_equal(again[place], shown[place]) for place in order)


def test_a_frame_is_decoded_from_the_keyframe_before_it(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.mp4", IMAGES))
    starts = []
    decoded = video._decoded
    video._decoded = lambda start: starts.append(start) or decoded(start)
    for place in (13, 14, 15, 16, 19, 3, 19):
        _ = video[place]
    assert starts == [8, 0]  # 19 is still kept
    assert len(video._kept) <= 8


def test_times_need_not_be_even(tmp_path: Path) -> None:
    times = [0, 1, 5, 6, 7, 20]
    video = Video(write_video(tmp_path / "a.mkv", IMAGES[:6], times=times))
    np.testing.assert_allclose(video.seconds, np.array(times) / 10, atol=2e-3)
    assert max(map(apart, video, IMAGES)) < 8


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_frames_are_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    video = Video(write_video(tmp_path / "a.mp4", IMAGES[:2], rotation=degrees))
    assert apart(video[1], np.rot90(IMAGES[1], turns)) < 8
    frames = gv.open_frames(tmp_path / "a.mp4")
    assert frames[0].size == video[0].shape[:2]


def test_threads_share_a_decoder(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.mp4", IMAGES))
    wrong = []

    def read(places: range) -> None:
        wrong.extend(place for place in places if apart(video[place], IMAGES[place]) > 8)

    threads = [threading.Thread(target=read, args=(range(first, 20, 4),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_truncated_video_keeps_the_frames_before(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", IMAGES, moov_first=True)
    shown = list(Video(whole))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    with pytest.warns(UserWarning, match=r"cut\.mp4: ends after (\d+) of 20 frames .*frames 0 to \d+ are read") as said:
        video = Video(cut)
    assert 8 < len(video) < 16
    assert f"0 to {len(video) - 1}" in str(said[0].message)
    assert all(np.array_equal(video[place], shown[place]) for place in range(len(video)))


def copied(source: Path, path: Path, earlier: float = 0, held: float = 1) -> Path:
    """A video whose frames are shown earlier, those before 0 not at all by an edit list, and the last one longer."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        last = max(packets, key=lambda packet: packet.pts)
        last.duration = int(held * last.duration)
        for packet in packets:
            shift = int(earlier * packets[0].duration)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            new.mux(packet)
    return path


@pytest.mark.parametrize(("earlier", "first"), [(5, 5), (5.3, 6), (8.3, 9), (0.4, 1)])
@pytest.mark.parametrize("keyframes", ["8", "20"])
def test_a_trimmed_video_keeps_all_frames_that_are_left(
    tmp_path: Path, keyframes: str, earlier: float, first: int
) -> None:
    whole = write_video(tmp_path / "a.mp4", IMAGES, g=keyframes)
    video = Video(copied(whole, tmp_path / "trimmed.mp4", earlier))
    shown = list(Video(whole))[first:]
    assert len(video) == len(shown)
    assert all(np.array_equal(video[place], shown[place]) for place in reversed(range(len(video))))


def test_the_last_frame_may_be_shown_for_long(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", IMAGES)
    assert len(Video(copied(whole, tmp_path / "held.mkv", held=20))) == 20


def test_a_damaged_frame_is_named_and_what_is_made_of_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", scenes(24, (96, 128)), bf="0", keyint_min="8", sc_threshold="0")
    shown = list(Video(path))
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    at, size = packets[11]
    content[at + size // 4 : at + size] = bytes((7 * byte + 13) % 256 for byte in content[at + size // 4 : at + size])
    path.write_bytes(content)
    video = Video(path)
    good = [*range(11), *range(16, 24)]
    assert all(np.array_equal(video[place], shown[place]) for place in good)
    with pytest.raises(FrameError, match=r"a\.mp4: frame 11 \(at 1\.10 s\) cannot be decoded .*that can is 10$"):
        _ = video[11]
    with pytest.raises(FrameError, match=r"frame 14 .*it is made of frame 11.*that can is 10$"):
        _ = video[14]
    assert np.array_equal(video[10], shown[10])


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), "f4"), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = write_video(tmp_path / "a.mp4", IMAGES).read_bytes()
    (tmp_path / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    write_audio(tmp_path / "sound.mp4")
    for name, problem in (
        ("empty.mp4", "cannot be decoded as a video"),
        ("headless.mp4", "moov atom not found|Invalid data"),
        ("sound.mp4", "holds no video stream, only audio"),
        ("nothing.mp4", "does not exist"),
    ):
        with pytest.raises(FrameError, match=f"{re.escape(name)}: .*({problem})") as error:
            gv.open_frames(tmp_path / name)
        assert "\n" not in str(error.value)


def test_colours_are_those_of_the_standard_that_the_file_names(tmp_path: Path) -> None:
    from gradunc_viz.deploy.film import Film

    red = np.full((48, 64, 3), (200, 30, 60), "u1")
    with Film(tmp_path / "a.mp4", 10, [(0, 0, 0)], "msp", (0, 1)) as film:
        film.add(red, np.zeros((48, 64), "u1"), np.zeros((48, 64), "f4"), "red")
    assert apart(Video(tmp_path / "a.mp4")[0][60:100, 20:100], red[0, 0]) < 3
