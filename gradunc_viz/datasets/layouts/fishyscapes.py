"""Fishyscapes.

Trees: what https://fishyscapes.com/dataset hands out for Lost & Found, with the images of that set, what its framework
``bdlb`` writes for static, and the copies of either as ``original/`` and ``labels/``.
"""

from __future__ import annotations

from pathlib import Path

from ...schema.errors import FrameError
from ..conventions import ANOMALY_IDS
from .files import anomaly_frames, images_in
from .layout import FrameFiles, Layout, Mask

__all__ = ["LAYOUT"]


def _fishyscapes(root: Path, split: str) -> list[FrameFiles]:
    pairs = next((place for place in (root / split, root) if (place / "original").is_dir()), None)
    if pairs:
        return anomaly_frames(images_in(pairs / "original"), pairs / "labels", {"{}.png": ANOMALY_IDS})
    static = next((place for place in (root / "fs_static_val", root) if images_in(place, "_rgb")), None)
    if static:
        return anomaly_frames(images_in(static, "_rgb"), static, {"{}_labels.png": ANOMALY_IDS})
    masks = images_in(root / "fishyscapes_lostandfound", "_labels") or images_in(root, "_labels")
    places = ("laf_images", "images", "leftImg8bit", "lostandfound/leftImg8bit")
    folder = next((root / place for place in places if (root / place).is_dir()), None)
    if not (masks and folder):
        return []
    # 0000_04_Maurener_Weg_8_000000_000030_labels.png counts the masks and belongs to this image of Lost and
    # Found: 04_Maurener_Weg_8/04_Maurener_Weg_8_000000_000030_leftImg8bit.png. The masks say which images are
    # in the set.
    images = {
        name.rpartition("/")[2].removesuffix("_leftImg8bit"): path
        for name, path in images_in(folder, deep=True).items()
    }
    frames = []
    for name, mask in masks.items():
        scene = name.partition("_")[2]
        image = images.get(scene) or images.get(name)
        if image is None:
            raise FrameError(f"{mask}: its image is missing, expected {scene}_leftImg8bit.png below {folder}")
        frames.append(FrameFiles(scene, image, anomaly=Mask(mask, ANOMALY_IDS)))
    return frames


LAYOUT = Layout(
    "fishyscapes",
    "Fishyscapes, validation of Lost & Found and static; 0 known, 1 anomaly, 255 ignore",
    "fishyscapes_lostandfound/0000_SCENE_labels.png with SCENE_leftImg8bit.png below laf_images/, "
    "images/, leftImg8bit/ or lostandfound/leftImg8bit/; "
    "or {split}/original/NAME.png, {split}/labels/NAME.png; or static: NAME_rgb.jpg, NAME_labels.png, maybe below "
    "fs_static_val/",
    _fishyscapes,
    split="LostAndFound",
)
