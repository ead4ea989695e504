"""Are scores, read as doubt in [0, 1], right about how often the network errs: ECE of every score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram
from ..counts.pool import pool
from ..schema.errors import GraduncError
from ..schema.scores import Score, lookup
from ..store.choice import Caches, named_caches, shared_scores
from .arrays.reliability import ece

__all__ = ["score_calibration"]


def score_calibration(
    caches: Caches, *, scores: Sequence[str] | str | None = None, frames: Sequence[str] | None = None, bins: int = 15
) -> xr.Dataset:
    r"""Expected calibration error of every score, with 1 - normalised score as the confidence.

    A score is no probability: it is brought to [0, 1] first. ``msp`` and ``margin`` lie there; ``entropy`` is divided
    by ln C. A gradient norm (as it is, not its logarithm) is divided by the largest one of the set, and is a confidence
    where small values mean uncertain. Other scores go linearly from their smallest to their largest value in the set.
    So the ECE of an unbounded score depends on its largest value, and says less than AuSE; of ``msp`` it is that of the
    network's own confidence.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    scores, frames : optional
        Subsets; by default everything cached.
    bins : int
        Equal-width bins of confidence. A cached bin counts where its middle lies, so that a count may land in the
        neighbour of its bin.

    Returns
    -------
    xarray.Dataset (cache, score, bin)
        ``ece`` (smaller is better), ``pixels``, ``confidence`` and ``accuracy`` per bin.

    Raises
    ------
    GraduncError
        For an unknown score or frame, or a cache without class labels.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599); of uncertainties as in
    Maag and Riedlinger (arXiv:2303.06920), section 4.
    """
    tables = []
    opened = named_caches(caches)
    for cache in opened.values():
        names = shared_scores(cache, scores, opened)
        pooled = pool(cache, "error", scores=names, frames=frames)
        if not pooled.frames:
            raise GraduncError(f"{cache.path}: no frame has class labels, which calibration needs")
        rows = [_reliability(lookup(n), pooled.histograms[n], len(cache.classes), bins) for n in names]
        pixels, mean, share = (np.array([row[i] for row in rows]).reshape(len(names), bins) for i in range(3))
        tables.append(
            xr.Dataset(
                {
                    "ece": ("score", ece(pixels, mean, share), {"orientation": "smaller is better"}),
                    "pixels": (("score", "bin"), pixels),
                    "confidence": (("score", "bin"), mean),
                    "accuracy": (("score", "bin"), share),
                },
                coords={"score": np.array(names, dtype=object), "bin": (np.arange(bins) + 0.5) / bins},
            )
        )
    dim = xr.DataArray(np.array(list(opened), dtype=object), dims="cache", name="cache")
    return xr.concat(tables, dim, join="outer", data_vars="all", coords="minimal", compat="equals")


def _confidence(entry: Score, values: np.ndarray, classes: int) -> np.ndarray:
    """Confidence in [0, 1] for oriented scores, the largest and smallest of which are those of the set."""
    if entry.upper:
        return 1 - values / {"1": 1.0, "log C": np.log(classes)}[entry.upper]
    if entry.is_log2:
        norms = values * entry.orientation
        ratio = np.exp2(norms - np.nanmax(norms))
        return 1 - ratio if entry.orientation > 0 else ratio
    low, high = np.nanmin(values), np.nanmax(values)
    return 1 - (values - low) / ((high - low) or 1.0)


def _reliability(
    entry: Score, histogram: Histogram, classes: int, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wrong, right = histogram.weights["counts"].astype("f8")
    ends = np.stack([histogram.low, histogram.high]).astype("f8")
    confidence = _confidence(entry, ends, classes).mean(0).clip(0, 1)
    used = wrong + right > 0
    place = np.minimum((confidence[used] * bins).astype(int), bins - 1)

    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(place, weights, bins)

    pixels = total((wrong + right)[used])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total(((wrong + right) * np.nan_to_num(confidence))[used]) / pixels
        return pixels, mean, total(right[used]) / pixels
