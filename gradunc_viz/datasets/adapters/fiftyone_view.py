"""Views and data sets of FiftyOne: a file of each sample, and a field of Segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...schema.errors import FrameError
from ..conventions import CLASS_IDS
from ..layouts import FrameFiles, Mask
from .adapter import Adapter, Found, Parts, is_a
from .items import ItemMask, Items

__all__ = ["ADAPTER"]


def _find(view: Any, parts: Parts) -> Found:
    where = f"FiftyOne {getattr(view, 'name', None) or getattr(view, 'dataset_name', 'view')}"
    parts.only(where, "label", "id", "ignore_index")
    if view.media_type != "image":
        raise FrameError(f"{where}: holds {view.media_type}, expected images (of groups take one slice)")
    fields = [
        name
        for name, field in view.get_field_schema().items()
        if getattr(getattr(field, "document_type", None), "__name__", "") == "Segmentation"
    ]
    if parts.label is None and len(fields) > 1:
        raise FrameError(f"{where}: has masks in {', '.join(fields)}; say which are labels: label=...")
    label = next(iter(fields), None) if parts.label is None else parts.named(where, "label", fields)
    keys, paths = view.values("id"), view.values("filepath")
    ids = keys if parts.id is None else [str(value) for value in view.values(parts.id)]
    items = Items(where, lambda index: {"label": _mask(view[keys[index]], str(label))})
    files = [
        FrameFiles(
            id,
            Path(path),
            None if label is None else Mask(ItemMask(items, index, "label", parts.ignore_index), CLASS_IDS),
        )
        for index, (id, path) in enumerate(zip(ids, paths, strict=True))
    ]
    return Found(where, files, None if label is None else _classes(view, label))


def _mask(sample: Any, field: str) -> Any:
    """The mask of a sample: an array, the path of a file, or None."""
    segmentation = sample[field]
    if segmentation is None:
        return None
    return segmentation.mask_path if segmentation.mask_path is not None else segmentation.mask


def _classes(view: Any, label: str) -> tuple[str, ...] | None:
    """Names of the classes 0..n-1, where every one of these has a name."""
    targets = (view.mask_targets or {}).get(label) or view.default_mask_targets
    if not isinstance(targets, Mapping) or sorted(map(str, targets)) != sorted(map(str, range(len(targets)))):
        return None
    named = {int(key): str(name) for key, name in targets.items()}
    return tuple(named[id] for id in range(len(named))) or None


ADAPTER = Adapter("FiftyOne", lambda thing: is_a(thing, "fiftyone.core.collections.SampleCollection"), _find)
