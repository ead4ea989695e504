"""A table of paths, one frame in a row: a file of comma-separated values, or columns in memory."""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...schema.errors import FrameError
from ...schema.frame import nested_id
from ..conventions import ANOMALY_IDS, CLASS_IDS, read_text, some
from .layout import FrameFiles, Layout, Mask

__all__ = ["COLUMNS", "LAYOUT", "table_files"]

COLUMNS = ("image", "label", "anomaly", "ignore", "region", "id")
"""What a row may hold; an image it has to."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SUFFIXES = (".csv", ".tsv")


def table_files(columns: Mapping[str, Sequence[Any]], root: Path, where: str) -> list[FrameFiles]:
    """Frames of a table.

    Parameters
    ----------
    columns
        Of `COLUMNS`: paths, absolute or below `root`, and ids of frames, which are otherwise what the path of the image
        is below `root`. A cell that is empty or None means that there is none.
    root
    where
        What messages call the table.

    Raises
    ------
    FrameError
        If a row has no image or holds what is no text, or none of the images of the table exists.
    """
    frames = []
    for number, row in enumerate(zip(*columns.values(), strict=True), 1):
        cells = {name: "" if cell is None else str(cell).strip() for name, cell in zip(columns, row, strict=True)}
        if not cells["image"]:
            raise FrameError(f"{where}: row {number} has no image, expected the path of one")
        for name, cell in cells.items():
            if _CONTROL.search(cell):
                raise FrameError(f"{where}: {name} of row {number} is {cell!r:.60}, expected one line of text")
        path = {name: root / cell for name, cell in cells.items() if cell and name != "id"}
        label, anomaly = path.get("label"), path.get("anomaly")
        frames.append(
            FrameFiles(
                cells.get("id") or _id(path["image"], root),
                path["image"],
                None if label is None else Mask(label, CLASS_IDS),
                None if anomaly is None else Mask(anomaly, ANOMALY_IDS),
                region=path.get("region"),
                ignore=path.get("ignore"),
            )
        )
    if frames and not any(os.path.isfile(str(frame.image)) for frame in frames):
        raise FrameError(
            f"{where}: none of its {len(frames)} images exists, such as {frames[0].image}; expected absolute paths, or "
            f"paths below {root}"
        )
    return frames


def _id(image: Path, root: Path) -> str:
    try:
        below = image.relative_to(root)
    except ValueError:
        below = Path(image.name)
    return nested_id((below if ".." not in below.parts else Path(below.name)).with_suffix("").as_posix())


def _find(root: Path, _split: str) -> list[FrameFiles]:
    if root.is_dir():
        return []
    header, *rows = _rows(root) or [[]]
    names = [name.strip().lower() for name in header]
    if "image" not in names or len(set(names)) < len(names):
        told = some("column", [f"{name!r:.60}" if _CONTROL.search(name) else name for name in names])
        raise FrameError(
            f"{root}: has {told if any(names) else 'no column'}; expected image in its first line, and if wanted "
            f"{', '.join(COLUMNS[1:])}, each once"
        )
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise FrameError(f"{root}: row {number} has {len(row)} cells, expected {len(names)} as the first line has")
    unused = [repr(name) for name in names if name and name not in COLUMNS]  # an index of pandas has no name
    if unused:
        warnings.warn(f"{root}: {some('column', unused)} not used; those of {', '.join(COLUMNS)} are", stacklevel=2)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names) if name in COLUMNS}
    return table_files(columns, root.parent, str(root))


def _rows(file: Path) -> list[list[str]]:
    """Rows that are not empty."""
    text = read_text(file)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    try:
        rows.extend(row for row in reader if row)
    except csv.Error as error:
        raise FrameError(
            f"{file}: row {len(rows)}, line {reader.line_num}, cannot be read ({error}); expected values separated by "
            f"{delimiter!r}, in quotes that end"
        ) from error
    return rows


LAYOUT = Layout(
    "table",
    "a table of paths; class ids, 0 known and 1 anomaly, 255 ignore",
    f"a .csv or .tsv with the column image and if wanted {', '.join(COLUMNS[1:])}; paths lie below its folder",
    _find,
    takes=lambda path: path.suffix.lower() in _SUFFIXES and path.is_file(),
)
