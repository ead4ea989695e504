"""Segments of the prediction with their statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from ..kernels.resize import Band, bilinear
from ..schema.errors import GraduncError
from ..schema.scores import lookup, resolve_scores
from ..store.cache import Cache
from ..store.choice import opened
from ..store.frame import score, softmax
from ..store.progress import followed
from .arrays.segments import (
    SHAPES,
    STATISTICS,
    Segments,
    find_segments,
    segment_iou,
    segment_moments,
    segment_shapes,
    segment_sums,
)

__all__ = ["frame_segments", "segment_statistics"]


_STRIP = 1 << 22  # pixels of which all classes are in memory


def _class_means(dataset: xr.Dataset, segments: Segments, of_queries: bool) -> np.ndarray:
    """Mean of the softmax of the resized logits over every segment, or of class scores of queries, (class, n)."""
    size, align = (dataset.sizes["y"], dataset.sizes["x"]), bool(dataset.attrs["align_corners"])
    total = np.zeros((dataset.sizes["class"], segments.count))
    step = max(1, _STRIP // size[1])
    for first in range(0, size[0], step):
        band = Band(slice(first, min(first + step, size[0])), dataset.sizes["v"])
        rows = band.rows(size[0], align)
        logits, band = dataset["logits"].isel(v=rows).values, replace(band, first=rows.start)
        maps = np.empty((len(logits), band.lines.stop - first, size[1]), "f4")
        for resized, one in zip(maps, logits, strict=True):  # one at a time, as temporaries of all are large
            resized[:] = bilinear(one, size, align, band)
        maps = maps if of_queries else softmax(maps, out=maps)
        total += segment_sums(segments.ids[band.lines], maps, segments.count)
    return total / np.bincount(segments.ids.ravel(), minlength=segments.count + 1)[1:]


_SQUARABLE = 1e-150, 1e150
"""Sizes of numbers whose squares float64 can tell."""


def _with_squares(values: xr.DataArray) -> np.ndarray:
    """Values of a score, if variances of them are numbers."""
    largest = float(np.abs(values.values).max())
    if largest and not _SQUARABLE[0] < largest < _SQUARABLE[1]:
        raise GraduncError(
            f"score {values.name!r} reaches {largest:.3g}, so that variances of it are beyond float64; import its maps "
            "in another unit, for instance their logarithm, which ranks pixels alike"
        )
    return np.asarray(values.values)


def frame_segments(dataset: xr.Dataset, scores: Sequence[str]) -> xr.Dataset:
    """Statistics of the segments of one frame.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache.
    scores : sequence of str

    Returns
    -------
    xarray.Dataset (segment)
        As `segment_statistics`; without probabilities where there are no logits.
    """
    label = dataset["label"].values if "label" in dataset else None
    segments = find_segments(dataset["prediction"].values, label)
    names = [str(name) for name in dataset["class"].values]
    n = segments.count
    iou, adjusted = segment_iou(segments, label) if label is not None else (np.full(n, np.nan), np.full(n, np.nan))
    columns: dict[str, tuple[str, np.ndarray, dict[str, str]]] = {
        "iou": ("segment", iou, {"long_name": "IoU with the annotation", "family": "target"}),
        "iou_adj": ("segment", adjusted, {"long_name": "adjusted IoU with the annotation", "family": "target"}),
        "class_id": ("segment", segments.class_id, {"long_name": "predicted class id", "family": "class"}),
    }
    shapes = segment_shapes(segments)
    for name, text in SHAPES.items():
        units = "1" if name.startswith("relative") else "px"
        columns[name] = ("segment", shapes[name], {"long_name": text, "units": units, "family": "shape"})
    for name in ("y", "x"):
        attrs = {"long_name": f"centroid, {name}", "units": "px", "family": "position"}
        columns[f"centroid_{name}"] = ("segment", shapes[name], attrs)
    if "logits" in dataset:
        of_queries = "logits_are" in dataset.attrs
        what = "class score S" if of_queries else "probability"
        for class_id, mean in enumerate(_class_means(dataset, segments, of_queries)):
            attrs = {"long_name": f"mean {what} of {names[class_id]}", "units": "1", "family": "probability"}
            columns[f"probability_{class_id}"] = ("segment", mean, attrs)
    for name in scores:
        entry = lookup(name)
        for statistic, values in segment_moments(segments, _with_squares(score(dataset, name))).items():
            attrs = {
                "long_name": f"{name}: {STATISTICS[statistic]}",
                "units": f"({entry.units})^2" if statistic.endswith("variance") else entry.units,
                "family": entry.family,
                "score": name,
                "statistic": statistic,
            }
            columns[f"{name}_{statistic}"] = ("segment", values, attrs)
    frame = np.full(n, dataset.attrs["frame_id"], dtype=object)
    by_name = np.array(names, dtype=object)[segments.class_id]
    return xr.Dataset(columns, coords={"frame": ("segment", frame), "class": ("segment", by_name)})


def segment_statistics(
    cache: Cache, scores: str | Iterable[str] | None = None, frames: Iterable[str | int] | None = None
) -> xr.Dataset:
    """Statistics of every predicted segment of a cache: what meta classification and regression learn from.

    Parameters
    ----------
    cache : Cache
    scores : str or iterable of str, optional
        All scores of the cache if left out. Oriented: larger is more uncertain; gradient norms as log2.
    frames : iterable of frame ids or positions, optional
        All frames of the cache if left out.

    Returns
    -------
    xarray.Dataset (segment)
        One variable per statistic, whose attrs name its ``family`` (``target``, ``class``, ``shape``, ``position``,
        ``probability``, or the score's: ``gradient``, ``softmax``, ``logit``): ``iou`` and ``iou_adj`` (NaN for a frame
        without labels), ``class_id``, `SHAPES`, ``centroid_y``, ``centroid_x``, ``probability_<class id>`` and
        ``<score>_<statistic>`` for every entry of `STATISTICS`. Coordinates: ``frame`` (id) and ``class`` (name of the
        predicted class). attrs: ``frames``, and those of them ``without_label`` or ``without_segment`` (all ignored);
        ``left_out``, what cannot be told and why: imported maps have no class probabilities.
        ``.to_dataframe()`` makes it a table.

    Raises
    ------
    UnknownScoreError, CacheError, KeyError
        If there is no such score or frame, or a frame cannot be read.
    GraduncError
        If variances of a score are beyond float64.
    """
    cache = opened(cache)
    names = _names(cache, scores)
    parts: list[xr.Dataset] = []
    used: dict[str, list[str]] = {"frames": [], "without_label": [], "without_segment": []}
    for frame in followed(cache.ids if frames is None else list(frames)):
        dataset = cache[frame]
        part = frame_segments(dataset, names)
        frame_id = str(dataset.attrs["frame_id"])
        used["frames"].append(frame_id)
        if "label" not in dataset:
            used["without_label"].append(frame_id)
        if part.sizes["segment"] == 0:
            used["without_segment"].append(frame_id)
        parts.append(part)
    left_out = ""
    if parts and not any("probability_0" in part for part in parts):
        left_out = f"{cache.path}: class probabilities, as it holds imported maps without logits"
    return _join(parts).assign_attrs({"scores": list(names), **used, "left_out": left_out})


def _names(cache: Cache, scores: str | Iterable[str] | None) -> tuple[str, ...]:
    """Scores that are cached, imported ones too, or can be computed."""
    if scores is None:
        return cache.scores
    if scores in ("default", "paper", "all"):
        return resolve_scores(scores)
    wanted = [part.strip() for part in scores.split(",")] if isinstance(scores, str) else list(scores)
    if any(name not in cache.scores for name in wanted) or not wanted:
        resolve_scores([name for name in wanted if name not in cache.scores])
    return tuple(dict.fromkeys(wanted))


def _join(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """One below the other; all have the same variables over the same one dim."""
    if not parts:
        return xr.Dataset(coords={name: ("segment", np.empty(0, object)) for name in ("frame", "class")})
    first = parts[0]

    def column(name: str) -> tuple[str, np.ndarray, dict]:
        return "segment", np.concatenate([part[name].values for part in parts]), first[name].attrs

    return xr.Dataset(
        {str(name): column(str(name)) for name in first.data_vars},
        coords={name: column(name) for name in ("frame", "class")},
    )
