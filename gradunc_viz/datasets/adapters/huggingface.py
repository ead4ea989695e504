"""Data sets of Hugging Face (``datasets``): columns of images, read undecoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...schema.errors import FrameError
from .adapter import Adapter, Found, Parts, is_a
from .items import Items, item_files, numbered

__all__ = ["ADAPTER"]

_DATASET = "datasets.arrow_dataset.Dataset"
_STREAM = "datasets.iterable_dataset.IterableDataset"
_SPLITS = ("datasets.dataset_dict.DatasetDict", "datasets.dataset_dict.IterableDatasetDict")


def _find(dataset: Any, parts: Parts) -> Found:
    if is_a(dataset, *_SPLITS):
        raise FrameError(f"a {type(dataset).__name__} of splits {', '.join(dataset)}, expected one: dataset[NAME]")
    if is_a(dataset, _STREAM):
        raise FrameError(
            "a data set that is streamed has no frames by number: load it without streaming=True, or keep some: "
            "datasets.Dataset.from_list(list(dataset.take(100)))"
        )
    where = f"data set {dataset.info.dataset_name or 'in memory'}" + (f", {dataset.split}" if dataset.split else "")
    parts.only(where, "image", "label", "anomaly", "id", "ignore_index")
    features = dataset.features
    pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    arrays = [name for name, feature in features.items() if type(feature).__name__ in _ARRAYS]
    image = parts.named(where, "image", [*pictures, *arrays], required=len(pictures) != 1) or pictures[0]
    others = [name for name in (*pictures, *arrays) if name != image]
    label, anomaly = parts.masks(where, others)
    if parts.id is not None and parts.id not in features:
        raise FrameError(f"{where}: id is {parts.id!r}, expected one of {', '.join(features)}")
    ids = numbered(len(dataset)) if parts.id is None else [str(value) for value in dataset[parts.id]]
    plain = dataset.with_format(None).select_columns([name for name in (image, label, anomaly) if name is not None])
    for name in plain.column_names:
        if name in pictures:
            plain = plain.cast_column(name, type(features[name])(decode=False))
    files = item_files(Items(where, plain.__getitem__), ids, image, label, anomaly, parts.ignore_index)
    return Found(where, files, None if label is None else _classes(features[label]))


_ARRAYS = ("Array2D", "Array3D", "Sequence", "List", "LargeList")


def _classes(feature: Any) -> tuple[str, ...] | None:
    """Names of the classes of pixels, where the type of a column has them."""
    while feature is not None and not hasattr(feature, "names"):
        feature = feature.get("feature") if isinstance(feature, Mapping) else getattr(feature, "feature", None)
    return None if feature is None else tuple(feature.names)


ADAPTER = Adapter("Hugging Face datasets", lambda thing: is_a(thing, _DATASET, _STREAM, *_SPLITS), _find)
