"""SegmentMeIfYouCan, https://segmentmeifyoucan.com/datasets."""

from __future__ import annotations

from pathlib import Path

from ..conventions import ANOMALY_IDS
from .files import anomaly_frames, images_in
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]


def _smiyc(root: Path, _split: str) -> list[FrameFiles]:
    conventions = {"{}_labels_semantic.png": ANOMALY_IDS, "{}.png": ANOMALY_IDS}  # the latter in copies for courses
    return anomaly_frames(images_in(root / "images"), root / "labels_masks", conventions)


LAYOUT = Layout(
    "smiyc",
    "SegmentMeIfYouCan: RoadAnomaly21, RoadObstacle21; 0 known, 1 anomaly, 255 ignore",
    "images/NAME.jpg|png|webp, labels_masks/NAME_labels_semantic.png (or NAME.png)",
    _smiyc,
)
