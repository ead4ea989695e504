"""Calibration of confidence and of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..counts.pool import _need_tables, pool
from ..schema.errors import GraduncError
from ..store.choice import Caches, named_caches
from .arrays import reliability as kernels

__all__ = ["calibration"]


def calibration(
    caches: Caches, *, frames: Sequence[str] | None = None, by: str | None = None, bins: int = 15
) -> xr.Dataset:
    """Are the class probabilities right? ECE, MCE, Brier score, negative log-likelihood and the reliability diagram.

    Parameters
    ----------
    by : None or "class"
        Whether classes are kept apart: those of the prediction, for `nll` those of the label.
    bins : int
        Bins of confidence, a divisor of 300.

    Returns
    -------
    xarray.Dataset
        ``ece``, ``mce``, ``brier`` (sum over classes, in [0, 2]), ``nll`` (nats), all smaller is better; ``pixels``,
        ``confidence``, ``accuracy`` per bin of confidence.
    """
    if by not in (None, "class"):
        raise GraduncError(f"by is {by!r}; expected None or 'class'")
    tables = []
    opened = named_caches(caches)
    for cache in opened.values():
        pooled = pool(cache, "error", scores=(), frames=frames, tables=True)
        _need_tables(cache, pooled, "confidence_count", "calibration")
        t = pooled.tables
        right, wrong, confidence = t["confidence_count"][0], t["confidence_count"][1], t["confidence_sum"]
        brier, nll = t["brier_bin_sum"].sum(-1), t["nll_sum"]
        predicted, labelled = t["confusion"].sum(0), t["confusion"].sum(1)
        if by is None:
            right, wrong, confidence = right.sum(0), wrong.sum(0), confidence.sum(0)
            brier, nll, predicted, labelled = brier.sum(), nll.sum(), predicted.sum(), labelled.sum()
        pixels, mean, share = kernels.reliability(right, wrong, confidence, bins)
        dims = ("class",) if by else ()
        with np.errstate(invalid="ignore", divide="ignore"):
            data = {
                "ece": (dims, kernels.ece(pixels, mean, share)),
                "mce": (dims, kernels.mce(pixels, mean, share)),
                "brier": (dims, brier / predicted),
                "nll": (dims, nll / labelled, {"units": "nats"}),
                "pixels": ((*dims, "bin"), pixels),
                "confidence": ((*dims, "bin"), mean),
                "accuracy": ((*dims, "bin"), share),
            }
        coords: dict[str, Any] = {"bin": (np.arange(bins) + 0.5) / bins}
        if by:
            coords["class"] = np.array(cache.classes, dtype=object)
        tables.append(xr.Dataset(data, coords=coords))
    dim = xr.DataArray(np.array(list(opened), dtype=object), dims="cache", name="cache")
    return xr.concat(tables, dim, join="outer", data_vars="all", coords="minimal", compat="equals")
