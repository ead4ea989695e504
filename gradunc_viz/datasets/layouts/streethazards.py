"""StreetHazards, rendered streets with unknown objects.

Tree and ids: ``create_dataset.py`` and ``dataset.py`` of https://github.com/hendrycks/anomaly-seg: stored ids are one
more than those of the 13 classes (the first is "unlabeled" and a class that networks learn), 14 is the unknown object.
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import reduced
from .files import label_frames, place_with
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

_UNKNOWN = frozenset({14})
_IDS = reduced(13, "class ids 1..13, 14 (anomaly), or 0 or 255 (ignore)")


def _find(root: Path, split: str) -> list[FrameFiles]:
    place = place_with(root, f"annotations/{split}", "test", "train")
    frames = label_frames(place / "images" / split, place / "annotations" / split, {"{}.png": _IDS}, deep=True)
    return [FrameFiles(frame.id, frame.image, frame.label, anomaly_ids=_UNKNOWN) for frame in frames]


LAYOUT = Layout(
    "streethazards",
    "StreetHazards; stored ids 1..13 become 0..12, 14 is an anomaly",
    "images/{split}/TOWN/N.png, annotations/{split}/TOWN/N.png, both maybe below test/ or train/",
    _find,
    split="test",
)
