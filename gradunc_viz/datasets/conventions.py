"""What the numbers in masks mean: conversions of published conventions, and those that a user writes down.

A `Conversion` turns the ids stored in a file into ids of this package: class ids (255 = ignore), or 0 known,
1 unknown object, 255 ignore.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..schema.errors import FrameError
from ..schema.frame import IGNORE
from .catalog import Color, catalog, known_classes

__all__ = [
    "ANOMALY_IDS",
    "CAMVID_IDS",
    "CITY_IDS",
    "CITY_TRAIN_IDS",
    "CLASS_IDS",
    "GREY_ANOMALY_IDS",
    "LAF_IDS",
    "LAF_TRAIN_IDS",
    "ROAD_ANOMALY_IDS",
    "Conversion",
    "NamedClasses",
    "find_classes",
    "folder_classes",
    "read_classes",
    "read_json",
    "read_mapping",
    "some",
]

_MAX_8_BIT = 255
_SHOWN = 6  # how many ids or file names an error message lists


def some(noun: str, values: Iterable[object]) -> str:
    """Join the first few of `values` behind their noun: ``ids 3, 7, ... (40 in all)``."""
    listed = list(values)
    if len(listed) > 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    more = f", ... ({len(listed)} in all)" if len(listed) > _SHOWN else ""
    return f"{noun} {', '.join(map(str, listed[:_SHOWN]))}{more}"


@dataclass(frozen=True)
class Conversion:
    """How the ids stored in a mask become ids of this package.

    Attributes
    ----------
    table
        Stored id -> id in 0..255. An id that is not listed is an error, never a guess.
    expected
        What the table knows, in words, for the error.
    grey_rgb
        Whether copies of this convention exist as RGB files whose three channels are equal.
    """

    table: Mapping[int, int]
    expected: str
    grey_rgb: bool = False

    def __call__(self, stored: np.ndarray, path: Path) -> np.ndarray:
        """Convert the mask `stored`, (H, W) integers read from `path`, to (H, W) uint8.

        Raises
        ------
        FrameError
            If `stored` holds an id that the table does not list.
        """
        present = np.unique(stored)
        unknown = [int(value) for value in present if value < 0 or int(value) not in self.table]
        if unknown:
            raise FrameError(f"{path}: mask holds {some('id', unknown)}, expected {self.expected}")
        converted_id = np.zeros(int(present[-1]) + 1, np.uint8)
        converted_id[present] = [self.table[int(value)] for value in present]
        converted: np.ndarray = converted_id[stored]
        return converted

    @property
    def key(self) -> str:
        """The table as text, equal for equal conversions: part of a frame's content hash."""
        return json.dumps(sorted(self.table.items()))


_VOID = {IGNORE: IGNORE}
CLASS_IDS = Conversion({value: value for value in range(IGNORE + 1)}, "class ids 0..254 or 255 (ignore)")
_ANOMALY_TABLE = {0: 0, 1: 1, **_VOID}
ANOMALY_IDS = Conversion(_ANOMALY_TABLE, "0 (known), 1 (anomaly) or 255 (ignore)")
# Public loaders of these copies force greyscale, so files in RGB do occur.
GREY_ANOMALY_IDS = Conversion(_ANOMALY_TABLE, ANOMALY_IDS.expected, grey_rgb=True)
CAMVID_IDS = Conversion({**{value: value for value in range(11)}, 11: IGNORE, **_VOID}, "class ids 0..10 or 11 (void)")

# Position = train id, value = id, of cityscapesScripts' table; the other ids are ignored in training and
# evaluation.
_CITY_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITY_IDS = Conversion(
    {
        **dict.fromkeys(range(34), IGNORE),
        **{value: train_id for train_id, value in enumerate(_CITY_EVALUATED)},
        **_VOID,
    },
    "Cityscapes ids 0..33",
)
CITY_TRAIN_IDS = Conversion({**{value: value for value in range(19)}, **_VOID}, "train ids 0..18 or 255 (ignore)")

# Lost and Found numbers every object from 2 on. Its table calls seven of them (marker poles, timber, wheel
# caps ...) no hazard; the SegmentMeIfYouCan evaluation counts them as obstacles, as here. Its train ids hide
# them, as background.
LAF_IDS = Conversion(
    {0: IGNORE, 1: 0, **dict.fromkeys(range(2, 44), 1), **_VOID}, "Lost and Found ids 0..43 or 255 (ignore)"
)
LAF_TRAIN_IDS = Conversion({0: IGNORE, 1: 0, 2: 1, **_VOID}, "train ids 0, 1 (road), 2 (obstacle) or 255 (ignore)")

ROAD_ANOMALY_IDS = Conversion(
    {0: 0, 1: 0, 2: 1, **_VOID}, "0 (background), 1 (road), 2 (anomaly) or 255 (ignore)", grey_rgb=True
)


def read_json(path: Path) -> Any:
    """Parse a JSON file; whatever is wrong with it is a `FrameError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # also bytes that are no text
        raise FrameError(f"{path}: not JSON ({error})") from error


def read_mapping(labels: Mapping[Any, Any] | str | os.PathLike[str]) -> Conversion:
    """Read a mapping from the ids stored in label masks to class ids.

    Parameters
    ----------
    labels
        ``{stored id: class id}``, or the path of a JSON file of it. Keys may be integers or their text; class
        ids are 0..254, or 255 for ignore. 255 stays 255 if it is not listed.

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
    table = dict(_VOID)
    for key, value in pairs.items():
        try:
            stored = int(key) if isinstance(key, str) else operator.index(key)
        except (TypeError, ValueError) as error:
            raise FrameError(f"{source}: key {key!r} is not an id, expected an integer") from error
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= IGNORE:
            raise FrameError(
                f"{source}: id {stored} is mapped to {value!r}, expected a class id 0..254 or 255 (ignore)"
            )
        table[stored] = int(value)
    if not pairs:
        raise FrameError(f"{source}: maps no id, expected {{source id: class id}}")
    return Conversion(table, f"only {some('id', sorted(table))} that {source} maps")


NamedClasses = tuple[tuple[str, ...], tuple[Color, ...] | None]
"""Names of the class ids 0..n-1, and their colours if those are known."""


def find_classes(source: str | os.PathLike[str]) -> NamedClasses:
    """Names and colours of classes, from the name of a convention or a file.

    Parameters
    ----------
    source
        A label convention of the catalogue (see `known_classes`), or the path of a file (see `read_classes`).

    Raises
    ------
    GraduncError
        If it is neither.
    """
    name = os.fspath(source)
    if name in catalog()["classes"] or not (Path(name).suffix or Path(name).is_file()):
        classes = known_classes(name)
        return tuple(title for title, _ in classes), tuple(color for _, color in classes)
    return read_classes(Path(name))


def folder_classes(root: Path, known: str | None) -> NamedClasses | tuple[None, None]:
    """Names and colours of the class ids that the labels of a folder hold, each ``None`` if they are not known.

    Parameters
    ----------
    root
        Folder of the set. If it holds ``classes.json``, this names the class ids, after any mapping.
    known
        Label convention of the catalogue that holds otherwise, if any.

    Raises
    ------
    FrameError
        If ``classes.json`` is not what `read_classes` reads.
    """
    path = root / "classes.json"
    if path.is_file():
        return read_classes(path)
    return (None, None) if known is None else find_classes(known)


def read_classes(path: Path) -> NamedClasses:
    """Read a JSON file that names classes.

    Parameters
    ----------
    path
        Of a list of ``{"id": 0, "name": "road", "color": [128, 64, 128]}``, of a list of names in the order of their
        ids, or of an object ``{"0": "road"}``. The colour may be left out of all entries.

    Raises
    ------
    FrameError
        If the file holds anything else, or its ids are not 0..n-1, each once, of different names. An entry for 255 is
        passed over.
    """
    entries = [entry for entry in _entries(path, read_json(path)) if entry["id"] != IGNORE]
    ids = [entry["id"] for entry in entries]
    if not ids or not all(type(value) is int for value in ids) or sorted(ids) != list(range(len(ids))):
        raise FrameError(f"{path}: holds {some('id', ids)}, expected 0..n-1, each once")
    entries.sort(key=lambda entry: entry["id"])
    names = tuple(entry["name"] for entry in entries)
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise FrameError(f"{path}: holds {some('name', names)}, expected different texts")
    if not any("color" in entry for entry in entries):
        return names, None
    return names, tuple(_color(path, entry) for entry in entries)


def _entries(path: Path, content: Any) -> list[Mapping[str, Any]]:
    """Bring any of the forms of a class file to a list of ``{id, name}`` with or without a color."""
    match content:
        case list() if content and all(isinstance(entry, str) for entry in content):
            return [{"id": position, "name": name} for position, name in enumerate(content)]
        case dict() if all(key.isdecimal() for key in content):
            return [{"id": int(key), "name": name} for key, name in content.items()]
        case list() if all(isinstance(entry, dict) and {"id", "name"} <= entry.keys() for entry in content):
            return content
    raise FrameError(
        f'{path}: expected a list of {{"id": ..., "name": ..., "color": [r, g, b]}}, a list of names or '
        f'{{"0": "name", ...}}; found {_excerpt(content)}'
    )


def _excerpt(content: Any) -> str:
    text = json.dumps(content)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _color(path: Path, entry: Mapping[str, Any]) -> Color:
    match entry.get("color"):
        case [int(red), int(green), int(blue)] if all(0 <= part <= _MAX_8_BIT for part in (red, green, blue)):
            return red, green, blue
        case other:
            raise FrameError(f"{path}: color of {entry['name']!r} is {other!r}, expected [r, g, b] of 0..255")
