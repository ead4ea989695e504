"""Your own images."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from ...schema.frame import nested_id
from ..conventions import ANOMALY_IDS, CLASS_IDS, some
from .files import images_in, masks_of, one_of
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]


_MASKS = re.compile(r"label|mask|annot|anomal|truth|segm|^gt", re.IGNORECASE)
"""What folders of masks are called."""


def _folder(root: Path, _split: str) -> list[FrameFiles]:
    folder = one_of(root, "images")
    deep = folder.is_dir()
    images = images_in(folder if deep else root, deep=deep)
    labels = masks_of(images, one_of(root, "labels", "masks", "annotations"), {"{}.png": CLASS_IDS})
    anomalies = masks_of(images, one_of(root, "anomalies"), {"{}.png": ANOMALY_IDS})
    alike = [entry.name for entry in sorted(root.iterdir()) if _MASKS.search(entry.name) and entry.is_dir()]
    if images and alike and not labels and not anomalies:
        warnings.warn(
            f"{root}: {some('folder', alike)} not used; class labels are looked for in labels, masks or annotations, "
            "and anomaly masks in anomalies",
            stacklevel=2,
        )
    return [FrameFiles(nested_id(name), image, labels.get(name), anomalies.get(name)) for name, image in images.items()]


LAYOUT = Layout(
    "folder",
    "your own images; labels/ holds class ids, anomalies/ 0 known, 1 anomaly; 255 ignore in both",
    "images/**/NAME.jpg|png|webp|... or NAME.jpg|... directly, optional labels/**/NAME.png "
    "(or masks/, annotations/), anomalies/**/NAME.png, classes.json",
    _folder,
)
