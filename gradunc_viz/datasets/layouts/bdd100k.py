"""BDD100K, semantic segmentation of its 10 000 images, and BDD-Anomaly, which makes three of its classes unknown.

Tree and ids: https://doc.bdd100k.com/format.html (the train ids of Cityscapes, 255 unknown); before 2020 in ``seg/``
with ``_train_id`` in the names of masks. BDD-Anomaly (Hendrycks et al., arXiv:1911.11132) holds the frames in which
``create_bdd_dataset.py`` of https://github.com/hendrycks/anomaly-seg finds a train, a motorcycle or a bicycle and lists
them in ``anom.odgt``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ...schema.errors import FrameError
from ..conventions import read_json, some
from .cityscapes import CITY_TRAIN_IDS
from .files import label_frames, place_with
from .layout import FrameFiles, Layout

__all__ = ["BDD100K", "BDD_ANOMALY"]

_UNKNOWN = frozenset({16, 17, 18})  # train, motorcycle, bicycle


def _find(root: Path, split: str) -> list[FrameFiles]:
    place = place_with(root, f"labels/sem_seg/masks/{split}", "bdd100k")
    masks = place / "labels" / "sem_seg" / "masks" / split
    if masks.is_dir():
        return label_frames(place / "images" / "10k" / split, masks, {"{}.png": CITY_TRAIN_IDS})
    place = place_with(root, f"seg/labels/{split}", "bdd100k")
    masks = place / "seg" / "labels" / split
    return label_frames(place / "seg" / "images" / split, masks, {"{}_train_id.png": CITY_TRAIN_IDS})


def _find_anomalies(root: Path, split: str) -> list[FrameFiles]:
    listed = root / "anom.odgt"
    found = [frame for part in (("train", "val") if listed.is_file() else (split,)) for frame in _find(root, part)]
    if listed.is_file() and found:
        entries = read_json(listed)
        if not isinstance(entries, list) or not all(isinstance(e, dict) and "fpath_img" in e for e in entries):
            raise FrameError(f'{listed}: expected a list of {{"fpath_img": ..., "fpath_segm": ...}}')
        frames = {frame.id: frame for frame in found}
        names = [PurePosixPath(str(entry["fpath_img"])).stem for entry in entries]
        missing = [name for name in names if name not in frames]
        if missing:
            raise FrameError(f"{listed}: lists {some('image', missing)}, not found in the splits train and val")
        found = [frames[name] for name in dict.fromkeys(names)]
    return [FrameFiles(frame.id, frame.image, frame.label, anomaly_ids=_UNKNOWN) for frame in found]


_TREE = (
    "images/10k/{split}/NAME.jpg, labels/sem_seg/masks/{split}/NAME.png; or seg/images/{split}/NAME.jpg, "
    "seg/labels/{split}/NAME_train_id.png; all maybe below bdd100k/"
)
BDD100K = Layout(
    "bdd100k",
    "BDD100K, semantic segmentation; the 19 train ids of Cityscapes, 255 is ignored",
    _TREE,
    _find,
    split="val",
    classes="cityscapes",
)
BDD_ANOMALY = Layout(
    "bddanomaly",
    "BDD-Anomaly: BDD100K with train, motorcycle and bicycle as anomalies; only what anom.odgt lists, if it is there",
    f"{_TREE}; anom.odgt if wanted",
    _find_anomalies,
    split="val",
    classes="cityscapes",
)
