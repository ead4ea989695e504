"""Range of colours of a map."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ...schema.scores import lookup

__all__ = ["frame_range", "pair_range", "ranks", "set_range", "shown_values"]

_SAMPLE = 100_000
"""Pixels that are enough for a colour range."""


def shown_values(values: np.ndarray, name: str, norms: str) -> np.ndarray:
    """Turn oriented scores into what a pane shows: as they are, or norms on their linear scale.

    Parameters
    ----------
    values : array
        Oriented scores.
    norms : "log2" or "linear"
        Scale of gradient norms. A norm that is small where the network is unsure is shown negated on both scales.
    """
    entry = lookup(name)
    if norms != "linear" or not entry.is_log2:
        return values
    # beyond 2^127 float32 ends
    return entry.orientation * np.exp2(np.minimum(entry.orientation * values, np.float32(127)))


def frame_range(values: np.ndarray) -> tuple[float, float]:
    """Colour range of one map: its 1st to 99.9th percentile, never empty."""
    low, high = np.nanpercentile(_sample(values), (1, 99.9))
    return _widen(float(low), float(high))


def pair_range(values: np.ndarray) -> tuple[float, float]:
    """Colour range of a difference: symmetric about 0, up to the 99.5th percentile of its size."""
    reach = float(np.nanpercentile(np.abs(_sample(values)), 99.5)) or 1.0
    return -reach, reach


def set_range(summary: xr.Dataset, name: str) -> tuple[float, float]:
    """Colour range shared by all frames: from the smallest 5 % quantile to the largest 99 % quantile of any frame."""
    quantiles = summary["score_quantile"].sel(score=name)
    low, high = float(quantiles.isel(quantile=0).min()), float(quantiles.isel(quantile=-1).max())
    return _widen(low, high)


def ranks(values: np.ndarray) -> np.ndarray:
    """Percentile of every pixel within its frame, 0 to 100, float32: what makes scores of other units comparable."""
    ordered = np.sort(_sample(values))
    low = np.searchsorted(ordered, values.ravel(), side="left").astype("f4")
    high = np.searchsorted(ordered, values.ravel(), side="right").astype("f4")
    return ((low + high) * np.float32(50 / len(ordered))).reshape(values.shape)


def _sample(values: np.ndarray) -> np.ndarray:
    return values.ravel()[:: max(1, values.size // _SAMPLE)]


def _widen(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, low + 0.5)
