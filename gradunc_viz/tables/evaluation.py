"""Evaluation results as records, text, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..metrics.metric import METRICS, Metric, find_metric
from ..schema.scores import lookup
from .table import Column, Table, best

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["best", "caption", "comparison", "evaluation_table", "latex", "records", "terminal_tables", "to_csv"]


def _columns(result: xr.Dataset) -> dict[str, Metric]:
    """Metrics that a result holds, by name."""
    return {name: metric for name, metric in METRICS.items() if name in result}


def records(result: xr.Dataset) -> list[dict[str, Any]]:
    """One flat record per row of an evaluation, with NaN as None: what ``--json`` and ``--csv`` hold.

    Parameters
    ----------
    result : xarray.Dataset
        From `gradunc_viz.evaluate`.

    Returns
    -------
    list of dict
        ``cache``, ``task``, ``score``, ``pooling`` (``pixels``, ``frames``, or ``frame``, ``class``, ``label`` with the
        name under ``frame`` or ``class``), ``n_frames``, ``n_pixels``, ``positive_rate`` and the metrics.
    """
    by = str(result.attrs["by"])
    row = "class" if by == "label" else by
    values = {str(name): result[name].transpose(..., missing_dims="ignore") for name in result.data_vars}
    found = []
    for cache in result["cache"].values:
        for score in result["score"].values:
            for key in result[row].values:
                record: dict[str, Any] = {"cache": str(cache), "task": result.attrs["task"], "score": str(score)}
                record["pooling"] = str(key) if row == "pooling" else by
                if row != "pooling":
                    record[row] = str(key)
                where = {"cache": cache, "score": score, row: key}
                for name, array in values.items():
                    value = array.sel({dim: where[str(dim)] for dim in array.dims}).item()
                    record[name] = _plain(value)
                if record.get("n_pixels") or row == "pooling":
                    found.append(record)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) >= 2 else value
    return value


def to_csv(result: xr.Dataset) -> str:
    """`records` as comma-separated values with a header."""
    rows = records(result)
    fields = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def caption(result: xr.Dataset, pooling: str = "pixels") -> list[str]:
    """Say how values were pooled, from what, and what was missing, one line per cache."""
    how = {
        "pixels": "pooled over all pixels",
        "frames": "mean over frames",
        "frame": "per frame",
        "class": "per predicted class, pooled over pixels",
        "label": "per class of the label, pooled over pixels",
    }[pooling]
    lines = []
    for cache in result["cache"].values:
        one = result.sel(cache=cache)
        pixels = int(np.nansum(one["n_pixels"].values))
        text = f"{cache}: task {result.attrs['task']}, {how}; {pixels:,} labelled pixels"
        if "n_frames" in one:
            text += f" of {int(one['n_frames'])} frames"
        if one["positive_rate"].ndim == 0:
            text += f", {100 * float(one['positive_rate']):.2f} % positive"
        for name in ("labels", "positives", "negatives"):
            variable = f"frames_without_{name}"
            if variable in one and float(one[variable]) > 0:
                text += f"; {int(one[variable])} frames without {name}"
        lines.append(text)
    if "track" in result.attrs:
        lines.append(
            f"sIoU, PPV, mean F1: per object at the best-F1 threshold, limits of the {result.attrs['track']} track"
        )
    if int(result.attrs["bootstrap"]) and result.attrs["by"] == "pooling":
        lines.append(f"[low, high]: 95 % interval over {result.attrs['bootstrap']} bootstrap samples of frames")
    return lines


def comparison(result: xr.Dataset, metric: str = "auprc", pooling: str = "pixels") -> list[str]:
    """Say plainly how gradient scores do against entropy, for better or for worse."""
    if result.attrs["by"] != "pooling" or "entropy" not in result["score"].values:
        return []
    shown = find_metric(metric)
    names = [str(s) for s in result["score"].values if lookup(str(s)).family == "gradient"]
    lines = []
    for cache in result["cache"].values:
        values = result[metric].sel(cache=cache, pooling=pooling)
        reference = float(values.sel(score="entropy"))
        if not names or not math.isfinite(reference):
            continue
        gain = shown.orientation * (values.sel(score=names).values - reference)
        if not np.isfinite(gain).any():
            continue
        better = int((gain > 0).sum())
        top = names[int(np.nanargmax(gain))]
        word = (
            "no gradient score beats"
            if better == 0
            else f"{better} of {int(np.isfinite(gain).sum())} gradient scores beat"
        )
        lines.append(
            f"{cache}: {word} entropy in {shown.short} (best: {top}, {100 * float(np.nanmax(gain)):+.2f} points)"
        )
    return lines


def _percent(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{100 * value:.2f}"


def terminal_tables(result: xr.Dataset, *, metric: str = "auprc", pooling: str = "pixels") -> list[RichTable]:
    """Tables for the terminal: scores by metric, or (evaluated by frame or class) rows by score for one metric."""
    from rich.table import Table
    from rich.text import Text

    def cell(value: float, marked: bool, interval: tuple[float, float] | None = None) -> Text:
        text = _percent(value) + ("*" if marked else " ")
        if interval and math.isfinite(interval[0]):
            text += f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        return Text(text, style="bold green" if marked else "", justify="left")

    tables = []
    by = str(result.attrs["by"])
    if by == "pooling":
        chosen = result.sel(pooling=pooling)
        table = Table(title=f"task {result.attrs['task']}, {pooling} (in %, * best)", title_justify="left")
        table.add_column("score", no_wrap=True)
        several = result.sizes["cache"] > 1
        metrics = _columns(chosen)
        columns = [(cache, name) for name in metrics for cache in chosen["cache"].values]
        for cache, name in columns:
            title = f"{metrics[name].short} ({'up' if metrics[name].orientation > 0 else 'down'})"
            table.add_column(Text(f"{cache}\n{title}" if several else title), no_wrap=not several)
        marks = {
            (cache, name): best(chosen[name].sel(cache=cache).values, metrics[name].orientation)
            for cache, name in columns
        }
        for s, score in enumerate(chosen["score"].values):
            cells = []
            for cache, name in columns:
                one = chosen.sel(cache=cache).isel(score=s)
                interval = (float(one[name + "_low"]), float(one[name + "_high"])) if metrics[name].of_pixels else None
                cells.append(cell(float(one[name]), bool(marks[cache, name][s]), None if several else interval))
            table.add_row(Text(str(score)), *cells)
        tables.append(table)
        return tables
    row = "class" if by == "label" else by
    shown = find_metric(metric)
    for cache in result["cache"].values:
        one = result.sel(cache=cache)
        title = f"{cache}: {shown.short} in % per {row}, task {result.attrs['task']} (* best score of the row)"
        table = Table(title=title, title_justify="left")
        table.add_column(row, no_wrap=True)
        table.add_column("positive %", justify="right")
        for score in one["score"].values:
            table.add_column(Text(str(score)), justify="right")
        for key in one[row].values:
            line = one.sel({row: key})
            if not float(line["n_pixels"]) > 0:
                continue
            values = line[metric].values
            top = best(values, shown.orientation)
            cells = [cell(float(v), bool(m)) for v, m in zip(values, top, strict=True)]
            table.add_row(Text(str(key)), _percent(float(line["positive_rate"])), *cells)
        tables.append(table)
    return tables


def evaluation_table(
    result: xr.Dataset, *, pooling: str = "pixels", metrics: Sequence[str] | None = None, title: str | None = None
) -> Table:
    """Make a table of an evaluation, scores by metric and cache, that prints itself in any form.

    Parameters
    ----------
    result : xarray.Dataset
        From `gradunc_viz.evaluate`, one row per score.
    pooling : "pixels" or "frames"
    metrics : optional
        Names of variables; by default all that the result holds.

    Raises
    ------
    ValueError
        If the result is by frame or class.
    GraduncError
        For an unknown metric.
    """
    if result.attrs["by"] != "pooling":
        raise ValueError("by is not None; expected an evaluation with one row per score")
    chosen = result.sel(pooling=pooling)
    columns = list(_columns(chosen).values()) if metrics is None else [find_metric(name) for name in metrics]
    names = [str(name) for name in chosen["cache"].values]
    scores = tuple(str(score) for score in chosen["score"].values)
    values = np.stack([chosen[m.name].sel(cache=cache).values for cache in names for m in columns], 1)
    return Table(
        title or f"Task {result.attrs['task']}",
        scores,
        tuple(Column(cache, m.short, m.orientation) for cache in names for m in columns),
        values,
        tuple(lookup(score).title for score in scores),
        notes=tuple(caption(result, pooling)),
    )


def latex(result: xr.Dataset, *, pooling: str = "pixels", metrics: Sequence[str] | None = None) -> str:
    """Make a booktabs table of scores by metric and cache, in %, the best of a column bold, the second underlined.

    Needs ``\\usepackage{booktabs,siunitx}``.
    """
    return evaluation_table(result, pooling=pooling, metrics=metrics).to_latex()
