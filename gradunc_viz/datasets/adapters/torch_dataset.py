"""Data sets of torch, and anything else with a length and items by number: (image, mask), or dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...schema.errors import FrameError
from .adapter import Adapter, Found, Parts, is_a
from .items import ItemImage, Items, item_files, numbered

__all__ = ["ADAPTER"]


def _find(dataset: Any, parts: Parts) -> Found:
    where = type(dataset).__name__
    parts.only(where, "image", "label", "anomaly", "ignore_index")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or is_a(
        dataset, "torch.utils.data.dataset.IterableDataset"
    ):
        raise FrameError(
            f"{where}: has no length and items by number, expected a map-style data set; of an iterable one take a list"
        )
    try:
        count = len(dataset)
    except TypeError as error:
        raise FrameError(f"{where}: has no length ({error}), expected a map-style data set") from error
    if not count:
        raise FrameError(f"{where}: holds no item, expected at least one")
    items = Items(where, lambda index: _parts(dataset[index], f"{where}, item {index}"))
    names = items.names(0)
    if names[0] == 0:
        image = 0 if parts.image is None else parts.named(where, "image", names)
        label = 1 if parts.label is None and 1 in names else parts.named(where, "label", names)
        anomaly = parts.named(where, "anomaly", names)
    else:
        image = parts.named(where, "image", names, required=True)
        others = [name for name in names if name != image]
        label, anomaly = parts.masks(where, others)
    first = ItemImage(items, 0, image)
    key = first.key()
    items.forget()
    if first.key() != key:
        raise FrameError(
            f"{where}: item 0 is another image each time it is read, expected one: leave out what changes it at random"
        )
    classes = getattr(dataset, "classes", None)
    known = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    files = item_files(items, numbered(count), image, label, anomaly, parts.ignore_index)
    return Found(where, files, tuple(classes) if known and classes and label is not None else None)


def _parts(item: Any, where: str) -> Mapping[Any, Any]:
    """The parts of an item by name, or by their place: the image, its mask, and whatever else there is."""
    if isinstance(item, Mapping) and item:
        return item
    if isinstance(item, (tuple, list)) and item:
        return dict(enumerate(item))
    if hasattr(item, "shape") or hasattr(item, "getbands"):
        return {0: item}
    raise FrameError(f"{where}: is {item!r:.60}, expected an image, (image, mask) or a dictionary")


ADAPTER = Adapter(
    "torch Dataset",
    lambda thing: (
        not isinstance(thing, (str, bytes, Mapping))
        and (
            is_a(thing, "torch.utils.data.dataset.Dataset")
            or (hasattr(thing, "__getitem__") and hasattr(thing, "__len__"))
            or hasattr(thing, "__iter__")
        )
    ),
    _find,
)
"""Last of all, as it takes whatever has items."""
