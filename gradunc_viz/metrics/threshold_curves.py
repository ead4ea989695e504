"""Curves over all thresholds: ROC, precision-recall, sparsification."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from ..counts.pool import Pooled, pool
from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import Caches, Choice, Selection
from .arrays.risk import aurc, ause, oracle_aurc, sparsification_curve
from .arrays.thresholds import pr_curve, roc_curve
from .evaluation import named_coords, set_sizes, side_by_side

__all__ = ["sparsification", "threshold_curves"]


def threshold_curves(
    cache: Cache | str | os.PathLike[str],
    task: str | None = None,
    kind: str = "roc",
    **choice: Unpack[Choice],
) -> xr.Dataset:
    """ROC or precision-recall curves with every threshold, pooled over pixels.

    Parameters
    ----------
    cache : Cache or path
    task : "error" or "anomaly"
        By default ``anomaly`` where there are anomaly labels.
    kind : "roc" or "pr"
    scores, frames, classes : optional
        As for `gradunc_viz.evaluate`.

    Returns
    -------
    xarray.Dataset (score, point)
        ``fpr`` and ``tpr``, or ``recall`` and ``precision``, and ``threshold`` on the oriented score; from the
        strictest threshold on, shorter curves padded with NaN.

    Raises
    ------
    GraduncError
        For an unknown task, kind, score, frame or class.
    """
    if kind not in ("roc", "pr"):
        raise GraduncError(f"kind is {kind!r}; expected 'roc' or 'pr'")
    selection = Selection.of(cache, task, **choice)
    pooled = pool(selection)
    draw: Callable[..., tuple[np.ndarray, ...]] = roc_curve if kind == "roc" else pr_curve
    curves = {name: draw(*h.weights["counts"], h.low) for name, h in pooled.histograms.items()}
    names = ("fpr", "tpr", "threshold") if kind == "roc" else ("recall", "precision", "threshold")
    longest = max((len(curve[0]) for curve in curves.values()), default=0)
    arrays = {name: np.full((len(curves), longest), np.nan) for name in names}
    for s, curve in enumerate(curves.values()):
        for name, values in zip(names, curve, strict=True):
            arrays[name][s, : len(values)] = values
    return xr.Dataset(
        {name: (("score", "point"), array) for name, array in arrays.items()},
        coords=named_coords(score=tuple(curves)),
        attrs={"task": selection.task.name, "kind": kind, **set_sizes(pooled)},
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
    caches : Cache, path, a sequence of these, or a mapping from names to these
    scores, frames : optional
        As for `gradunc_viz.evaluate`.
    by : None, "class"
        Whether classes of the prediction are kept apart.
    points : int
        Points of the curves: shares 0, 1/points, ... of pixels dropped.

    Returns
    -------
    xarray.Dataset
        ``ause`` and ``aurc`` (cache, error, score[, class]), smaller is better; ``curve`` (..., dropped), the error of
        the pixels kept over that at 0 %, and ``oracle`` (cache, error[, class], dropped).

    Raises
    ------
    GraduncError
        For an unknown score, frame or `by`, or a cache without class labels or class probabilities.
    """
    if by not in (None, "class"):
        raise GraduncError(f"by is {by!r}; expected None or 'class'")
    dropped = np.arange(points) / points
    selections = Selection.of_each(caches, "error", scores=scores, frames=frames)
    tables = []
    for selection in selections.values():
        pooled = pool(selection, by=by, also=("brier", "tables"))
        pooled.need(selection, "brier_count", "sparsification")
        tables.append(_sparsified(selection, pooled, by, dropped))
    return side_by_side(tables, selections)


def _sparsified(selection: Selection, pooled: Pooled, by: str | None, dropped: np.ndarray) -> xr.Dataset:
    names, classes = selection.scores, selection.cache.classes
    rows = list(range(len(classes))) if by else [None]
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
    coords: dict[str, Any] = named_coords(error=("error_rate", "brier"), score=names)
    coords["dropped"] = dropped
    if by:
        coords["class"] = np.array(classes, dtype=object)
    data = {
        "aurc": (dims, area, {"long_name": "area under the risk-coverage curve", "orientation": "smaller is better"}),
        "ause": (dims, gain, {"long_name": "area under the sparsification error", "orientation": "smaller is better"}),
        "curve": ((*dims, "dropped"), curve, {"long_name": "error of the pixels kept / error of all"}),
        "oracle": (("error", "class", "dropped"), best),
    }
    table = xr.Dataset(data, coords=coords)
    return table if by else table.isel({"class": 0})
