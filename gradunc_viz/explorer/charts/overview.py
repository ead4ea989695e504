"""The overview of a cache: what it holds, how every score fares, and the frames where it fails worst.

`set_card` never raises for a readable cache; the other functions raise `GraduncError` with a text to show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ...metrics import evaluate, segmentation
from ...metrics.metric import METRICS, pixel_metrics
from ...metrics.pixel_metrics import bin_metrics
from ...schema.errors import GraduncError, UnknownFrameError
from ...schema.tasks import TASKS
from ...store.cache import Cache
from ...store.choice import Selection
from ..state.memo import remember
from ..state.shared_counts import on_wrong_side, set_histograms
from .distributions import set_distribution

__all__ = ["SetCard", "metric_table", "set_card", "set_distribution", "thumbnails"]


@dataclass(frozen=True)
class SetCard:
    """A cache at a glance; NaN is what its labels cannot tell.

    Attributes
    ----------
    name, network : str
    frames : int
    labelled, with_anomaly_labels : int
        Frames with class labels, and with anomaly labels.
    sizes : str
        ``"2048 × 1024"``, or the smallest and largest.
    classes, scores : tuple of str
    miou, accuracy : float
        In [0, 1].
    error_rate, anomaly_rate : float
        Share of wrong among labelled, and of unknown objects among evaluated pixels.
    tasks : tuple of str
        Tasks that some frame has labels for.
    """

    name: str
    network: str
    frames: int
    labelled: int
    with_anomaly_labels: int
    sizes: str
    classes: tuple[str, ...]
    scores: tuple[str, ...]
    miou: float
    accuracy: float
    error_rate: float
    anomaly_rate: float
    tasks: tuple[str, ...]


def set_card(cache: Cache) -> SetCard:
    """Describe a cache, from its summary alone.

    Raises
    ------
    CacheError
        If the cache is damaged.
    """
    return remember(cache, "card", lambda: _card(cache))


def _card(cache: Cache) -> SetCard:
    network = str(cache.key["network"]["name"])
    common: dict[str, Any] = {"name": cache.name, "network": network, "classes": cache.classes, "scores": cache.scores}
    nan = float("nan")
    if not len(cache):
        return SetCard(
            **common, frames=0, labelled=0, with_anomaly_labels=0, sizes="–", miou=nan, accuracy=nan,
            error_rate=nan, anomaly_rate=nan, tasks=(),
        )  # fmt: skip
    table, quality = cache.summary, segmentation(cache)
    labelled, unknown = int(table["has_label"].sum()), int(table["has_anomaly"].sum())
    anomalies, known = int(table["anomaly_count"].sum()), int(table["known_count"].sum())
    accuracy = float(quality["accuracy"])
    return SetCard(
        **common,
        frames=len(cache),
        labelled=labelled,
        with_anomaly_labels=unknown,
        sizes=_sizes(table),
        miou=float(quality["miou"]) if labelled else nan,
        accuracy=accuracy,
        error_rate=1 - accuracy,
        anomaly_rate=anomalies / (anomalies + known) if anomalies + known else nan,
        tasks=tuple(name for name, task in TASKS.items() if not task.lack(table)),
    )


def _sizes(table: xr.Dataset) -> str:
    pairs = sorted(set(zip(table["width"].values.tolist(), table["height"].values.tolist(), strict=True)))
    text = [f"{width} × {height}" for width, height in pairs]
    return (
        text[0] if len(text) == 1 else f"{text[0]} to {text[-1]}" + (f" ({len(text)} sizes)" if len(text) > 2 else "")
    )


# --------------------------------------------------------------------------------------------------------------------
# metrics


def metric_table(selection: Selection, *, pooling: str = "pixels") -> pd.DataFrame:
    """Pixel metrics of every chosen score, best first.

    Parameters
    ----------
    selection : Selection
    pooling : "pixels" or "frames"
        All pixels at once, or the mean over frames.

    Returns
    -------
    pandas.DataFrame
        One row per score: ``score``; ``auroc``, ``auprc``, ``fpr95``, ``f1`` and every registered metric of pixels in
        percent; ``threshold`` of the best F1 in the score's units; ``best``: names of the metrics in which no score is
        better; ``turned``: of a score on the wrong side, marked by a dagger, what it reaches turned round.

    Raises
    ------
    GraduncError
        Without labels of the task.
    """
    if pooling not in ("pixels", "frames"):
        raise GraduncError(f"pooling is {pooling!r}; expected 'pixels' or 'frames'")
    columns = tuple(pixel_metrics())  # others may be registered while a page is open
    key = ("metrics", selection.task.name, selection.scores, selection.key, selection.classes, pooling, columns)
    # a copy, as callers may add columns
    return remember(selection.cache, key, lambda: _metric_table(selection, pooling)).copy()


def _metric_table(selection: Selection, pooling: str) -> pd.DataFrame:
    found = _of_frames(selection) if pooling == "frames" else _of_pixels(selection)
    table = pd.DataFrame({"score": list(selection.scores)})
    best: list[list[str]] = [[] for _ in range(len(table))]
    for name, metric in pixel_metrics().items():
        orientation = metric.orientation
        values = np.asarray(found[name]) * 100
        table[name] = values
        if np.isfinite(values).any():
            top = np.nanmax(values * orientation)
            for row in np.flatnonzero(values * orientation == top):
                best[row].append(metric.short)
    table["threshold"] = np.asarray(found["threshold"])
    table["best"] = [", ".join(names) for names in best]
    wrong = on_wrong_side(selection)
    table["turned"] = [_turned(wrong[score]) if score in wrong else "" for score in selection.scores]
    return table.sort_values("auprc", ascending=False, kind="stable", ignore_index=True)


def _turned(metrics: Mapping[str, float]) -> str:
    found = (f"{METRICS[name].short} {100 * value:.1f}" for name, value in metrics.items() if np.isfinite(value))
    return f"† {', '.join(found)}"


def _of_frames(selection: Selection) -> Mapping[str, Any]:
    chosen = None if selection.classes is None else selection.class_names
    found = (
        evaluate(
            selection.cache,
            selection.task.name,
            scores=selection.scores,
            frames=selection.key,
            classes=chosen,
            bootstrap=0,
        )
        .isel(cache=0)
        .sel(pooling="frames")
    )
    return {name: found[name].values for name in (*pixel_metrics(), "threshold")}


def _of_pixels(selection: Selection) -> Mapping[str, Any]:
    """As `gradunc_viz.evaluate`, from the counts that the charts draw, so that both need one pass over the frames."""
    rows: dict[str, list[float]] = {name: [] for name in (*pixel_metrics(), "threshold")}
    for histogram in set_histograms(selection).values():
        for name, value in bin_metrics(histogram).items():
            rows[name].append(float(value))
    return rows


# --------------------------------------------------------------------------------------------------------------------
# the worst frames


def thumbnails(cache: Cache, ids: Iterable[str]) -> dict[str, bytes]:
    """Small JPEG of each frame, at most 240 pixels wide and high, as it was cached.

    Raises
    ------
    CacheError
        If a frame cannot be read.
    UnknownFrameError
        If there is no such frame.
    """
    found = {}
    for name in ids:
        if name not in cache:
            raise UnknownFrameError(cache.path, name, cache.ids)
        found[name] = remember(cache, ("thumbnail", name), partial(cache.thumbnail, name))
    return found
