"""The table of frames: one row per frame, from the summary alone."""

from __future__ import annotations

from typing import Any

import pandas as pd
import xarray as xr
from bokeh.models.widgets.tables import NumberFormatter

from ..schema import score_entry

__all__ = ["FRAME", "frame_rows", "ids_only", "table_options"]

FRAME = "frame"
"""Column that identifies a row; positions change under sorting and filtering."""

_PAGE = 12


def frame_rows(summary: xr.Dataset) -> pd.DataFrame:
    """One row per frame: id, error and anomaly share in percent, mean of every oriented score, size.

    Means are those of the oriented scores: larger is more uncertain in every column.
    """
    columns: dict[str, Any] = {
        FRAME: [str(name) for name in summary["frame"].values],
        "error_rate": summary["error_rate"].values * 100,
        "anomaly_rate": summary["anomaly_rate"].values * 100,
    }
    for name in summary["score"].values:
        columns[str(name)] = summary["score_mean"].sel(score=name).values
    # last, so that the first scores are seen without scrolling
    columns["size"] = [f"{w} × {h}" for w, h in zip(summary["width"].values, summary["height"].values, strict=True)]
    return pd.DataFrame(columns)


def ids_only(ids: tuple[str, ...]) -> pd.DataFrame:
    """Return the table where the summary cannot be had."""
    return pd.DataFrame({FRAME: list(ids)})


def table_options(rows: pd.DataFrame) -> dict[str, Any]:
    """How a Tabulator shows `frame_rows`: titles, number formats, filters.

    Frame ids come from file names and are shown as the text they are, never as HTML.
    """
    titles = {FRAME: "Frame", "size": "Size [px]", "error_rate": "Error [%]", "anomaly_rate": "Anomaly [%]"}
    formatters: dict[str, Any] = {FRAME: {"type": "plaintext"}, "size": {"type": "plaintext"}}
    tooltips = {
        "error_rate": "Share of labelled pixels whose predicted class is wrong",
        "anomaly_rate": "Share of unknown objects among evaluated pixels",
    }
    widths = {FRAME: 94, "size": 88, "error_rate": 92, "anomaly_rate": 112}
    for name in rows.columns:
        if name in titles:
            if name not in formatters:
                formatters[name] = _number(2)
            continue
        units = score_entry(name).units
        titles[name] = name
        tooltips[name] = f"Mean of {name} over the frame [{units}]; larger = more uncertain"
        formatters[name] = _number(3)
        widths[name] = 30 + 8 * len(titles[name])
    return {
        "titles": titles,
        "formatters": formatters,
        "header_tooltips": {name: text for name, text in tooltips.items() if name in rows},
        "header_filters": {FRAME: {"type": "input", "func": "like", "placeholder": "filter by id"}},
        "text_align": {name: "left" if name == FRAME else "right" for name in rows.columns},
        "widths": {name: width for name, width in widths.items() if name in rows},
        "frozen_columns": [FRAME],
        "page_size": _PAGE,
    }


def _number(precision: int) -> NumberFormatter:
    return NumberFormatter(format="0." + "0" * precision, nan_format="–")
