"""Names and colours of classes, from the name of a convention, a list of names, or a file of any usual form."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..schema.errors import FrameError, GraduncError
from ..schema.frame import IGNORE
from .catalog import Color, catalog, known_classes
from .conventions import read_json, read_text, some

__all__ = ["CLASS_FILES", "VOID_NAMES", "NamedClasses", "find_classes", "folder_classes", "read_classes"]

CLASS_FILES = ("classes.json", "classes.csv", "classes.txt")
"""Files of a set that name its classes, one of which it may hold."""

VOID_NAMES = frozenset({"void", "ignore", "ignored", "unlabeled", "unlabelled"})
"""What is called so is no class, where it is none of the network's."""

_MAX_8_BIT = 255

_BLACK = (0, 0, 0)  # what the conventions of the catalogue ignore

_COLUMNS = {
    "id": ("id", "index", "class_id", "classid", "label_id", "trainid", "train_id"),
    "name": ("name", "class", "label", "class_name", "classname", "label_name"),
    "color": ("color", "colour", "rgb"),
    "red": ("red", "r"),
    "green": ("green", "g"),
    "blue": ("blue", "b"),
}
"""What the columns of a table may be called, in lower case."""


class NamedClasses(NamedTuple):
    """Names of the class ids 0..n-1.

    Attributes
    ----------
    names : tuple of str
    colors : tuple of (red, green, blue), optional
        As many, where they are known.
    void : tuple of (red, green, blue)
        Colours of pixels that are ignored.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None = None
    void: tuple[Color, ...] = ()

    @property
    def by_color(self) -> dict[Color, int | None]:
        """Class id of each colour, None of those that are ignored; colours of several classes are left out."""
        pairs = [*((color, id) for id, color in enumerate(self.colors or ())), *((color, None) for color in self.void)]
        colors = [color for color, _ in pairs]
        return {color: id for color, id in pairs if colors.count(color) == 1}


def find_classes(source: str | os.PathLike[str]) -> NamedClasses:
    """Names and colours of classes, from whatever a user names.

    Parameters
    ----------
    source
        A label convention of the catalogue (see `known_classes`), the path of a file (see `read_classes`), or names
        in the order of their ids with commas between: ``"road,car,sky"``.

    Raises
    ------
    GraduncError
        If it is none of these.
    """
    name = os.fspath(source)
    path = Path(name)
    if name in catalog()["classes"]:
        return _convention(name)
    if "," in name and not path.is_file():
        return NamedClasses(_checked_names("class names", [part.strip() for part in name.split(",")]))
    if path.suffix or path.exists():
        return read_classes(path)
    raise GraduncError(
        f"unknown label convention {name!r}: expected one of {', '.join(catalog()['classes'])}, a .json, .csv or .txt "
        "file, or names with commas between"
    )


def _convention(name: str) -> NamedClasses:
    classes = known_classes(name)
    return NamedClasses(tuple(title for title, _ in classes), tuple(color for _, color in classes), (_BLACK,))


def folder_classes(root: Path, known: str | None) -> NamedClasses | None:
    """Names and colours of the class ids that the labels of a folder hold, if they are known.

    Parameters
    ----------
    root
        Folder of the set. If it holds one of `CLASS_FILES`, this names the class ids, after any mapping.
    known
        Label convention of the catalogue that holds otherwise, if any.

    Raises
    ------
    FrameError
        If the file is not what `read_classes` reads, or there are several.
    """
    there = [name for name in CLASS_FILES if (root / name).is_file()]
    if len(there) > 1:
        raise FrameError(f"{root}: holds {' and '.join(there)}, expected only one of them")
    if there:
        return read_classes(root / there[0])
    return None if known is None else _convention(known)


def read_classes(path: Path) -> NamedClasses:
    """Read a file that names classes.

    Parameters
    ----------
    path
        Of text in UTF-8. ``.csv``, ``.tsv``: a table with a column ``name`` and, each if wanted, ``id``, ``color``
        (``#804080`` or ``128 64 128``) or ``r``, ``g``, ``b``. ``.txt``: on each line a name, in the order of ids, or
        ``0 road``, or ``128 64 128 road``. Anything else is JSON: a list of ``{"id": 0, "name": "road", "color":
        [128, 64, 128]}``, a list of names, or an object ``{"0": "road"}``. Colours may be left out.

    Raises
    ------
    FrameError
        If the file holds anything else, or its ids are not 0..n-1, each once, of different names. Entries for 255 say
        what colours are ignored, where there are less than 256 classes.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        entries = _table_entries(path, read_text(path))
    elif suffix == ".txt":
        entries = _line_entries(path, read_text(path))
    else:
        entries = _json_entries(path, read_json(path))
    for entry in entries:
        if type(entry.id) is not int:
            raise FrameError(f"{path}: id {entry.id!r} of {entry.name!r} is no integer; expected 0..n-1, each once")
    void = [entry for entry in entries if entry.id == IGNORE and not _goes_on(entry, entries)]
    entries = [entry for entry in entries if entry not in void]
    ids = [entry.id for entry in entries]
    if not ids or sorted(ids) != list(range(len(ids))):
        found = some("id", ids) if ids else "no class"
        raise FrameError(f"{path}: holds {found}, expected 0..n-1, each once")
    entries.sort(key=lambda entry: entry.id)
    names = _checked_names(str(path), [entry.name for entry in entries])
    void_colors = tuple(_color(path, entry) for entry in void if entry.color is not None)
    if not any(entry.color is not None for entry in entries):
        return NamedClasses(names, None, void_colors)
    return NamedClasses(names, tuple(_color(path, entry) for entry in entries), void_colors)


@dataclass(frozen=True, eq=False)
class _Entry:
    """A class as a file has it; nothing of it is certain yet."""

    id: Any
    name: Any
    color: Any = None


def _goes_on(entry: _Entry, entries: Sequence[_Entry]) -> bool:
    """Whether an entry for 255 is one of 256 classes or more."""
    ids = {other.id for other in entries}
    return ids >= set(range(IGNORE)) and (IGNORE + 1 in ids or str(entry.name).strip().lower() not in VOID_NAMES)


def _checked_names(source: str, names: Sequence[Any]) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise FrameError(f"{source}: {name!r} is no name of a class, expected a text")
    stripped = tuple(name.strip() for name in names)
    twice = [name for position, name in enumerate(stripped) if name in stripped[:position]]
    if twice:
        raise FrameError(
            f"{source}: holds {some('name', dict.fromkeys(twice))} more than once, expected different names"
        )
    return stripped


def _json_entries(path: Path, content: Any) -> list[_Entry]:
    match content:
        case list() if content and all(isinstance(entry, str) for entry in content):
            return [_Entry(position, name) for position, name in enumerate(content)]
        case dict() if all(key.isdecimal() for key in content):
            return [_Entry(int(key), name) for key, name in content.items()]
        case list() if all(isinstance(entry, dict) and {"id", "name"} <= entry.keys() for entry in content):
            return [_Entry(entry["id"], entry["name"], entry.get("color")) for entry in content]
    raise FrameError(
        f'{path}: expected a list of {{"id": ..., "name": ..., "color": [r, g, b]}}, a list of names or '
        f'{{"0": "name", ...}}; found {_excerpt(content)}'
    )


def _line_entries(path: Path, text: str) -> list[_Entry]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    colored = [re.fullmatch(r"(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\S.*)", line) for line in lines]
    if lines and all(colored):
        parts = [match.groups() for match in colored if match]
        return [_Entry(position, name, [int(r), int(g), int(b)]) for position, (r, g, b, name) in enumerate(parts)]
    numbered = [re.fullmatch(r"(\d+)\s*[\s:=,;]\s*(\S.*)", line) for line in lines]
    if lines and all(numbered):
        return [_Entry(int(match[1]), match[2]) for match in numbered if match]
    if any(numbered):
        odd = next(line for line, match in zip(lines, numbered, strict=True) if not match)
        raise FrameError(f"{path}: some lines begin with a number and {odd!r} does not; expected one name on each line")
    return [_Entry(position, name) for position, name in enumerate(lines)]


def _table_entries(path: Path, text: str) -> list[_Entry]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    header, *rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter)] or [
        []
    ]
    place = {
        column: number
        for number, title in enumerate(header)
        for column, titles in _COLUMNS.items()
        if title.lower() in titles
    }
    if "name" not in place:
        raise FrameError(f"{path}: has columns {', '.join(header)}; expected name, and if wanted id, color or r, g, b")
    entries: list[_Entry] = []
    for number, row in enumerate(rows, 2):
        if not any(row):
            continue
        if len(row) != len(header):
            raise FrameError(
                f"{path}: line {number} has {len(row)} cells, expected {len(header)} as the first line has"
            )
        cells = {column: row[position] for column, position in place.items()}
        key = cells.get("id", str(len(entries)))
        entries.append(_Entry(int(key) if key.isdecimal() else key, cells["name"], _cell_color(cells)))
    return entries


def _cell_color(cells: Mapping[str, str]) -> Any:
    """Color of a row, None where it has none; what it is not is told by `_color`."""
    parts = [cells.get(name, "") for name in ("red", "green", "blue")]
    text = cells.get("color", "")
    if any(parts):
        text = " ".join(parts)
    if not text:
        return None
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return list(bytes.fromhex(text[1:]))
    numbers = re.findall(r"[^\s,;()\[\]]+", text)
    return [int(part) if part.isdecimal() else part for part in numbers]


def _excerpt(content: Any) -> str:
    text = json.dumps(content)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _color(path: Path, entry: _Entry) -> Color:
    match entry.color:
        case [int(red), int(green), int(blue)] if all(0 <= part <= _MAX_8_BIT for part in (red, green, blue)):
            return red, green, blue
        case other:
            raise FrameError(f"{path}: color of {entry.name!r} is {other!r}, expected [r, g, b] of 0..255")
