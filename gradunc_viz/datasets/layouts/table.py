"""A table of paths, one frame in a row: a file of comma-separated values, or columns in memory."""

from __future__ import annotations

import csv
import io
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

_SUFFIXES = (".csv", ".tsv")


def table_files(columns: Mapping[str, Sequence[Any]], root: Path, where: str) -> list[FrameFiles]:
    """Frames of a table.

    Parameters
    ----------
    columns
        Of `COLUMNS`: paths, absolute or below `root`, and ids of frames, which are otherwise what the path of the image
        is below `root`. A cell that is empty, None or NaN means that there is none.
    root
    where
        What messages call the table.

    Raises
    ------
    FrameError
        If a row has no image, or none of the images of the table exists.
    """
    frames = []
    for number in range(len(columns["image"])):
        cells = {name: _text(column[number]) for name, column in columns.items()}
        if not cells["image"]:
            raise FrameError(f"{where}: row {number + 1} has no image, expected the path of one")
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
    if frames and not any(Path(str(frame.image)).is_file() for frame in frames):
        raise FrameError(
            f"{where}: none of its {len(frames)} images exists, such as {frames[0].image}; expected absolute paths, or "
            f"paths below {root}"
        )
    return frames


def _text(cell: Any) -> str:
    """Text of a cell, empty for what tables take for nothing."""
    return "" if cell is None or cell != cell else str(cell).strip()


def _id(image: Path, root: Path) -> str:
    try:
        below = image.relative_to(root)
    except ValueError:
        below = Path(image.name)
    return nested_id((below if ".." not in below.parts else Path(below.name)).with_suffix("").as_posix())


def _find(root: Path, _split: str) -> list[FrameFiles]:
    if root.is_dir():
        return []
    text = read_text(root)
    delimiter = "\t" if root.suffix.lower() == ".tsv" else max(",;\t", key=text.partition("\n")[0].count)
    header, *rows = [
        row for row in csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True) if row
    ] or [[]]
    names = [name.strip().lower() for name in header]
    if "image" not in names or len(set(names)) < len(names):
        raise FrameError(
            f"{root}: has {some('column', names) if any(names) else 'no column'}; expected image, and if wanted "
            f"{', '.join(COLUMNS[1:])}, each once"
        )
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise FrameError(f"{root}: row {number} has {len(row)} cells, expected {len(names)} as the first line has")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names) if name in COLUMNS}
    return table_files(columns, root.parent, str(root))


LAYOUT = Layout(
    "table",
    "a table of paths; class ids, 0 known and 1 anomaly, 255 ignore",
    f"a .csv or .tsv with the column image and if wanted {', '.join(COLUMNS[1:])}; paths lie below its folder",
    _find,
    takes=lambda path: path.suffix.lower() in _SUFFIXES and path.is_file(),
)
