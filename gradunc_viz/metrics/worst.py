"""Frames on which a network or a score is worst. Damaged frames are left out and named."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd

from ..counts.histogram import Histogram
from ..counts.pool import pool
from ..schema.errors import CacheError, GraduncError
from ..schema.scores import lookup
from ..schema.tasks import find_task
from ..store.cache import Cache
from ..store.choice import Selection
from .evaluation import evaluate
from .metric import METRICS, pixel_metrics
from .operating_point import read_at

__all__ = ["WORST", "WorstDefinition", "WorstOptions", "worst_frames"]


Keep = Callable[[Hashable, Callable[[], Any]], Any]
"""``keep(key, compute)`` returns what ``compute()`` returns, perhaps from a store of such values."""


@dataclass(frozen=True)
class WorstQuery:
    """What a definition of worst is asked about; `threshold` is None where the usual one is meant.

    `damaged` takes the frames that cannot be read, and why.
    """

    cache: Cache
    score: str
    task: str
    threshold: float | None = None
    keep: Keep = lambda _, compute: compute()
    damaged: dict[str, str] = field(default_factory=dict)


class WorstOptions(TypedDict, total=False):
    """What may be said beside definition, score and task, see `WorstQuery`."""

    threshold: float | None
    keep: Keep


@dataclass(frozen=True)
class WorstDefinition:
    """What makes a frame bad.

    Attributes
    ----------
    title : str
    meaning : str
        One sentence of help.
    units : str
        ``"%"``, ``"px"``, or ``"score"`` for the units of the score.
    task : str, optional
        Task whose labels it needs; None for none, ``"chosen"`` for those of the chosen task.
    values : callable (WorstQuery) -> array (frame,)
        Larger is worse; NaN for frames that cannot be told.
    turned : bool
        Whether small ones are the worst: they are ranked by, and shown without, their negative sign.
    """

    title: str
    meaning: str
    units: str
    task: str | None
    values: Callable[[WorstQuery], np.ndarray]
    turned: bool = False


def _column(name: str, factor: float = 1.0) -> Callable[[WorstQuery], np.ndarray]:
    return lambda query: query.cache.summary[name].values * factor


def _mean(query: WorstQuery) -> np.ndarray:
    return np.asarray(query.cache.summary["score_mean"].sel(score=query.score).values, "f8")


def _high(query: WorstQuery) -> np.ndarray:
    return np.asarray(query.cache.summary["score_quantile"].sel(score=query.score).isel(quantile=-1).values, "f8")


def _worst_by(name: str) -> WorstDefinition:
    """The frames in which a metric of the score is worst, in %."""
    metric = METRICS[name]
    turned = metric.orientation > 0

    def values(query: WorstQuery) -> np.ndarray:
        cache, score, task = query.cache, query.score, query.task
        table, damaged = query.keep(("by frame", task, score), lambda: _by_frame(cache, score, task))
        query.damaged.update(damaged)
        return np.asarray(table[name] * (-100 if turned else 100))

    title = f"{'Lowest' if turned else 'Highest'} {metric.short}"
    meaning = f"The score's {metric.title} for the task, within the frame."
    return WorstDefinition(title, meaning, "%", "chosen", values, turned)


def _by_frame(cache: Cache, score: str, task: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Metrics of each frame in the cache's order, NaN where a frame cannot be read, and why it cannot."""
    whole, damaged = list(cache.ids), dict[str, str]()
    try:
        found = evaluate(cache, task, scores=score, by="frame", bootstrap=0)
    except CacheError:
        for frame in cache.ids:  # one after another, to tell which
            try:
                evaluate(cache, task, scores=score, frames=[frame], by="frame", bootstrap=0)
            except CacheError as error:
                damaged[frame] = str(error)
            except GraduncError:  # without labels: it says so itself
                continue
        whole = [frame for frame in cache.ids if frame not in damaged]
        if not damaged or not whole:
            raise
        found = evaluate(cache, task, scores=score, frames=whole, by="frame", bootstrap=0)
    rows = found.isel(cache=0, score=0).reindex(frame=list(cache.ids))
    return {name: rows[name].values for name in pixel_metrics()}, damaged


def _below(task: str) -> Callable[[WorstQuery], np.ndarray]:
    def values(query: WorstQuery) -> np.ndarray:
        cache, score = query.cache, query.score
        threshold = usual_threshold(cache, score) if query.threshold is None else query.threshold
        missed, damaged = query.keep(
            ("below", task, score, threshold), lambda: _count_below(cache, score, task, threshold)
        )
        query.damaged.update(damaged)
        return np.asarray(missed)

    return values


def usual_threshold(cache: Cache, score: str) -> float:
    """What 5 % of the pixels of a usual frame exceed: a threshold to start from."""
    return float(cache.summary["score_quantile"].sel(score=score, quantile=0.95).median())


def _count_below(cache: Cache, score: str, task: str, threshold: float) -> tuple[np.ndarray, dict[str, str]]:
    damaged: dict[str, str] = {}
    missed = dict.fromkeys(cache.ids, float("nan"))

    def add(frame: str, histograms: Mapping[str, Histogram]) -> None:
        missed[frame] = read_at(score, histograms[score], threshold).fn

    def leave_out(frame: str, error: CacheError) -> None:
        damaged[frame] = str(error)

    pool(Selection.of(cache, task, scores=score), each=add, damaged=leave_out)
    return np.array([missed[frame] for frame in cache.ids]), damaged


WORST: Mapping[str, WorstDefinition] = {
    "error_rate": WorstDefinition(
        "Highest error rate", "Share of labelled pixels whose predicted class is wrong.", "%", "error",
        _column("error_rate", 100),
    ),
    "confident_mistakes": WorstDefinition(
        "Most confident mistakes", "Wrong pixels whose score stays below the threshold.", "px", "error", _below("error")
    ),
    "missed_anomaly": WorstDefinition(
        "Largest missed anomaly area", "Pixels of unknown objects whose score stays below the threshold.", "px",
        "anomaly", _below("anomaly"),
    ),
    "anomaly_area": WorstDefinition(
        "Largest anomaly area", "Share of unknown objects among evaluated pixels.", "%", "anomaly",
        _column("anomaly_rate", 100),
    ),
    "lowest_auprc": _worst_by("auprc"),
    "lowest_auroc": _worst_by("auroc"),
    "highest_fpr95": _worst_by("fpr95"),
    "highest_mean": WorstDefinition(
        "Highest mean score", "Mean of the oriented score over all pixels.", "score", None, _mean
    ),
    "highest_99": WorstDefinition(
        "Highest 99 % quantile", "What the most uncertain 1 % of the pixels reach.", "score", None, _high
    ),
}  # fmt: skip
"""Definitions of worst by name."""


def worst_frames(
    cache: Cache,
    definition: str,
    score: str,
    task: str,
    n: int = 12,
    **options: Unpack[WorstOptions],
) -> pd.DataFrame:
    """The n worst frames.

    Parameters
    ----------
    definition : str
        In `WORST`.
    threshold : float, optional
        For definitions that ask what stays below it; by default what 5 % of the pixels of a usual frame exceed.
    keep : callable (key, compute) -> value
        Where a caller keeps what several definitions need.

    Returns
    -------
    pandas.DataFrame
        ``frame``, ``value`` and ``text`` (value with units), worst first; frames that cannot be told are left out.
        attrs: ``damaged``, frames that cannot be read, and why.

    Raises
    ------
    GraduncError
        For an unknown definition, or if no frame has the labels it needs.
    """
    if definition not in WORST:
        raise GraduncError(f"unknown definition of worst {definition!r}; expected one of {', '.join(WORST)}")
    which = WORST[definition]
    Selection.of(cache, task, scores=score).require_frames()
    if which.task is not None:
        needed = find_task(task if which.task == "chosen" else which.task)
        lack = needed.lack(cache.summary)
        if lack:
            raise GraduncError(f"{cache.name}: {lack}, which '{which.title}' needs")
    query = WorstQuery(cache, score, task, **options)
    values = np.asarray(which.values(query), "f8")
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])][:n]
    shown = values[order] * (-1 if which.turned else 1)
    table = pd.DataFrame(
        {
            "frame": [cache.ids[place] for place in order],
            "value": shown,
            "text": [_worded(value, which.units, score) for value in shown],
        }
    )
    table.attrs["damaged"] = dict(query.damaged)
    return table


def _worded(value: float, units: str, score: str) -> str:
    if units == "px":
        return f"{int(value):,} px"
    if units == "%":
        return f"{value:.1f} %"
    own = lookup(score).units
    return f"{value:.3f}" + ("" if own == "1" else f" {own}")
