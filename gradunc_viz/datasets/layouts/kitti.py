"""KITTI, semantic segmentation (2018).

Tree and ids: the README.md of its devkit_semantics ("the labels IDs, names and instance classes of the Cityscapes
dataset are used"), https://www.cvlibs.net/datasets/kitti/eval_semseg.php.
"""

from __future__ import annotations

from pathlib import Path

from .cityscapes import CITY_IDS
from .files import label_frames, place_with
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]


def _find(root: Path, split: str) -> list[FrameFiles]:
    place = place_with(root, f"{split}/semantic", "data_semantics")
    return label_frames(place / split / "image_2", place / split / "semantic", {"{}.png": CITY_IDS})


LAYOUT = Layout(
    "kitti",
    "KITTI semantics; Cityscapes ids become the 19 train ids, everything else is ignored",
    "{split}/image_2/NAME.png, {split}/semantic/NAME.png; both maybe below data_semantics/",
    _find,
    split="training",
    classes="cityscapes",
)
