"""The folder of validation sets that courses and public projects on unknown objects hand on.

``Validation_Dataset`` holds RoadAnomaly21, RoadObstacle21 (spelt RoadObsticle21), Fishyscapes Lost & Found
(FS_LostFound_full), Fishyscapes static (fs_static) and RoadAnomaly, all arranged alike, as in
https://github.com/shyam671/Mask2Anomaly-Unmasking-Anomalies-in-Road-Scene-Segmentation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ...schema.errors import FrameError
from ...schema.file_names import is_foreign, natural_key
from ...schema.frame import nested_id
from ..conventions import VOID, Conversion, some
from ..decoding import read_mask
from ..image_source import Readable
from .files import anomaly_frames, images_in, one_of
from .layout import EVERY, FrameFiles, Layout, Mask

__all__ = ["LAYOUT"]

_UNKNOWN = (1, 2)  # what unknown objects are, 2 in the copies of Road Anomaly
_EITHER = Conversion(
    {0: 0, 1: 1, 2: 1, **VOID}, "0 (known), 1 or 2 (anomaly; one of them in a set) or 255 (ignore)", grey_rgb=True
)


def _find(root: Path, split: str) -> list[FrameFiles]:
    if split == EVERY and one_of(root, "images").is_dir():
        return _set(root, "")
    folders = [folder for folder in root.iterdir() if folder.is_dir() and fnmatchcase(folder.name, split)]
    frames = []
    for folder in sorted(folders, key=lambda folder: natural_key(folder.name)):
        if not is_foreign(folder.name):
            frames += _set(folder, folder.name)
    return frames if any(frame.anomaly for frame in frames) else []


def _set(folder: Path, name: str) -> list[FrameFiles]:
    images, masks = images_in(one_of(folder, "images")), one_of(folder, "labels_masks")
    if not masks.is_dir():
        if name and images:
            warnings.warn(f"{folder}: images without the folder labels_masks, so without anomaly masks", stacklevel=2)
        return [FrameFiles(nested_id(f"{name}/{key}"), image) for key, image in images.items()] if name else []
    if not images:
        raise FrameError(f"{folder}: holds labels_masks/ but no image in images/, expected images/N.jpg|png|webp")
    frames = anomaly_frames(images, masks, dict.fromkeys(("{}.png", "{}_labels_semantic.png"), _EITHER))
    bare = [frame.image.name for frame in frames if frame.anomaly is None]
    if bare:
        warnings.warn(f"{folder}: {some('image', bare)} without a mask in labels_masks", stacklevel=2)
    found = [frame.anomaly.path for frame in frames if frame.anomaly]
    conversion = _conversion(found)
    return [
        FrameFiles(
            nested_id(f"{name}/{frame.id}") if name else frame.id,
            frame.image,
            anomaly=frame.anomaly and Mask(frame.anomaly.path, conversion),
        )
        for frame in frames
    ]


def _conversion(masks: Iterable[Readable]) -> Conversion:
    """What ids mean in a set, which its first mask with an unknown object tells; any other mask has to agree."""
    for path in masks:
        try:
            present = np.unique(read_mask(path, grey_rgb=True))
        except FrameError:  # told when its frame is read
            continue
        unknown = [id for id in _UNKNOWN if id in present]
        if len(unknown) == 1:
            (id,) = unknown
            expected = f"0 (known), {id} (anomaly, as in {path.name}) or 255 (ignore)"
            return Conversion({0: 0, id: 1, **VOID}, expected, grey_rgb=True)
        if unknown:
            expected = f"0 (known), 255 (ignore) and either 1 or 2 (anomaly), of which {path.name} holds both; map them"
            return Conversion({0: 0, **VOID}, expected, grey_rgb=True)
    return _EITHER


LAYOUT = Layout(
    "course",
    "sets as courses hand them on (Validation_Dataset); 0 known, 1 anomaly (2 in sets of 0 and 2), 255 ignore",
    "{split}/images/N.jpg|png|webp, {split}/labels_masks/N.png (or N_labels_semantic.png); or one set by itself",
    _find,
    split=EVERY,
)
