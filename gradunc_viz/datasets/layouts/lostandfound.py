"""Lost and Found."""

from __future__ import annotations

from functools import partial

from ..conventions import VOID, Conversion
from .cityscapes import city_tree
from .layout import Layout

__all__ = ["LAYOUT"]

# Lost and Found numbers every object from 2 on. Its table calls seven of them (marker poles, timber, wheel
# caps ...) no hazard; the SegmentMeIfYouCan evaluation counts them as obstacles, as here. Its train ids hide
# them, as background.
_LAF_IDS = Conversion(
    {0: None, 1: 0, **dict.fromkeys(range(2, 44), 1), **VOID}, "Lost and Found ids 0..43 or 255 (ignore)"
)
_LAF_TRAIN_IDS = Conversion({0: None, 1: 0, 2: 1, **VOID}, "train ids 0, 1 (road), 2 (obstacle) or 255 (ignore)")


LAYOUT = Layout(
    "lostandfound",
    "Lost and Found; free road is known, every object on it an anomaly, the rest ignored",
    "leftImg8bit/{split}/SEQUENCE/*_leftImg8bit.png, "
    "gtCoarse/{split}/SEQUENCE/*_gtCoarse_labelIds.png (or labelTrainIds)",
    partial(
        city_tree,
        truth="gtCoarse",
        kind="anomaly",
        conventions={"labelIds": _LAF_IDS, "labelTrainIds": _LAF_TRAIN_IDS},
    ),
    split="test",
)
