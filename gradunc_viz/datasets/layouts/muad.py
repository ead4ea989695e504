"""MUAD, rendered streets with unknown objects.

Tree, ids and what is unknown: the class MUAD of https://github.com/ENSTA-U2IS-AI/torch-uncertainty.
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import VOID, Conversion
from .files import images_in, masks_of, one_of
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_UNKNOWN = frozenset({12, 16, 17, 18, 19, 20})  # rider, train, motorcycle, bicycle, animals, litter
_IDS = Conversion(
    {**{id: id for id in range(12)}, 13: 12, 14: 13, 15: 14, **dict.fromkeys((*_UNKNOWN, 21), None), **VOID},
    "MUAD ids 0..20, or 21 or 255 (unlabelled)",
)


def _find(root: Path, split: str) -> list[FrameFiles]:
    place = one_of(root, split.lower())
    if not place.is_dir() and (root / "test_sets").is_dir():
        place = one_of(root / "test_sets", split.lower())
    if not (place / "leftLabel").is_dir():
        return []
    images = images_in(place / "leftImg8bit", "_leftImg8bit", deep=True) or images_in(place / "leftImg8bit", deep=True)
    masks = masks_of(images, place / "leftLabel", {"{}_leftLabel.png": _IDS, "{}.png": _IDS})
    return [
        FrameFiles(name.rpartition("/")[2], image, masks.get(name), anomaly_ids=_UNKNOWN)
        for name, image in images.items()
    ]


LAYOUT = Layout(
    "muad",
    "MUAD; 15 classes; rider, train, motorcycle, bicycle, animals and litter are anomalies, 21 and 255 ignored",
    "{split}/leftImg8bit/**/NAME.png, {split}/leftLabel/**/NAME.png; both maybe below test_sets/",
    _find,
    split="test_ood",
    classes="muad",
)
