"""Scores that stand on the wrong side: their small values find more than their large ones.

That is so where AuROC lies below 50 % with its whole 95 % interval over frames. Such a score is no worse a signal than
one on the right side: negated it has 1 - AuROC. What else it reaches then is told by the same counts read backwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram
from ..counts.pool import Bootstrap, pool
from ..store.choice import Selection
from .arrays.thresholds import auroc
from .intervals import drawn_frames, interval, mean_of_drawn
from .metric import pixel_metrics
from .pixel_metrics import set_metrics

__all__ = ["TURNED", "doubtful_scores", "turned_round", "wrong_side"]

TURNED = "_turned"
"""Ending of the variables that hold the metrics of the negated score."""

_SAMPLES = 200
"""Samples of frames where none are asked for."""


def turned_round(histogram: Histogram) -> Histogram:
    """Counts of the negated score: the same bins in reverse."""
    weights = {name: values[..., ::-1] for name, values in histogram.weights.items()}
    return replace(histogram, weights=weights, low=-histogram.high[::-1], high=-histogram.low[::-1])


def doubtful_scores(histograms: Mapping[str, Histogram]) -> tuple[str, ...]:
    """Scores whose AuROC over all pixels lies below 50 %: those that may stand on the wrong side.

    Parameters
    ----------
    histograms : dict of score -> Histogram
        Counts (positive or negative, bins) or (positive or negative, class, bins).
    """
    found = []
    for score, histogram in histograms.items():
        counts = histogram.weights["counts"]
        positive, negative = counts.reshape(2, -1, counts.shape[-1]).sum(1)
        if auroc(positive, negative) < 0.5:
            found.append(score)
    return tuple(found)


def wrong_side(selection: Selection, scores: Sequence[str], bootstrap: Bootstrap) -> xr.Dataset:
    """Tell which scores stand on the wrong side, and how well they do turned round.

    Parameters
    ----------
    selection : Selection
    scores : sequence of str
        Those of the selection that are in doubt, which takes a pass over the frames; of the others nothing is read.
    bootstrap : Bootstrap
        Samples of frames for the interval; 200 if it has none.

    Returns
    -------
    xarray.Dataset (score, pooling)
        ``wrong_side``, and for every metric of pixels ``METRIC_turned``, that of the negated score; NaN unless it
        stands on the wrong side.
    """
    columns = tuple(pixel_metrics())
    shape = (len(selection.scores), 2)
    wrong = np.zeros(shape, bool)
    values = {name: np.full(shape, np.nan) for name in columns}
    if scores:
        for score, (is_wrong, turned) in _second_look(replace(selection, scores=tuple(scores)), bootstrap).items():
            s = selection.scores.index(score)
            wrong[s] = is_wrong
            for name in columns:
                values[name][s] = np.where(is_wrong, turned[name], np.nan)
    return xr.Dataset(
        {"wrong_side": (("score", "pooling"), wrong)}
        | {name + TURNED: (("score", "pooling"), array) for name, array in values.items()},
        coords={
            "score": np.array(selection.scores, dtype=object),
            "pooling": np.array(("pixels", "frames"), dtype=object),
        },
    )


def _second_look(
    selection: Selection, bootstrap: Bootstrap
) -> dict[str, tuple[tuple[bool, bool], dict[str, tuple[float, float]]]]:
    """Per score, over pixels and over frames: whether it stands on the wrong side, and its metrics turned round."""
    here: dict[str, list[float]] = {score: [] for score in selection.scores}
    there: dict[str, list[dict[str, float]]] = {score: [] for score in selection.scores}

    def add(_: str, histograms: Mapping[str, Histogram]) -> None:
        for score, histogram in histograms.items():
            here[score].append(set_metrics(histogram)["auroc"])
            there[score].append(set_metrics(turned_round(histogram)))

    samples = bootstrap.samples or _SAMPLES
    pooled = pool(selection, bootstrap=Bootstrap(samples, bootstrap.seed), each=add)
    drawn = drawn_frames(len(pooled.frames), samples, bootstrap.seed)
    found = {}
    for score, histogram in pooled.histograms.items():
        resampled = pooled.replicates[score].weights["counts"]
        over_pixels = interval(auroc(resampled[..., 0, :], resampled[..., 1, :]))
        over_frames = interval(mean_of_drawn(np.array(here[score]), drawn))
        whole = set_metrics(turned_round(histogram))
        turned = {name: (whole[name], _mean([one[name] for one in there[score]])) for name in pixel_metrics()}
        several = len(pooled.frames) > 1  # of one frame there is no interval
        found[score] = (several and over_pixels[1] < 0.5, several and over_frames[1] < 0.5), turned
    return found


def _mean(values: Sequence[float]) -> float:
    finite = np.array(values)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan
