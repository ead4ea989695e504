"""ADE20K, the 150 classes of its scene parsing benchmark.

Tree and ids: https://github.com/CSAILVision/sceneparsing (0 is "other objects" and counts nowhere).
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import reduced
from .files import label_frames, place_with
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_IDS = reduced(150, "0 (other, ignored) or class ids 1..150")


def _find(root: Path, split: str) -> list[FrameFiles]:
    place = place_with(root, f"annotations/{split}", "ADEChallengeData2016")
    return label_frames(place / "images" / split, place / "annotations" / split, {"{}.png": _IDS})


LAYOUT = Layout(
    "ade20k",
    "ADE20K, scene parsing benchmark; stored ids 1..150 become 0..149, 0 is ignored",
    "images/{split}/ADE_*.jpg, annotations/{split}/ADE_*.png, both maybe below ADEChallengeData2016/",
    _find,
    split="validation",
)
