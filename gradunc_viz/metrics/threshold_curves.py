"""Curves over all thresholds: ROC, precision-recall, sparsification."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..counts.pool import Pooled, _need_tables, pool
from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import Caches, _opened, class_index, default_task, named_caches, shared_scores
from .arrays.risk import aurc, ause, oracle_aurc, sparsification_curve
from .arrays.thresholds import pr_curve, roc_curve
from .evaluation import _coords, _set_sizes

__all__ = ["sparsification", "threshold_curves"]


def threshold_curves(
    cache: Cache | str | os.PathLike[str],
    task: str | None = None,
    kind: str = "roc",
    *,
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> xr.Dataset:
    """ROC or precision-recall curves with every threshold, pooled over pixels.

    Parameters
    ----------
    kind : "roc" or "pr"

    Returns
    -------
    xarray.Dataset (score, point)
        ``fpr`` and ``tpr``, or ``recall`` and ``precision``, and ``threshold`` on the oriented score; from the
        strictest threshold on, shorter curves padded with NaN.
    """
    if kind not in ("roc", "pr"):
        raise GraduncError(f"kind is {kind!r}; expected 'roc' or 'pr'")
    opened = _opened(cache)
    task = task or default_task({"": opened})
    index = None if classes is None else class_index(opened, classes)
    pooled = pool(opened, task, scores=scores, frames=frames, classes=index)
    draw: Callable[..., tuple[np.ndarray, ...]] = roc_curve if kind == "roc" else pr_curve
    found = {name: draw(*h.weights["counts"], h.low) for name, h in pooled.histograms.items()}
    names = ("fpr", "tpr", "threshold") if kind == "roc" else ("recall", "precision", "threshold")
    longest = max((len(curve[0]) for curve in found.values()), default=0)
    arrays = {name: np.full((len(found), longest), np.nan) for name in names}
    for s, curve in enumerate(found.values()):
        for name, values in zip(names, curve, strict=True):
            arrays[name][s, : len(values)] = values
    return xr.Dataset(
        {name: (("score", "point"), array) for name, array in arrays.items()},
        coords=_coords(score=tuple(found)),
        attrs={"task": task, "kind": kind, **_set_sizes(pooled)},
    )


def sparsification(
    caches: Caches,
    *,
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    by: str | None = None,
    points: int = 100,
) -> xr.Dataset:
    """Sparsification curves, AuSE and AURC of every score, for the error rate and the Brier score.

    Parameters
    ----------
    by : None, "class"
        Whether classes of the prediction are kept apart.
    points : int
        Points of the curves: shares 0, 1/points, ... of pixels dropped.

    Returns
    -------
    xarray.Dataset
        ``ause`` and ``aurc`` (cache, error, score[, class]), smaller is better; ``curve`` (..., dropped), the error of
        the pixels kept over that at 0 %, and ``oracle`` (cache, error[, class], dropped).
    """
    if by not in (None, "class"):
        raise GraduncError(f"by is {by!r}; expected None or 'class'")
    dropped = np.arange(points) / points
    tables = []
    opened = named_caches(caches)
    for cache in opened.values():
        names = shared_scores(cache, scores, opened)
        pooled = pool(cache, "error", scores=names, frames=frames, by=by, brier=True, tables=True)
        _need_tables(cache, pooled, "brier_count", "sparsification")
        tables.append(_sparsified(cache, names, pooled, by, dropped))
    dim = xr.DataArray(np.array(list(opened), dtype=object), dims="cache", name="cache")
    return xr.concat(tables, dim, join="outer", data_vars="all", coords="minimal", compat="equals")


def _sparsified(
    cache: Cache, names: tuple[str, ...], pooled: Pooled, by: str | None, dropped: np.ndarray
) -> xr.Dataset:
    rows = list(range(len(cache.classes))) if by else [None]
    shape = (2, len(names), len(rows))
    area, gain = np.full(shape, np.nan), np.full(shape, np.nan)
    curve, best = np.full((*shape, len(dropped)), np.nan), np.full((2, len(rows), len(dropped)), np.nan)
    for r, row in enumerate(rows):
        own = pooled.tables["brier_count"], pooled.tables["brier_bin_sum"]
        count, total = (t[row] if row is not None else t.sum(0) for t in own)
        for s, name in enumerate(names):
            weights = pooled.histograms[name].weights
            counts, brier = weights["counts"], weights["brier_sum"]
            wrong, right = (counts[0, row], counts[1, row]) if row is not None else (counts[0], counts[1])
            pixels = wrong + right
            if pixels.sum() == 0:
                continue
            rate = float(wrong.sum() / pixels.sum())
            errors = (wrong, brier[row] if row is not None else brier)
            oracles = (oracle_aurc(rate), aurc(total, count))
            for e in range(2):
                area[e, s, r] = aurc(errors[e], pixels)
                gain[e, s, r] = ause(errors[e], pixels, oracles[e])
                curve[e, s, r] = sparsification_curve(errors[e], pixels, dropped)
            best[0, r] = np.maximum(0, (rate - dropped) / (1 - dropped)) / rate if rate > 0 else np.nan
            best[1, r] = sparsification_curve(total, count, dropped)
    dims: tuple[str, ...] = ("error", "score", "class")
    coords: dict[str, Any] = _coords(error=("error_rate", "brier"), score=names)
    coords["dropped"] = dropped
    if by:
        coords["class"] = np.array(cache.classes, dtype=object)
    data = {
        "aurc": (dims, area, {"long_name": "area under the risk-coverage curve", "orientation": "smaller is better"}),
        "ause": (dims, gain, {"long_name": "area under the sparsification error", "orientation": "smaller is better"}),
        "curve": ((*dims, "dropped"), curve, {"long_name": "error of the pixels kept / error of all"}),
        "oracle": (("error", "class", "dropped"), best),
    }
    table = xr.Dataset(data, coords=coords)
    return table if by else table.isel({"class": 0})
