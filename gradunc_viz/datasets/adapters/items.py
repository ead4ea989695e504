"""Items of a data set in memory or elsewhere: read when they are asked for, one at a time."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...schema.errors import FrameError, brief
from ..conventions import ANOMALY_IDS, CLASS_IDS
from ..decoding import read_bytes
from ..image_source import ImageSource
from ..layouts import FrameFiles, Mask

__all__ = ["Items", "item_files", "numbered"]

_KEPT = 8  # items that are kept: a frame asks for its image and masks one by one, and threads read ahead
_IGNORED = 65535  # in masks of more than 8 bits, whatever else is
_INT32 = np.iinfo(np.int32)


class Items:
    """Reads items by their number, by one thread at a time, and keeps the last few.

    Parameters
    ----------
    name : str
        What messages call the data set.
    read : callable
        From a number to the parts of an item, by their names.
    """

    def __init__(self, name: str, read: Callable[[int], Mapping[Any, Any]]) -> None:
        self.name, self._read = name, read
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Mapping[Any, Any]] = OrderedDict()

    def names(self, index: int) -> list[Any]:
        """Names of the parts of an item."""
        with self._lock:
            return list(self._item(index))

    def part(self, index: int, part: Any) -> Any:
        """One part of an item, None if it has none of this name."""
        with self._lock:
            return self._item(index).get(part)

    def _item(self, index: int) -> Mapping[Any, Any]:
        if index not in self._kept:
            try:
                item = self._read(index)
                for part in item.values():
                    if isinstance(part, Image.Image):
                        part.load()  # they open their file and read it late
            except FrameError:
                raise
            except Exception as error:  # a data set of others may raise anything
                raise FrameError(f"{self.name}, item {index}: cannot be read ({brief(error)})") from error
            self._kept[index] = item
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[index]

    def forget(self) -> None:
        """Read every item anew."""
        with self._lock:
            self._kept.clear()


class ItemImage(ImageSource):
    """The image of an item."""

    def __init__(self, items: Items, index: int, part: Any) -> None:
        self.items, self.index, self.part = items, index, part

    def __str__(self) -> str:
        return f"{self.items.name}, item {self.index}"

    @property
    def name(self) -> str:
        return str(self)

    @property
    def value(self) -> Any:
        """The part as the data set has it."""
        value = self.items.part(self.index, self.part)
        if isinstance(value, Mapping) and {"bytes", "path"} <= value.keys():  # as of Hugging Face, undecoded
            value = value["bytes"] if value["bytes"] is not None else value["path"]
        return value

    def open(self) -> Image.Image:
        value = self.value
        return _picture(value) or Image.fromarray(self._pixels(value))

    def key(self) -> bytes:
        value = self.value
        if isinstance(value, bytes):
            return value
        if isinstance(value, (str, os.PathLike)):
            return read_bytes(Path(value))
        with self.open() as image:
            digest = blake2b(f"{image.mode} {image.size} {image.getpalette()}".encode(), digest_size=16)
            digest.update(image.tobytes())
        return digest.digest()

    def encoded(self) -> bytes:
        value = self.value
        if isinstance(value, (str, os.PathLike)):
            return read_bytes(Path(value))
        return value if isinstance(value, bytes) else super().encoded()

    def _pixels(self, value: Any) -> np.ndarray:
        """(y, x, 3) or (y, x) uint8 of an array."""
        array = _array(value)
        if array is None:
            raise FrameError(f"{self}: its image is {_kind(value)}, expected a picture, an array or a tensor")
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
            raise FrameError(
                f"{self}: its image is {_kind(value)}, expected (y, x, 3) of an array or (3, y, x) of a tensor, or grey"
            )
        if array.dtype == np.uint8:
            return np.ascontiguousarray(array)
        low, high = array.min(), array.max()
        if array.dtype.kind == "f":
            if not (low >= 0 and high <= 1):  # NaN neither
                raise FrameError(
                    f"{self}: its image holds {low:g} to {high:g}, expected 0 to 1 or uint8: images as they are, which "
                    "are normalised by what the network says (normalize=), not by the data set"
                )
            return np.rint(array * 255).astype(np.uint8)
        if array.dtype.kind not in "iu" or low < 0 or high > 255:
            raise FrameError(f"{self}: its image is {array.dtype} of {low} to {high}, expected uint8")
        return array.astype(np.uint8)


class ItemMask(ItemImage):
    """A mask of an item; there may be none."""

    def __init__(self, items: Items, index: int, part: Any, ignore_index: int | None) -> None:
        super().__init__(items, index, part)
        self.ignore_index = ignore_index

    def __str__(self) -> str:
        return f"{self.items.name}, mask of item {self.index}"

    @property
    def absent(self) -> bool:
        return self.value is None

    def key(self) -> bytes:
        if self.absent:
            return b"none"
        return super().key() + (b"" if self.ignore_index is None else f"ignore {self.ignore_index}".encode())

    def open(self) -> Image.Image:
        value = self.value
        picture = _picture(value)
        if picture is not None and self.ignore_index is None:
            return picture
        if picture is not None:
            if picture.mode not in ("L", "P", "I", "I;16", "1"):
                raise FrameError(
                    f"{self}: is of mode {picture.mode}, expected one channel of ids, as one of them "
                    f"({self.ignore_index}) is to be ignored"
                )
            value = np.asarray(picture)
        return Image.fromarray(self._ids(value))

    def _ids(self, value: Any) -> np.ndarray:
        """(y, x) of an array of ids, uint8 as they are and int32 otherwise; (y, x, 3) uint8 of colours."""
        array = _array(value)
        if array is None:
            raise FrameError(f"{self}: is {_kind(value)}, expected a picture, an array or a tensor of ids")
        if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8 and self.ignore_index is None:
            return np.ascontiguousarray(array)
        if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
            array = array[:, :, 0] if array.shape[2] == 1 else array[0]
        if array.ndim != 2 or not array.size:
            raise FrameError(
                f"{self}: is {_kind(value)}, expected ids (y, x) or (1, y, x); of a channel for each class take argmax"
            )
        if array.dtype.kind not in "biu":
            raise FrameError(
                f"{self}: is {array.dtype}, expected integers: ToTensor is for images, and divides ids by 255"
            )
        if array.dtype.kind == "b":
            array = array.astype(np.uint8)
        if array.dtype != np.uint8 or self.ignore_index is not None:
            if array.dtype.itemsize > 2 and (array.min() < _INT32.min or array.max() > _INT32.max):
                raise FrameError(f"{self}: holds ids {array.min()} to {array.max()}, expected class ids")
            array = array.astype(np.int32)
            if self.ignore_index is not None:
                array[array == self.ignore_index] = _IGNORED
        return np.ascontiguousarray(array)


def _picture(value: Any) -> Image.Image | None:
    """What is a picture already, or encoded, opened anew."""
    if isinstance(value, Image.Image):
        # one of its own, as it is closed by whoever reads it; it keeps how it was stored, which tells lossy masks
        copy = value.copy()
        copy.format = value.format
        return copy
    if isinstance(value, bytes):
        return Image.open(io.BytesIO(value))
    return Image.open(value) if isinstance(value, (str, os.PathLike)) else None


def _array(value: Any) -> np.ndarray | None:
    """An array of what is one, or of nested lists; of tensors, whose channels come first, they come last."""
    if hasattr(value, "detach"):
        tensor: np.ndarray = value.detach().cpu().numpy()
        return np.moveaxis(tensor, 0, -1) if tensor.ndim == 3 else tensor
    if isinstance(value, list):
        value = np.array(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else None


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    return f"{name} of shape {tuple(shape)}" if shape is not None else name


def numbered(count: int) -> list[str]:
    """Ids of frames that have no names: numbers that sort as they count."""
    digits = max(6, len(str(count)))
    return [f"{index:0{digits}}" for index in range(count)]


def item_files(
    items: Items,
    ids: Sequence[str],
    image: Any,
    label: Any = None,
    anomaly: Any = None,
    ignore_index: int | None = None,
) -> list[FrameFiles]:
    """Frames of a data set.

    Parameters
    ----------
    items
    ids
        Of the frames, in the order of the items.
    image, label, anomaly
        Names of the parts that are these, None where there is none.
    ignore_index
        Id in label masks that is ignored.
    """
    return [
        FrameFiles(
            id,
            ItemImage(items, index, image),
            None if label is None else Mask(ItemMask(items, index, label, ignore_index), CLASS_IDS),
            None if anomaly is None else Mask(ItemMask(items, index, anomaly, None), ANOMALY_IDS),
        )
        for index, id in enumerate(ids)
    ]
