"""Two scores compared: the difference of a metric, its interval and p value by a paired bootstrap over frames.

Frames are what is drawn, as pixels of one frame are no independent observations; a test such as DeLong's, which takes
them for that, is not for this. Both scores are looked at in the same samples, so that what makes a frame hard for both
drops out of their difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram
from ..counts.pool import Bootstrap, frame_draws, pool
from ..schema.errors import GraduncError, UnknownScoreError
from ..store.choice import Caches, Choice, Selection
from .evaluation import named_coords
from .intervals import interval
from .metric import BinCounts, find_metric
from .pixel_metrics import set_metrics

__all__ = ["paired_difference", "two_sided_p"]

_SHARE = 1 / 512
"""Of the positives, or of the negatives, that a bin of a bootstrap sample holds at most."""


def paired_difference(
    caches: Caches,
    reference: str | tuple[str, str] = "entropy",
    task: str | None = None,
    *,
    metrics: Sequence[str] | str = ("auprc", "auroc", "fpr95"),
    bootstrap: int = 1000,
    seed: int = 0,
    **choice: Unpack[Choice],
) -> xr.Dataset:
    r"""Tell by how much scores do better than a reference, over all pixels of the frames, and how sure that is.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    reference : str, or (cache, score)
        The score to compare with: in each cache its own, or that of one of them, by the cache's name.
    task : "error" or "anomaly"
        As for `evaluate`. Of networks that predict otherwise, mistakes are each network's own.
    metrics : sequence of str
        Names of metrics of pixels.
    bootstrap : int
        Samples of frames, drawn with replacement, the same for all scores and caches.
    seed : int
        Of the draws.
    scores, frames, classes : optional
        As for `evaluate`. Frames that some cache lacks, or without labels there, are left out.

    Returns
    -------
    xarray.Dataset
        Dims ``cache``, ``score``, ``metric``: ``value`` of a score and ``base`` of its reference, ``difference``
        between the two (positive: larger than the reference's; for ``fpr95`` that is worse), ``low`` and ``high``, the
        95 % interval between quantiles of the samples, and ``p``; ``n_frames``. All of the reference itself is NaN but
        its value. The interval and p are NaN where a single frame is left.

    Raises
    ------
    GraduncError
        For an unknown task, score, frame or metric, a cache that lacks the reference, or caches without a labelled
        frame in common.

    Notes
    -----
    The p value is two-sided, from the same samples :math:`d^*_1, \dots, d^*_B` as the interval:
    :math:`2 \min(1 + \#\{d^* \le 0\}, 1 + \#\{d^* \ge 0\}) / (B + 1)`, at most 1. It is below 0.05 about where the
    interval does not hold 0, and never below :math:`2 / (B + 1)`. No correction is made for comparing many scores. Of
    few frames, less than some twenty, both are too sure of themselves.
    """
    chosen = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in chosen:
        if not find_metric(name).of_pixels:
            raise GraduncError(f"metric {name!r} is of objects; expected metrics of pixels")
    if not isinstance(bootstrap, int) or bootstrap < 1:
        raise GraduncError(f"bootstrap is {bootstrap!r}; expected a whole number of 1 or more")
    selections = Selection.of_each(caches, task, **choice)
    base = _with_reference(selections, reference)
    frames = _common_frames(selections)
    draws = np.stack(list(frame_draws(frames, Bootstrap(bootstrap, seed)).values()), 1)  # (samples, frames)
    found = {
        name: _Samples.of(replace(selection, frames=frames), chosen, draws) for name, selection in selections.items()
    }
    order = list(dict.fromkeys(score for one in found.values() for score in one.values))
    shape = len(found), len(order), len(chosen)
    columns = {name: np.full(shape, np.nan) for name in ("value", "base", "difference", "low", "high", "p")}
    for c, (name, own) in enumerate(found.items()):
        base_cache, base_score = base[name]
        other = found[base_cache]
        for score, values in own.values.items():
            s = order.index(score)
            columns["value"][c, s] = values
            if (name, score) == (base_cache, base_score):
                continue
            columns["base"][c, s] = other.values[base_score]
            columns["difference"][c, s] = values - other.values[base_score]
            if len(frames) < 2:
                continue
            for m, samples in enumerate((own.samples[score] - other.samples[base_score]).T):
                columns["low"][c, s, m], columns["high"][c, s, m] = interval(samples)
                columns["p"][c, s, m] = two_sided_p(samples)
    about = {
        "value": "metric of the score",
        "base": "metric of the reference",
        "difference": "metric of the score less that of the reference",
        "low": "lower end of the 95 % interval of the difference",
        "high": "upper end of the 95 % interval of the difference",
        "p": "two-sided p of the difference",
    }
    return xr.Dataset(
        {name: (("cache", "score", "metric"), array, {"long_name": about[name]}) for name, array in columns.items()}
        | {"n_frames": ((), len(frames))},
        coords=named_coords(cache=list(found), score=order, metric=chosen),
        attrs={
            "task": next(iter(selections.values())).task.name,
            "reference": reference if isinstance(reference, str) else f"{reference[0]}: {reference[1]}",
            "bootstrap": bootstrap,
            "interval": "95 % over frames, paired",
        },
    )


def two_sided_p(samples: np.ndarray) -> float:
    """Twice the share of a difference's bootstrap samples on the rarer side of 0, itself counted; NaN without any."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return np.nan
    rarer = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (len(finite) + 1))


def _with_reference(
    selections: dict[str, Selection], reference: str | tuple[str, str]
) -> Mapping[str, tuple[str, str]]:
    """Cache and score that each cache's scores are compared with; the selections take that score in."""
    if isinstance(reference, str):
        base = {name: (name, reference) for name in selections}
    else:
        name, score = reference
        if name not in selections:
            raise GraduncError(f"reference is of cache {name!r}; expected one of {', '.join(selections)}")
        base = dict.fromkeys(selections, (name, score))
    for name, score in set(base.values()):
        own = selections[name]
        if score not in own.cache.scores:
            raise UnknownScoreError(
                f"{own.cache.path}: score {score!r}, to compare with, is not cached; it has "
                f"{', '.join(own.cache.scores)}"
            )
        if score not in own.scores:
            selections[name] = replace(own, scores=(score, *own.scores))
    return base


def _common_frames(selections: Mapping[str, Selection]) -> tuple[str, ...]:
    first, *others = selections.values()
    common = tuple(frame for frame in first.labelled if all(frame in other.labelled for other in others))
    if common:
        return common
    for selection in selections.values():
        if not selection.labelled:
            raise selection.without_labels(repr(selection.task.name))
    paths = ", ".join(str(selection.cache.path) for selection in selections.values())
    raise GraduncError(f"{paths}: no labelled frame is in all of them; a paired comparison needs the same frames")


class _Samples:
    """Metrics of every score over all frames (metric,), and in samples of them (sample, metric)."""

    def __init__(self, values: Mapping[str, np.ndarray], samples: Mapping[str, np.ndarray]) -> None:
        self.values, self.samples = values, samples

    @classmethod
    def of(cls, selection: Selection, metrics: Sequence[str], draws: np.ndarray) -> _Samples:
        """Two passes over the frames: which bins tell most, and pixels of each frame in these."""
        whole = pool(selection).histograms
        bins = {score: _Bins(histogram) for score, histogram in whole.items()}
        by_frame: dict[str, list[np.ndarray]] = {score: [] for score in whole}

        def add(_: str, histograms: Mapping[str, Histogram]) -> None:
            for score, histogram in histograms.items():
                by_frame[score].append(bins[score].counts(histogram))

        pool(selection, each=add)
        values, samples = {}, {}
        for score, histogram in whole.items():
            known = set_metrics(histogram)
            values[score] = np.array([known[name] for name in metrics])
            counts = np.stack(by_frame[score])  # (frame, positive or negative, bin)
            drawn = (draws.astype("f8") @ counts.reshape(len(counts), -1)).reshape(len(draws), *counts.shape[1:])
            own = bins[score]
            given = BinCounts(drawn[:, 0], drawn[:, 1], own.tied, own.low)
            samples[score] = np.stack([find_metric(name)(given) for name in metrics], 1)
        return cls(values, samples)


class _Bins:
    """Few bins of a score in which metrics are what they are in all of its bins, or nearly so.

    They are unions of the bins of a whole set, none of which holds more than `_SHARE` of the positives or negatives. A
    bin of the set that holds as many by itself stays alone, as scores that many pixels share have to be.
    """

    def __init__(self, histogram: Histogram) -> None:
        used = np.flatnonzero(histogram.weights["counts"].sum(0))
        counts, low = histogram.weights["counts"][:, used], histogram.low[used].astype("f8")
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        place = np.floor((np.cumsum(share, 1) - share) / _SHARE)
        large = (share >= _SHARE).any(0)
        begins = large | (np.diff(place, prepend=-1) != 0).any(0)
        begins[1:] |= large[:-1]
        first = np.flatnonzero(begins)
        alone = np.diff(first, append=len(used)) == 1
        self._edges = low[first]
        self.low: Any = low[first]
        self.tied = alone & histogram.tied[used][first]

    def counts(self, histogram: Histogram) -> np.ndarray:
        """Positives and negatives of a frame of the set in these bins, (2, bins)."""
        own = histogram.weights["counts"]
        used = np.flatnonzero(own.sum(0))
        at = np.searchsorted(self._edges, histogram.low[used].astype("f8"), side="right") - 1
        return np.stack([np.bincount(at, row, len(self._edges)) for row in own[:, used]])
