"""Tables of what scores cost, see `gradunc_viz.store.cost`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from ..schema.scores import lookup
from .table import Column, Table

__all__ = ["COST_COLUMNS", "cost_columns", "cost_table"]

COST_COLUMNS = (("ms", "ms", 1.0, 1), ("bytes", "kB", 1e-3, 1))
"""Variable, heading, scale and digits of what evaluations say of cost."""


def cost_columns(result: xr.Dataset, cache: str, scores: Sequence[str]) -> list[tuple[Column, np.ndarray]]:
    """Columns of milliseconds and bytes per frame of an evaluation, where a cache of it was measured."""
    return [
        (Column(cache, title, 0, digits, scale), result[name].sel(cache=cache).reindex(score=list(scores)).values)
        for name, title, scale, digits in COST_COLUMNS
        if name in result
    ]


def cost_table(result: xr.Dataset) -> Table:
    """Make a table of `gradunc_viz.cost`.

    Parameters
    ----------
    result : xarray.Dataset
    """
    scores = tuple(str(name) for name in result["score"].values)
    columns = (Column("", "ms", 0, 1, 1), Column("", "% of forward pass", 0, 1, 100), Column("", "kB", 0, 1, 1e-3))
    values = np.stack([result[name].values for name in ("ms", "share_of_forward", "bytes")], 1)
    return Table(
        "What scores cost, per frame",
        scores,
        columns,
        values,
        tuple(lookup(name).title for name in scores),
        notes=tuple(_notes(result)),
        units="",
    )


def _notes(result: xr.Dataset) -> list[str]:
    forward, together = result.attrs["forward_ms"], result.attrs["together_ms"]
    if not math.isfinite(forward):
        return ["ms: not measured; compute with --profile", _BYTES]
    size = " x ".join(map(str, result.attrs.get("size", ())))
    where = f"frame {result.attrs.get('frame', '?')!r} of {size} on {result.attrs.get('device', '?')}"
    measured = int(np.isfinite(result["ms"].values).sum())
    return [
        f"forward pass {forward:.1f} ms, {measured} scores together {together:.1f} ms, {together / forward:.0%} of it; "
        f"{where}, best of 3",
        f"ms: each score alone, prediction and confidence included; kernels share work, so that the sum of all, "
        f"{float(np.nansum(result['ms'].values)):.1f} ms, is more than what they take together",
        _BYTES,
    ]


_BYTES = "kB: map and counts in the cache, what all scores share split evenly"
