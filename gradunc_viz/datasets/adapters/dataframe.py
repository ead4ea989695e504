"""Tables of pandas with a path in each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...schema.errors import FrameError
from ..layouts.table import COLUMNS, table_files
from .adapter import Adapter, Found, Parts, is_a

__all__ = ["ADAPTER"]


def _find(table: Any, parts: Parts) -> Found:
    where = f"table of {len(table)} rows"
    parts.only(where, "image", "label", "anomaly", "id", "root")
    names = {name: getattr(parts, name, None) or name for name in COLUMNS}
    for what, name in names.items():
        if name not in table.columns and (what == "image" or name != what):
            raise FrameError(f"{where}: has no column {name!r}, expected one of {', '.join(map(str, table.columns))}")
    columns = {what: _cells(table, name, where) for what, name in names.items() if name in table.columns}
    unused = [repr(name) for name in table.columns if name not in names.values()]
    parts.check_unused(where, "column", unused, f"those of {', '.join(COLUMNS)} are")
    if not len(table):
        raise FrameError(f"{where}: holds no row, expected at least one")
    return Found(where, table_files(columns, parts.root or Path.cwd(), where))


def _cells(table: Any, name: Any, where: str) -> list[Any]:
    """Cells of a column, None where nothing is known, however pandas says so."""
    column = table[name]
    if column.ndim > 1:
        raise FrameError(f"{where}: has {column.shape[1]} columns {name!r}, expected one")
    return [None if missing else cell for cell, missing in zip(column, column.isna(), strict=True)]


ADAPTER = Adapter("pandas", lambda thing: is_a(thing, "pandas.DataFrame", "pandas.core.frame.DataFrame"), _find)
