"""Data sets of torch, and anything else with a length and items by number: (image, mask), or dictionaries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ...schema.errors import FrameError
from ..conventions import some
from ..frames import Frame
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
    items = _items(dataset, where)
    names = items.names(0)
    if names[0] == 0:
        image, label, anomaly = _places(where, parts, items, names)
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


def _items(dataset: Any, where: str) -> Items:
    """Items of a data set; one that has more than the first of them is told, as the first says what is read."""
    known: set[Any] = set()

    def read(index: int) -> Mapping[Any, Any]:
        item = _parts(dataset[index], f"{where}, item {index}")
        more = [name for name in item if known and name not in known]
        if more:
            warnings.warn(
                f"{where}, item {index}: {some('part', more)} not used, as item 0 has none such; expected the same in "
                "each, None where there is none",
                stacklevel=2,
            )
        known.update(item)
        return item

    return Items(where, read)


def _places(where: str, parts: Parts, items: Items, names: Sequence[int]) -> tuple[int, int | None, int | None]:
    """Where an image, class labels and the mask of unknown objects are: in this order, if nobody says otherwise."""
    image = 0 if parts.image is None else parts.named(where, "image", names)
    label, anomaly = parts.named(where, "label", names), parts.named(where, "anomaly", names)
    if label is None and 1 in names and 1 not in (image, anomaly):
        label = 1
    problem = ""
    if anomaly is None and 2 in names and 2 not in (image, label):
        try:  # it may be anything: weights, a depth, a name
            _ = Frame(item_files(items, ["0"], image, anomaly=2)[0]).anomaly
            anomaly = 2
        except FrameError as error:
            problem = f"as an anomaly mask, {error}"
    unused = [name for name in names if name not in (image, label, anomaly)]
    parts.check_unused(where, "part", unused, problem)
    return image, label, anomaly


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
