"""Labelled tables and curves from caches: the thin layer over the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram
from ..counts.pool import Bootstrap, Pooled, pool
from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import Caches, Choice, Selection, by_set
from ..store.cost import cost, measured_cost
from .intervals import drawn_frames, interval, mean_of_drawn, moved_samples
from .metric import pixel_metrics
from .pixel_metrics import bin_metrics, evaluated_columns, set_metrics
from .wrong_side import TURNED, doubtful_scores, wrong_side

__all__ = ["evaluate", "named_coords", "set_sizes", "side_by_side"]

_ABOUT: Mapping[str, tuple[str, str]] = {
    "threshold": ("oriented score from which on pixels are called positive, at the best F1", ""),
    "n_frames": ("frames with labels", ""),
    "n_pixels": ("evaluated pixels", "px"),
    "positive_rate": ("share of positive pixels", ""),
}


def evaluate(
    caches: Caches,
    task: str | None = None,
    *,
    by: str | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    **choice: Unpack[Choice],
) -> xr.Dataset:
    """Tell how well scores find the network's mistakes, or unknown objects.

    Computed from counts that were cached per frame, so no pixel is read. Against scikit-learn on the full-resolution
    pixels of real frames the error of every metric is at most 1e-4 over all pixels; it is 0 where scores are few and
    apart. A single frame with some hundred positives may be off by 2e-4 (F1 5e-4). By class, or with `classes`, counts
    are coarser: classes with few pixels may be off by some 1e-3 (see `gradunc_viz.metrics.arrays.thresholds` for
    bounds).

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    task : "error" or "anomaly"
        ``error``: a labelled pixel is predicted wrong. ``anomaly``: a pixel belongs to an unknown object. Ignored
        pixels count nowhere. By default ``anomaly`` where there are anomaly labels.
    by : None, "set", "frame", "class" or "label"
        ``None``: one row per score and *pooling*, where ``pixels`` means all pixels at once and ``frames`` the mean
        over frames. ``"set"``: the same for each set that a cache holds (see `Cache.sets`) as if it were a cache of its
        own. ``"frame"``: one row per frame. ``"class"``: per predicted class; ``"label"``: per class of the
        label (task ``error``).
    bootstrap : int
        Samples of frames, drawn with replacement, for the 95 % intervals ``*_low`` and ``*_high``; 0 for none.
    seed : int
        Of the bootstrap.
    scores : optional
        Names of scores; by default all that are cached. A score that some cache lacks is NaN there.
    frames : optional
        Ids of frames; by default all.
    classes : optional
        Names of classes; only pixels predicted as one of them count.

    Returns
    -------
    xarray.Dataset
        Dims ``cache``, ``score`` and ``pooling``, ``frame`` or ``class``; variables ``auroc``, ``auprc``, ``f1``
        (larger is better), ``fpr95`` (smaller is better), those of metrics that were registered, ``threshold`` (of the
        best F1, on the oriented score), ``*_std`` (spread over frames), ``*_low`` and ``*_high``, ``n_frames``,
        ``n_pixels``, ``positive_rate``, and how many frames lack labels, positives or negatives; ``ms`` and ``bytes``
        per frame where the cost of scores was measured, see `gradunc_viz.cost`. What cannot be told is
        NaN. ``wrong_side`` says of which scores AuROC lies below 50 % with its whole interval, so that small values
        find more than large ones, and ``*_turned`` what such a score reaches if it is negated; by frame, class or
        label it is about all of them together.

    Raises
    ------
    GraduncError
        For an unknown task, score, frame, class or `by`, or a cache without any label of the task.
    """
    rows: dict[str | None, Callable[[Selection, Bootstrap], xr.Dataset]] = {
        None: _by_pooling,
        "set": _by_pooling,
        "frame": _by_frame,
        "class": _by_class,
        "label": _by_label,
    }
    if by not in rows:
        raise GraduncError(f"by is {by!r}; expected None, 'set', 'frame', 'class' or 'label'")
    if by == "set":
        caches, by = by_set(caches), None
    selections = Selection.of_each(caches, task, **choice)
    tables = [rows[by](selection, Bootstrap(bootstrap, seed)) for selection in selections.values()]
    aim = next(iter(selections.values())).task
    if not any((table["n_pixels"] > 0).any() for table in tables):
        where = ", ".join(str(selection.cache.path) for selection in selections.values())
        classes = choice.get("classes")
        if classes is not None and any(selection.labelled for selection in selections.values()):
            raise GraduncError(f"{where}: no pixel that counts for {aim.name!r} is predicted as {', '.join(classes)}")
        lacks = dict.fromkeys(aim.lack(selection.cache.summary) for selection in selections.values())
        lack = "; ".join(filter(None, lacks)) or f"no frame has {aim.needs}"
        raise GraduncError(f"{where}: {lack}, which {aim.name!r} needs")
    order = list(dict.fromkeys(str(name) for table in tables for name in table["score"].values))
    result = side_by_side(tables, selections).reindex(score=order)
    for name, metric in pixel_metrics().items():
        result[name].attrs = {"long_name": metric.title, "orientation": metric.better}
    for name, (title, units) in _ABOUT.items():
        if name in result:
            result[name].attrs |= {"long_name": title, **({"units": units} if units else {})}
    result["wrong_side"] = result["wrong_side"].fillna(False).astype(bool)  # a score that a cache lacks
    result["wrong_side"].attrs = {"long_name": "AuROC below 50 % with its whole interval: negate the score to use it"}
    for name, metric in pixel_metrics().items():
        for suffix, what in (
            ("_low", "lower end"),
            ("_high", "upper end"),
            ("_std", "standard deviation over frames"),
            (TURNED, "of the negated score"),
        ):
            if name + suffix in result:
                result[name + suffix].attrs = {"long_name": f"{metric.title}: {what}"}
    if by is None:
        result = result.merge(_cost({name: selection.cache for name, selection in selections.items()}, order))
    result.attrs = {"task": aim.name, "by": by or "pooling", "bootstrap": bootstrap, "interval": "95 % over frames"}
    return result


def _cost(caches: Mapping[str, Cache], scores: Sequence[str]) -> xr.Dataset:
    """``ms`` and ``bytes`` of each score per frame, where a cache of these says what was measured; else nothing."""
    told = {name: cost(cache)[["ms", "bytes"]] for name, cache in caches.items() if measured_cost(cache) is not None}
    if not told:
        return xr.Dataset()
    return side_by_side(list(told.values()), told).reindex(score=list(scores), cache=list(caches))


def side_by_side(tables: Sequence[xr.Dataset], names: Mapping[str, Any]) -> xr.Dataset:
    """One table from those of several caches, along a dim ``cache`` of their names; NaN for what one has not."""
    dim = xr.DataArray(np.array(list(names), dtype=object), dims="cache", name="cache")
    return xr.concat(tables, dim, join="outer", data_vars="all", coords="minimal", compat="equals")


def named_coords(**names: Sequence[str]) -> dict[str, np.ndarray]:
    """Coordinates of names."""
    return {dim: np.array(list(values), dtype=object) for dim, values in names.items()}


def set_sizes(pooled: Pooled) -> dict[str, Any]:
    """Frames and pixels that went into a table, and frames that lack something."""
    positives, negatives = np.array(pooled.positives, "i8"), np.array(pooled.negatives, "i8")
    n = int(positives.sum() + negatives.sum())
    return {
        "n_frames": len(pooled.frames),
        "n_pixels": n,
        "positive_rate": float(positives.sum() / n) if n else np.nan,
        "frames_without_labels": len(pooled.unlabelled),
        "frames_without_positives": int((positives == 0).sum()),
        "frames_without_negatives": int((negatives == 0).sum()),
    }


def _by_pooling(selection: Selection, bootstrap: Bootstrap) -> xr.Dataset:
    scores, columns, samples = selection.scores, evaluated_columns(), bootstrap.samples
    each = _PerFrame(scores)
    pooled = pool(selection, bootstrap=bootstrap, each=each.add)
    values = {
        name + suffix: np.full((len(scores), 2), np.nan) for name in columns for suffix in ("", "_std", "_low", "_high")
    }
    draws = drawn_frames(len(pooled.frames), samples, bootstrap.seed)
    for s, score in enumerate(scores):
        if score not in pooled.histograms:
            continue
        whole = set_metrics(pooled.histograms[score])
        several = samples and len(pooled.frames) > 1  # of one frame there is nothing to draw
        resampled, coarse = (
            (bin_metrics(pooled.replicates[score]), bin_metrics(pooled.coarse[score])) if several else ({}, {})
        )
        for name in columns:
            values[name][s, 0] = whole[name]
            if several:
                # samples are counted in wider bins: what these change of the whole is taken off
                moved = moved_samples(resampled[name], float(whole[name]) - float(coarse[name]))
                values[name + "_low"][s, 0], values[name + "_high"][s, 0] = interval(moved)
            per_frame = np.array(each.values[name])[:, s]
            if np.isfinite(per_frame).any():
                values[name][s, 1] = np.nanmean(per_frame)
                with np.errstate(over="ignore"):  # thresholds may lie anywhere in float64
                    values[name + "_std"][s, 1] = np.nanstd(per_frame)
                if several:
                    values[name + "_low"][s, 1], values[name + "_high"][s, 1] = interval(
                        mean_of_drawn(per_frame, draws)
                    )
    doubtful = [score for score, pair in zip(scores, values["auroc"], strict=True) if (pair < 0.5).any()]
    return xr.Dataset(
        {name: (("score", "pooling"), array) for name, array in values.items()}
        | {name: ((), value) for name, value in set_sizes(pooled).items()},
        coords=named_coords(score=scores, pooling=("pixels", "frames")),
    ).merge(wrong_side(selection, doubtful, bootstrap))


class _PerFrame:
    """Metrics of every frame that goes by: rows of one number per score."""

    def __init__(self, scores: tuple[str, ...]) -> None:
        self.scores = scores
        self.values: dict[str, list[list[float]]] = {name: [] for name in evaluated_columns()}

    def add(self, frame: str, histograms: Mapping[str, Histogram]) -> None:
        by_score = [set_metrics(histograms[score]) for score in self.scores]
        for name, rows in self.values.items():
            rows.append([float(metrics[name]) for metrics in by_score])


def _by_frame(selection: Selection, bootstrap: Bootstrap) -> xr.Dataset:
    scores, frames = selection.scores, selection.frames
    each = _PerFrame(scores)
    pooled = pool(selection, each=each.add)
    # a frame without labels of the task keeps its row, with no pixel and no number
    place = np.array([frames.index(frame) for frame in pooled.frames], int)
    values = {name: np.full((len(frames), len(scores)), np.nan) for name in each.values}
    pixels, positives = np.zeros(len(frames), "i8"), np.zeros(len(frames), "i8")
    if len(place):
        for name, rows in each.values.items():
            values[name][place] = rows
        positives[place] = pooled.positives
        pixels[place] = positives[place] + np.array(pooled.negatives)
    return xr.Dataset(
        {name: (("frame", "score"), array) for name, array in values.items()}
        | {"n_pixels": ("frame", pixels), "positive_rate": ("frame", _share(positives, pixels))}
        | {"wrong_side": ("score", _over_all_pixels(selection, pooled.histograms, bootstrap))},
        coords=named_coords(frame=frames, score=scores),
    )


def _over_all_pixels(selection: Selection, pooled: Mapping[str, Histogram], bootstrap: Bootstrap) -> np.ndarray:
    """Whether each score stands on the wrong side where all pixels are taken together."""
    looked_at = wrong_side(selection, doubtful_scores(pooled), bootstrap)
    return np.asarray(looked_at["wrong_side"].sel(pooling="pixels").values)


def _by_class(selection: Selection, bootstrap: Bootstrap, by: str = "class") -> xr.Dataset:
    scores, names = selection.scores, selection.class_names
    pooled = pool(replace(selection, classes=None), by=by)
    keep = list(range(len(names)) if selection.classes is None else selection.classes)
    values = {name: np.full((len(keep), len(scores)), np.nan) for name in evaluated_columns()}
    pixels, positives = np.zeros(len(keep), "i8"), np.zeros(len(keep), "i8")
    chosen = {
        name: replace(histogram, weights={"counts": histogram.weights["counts"][:, keep]})
        for name, histogram in pooled.histograms.items()
    }
    for s, score in enumerate(scores):
        if score not in chosen:
            continue
        histogram = chosen[score]
        counts = np.moveaxis(histogram.weights["counts"], 0, 1)
        pixels, positives = counts.sum((1, 2)), counts[:, 0].sum(1)
        for name, value in bin_metrics(histogram, counts).items():
            values[name][:, s] = value
    return xr.Dataset(
        {name: (("class", "score"), array) for name, array in values.items()}
        | {
            "n_pixels": ("class", pixels),
            "positive_rate": ("class", _share(positives, pixels)),
            "n_frames": ((), len(pooled.frames)),
            "wrong_side": ("score", _over_all_pixels(selection, chosen, bootstrap)),
        },
        coords=named_coords(**{"class": names, "score": scores}),
    )


def _by_label(selection: Selection, bootstrap: Bootstrap) -> xr.Dataset:
    return _by_class(selection, bootstrap, "label")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
