"""Lost and Found.

Tree and ids: http://www.6d-vision.com/lostandfounddataset. The split without known objects is that of the
SegmentMeIfYouCan benchmark (arXiv:2104.14812, LostAndFound-testNoKnown in its ``tracks.py``).
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import VOID, Conversion
from .cityscapes import city_tree
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]

# Lost and Found numbers every object from 2 on. Its table calls seven of them (marker poles, timber, wheel
# caps ...) no hazard; the SegmentMeIfYouCan evaluation counts them as obstacles, as here. Its train ids hide
# them, as background.
_LAF_IDS = Conversion(
    {0: None, 1: 0, **dict.fromkeys(range(2, 44), 1), **VOID}, "Lost and Found ids 0..43 or 255 (ignore)"
)
_LAF_TRAIN_IDS = Conversion({0: None, 1: 0, 2: 1, **VOID}, "train ids 0, 1 (road), 2 (obstacle) or 255 (ignore)")


_NO_KNOWN = "testNoKnown"
_KNOWN = (  # children and bicycles, which Cityscapes has classes for
    "15_Rechbergstr_Deckenpfronn",
    "01_Hanns_Klemm_Str_45_000006",
    "01_Hanns_Klemm_Str_45_000007",
    "10_Schlossberg_9_000004",
)


def _find(root: Path, split: str) -> list[FrameFiles]:
    conventions = {"labelIds": _LAF_IDS, "labelTrainIds": _LAF_TRAIN_IDS}
    frames = city_tree(root, "test" if split == _NO_KNOWN else split, "gtCoarse", "anomaly", conventions)
    return [frame for frame in frames if split != _NO_KNOWN or not frame.id.startswith(_KNOWN)]


LAYOUT = Layout(
    "lostandfound",
    "Lost and Found; free road is known, every object on it an anomaly, the rest ignored; split testNoKnown: without "
    "frames of children and bicycles",
    "leftImg8bit/{split}/SEQUENCE/*_leftImg8bit.png, "
    "gtCoarse/{split}/SEQUENCE/*_gtCoarse_labelIds.png (or labelTrainIds)",
    _find,
    split="test",
)
