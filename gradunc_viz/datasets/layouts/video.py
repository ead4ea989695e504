"""The frames of a video."""

from __future__ import annotations

from pathlib import Path

from ...schema.frame import nested_id
from ..video import VIDEO_SUFFIXES, Video, VideoFrame
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_DIGITS = 6


def _find(root: Path, _split: str) -> list[FrameFiles]:
    if root.is_dir():
        return []
    video = Video(root)
    return [
        FrameFiles(nested_id(f"{root.stem}/{index:0{_DIGITS}}"), VideoFrame(video, index))
        for index in range(len(video))
    ]


LAYOUT = Layout(
    "video",
    "frames of a video, without masks",
    "a file such as NAME.mp4, of which one is a set; frames are NAME__000000, NAME__000001, ...",
    _find,
    takes=lambda path: path.suffix.lower() in VIDEO_SUFFIXES and path.is_file(),
)
