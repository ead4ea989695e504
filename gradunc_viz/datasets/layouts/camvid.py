"""CamVid."""

from __future__ import annotations

from pathlib import Path

from ..conventions import VOID, Conversion
from .files import images_in, masks_of
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_CAMVID_IDS = Conversion({**{value: value for value in range(11)}, 11: None, **VOID}, "class ids 0..10 or 11 (void)")


def _camvid(root: Path, split: str) -> list[FrameFiles]:
    folder = root / f"{split}annot"
    images = images_in(root / split) if folder.is_dir() else {}
    masks = masks_of(images, folder, {"{}.png": _CAMVID_IDS})
    return [FrameFiles(name, image, masks.get(name)) for name, image in images.items()]


LAYOUT = Layout(
    "camvid",
    "CamVid in the SegNet release; class ids 0..10, 11 void",
    "{split}/NAME.png, {split}annot/NAME.png",
    _camvid,
    split="val",
    classes="camvid",
)
