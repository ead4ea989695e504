"""Pascal VOC 2012, segmentation.

Tree: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html; masks are palettes whose indices are the
class ids, borders are 255.
"""

from __future__ import annotations

from pathlib import Path

from ...schema.errors import FrameError
from ..conventions import VOID, Conversion, read_text, some
from .files import images_in, masks_of, place_with
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_IDS = Conversion({**{id: id for id in range(21)}, **VOID}, "class ids 0 (background) .. 20 or 255 (border)")


def _find(root: Path, split: str) -> list[FrameFiles]:
    place = place_with(root, "SegmentationClass", "VOC2012", "VOCdevkit/VOC2012")
    listed = place / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not (listed.is_file() and (place / "SegmentationClass").is_dir()):
        return []
    names = read_text(listed).split()
    images = images_in(place / "JPEGImages")  # most of them are for other tasks
    missing = [name for name in names if name not in images]
    if missing:
        raise FrameError(f"{listed}: lists {some('image', missing)}, not found in {place / 'JPEGImages'}")
    masks = masks_of(images, place / "SegmentationClass", {"{}.png": _IDS})
    return [FrameFiles(name, images[name], masks.get(name)) for name in names]


LAYOUT = Layout(
    "voc",
    "Pascal VOC 2012; class ids 0 (background) .. 20, 255 (border) is ignored",
    "JPEGImages/NAME.jpg, SegmentationClass/NAME.png, ImageSets/Segmentation/{split}.txt; all maybe below "
    "VOCdevkit/VOC2012/",
    _find,
    split="val",
)
