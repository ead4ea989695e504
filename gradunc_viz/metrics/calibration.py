"""Are class probabilities right, and scores read as doubt: calibration of confidence and of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram
from ..counts.pool import pool
from ..schema.errors import GraduncError
from ..schema.scores import Score, lookup
from ..store.choice import Caches, Selection
from .arrays import reliability as kernels
from .evaluation import side_by_side

__all__ = ["calibration", "score_calibration"]


def calibration(
    caches: Caches, *, frames: Sequence[str] | None = None, by: str | None = None, bins: int = 15
) -> xr.Dataset:
    """Are the class probabilities right? ECE, MCE, Brier score, negative log-likelihood and the reliability diagram.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    frames : optional
        Ids of frames; by default all.
    by : None or "class"
        Whether classes are kept apart: those of the prediction, for `nll` those of the label.
    bins : int
        Bins of confidence, a divisor of 300.

    Returns
    -------
    xarray.Dataset
        ``ece``, ``mce``, ``brier`` (sum over classes, in [0, 2]), ``nll`` (nats), all smaller is better; ``pixels``,
        ``confidence``, ``accuracy`` per bin of confidence.

    Raises
    ------
    GraduncError
        For an unknown frame or `by`, or a cache without class labels or class probabilities.
    """
    if by not in (None, "class"):
        raise GraduncError(f"by is {by!r}; expected None or 'class'")
    selections = Selection.of_each(caches, "error", scores=(), frames=frames)
    tables = []
    for selection in selections.values():
        pooled = pool(selection, also=("tables",))
        pooled.need(selection, "confidence_count", "calibration")
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
            coords["class"] = np.array(selection.cache.classes, dtype=object)
        tables.append(xr.Dataset(data, coords=coords))
    return side_by_side(tables, selections)


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
    selections = Selection.of_each(caches, "error", scores=scores, frames=frames)
    tables = []
    for selection in selections.values():
        names, classes = selection.scores, len(selection.cache.classes)
        pooled = pool(selection)
        if not pooled.frames:
            raise selection.without_labels("calibration")
        rows = [_score_reliability(lookup(n), pooled.histograms[n], classes, bins) for n in names]
        pixels, mean, share = (np.array([row[i] for row in rows]).reshape(len(names), bins) for i in range(3))
        tables.append(
            xr.Dataset(
                {
                    "ece": ("score", kernels.ece(pixels, mean, share), {"orientation": "smaller is better"}),
                    "pixels": (("score", "bin"), pixels),
                    "confidence": (("score", "bin"), mean),
                    "accuracy": (("score", "bin"), share),
                },
                coords={"score": np.array(names, dtype=object), "bin": (np.arange(bins) + 0.5) / bins},
            )
        )
    return side_by_side(tables, selections)


def _confidence(entry: Score, values: np.ndarray, classes: int) -> np.ndarray:
    """Confidence in [0, 1] for oriented scores, the largest and smallest of which are those of the set."""
    if entry.upper:
        share = values / {"1": 1.0, "log C": np.log(classes)}[entry.upper]
        return 1 - share if entry.orientation > 0 else -share
    if entry.is_log2:
        norms = values * entry.orientation
        ratio = np.exp2(norms - np.nanmax(norms))
        return 1 - ratio if entry.orientation > 0 else ratio
    low, high = np.nanmin(values), np.nanmax(values)
    return 1 - (values - low) / ((high - low) or 1.0)


def _score_reliability(
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
