"""Tables of scores compared with a reference, see `gradunc_viz.metrics.paired`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..metrics.metric import find_metric
from ..schema.scores import lookup
from .table import Column, Table

__all__ = ["paired_records", "paired_sentences", "paired_table"]


def paired_table(result: xr.Dataset, *, title: str | None = None) -> Table:
    """Make a table of `gradunc_viz.paired_difference`: metrics, their difference to the reference with interval, and p.

    Parameters
    ----------
    result : xarray.Dataset
    title : str, optional
    """
    caches, scores, metrics = ([str(name) for name in result[dim].values] for dim in ("cache", "score", "metric"))
    columns: list[Column] = []
    values, ends = [], []
    missing = np.full((len(scores), 2), np.nan)
    for cache in caches:
        for name in metrics:
            one, metric = result.sel(cache=cache, metric=name), find_metric(name)
            interval = np.stack([one["low"].values, one["high"].values], 1)
            columns += [
                Column(cache, metric.short, metric.orientation),
                Column(cache, f"Δ {metric.short}", 0),
                Column(cache, f"p {metric.short}", 0, digits=3, scale=1),
            ]
            values += [one["value"].values, one["difference"].values, one["p"].values]
            ends += [missing, interval, missing]
    return Table(
        title or f"Task {result.attrs['task']}, compared with {result.attrs['reference']}",
        tuple(scores),
        tuple(columns),
        np.stack(values, 1),
        tuple(lookup(score).title for score in scores),
        notes=_notes(result),
        units="in %, Δ in points",
        intervals=np.stack(ends, 1),
    )


def _notes(result: xr.Dataset) -> tuple[str, ...]:
    frames = int(result["n_frames"])
    if frames < 2:
        return ("of 1 frame: no interval and no p, which need several",)
    return (
        f"Δ [low, high]: 95 % interval over {result.attrs['bootstrap']} bootstrap samples of {frames} frames, the same "
        "for both scores; p: two-sided, twice the share of samples on the rarer side of 0, not corrected for several",
    )


def paired_records(result: xr.Dataset) -> list[dict[str, Any]]:
    """One flat record per cache, score and metric, with NaN as None: for JSON."""
    found = []
    for cache in result["cache"].values:
        for score in result["score"].values:
            for metric in result["metric"].values:
                one = result.sel(cache=cache, score=score, metric=metric)
                record: dict[str, Any] = {"cache": str(cache), "task": result.attrs["task"], "score": str(score)}
                record |= {"metric": str(metric), "reference": result.attrs["reference"]}
                for name in ("value", "base", "difference", "low", "high", "p"):
                    number = float(one[name])
                    record[name] = number if math.isfinite(number) else None
                found.append(record | {"n_frames": int(result["n_frames"])})
    return found


def paired_sentences(result: xr.Dataset, scores: Sequence[str], metric: str = "auprc") -> list[str]:
    """Say plainly whether some scores do better than the reference, one line per cache and score."""
    shown = find_metric(metric)
    lines = []
    for cache in result["cache"].values:
        for score in scores:
            one = result.sel(cache=cache, score=score, metric=metric)
            gain = float(one["difference"])
            if not math.isfinite(gain):
                continue
            text = f"{cache}: {score} less {result.attrs['reference']} in {shown.short}: {100 * gain:+.2f} points"
            low, high = 100 * float(one["low"]), 100 * float(one["high"])
            if not math.isfinite(low):
                lines.append(f"{text}; of a single frame, which tells nothing of others")
                continue
            sure = (
                "no difference to be sure of"
                if low <= 0 <= high
                else ("better" if shown.orientation * gain > 0 else "worse")
            )
            lines.append(f"{text} [{low:+.2f}, {high:+.2f}], p = {float(one['p']):.3f}: {sure}")
    return lines
