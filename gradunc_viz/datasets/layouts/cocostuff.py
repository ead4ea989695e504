"""COCO-Stuff, 164 000 images with things and stuff.

Tree and ids: https://github.com/nightrome/cocostuff ("thing+stuff labels cover indices 0-181 and 255 indicates the
'unlabeled' or void class"): each is one less than the index in its list of labels.
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import VOID, Conversion
from .files import label_frames
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_IDS = Conversion({**{id: id for id in range(182)}, **VOID}, "class ids 0..181 or 255 (unlabelled)")


def _find(root: Path, split: str) -> list[FrameFiles]:
    images = root / "images" / split
    masks = (root / folder / split for folder in ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017"))
    folder = next((place for place in masks if place.is_dir()), root / "annotations" / split)
    return label_frames(images if images.is_dir() else root / split, folder, {"{}.png": _IDS})


LAYOUT = Layout(
    "cocostuff",
    "COCO-Stuff (pixel maps of things and stuff); class ids 0..181, 255 (unlabelled) is ignored",
    "images/{split}/NAME.jpg, annotations/{split}/NAME.png; or {split}/NAME.jpg, stuffthingmaps/{split}/NAME.png",
    _find,
    split="val2017",
)
