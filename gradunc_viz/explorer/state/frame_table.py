"""The table of frames: one row per frame, from the summary alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from bokeh.models.widgets.tables import NumberFormatter

from ...schema.file_names import natural_key
from ...schema.frame import QUANTILES
from ...schema.tasks import TASKS
from ...style.scores import units_text

__all__ = [
    "AUPRC",
    "FRAME",
    "PICK",
    "SHOWN",
    "STATISTICS",
    "frame_rows",
    "frames_with",
    "ids_only",
    "listed_rows",
    "marked",
    "number_format",
    "table_options",
]

FRAME = "frame"
"""Column that identifies a row; positions change under sorting and filtering."""

SHOWN, PICK, AUPRC = "shown", "pick", "auprc"
"""Columns of the frame shown, of the selection, and of the AuPRC of each frame."""

STATISTICS: Mapping[str, str] = {"mean": "mean"} | {f"q{100 * q:g}": f"{100 * q:g} % quantile" for q in QUANTILES}
"""What the columns of scores may hold, and its title."""

_PAGE = 10

_MARK = "▶"


def frame_rows(summary: xr.Dataset, statistic: str = "mean") -> pd.DataFrame:
    """One row per frame: id, error and anomaly share in percent, a statistic of every oriented score, size.

    Scores are oriented: larger is more uncertain in every column.

    Parameters
    ----------
    statistic : str
        In `STATISTICS`.
    """
    rows = len(summary["frame"])
    columns: dict[str, Any] = {
        SHOWN: [""] * rows,
        PICK: [False] * rows,
        FRAME: [str(name) for name in summary["frame"].values],
        **{task.rate: summary[task.rate].values * 100 for task in TASKS.values()},
        AUPRC: np.full(rows, np.nan),
    }
    for at, name in enumerate(summary["score"].values):
        if statistic == "mean":
            columns[str(name)] = summary["score_mean"].values[:, at]
        else:
            place = list(STATISTICS).index(statistic) - 1
            columns[str(name)] = summary["score_quantile"].values[:, place, at]
    # columns that no frame has anything for only take room
    known = [task for task in TASKS.values() if not task.lack(summary)]
    for task in TASKS.values():
        if task not in known:
            del columns[task.rate]
    if not known:
        del columns[AUPRC]
    # last, so that the first scores are seen without scrolling
    columns["size"] = [f"{w} × {h}" for w, h in zip(summary["width"].values, summary["height"].values, strict=True)]
    return pd.DataFrame(columns)


def ids_only(ids: tuple[str, ...]) -> pd.DataFrame:
    """Return the table where the summary cannot be had."""
    return pd.DataFrame({SHOWN: [""] * len(ids), PICK: [False] * len(ids), FRAME: list(ids)})


def frames_with(summary: xr.Dataset, classes: Sequence[str]) -> np.ndarray:
    """Which frames hold one of the classes in their labels or in predictions on labelled pixels, (frame,) bool.

    Frames without class labels cannot be told and are kept. No class means all.
    """
    if not classes:
        return np.ones(len(summary["frame"]), bool)
    at = [list(summary["class"].values).index(name) for name in classes]
    table = summary["confusion"].values
    held = (table[:, at, :].sum((1, 2)) + table[:, :, at].sum((1, 2))) > 0
    return np.asarray(held | ~summary[TASKS["error"].flag].values.astype(bool))


def table_options(rows: pd.DataFrame, statistic: str = "mean") -> dict[str, Any]:
    """How a Tabulator shows `frame_rows`: titles, number formats, filters.

    Frame ids come from file names and are shown as the text they are, never as HTML; tooltips of headers are HTML.
    """
    titles = {
        SHOWN: "",
        PICK: "✓",
        FRAME: "Frame",
        "size": "Size [px]",
        "error_rate": "Error %",
        "anomaly_rate": "Anomaly %",
        AUPRC: "AuPRC %",
    }
    formatters: dict[str, Any] = {
        SHOWN: {"type": "plaintext"},
        PICK: {"type": "tickCross", "crossElement": "<span class='unpicked'></span>"},
        FRAME: {"type": "plaintext"},
        "size": {"type": "plaintext"},
    }
    tooltips = {
        PICK: "Click to select the frame, for curves and for the list of frames",
        "error_rate": "Share of labelled pixels whose predicted class is wrong",
        "anomaly_rate": "Share of unknown objects among evaluated pixels",
        AUPRC: "AuPRC of the chosen score for the chosen task, in this frame",
    }
    # what is asked for first fits beside the panes without scrolling
    widths = {SHOWN: 20, PICK: 26, FRAME: 96, "size": 92, "error_rate": 68, "anomaly_rate": 90, AUPRC: 78}
    for name in rows.columns:
        if name in titles:
            if name not in formatters:
                formatters[name] = number_format(2)
            continue
        titles[name] = name
        what = STATISTICS[statistic].capitalize()
        tooltips[name] = f"{what} of {name} over the frame [{escape(units_text(name))}]; larger = more uncertain"
        formatters[name] = number_format(3)
        widths[name] = 34 + 8 * len(titles[name])
    return {
        "titles": titles,
        "formatters": formatters,
        "header_tooltips": {name: text for name, text in tooltips.items() if name in rows},
        "header_filters": {FRAME: {"type": "input", "func": "like", "placeholder": "filter"}},
        "text_align": {
            name: "center" if name in (SHOWN, PICK) else "left" if name == FRAME else "right" for name in rows.columns
        },
        "widths": {name: width for name, width in widths.items() if name in rows},
        "frozen_columns": [SHOWN, PICK, FRAME],
        "sortable": {name: name not in (SHOWN, PICK) for name in rows.columns},
        "configuration": {
            "columnDefaults": {"minWidth": 20},
            "columns": [{"field": FRAME, "sorter": "alphanum"}],  # as `listed_rows`
        },
        "page_size": _PAGE,
    }


def marked(rows: pd.DataFrame, shown: str, picked: Sequence[str]) -> dict[str, list[tuple[int, Any]]]:
    """Patches that bring the columns `SHOWN` and `PICK` of a table up to date, by position in `rows`."""
    marks, picks = np.where(rows[FRAME] == shown, _MARK, ""), rows[FRAME].isin(picked).to_numpy()
    found: dict[str, list[tuple[int, Any]]] = {
        SHOWN: [(i, str(marks[i])) for i in np.flatnonzero(marks != rows[SHOWN].to_numpy()).tolist()],
        PICK: [(i, bool(picks[i])) for i in np.flatnonzero(picks != rows[PICK].to_numpy(bool)).tolist()],
    }
    return {column: patches for column, patches in found.items() if patches}


def listed_rows(rows: pd.DataFrame, sorters: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Rows as the page lists them: Panel sorts ids as text, Tabulator as people count."""
    if not sorters or sorters[0]["field"] != FRAME:
        return rows
    keys = [natural_key(name.lower()) for name in rows[FRAME]]
    return rows.iloc[sorted(range(len(keys)), key=keys.__getitem__, reverse=sorters[0]["dir"] == "desc")]


def number_format(decimals: int) -> NumberFormatter:
    """How a table shows numbers: so many decimals, or thousands set apart; a dash where there is none."""
    return NumberFormatter(format="0." + "0" * decimals if decimals else "0,0", nan_format="–")
