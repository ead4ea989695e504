"""Mapillary Vistas, releases 1.2 and 2.0.

Tree: https://www.mapillary.com/dataset/vistas. Which ids count says the release itself, in ``config_v1.2.json`` and
``config_v2.0.json`` ("evaluate"); where that is missing only the last one, Unlabeled, is ignored. Names
and colours of release 1.2 are those of its configuration as MMSegmentation lists them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...schema.errors import FrameError
from ..conventions import VOID, Conversion, read_json
from .files import label_frames
from .layout import FrameFiles, Layout

__all__ = ["MAPILLARY", "MAPILLARY_2"]


def _find(root: Path, split: str, version: str, n_ids: int) -> list[FrameFiles]:
    masks = root / split / version / "labels"
    if not masks.is_dir() and version == "v1.2":
        masks = root / split / "labels"  # of release 1.1
    if not masks.is_dir():
        return []
    evaluated = _evaluated(root / f"config_{version}.json", n_ids)
    table = {id: id if counts else None for id, counts in enumerate(evaluated)}
    ids = Conversion({**table, **VOID}, f"Mapillary {version} ids 0..{n_ids - 1}")
    return label_frames(root / split / "images", masks, {"{}.png": ids})


def _evaluated(config: Path, n_ids: int) -> list[bool]:
    """Which ids count."""
    if not config.is_file():
        return [*[True] * (n_ids - 1), False]
    content = read_json(config)
    try:
        counted = [entry["evaluate"] for entry in content["labels"]]
    except (KeyError, TypeError):
        counted = []
    if len(counted) != n_ids or not all(isinstance(value, bool) for value in counted):
        raise FrameError(f'{config}: expected {{"labels": [{{"evaluate": true, ...}}, ...]}} of {n_ids} labels')
    return counted


MAPILLARY = Layout(
    "mapillary",
    "Mapillary Vistas 1.2 (66 ids); what config_v1.2.json does not evaluate is ignored, without it 65 (Unlabeled)",
    "{split}/images/NAME.jpg, {split}/v1.2/labels/NAME.png (or {split}/labels/NAME.png), config_v1.2.json",
    partial(_find, version="v1.2", n_ids=66),
    split="validation",
    classes="mapillary",
)
MAPILLARY_2 = Layout(
    "mapillary2",
    "Mapillary Vistas 2.0 (124 ids); what config_v2.0.json does not evaluate is ignored, without it 123 (Unlabeled)",
    "{split}/images/NAME.jpg, {split}/v2.0/labels/NAME.png, config_v2.0.json",
    partial(_find, version="v2.0", n_ids=124),
    split="validation",
)
