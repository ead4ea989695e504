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
    columns = {what: table[name].tolist() for what, name in names.items() if name in table.columns}
    if not len(table):
        raise FrameError(f"{where}: holds no row, expected at least one")
    return Found(where, table_files(columns, parts.root or Path.cwd(), where))


ADAPTER = Adapter("pandas", lambda thing: is_a(thing, "pandas.DataFrame", "pandas.core.frame.DataFrame"), _find)
