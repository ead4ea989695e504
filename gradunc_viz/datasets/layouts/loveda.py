"""LoveDA, land cover from above.

Tree and ids: https://github.com/Junjue-Wang/LoveDA (0 is no data; MMSegmentation: "0 is the ignore index,
reduce_zero_label should be set to True").
"""

from __future__ import annotations

from pathlib import Path

from ...schema.frame import nested_id
from ..conventions import reduced
from .files import label_frames
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_IDS = reduced(7, "0 (no data, ignored) or class ids 1..7")


def _find(root: Path, split: str) -> list[FrameFiles]:
    place = root / split / split if (root / split / split).is_dir() else root / split
    frames = []
    for scene in ("Rural", "Urban"):
        found = label_frames(place / scene / "images_png", place / scene / "masks_png", {"{}.png": _IDS})
        frames += [FrameFiles(nested_id(f"{scene}/{frame.id}"), frame.image, frame.label) for frame in found]
    return frames


LAYOUT = Layout(
    "loveda",
    "LoveDA; stored ids 1..7 become 0..6, 0 (no data) is ignored",
    "{split}/Rural/images_png/N.png, {split}/Rural/masks_png/N.png, and the same in Urban/",
    _find,
    split="Val",
    classes="loveda",
)
