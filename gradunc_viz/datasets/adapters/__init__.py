"""Frames that are no folder: a data set of Hugging Face or torch, a FiftyOne view, a table of pandas.

Each kind of object has an `Adapter` in a file of its own; `register_adapter` adds one from elsewhere. Nothing is read
before it is asked for, and nothing is imported for an object that is not of its kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from ...schema.errors import FrameError
from ...schema.registry import Registry
from ..class_files import NamedClasses, find_classes
from ..frames import Frames, framed
from . import dataframe, fiftyone_view, huggingface, torch_dataset
from .adapter import Adapter, Found, Parts
from .items import Items, item_files, numbered

__all__ = [
    "ADAPTERS",
    "Adapter",
    "Found",
    "Items",
    "Parts",
    "frames_from",
    "item_files",
    "numbered",
    "register_adapter",
]

ADAPTERS: Registry[Adapter] = Registry(
    Adapter,
    attrgetter("name"),
    "adapter",
    "gradunc_viz.adapters",
    (huggingface.ADAPTER, fiftyone_view.ADAPTER, dataframe.ADAPTER, torch_dataset.ADAPTER),
    FrameError,
)
"""Every adapter by name, registered ones too."""


def register_adapter(adapter: Adapter) -> Adapter:
    """Add an adapter: `frames_from` asks it from then on, before it takes an object for a plain sequence of items.

    Packages bring theirs through the entry point group ``gradunc_viz.adapters``.

    Raises
    ------
    FrameError
        If the name is taken.
    """
    return ADAPTERS.register(adapter)


def frames_from(
    data: Any,
    *,
    image: Any = None,
    label: Any = None,
    anomaly: Any = None,
    id: Any = None,
    root: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    ignore_index: int | None = None,
    labels: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    anomalies: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    anomaly_ids: Iterable[int] = (),
    reduce_zero_label: bool = False,
) -> Frames:
    """Frames of an object that is no folder; images are read when they are asked for, and not kept.

    Parameters
    ----------
    data
        A ``datasets.Dataset`` (Hugging Face), a map-style ``torch.utils.data.Dataset`` or any sequence of
        ``(image, mask)``, ``(image, mask, anomaly mask)`` or dictionaries, a FiftyOne data set or view, or a
        ``pandas.DataFrame`` of paths in columns ``image``, and if wanted ``label``, ``anomaly``, ``ignore``,
        ``region``, ``id``. Images are pictures of Pillow, arrays (y, x, 3) or tensors (3, y, x), uint8 or 0 to 1, as
        they were before any normalisation; masks are pictures, or (y, x) or (1, y, x) integers, or None.
    image, label, anomaly
        Which column, key or field is the image, the class labels and the mask of unknown objects, where their names do
        not say so.
    id
        Column or field with ids of frames, by default the number of the item; of FiftyOne the sample's own.
    root
        Folder below which the paths of a table lie, by default the current one.
    classes
        Names of the class ids in labels, in their order, or what `gradunc compute --classes` takes; by default what the
        object knows.
    ignore_index
        Id in labels that is ignored, such as -100; 255 is anyway.
    labels, anomalies, anomaly_ids, reduce_zero_label
        What ids in masks mean, as for `open_frames`.

    Raises
    ------
    FrameError
        If the object is of no known kind, holds nothing, or does not say what is what.

    Warns
    -----
    UserWarning
        Naming parts or columns that are not used, unless both `label` and `anomaly` are given.

    Notes
    -----
    Frames are recognised by their content, so that a cache is resumed from the same data wherever it lies. An object is
    asked for one item at a time, whatever number of threads reads.
    """
    if isinstance(data, Frames):
        return data
    if isinstance(data, (str, os.PathLike)):
        raise FrameError(f"{os.fspath(data)!r} is a path, expected an object; a path is for open_frames")
    adapter = next((each for each in _in_order() if each.takes(data)), None)
    if adapter is None:
        raise FrameError(f"frames of {type(data).__name__}: expected one of {', '.join(ADAPTERS)}")
    parts = Parts(image, label, anomaly, id, None if root is None else Path(root).absolute(), ignore_index)
    found = adapter.find(data, parts)
    if isinstance(classes, (str, os.PathLike)):
        named: NamedClasses | None = find_classes(classes)
    elif classes is not None:
        named = NamedClasses(tuple(classes))
    else:
        named = NamedClasses(found.classes) if found.classes and labels is None else None
    return framed(
        found.files,
        Path(found.name),
        adapter.name,
        named,
        labels=labels,
        anomalies=anomalies,
        anomaly_ids=anomaly_ids,
        reduce_zero_label=reduce_zero_label,
    )


def _in_order() -> list[Adapter]:
    """The adapters, that of plain sequences last."""
    return sorted(ADAPTERS.values(), key=lambda each: each is torch_dataset.ADAPTER)
