"""The tree that MMSegmentation puts data sets into.

Tree: https://mmsegmentation.readthedocs.io/en/latest/advanced_guides/add_datasets.html. Sets with its
``reduce_zero_label`` need `open_frames` with ``reduce_zero_label=True``.
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import CLASS_IDS
from .files import label_frames
from .layout import FrameFiles, Layout

__all__ = ["LAYOUT"]


def _find(root: Path, split: str) -> list[FrameFiles]:
    pairs = (("img_dir", "ann_dir"), ("images", "annotations"))
    images, masks = next((pair for pair in pairs if (root / pair[1] / split).is_dir()), pairs[0])
    return label_frames(root / images / split, root / masks / split, {"{}.png": CLASS_IDS}, deep=True)


LAYOUT = Layout(
    "mmseg",
    "MMSegmentation; class ids as stored (--reduce-zero-label where its configuration says so), 255 is ignored",
    "img_dir/{split}/**/NAME.jpg|png|..., ann_dir/{split}/**/NAME.png (or images/, annotations/)",
    _find,
    split="val",
)
