"""DRIVE, retinal vessels, https://drive.grand-challenge.org."""

from __future__ import annotations

from pathlib import Path

from ..conventions import Conversion
from .files import images_in, masks_of
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

# Black and white, as most medical sets are; 255 is no void there.
_VESSEL_IDS = Conversion({0: 0, 255: 1}, "0 (background) or 255 (vessel)")


def _drive(root: Path, split: str) -> list[FrameFiles]:
    place = root / split if (root / split / "images").is_dir() else root
    images = images_in(place / "images", f"_{split}")
    vessels = masks_of(images, place / "1st_manual", {"{}_manual1.gif": _VESSEL_IDS})
    views = masks_of(images, place / "mask", {f"{{}}_{split}_mask.gif": _VESSEL_IDS})
    return [
        FrameFiles(f"{name}_{split}", image, vessels.get(name), region=views[name].path if name in views else None)
        for name, image in images.items()
    ]


LAYOUT = Layout(
    "drive",
    "DRIVE, retinal vessels: 0 background, 255 vessel; what lies outside the field of view is ignored",
    "{split}/images/NN_{split}.tif, {split}/1st_manual/NN_manual1.gif, {split}/mask/NN_{split}_mask.gif; "
    "or the same without {split}/",
    _drive,
    split="test",
    classes="drive",
)
