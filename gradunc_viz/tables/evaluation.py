"""Evaluation results as records, text, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from ..metrics.metric import METRICS, Metric, find_metric
from ..metrics.wrong_side import TURNED
from ..schema.scores import lookup
from .cost import cost_columns
from .table import WRONG_SIDE, Column, Table, best

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = [
    "best",
    "caption",
    "comparison",
    "evaluation_table",
    "latex",
    "records",
    "terminal_tables",
    "to_csv",
    "wrong_side_notes",
]


_INTERVAL, _NARROW, _FIRST, _SCORE = 23, 12, 26, 13
"""Characters of a terminal's columns: a value and its interval; without; the first two by frame or class; each then."""


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
        name under ``frame`` or ``class``), ``n_frames``, ``n_pixels``, ``positive_rate``, ``wrong_side`` and the
        metrics; ``METRIC_turned`` is that of the negated score where it stands on the wrong side.
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
    if "ms" in result:
        lines.append("ms, kB: per frame, each score computed alone; map and counts in the cache")
    if int(result.attrs["bootstrap"]) and result.attrs["by"] == "pooling":
        lines.append(f"[low, high]: 95 % interval over {result.attrs['bootstrap']} bootstrap samples of frames")
    return [*lines, *wrong_side_notes(result, pooling)]


def wrong_side_notes(result: xr.Dataset, pooling: str = "pixels") -> list[str]:
    """Say of every score that stands on the wrong side what it would be turned round, one line each."""
    by_pooling = result.attrs["by"] == "pooling"
    chosen = result.sel(pooling=pooling) if by_pooling else result
    lines = []
    for cache in chosen["cache"].values:
        one = chosen.sel(cache=cache)
        for score in one["score"].values[one["wrong_side"].values]:
            own = one.sel(score=score)
            text = f"{WRONG_SIDE} {cache}: {score} stands on the wrong side, "
            if by_pooling:
                ends = (
                    f" [{_short(own['auroc_low'])}, {_short(own['auroc_high'])}]" if result.attrs["bootstrap"] else ""
                )
                found = ", ".join(
                    f"{metric.short} {_short(own[name + TURNED])}"
                    for name, metric in _columns(own).items()
                    if name + TURNED in own and np.isfinite(own[name + TURNED])
                )
                text += (
                    f"AuROC {_short(own['auroc'])}{ends} lies below 50 % with its 95 % interval; turned round: {found}"
                )
            else:
                text += "its AuROC over all these pixels lies below 50 % with its 95 % interval: negate it to use it"
            lines.append(text)
    return lines


def _short(value: xr.DataArray) -> str:
    return f"{100 * float(value):.1f}"


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
        if metric + TURNED in result:
            turned = result[metric + TURNED].sel(cache=cache, pooling=pooling) * shown.orientation
            if (turned > (values * shown.orientation).max()).any():
                strongest = str(turned["score"].values[int(np.nanargmax(turned.values))])
                reached = abs(float(turned.sel(score=strongest)))
                lines.append(
                    f"{cache}: turned round, {strongest} would be the best of all in {shown.short}: {_percent(reached)}"
                )
    return lines


def _percent(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{100 * value:.2f}"


def terminal_tables(
    result: xr.Dataset, *, metric: str = "auprc", pooling: str = "pixels", width: int = 200
) -> list[RichTable]:
    """Tables for the terminal: scores by metric, or (evaluated by frame or class) rows by score for one metric.

    Nothing is cut off: where `width` characters do not suffice, intervals stand below values, names are broken, and
    several caches have a table for each metric, with a column for each cache.
    """
    from rich.table import Table
    from rich.text import Text

    def title_of(score: str, wrong: bool) -> Text:
        return Text(f"{score} {WRONG_SIDE}" if wrong else score, overflow="fold")

    def cell(value: float, marked: bool, interval: tuple[float, float] | None = None) -> Text:
        text = _percent(value) + ("*" if marked else " ")
        if interval and math.isfinite(interval[0]):
            text += f"{between}[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        return Text(text, style="bold green" if marked else "", justify="left", overflow="fold")

    tables = []
    between = " "
    by = str(result.attrs["by"])
    if by == "pooling":
        chosen = _best_first(result.sel(pooling=pooling), metric)
        several = result.sizes["cache"] > 1
        metrics = _columns(chosen)
        scores = [str(score) for score in chosen["score"].values]
        longest = max((len(str(score)) for score in chosen["score"].values), default=0)
        if longest + len(metrics) * _INTERVAL > width:
            between = "\n"
        together = [list(metrics)]
        if several and _FIRST + len(metrics) * result.sizes["cache"] * _NARROW > width:
            together = [[name] for name in sorted(metrics, key=lambda name: name != metric)]
        priced = [cost_columns(chosen, str(cache), scores) for cache in chosen["cache"].values]
        for names in together:
            title = f"task {result.attrs['task']}, {pooling} (in %, * best; best {find_metric(metric).short} first)"
            table = Table(title=title, title_justify="left")
            table.add_column("score", overflow="fold", min_width=16)
            columns = [(cache, name) for name in names for cache in chosen["cache"].values]
            for cache, name in columns:
                title = f"{metrics[name].short} ({'up' if metrics[name].orientation > 0 else 'down'})"
                table.add_column(Text(f"{cache}\n{title}" if several else title), overflow="fold", min_width=6)
            for cache, price in zip(chosen["cache"].values, priced, strict=True):
                for column, _ in price:
                    heading = Text(f"{cache}\n{column.name}" if several else column.name)
                    table.add_column(heading, justify="right", no_wrap=True)
            marks = {
                (cache, name): best(chosen[name].sel(cache=cache).values, metrics[name].orientation)
                for cache, name in columns
            }
            for s, score in enumerate(chosen["score"].values):
                cells = []
                for cache, name in columns:
                    one = chosen.sel(cache=cache).isel(score=s)
                    ends = (float(one[name + "_low"]), float(one[name + "_high"])) if metrics[name].of_pixels else None
                    cells.append(cell(float(one[name]), bool(marks[cache, name][s]), None if several else ends))
                wrong = bool(chosen["wrong_side"].isel(score=s).any())
                costs = [
                    f"{column.scale * values[s]:.{column.digits}f}" if math.isfinite(values[s]) else "-"
                    for price in priced
                    for column, values in price
                ]
                table.add_row(title_of(str(score), wrong), *cells, *costs)
            priced = [[] for _ in priced]  # once is enough
            tables.append(table)
        return tables
    row = "class" if by == "label" else by
    shown = find_metric(metric)
    beside = max((width - _FIRST) // _SCORE, 1)
    for cache in result["cache"].values:
        one = result.sel(cache=cache)
        title = f"{cache}: {shown.short} in % per {row}, task {result.attrs['task']} (* best score of the row)"
        for start in range(0, one.sizes["score"], beside):
            some = range(start, min(start + beside, one.sizes["score"]))
            table = Table(title=title, title_justify="left")
            table.add_column(row, overflow="fold", min_width=8)
            table.add_column("positive %", justify="right", no_wrap=True)
            for s in some:
                wrong = bool(one["wrong_side"].values[s])
                head = title_of(str(one["score"].values[s]), wrong)
                table.add_column(head, justify="right", overflow="fold", min_width=7)
            for key in one[row].values:
                line = one.sel({row: key})
                if not float(line["n_pixels"]) > 0:
                    continue
                values = line[metric].values
                top = best(values, shown.orientation)
                cells = [cell(float(values[s]), bool(top[s])) for s in some]
                table.add_row(Text(str(key)), _percent(float(line["positive_rate"])), *cells)
            tables.append(table)
    return tables


def _best_first(chosen: xr.Dataset, metric: str) -> xr.Dataset:
    """Scores in the order of a metric in the first cache, those without it last."""
    signed = find_metric(metric).orientation * chosen[metric].isel(cache=0).values
    return chosen.isel(score=np.argsort(-np.where(np.isfinite(signed), signed, -np.inf), kind="stable"))


def evaluation_table(
    result: xr.Dataset,
    *,
    pooling: str = "pixels",
    metrics: Sequence[str] | None = None,
    title: str | None = None,
    sort: str | None = "auprc",
    intervals: Literal["beside", "beneath"] | None = None,
) -> Table:
    """Make a table of an evaluation, scores by metric and cache, that prints itself in any form.

    Parameters
    ----------
    result : xarray.Dataset
        From `gradunc_viz.evaluate`, one row per score.
    pooling : "pixels" or "frames"
    metrics : optional
        Names of variables; by default all that the result holds.
    sort : str, optional
        Metric whose best score comes first, in the first cache; None for the order of the scores.
    intervals : "beside" or "beneath", optional
        Where 95 % intervals are shown; by default nowhere.

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
    if sort is not None:
        chosen = _best_first(chosen, sort)
    columns = list(_columns(chosen).values()) if metrics is None else [find_metric(name) for name in metrics]
    names = [str(name) for name in chosen["cache"].values]
    scores = tuple(str(score) for score in chosen["score"].values)
    parts: list[tuple[Column, np.ndarray]] = []
    ends: list[np.ndarray] = []
    for cache in names:
        one = chosen.sel(cache=cache)
        own = [(Column(cache, m.short, m.orientation), one[m.name].values) for m in columns]
        own += cost_columns(chosen, cache, scores)
        parts += own
        for metric, _ in zip_longest(columns, own):
            known = intervals and metric is not None and f"{metric.name}_low" in one
            missing = np.full((len(scores), 2), np.nan)
            ends.append(
                np.stack([one[f"{metric.name}_{end}"].values for end in ("low", "high")], 1) if known else missing
            )
    return Table(
        title or f"Task {result.attrs['task']}",
        scores,
        tuple(column for column, _ in parts),
        np.stack([values for _, values in parts], 1),
        tuple(lookup(score).title for score in scores),
        notes=tuple(caption(result, pooling)),
        wrong_side=chosen["wrong_side"].transpose("score", "cache").values,
        intervals=np.stack(ends, 1) if intervals is not None else None,
        place=intervals or "beside",
    )


def latex(
    result: xr.Dataset, *, pooling: str = "pixels", metrics: Sequence[str] | None = None, sort: str | None = "auprc"
) -> str:
    """Make a booktabs table of scores by metric and cache, in %, the best of a column bold, the second underlined.

    Needs ``\\usepackage{booktabs,siunitx}``.
    """
    return evaluation_table(result, pooling=pooling, metrics=metrics, sort=sort).to_latex()
