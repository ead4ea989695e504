"""Cityscapes, https://github.com/mcordts/cityscapesScripts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..conventions import VOID, Conversion
from .files import images_in, masks_of
from .layout import FrameFiles, Layout

__all__ = ["CITY_IDS", "CITY_TRAIN_IDS", "LAYOUT", "city_tree"]

# Position = train id, value = id, of cityscapesScripts' table; the other ids are ignored in training and
# evaluation.
_CITY_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITY_IDS = Conversion(
    {
        **dict.fromkeys(range(34), None),
        **{value: train_id for train_id, value in enumerate(_CITY_EVALUATED)},
        **VOID,
    },
    "Cityscapes ids 0..33",
)
CITY_TRAIN_IDS = Conversion({**{value: value for value in range(19)}, **VOID}, "train ids 0..18 or 255 (ignore)")


def city_tree(root: Path, split: str, truth: str, kind: str, conventions: Mapping[str, Conversion]) -> list[FrameFiles]:
    """Frames of the Cityscapes tree: a folder per city or sequence, file names ending in what they hold."""
    folder = root / truth / split
    images = images_in(root / "leftImg8bit" / split, "_leftImg8bit", deep=True) if folder.is_dir() else {}
    masks = masks_of(images, folder, {f"{{}}_{truth}_{ending}.png": ids for ending, ids in conventions.items()})
    frames = []
    for name, image in images.items():
        mask = masks.get(name)
        given = (mask, None) if kind == "label" else (None, mask)
        frames.append(FrameFiles(name.rpartition("/")[2], image, *given))
    return frames


LAYOUT = Layout(
    "cityscapes",
    "Cityscapes; ids become the 19 train ids, everything else is ignored",
    "leftImg8bit/{split}/CITY/*_leftImg8bit.png, gtFine/{split}/CITY/*_gtFine_labelIds.png (or labelTrainIds)",
    partial(
        city_tree,
        truth="gtFine",
        kind="label",
        conventions={"labelIds": CITY_IDS, "labelTrainIds": CITY_TRAIN_IDS},
    ),
    split="val",
    classes="cityscapes",
)
