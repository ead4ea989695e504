"""What the numbers and colours in masks mean: conversions of published conventions, and those that a user writes down.

A `Conversion` turns what is stored in a file into ids of this package: class ids, or 0 known, 1 unknown object; the
largest number of the array's type where a pixel is ignored.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema.errors import FrameError
from ..schema.frame import IGNORE, IGNORE_16, id_type, ignore_id
from .catalog import Color

__all__ = [
    "ANOMALY_IDS",
    "CLASS_IDS",
    "VOID",
    "Conversion",
    "class_ids",
    "read_json",
    "read_mapping",
    "read_text",
    "reduced",
    "some",
]

_SHOWN = 6  # how many ids or file names an error message lists


def some(noun: str, values: Iterable[object]) -> str:
    """Join the first few of `values` behind their noun: ``ids 3, 7, ... (40 in all)``."""
    listed = list(values)
    if len(listed) > 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")
    more = f", ... ({len(listed)} in all)" if len(listed) > _SHOWN else ""
    return f"{noun} {', '.join(map(str, listed[:_SHOWN]))}{more}"


@dataclass(frozen=True)
class Conversion:
    """How what is stored in a mask becomes ids of this package.

    Attributes
    ----------
    table
        Stored id -> id, or None where it is ignored. An id that is not listed is an error, never a guess.
    expected
        What the table knows, in words, for the error.
    grey_rgb
        Whether copies of this convention exist as RGB files whose three channels are equal.
    deep
        The table of masks of more than 8 bits, where it is another; in those 65535 is ignored whatever it says.
    colors
        Colour -> id or None, of masks that hold colours; empty where there are none of this convention.
    as_stored
        Whether ids mean what whoever reads them says: they are those of no convention, and nobody mapped them.
    """

    table: Mapping[int, int | None]
    expected: str
    grey_rgb: bool = False
    deep: Mapping[int, int | None] | None = None
    colors: Mapping[Color, int | None] = field(default_factory=dict)
    as_stored: bool = False

    def __call__(self, stored: np.ndarray, path: object, void: Collection[int] = ()) -> np.ndarray:
        """Convert the mask `stored`, (H, W) integers or (H, W, 3) colours read from `path`, to (H, W) ids.

        The type is uint8, or uint16 where an id is larger than 254; its largest number is that of ignored pixels.
        Stored ids in `void` are ignored as well, whatever the table says.

        Raises
        ------
        FrameError
            If `stored` holds an id or a colour that is not listed, or colours where there are ids to be ignored.
        """
        if stored.ndim == 3:
            if void:
                raise FrameError(
                    f"{path}: mask holds colours, expected ids, of which {some('id', void)} mean anomalies"
                )
            return self._of_colors(stored, path)
        table: Mapping[int, int | None] = self.table
        if stored.dtype != np.uint8:
            table = {IGNORE_16: None, **(self.table if self.deep is None else self.deep)}
        table = {**table, **dict.fromkeys(void, None)}
        present = np.unique(stored)
        unknown = [int(value) for value in present if int(value) not in table]
        if unknown:
            raise FrameError(f"{path}: mask holds {some('id', unknown)}, expected {self.expected}")
        ids = self._numbers([table[int(value)] for value in present])
        low = min(0, int(present[0]))  # some data sets ignore -1
        converted_id = np.zeros(int(present[-1]) - low + 1, ids.dtype)
        converted_id[present - low] = ids
        converted: np.ndarray = converted_id[stored - low if low else stored]
        return converted

    def _of_colors(self, stored: np.ndarray, path: object) -> np.ndarray:
        red, green, blue = (stored[..., channel].astype(np.int32) for channel in range(3))
        present, place = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
        found: list[Color] = [(value >> 16, value >> 8 & 255, value & 255) for value in present.tolist()]
        unknown = [color for color in found if color not in self.colors]
        if unknown:
            raise FrameError(
                f"{path}: mask holds {some('colour', unknown)}, which {'are' if unknown[1:] else 'is'} none of the "
                f"{len(self.colors)} colours that classes are known by"
            )
        converted: np.ndarray = self._numbers([self.colors[color] for color in found])[place]
        return converted.reshape(stored.shape[:2])

    def _numbers(self, ids: Sequence[int | None]) -> np.ndarray:
        """Ids in the smallest type that holds all those of the convention."""
        every = (*self.table.values(), *(self.deep or {}).values(), *self.colors.values())
        dtype = id_type(1 + max((id for id in every if id is not None), default=0))
        return np.array([ignore_id(dtype) if id is None else id for id in ids], dtype)

    def then(self, ids: Mapping[int, int | None], expected: str) -> Conversion:
        """Both conversions, one after the other: an id of the first that `ids` does not list is an error."""

        def chained(first: Mapping[Any, int | None]) -> dict[Any, int | None]:
            return {key: None if id is None else ids[id] for key, id in first.items() if id is None or id in ids}

        deep = None if self.deep is None else chained(self.deep)
        return replace(
            self, table=chained(self.table), deep=deep, colors=chained(self.colors), expected=expected, as_stored=False
        )

    @property
    def key(self) -> str:
        """The tables of ids as text, equal for equal conversions: part of a frame's content hash."""
        tables = [self.table] if self.deep is None else [self.table, self.deep]
        return "".join(json.dumps([(k, IGNORE if v is None else v) for k, v in sorted(t.items())]) for t in tables)

    @property
    def color_key(self) -> str:
        """The table of colours as text, for the content hash of frames whose mask holds colours."""
        return json.dumps(sorted(self.colors.items()))


VOID: Mapping[int, int | None] = {IGNORE: None}
"""255 is ignored."""

CLASS_IDS = Conversion(
    {**{value: value for value in range(IGNORE)}, **VOID}, "class ids 0..254 or 255 (ignore)", as_stored=True
)
_ANOMALY_TABLE: Mapping[int, int | None] = {0: 0, 1: 1, **VOID}
# Public loaders of copies force greyscale, so files in RGB do occur.
ANOMALY_IDS = Conversion(_ANOMALY_TABLE, "0 (known), 1 (anomaly) or 255 (ignore)", grey_rgb=True)


def class_ids(n_classes: int) -> Conversion:
    """Ids of `n_classes` classes as they are stored.

    Up to 255 classes 255 is ignored. Where there are more it is a class in masks of 16 bits, in which 65535 is ignored;
    masks of 8 bits cannot hold both, and 255 is ignored in them.
    """
    if n_classes <= IGNORE:
        return CLASS_IDS
    every: dict[int, int | None] = {value: value for value in range(n_classes)}
    return Conversion(
        {**every, **VOID},
        f"class ids 0..{n_classes - 1}, or 255 in 8 bits or 65535 in 16 bits (ignore)",
        deep=every,
        as_stored=True,
    )


def reduced(n_classes: int, expected: str) -> Conversion:
    """Stored ids 1..`n_classes` for the class ids from 0 on; 0 and 255 are ignored."""
    return Conversion({0: None, **{id: id - 1 for id in range(1, n_classes + 1)}, **VOID}, expected)


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, with or without a byte-order mark; whatever is wrong with it is a `FrameError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FrameError(f"{path}: not a text in UTF-8 (line {line}: {error})") from error


def read_json(path: Path) -> Any:
    """Parse a JSON file in UTF-8; whatever is wrong with it is a `FrameError` that names it."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise FrameError(f"{path}: not JSON ({error})") from error


def read_mapping(labels: Mapping[Any, Any] | str | os.PathLike[str], expected: Conversion = CLASS_IDS) -> Conversion:
    """Read a mapping from the ids stored in masks to ids of this package.

    Parameters
    ----------
    labels
        ``{stored id: id}``, or the path of a JSON file of it. Keys may be integers or their text. An id that is None
        (``null``) is ignored, and so is 255 unless there are larger ones, and 65535. 255 stays ignored if it is not
        listed.
    expected
        What the result has to be: ids of classes, or those of `ANOMALY_IDS`.

    Raises
    ------
    FrameError
        If the file is not JSON, or a key or value is not what is expected.
    """
    if isinstance(labels, Mapping):
        pairs, source = labels, "label mapping"
    else:
        source = os.fspath(labels)
        pairs = read_json(Path(source))
        if not isinstance(pairs, Mapping):
            raise FrameError(f"{source}: expected an object {{source id: class id}}, found {type(pairs).__name__}")
    if not pairs:
        raise FrameError(f"{source}: maps no id, expected {{source id: class id}}")
    table: dict[int, int | None] = {}
    for key, value in pairs.items():
        try:
            stored = int(key) if isinstance(key, str) else operator.index(key)
        except (TypeError, ValueError) as error:
            raise FrameError(f"{source}: key {key!r} is not an id, expected an integer") from error
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and (0 <= value <= IGNORE_16)):
            raise FrameError(
                f"{source}: id {stored} is mapped to {value!r}, expected a class id (0..254, or more where there are "
                "more than 255 classes) or null, 255 (ignore)"
            )
        table[stored] = None if value is None or value == IGNORE_16 else int(value)
    if all(value is None or value <= IGNORE for value in table.values()):
        table = {**VOID, **{stored: None if value == IGNORE else value for stored, value in table.items()}}
    if not expected.as_stored:
        odd = {id for id in table.values() if id not in expected.table.values()}
        if odd:
            raise FrameError(f"{source}: maps to {some('id', odd)}, expected {expected.expected}")
    return Conversion(table, f"only {some('id', sorted(table))} that {source} maps", grey_rgb=expected.grey_rgb)
