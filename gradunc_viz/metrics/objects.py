"""Unknown objects found and missed, with the size limits of the benchmark's tracks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import Caches, Selection, named_caches, opened
from ..store.frame import score
from ..store.progress import followed, progress_bar
from .arrays.components import SIOU_THRESHOLDS, TRACKS, ComponentTable, component_metrics, pool_components
from .evaluation import evaluate
from .operating_point import reaches

__all__ = ["evaluate_components", "frame_components", "with_components"]


def frame_components(
    cache: Cache,
    score_name: str,
    threshold: float,
    frames: Iterable[str | int] | None = None,
    track: str = "anomaly",
) -> dict[str, ComponentTable | None]:
    """Components of every frame, predicted where the oriented score reaches a threshold.

    Parameters
    ----------
    cache : Cache
    score_name : str
    threshold : float
        In units of the oriented score; a pixel is predicted unknown if its score reaches it, as everywhere
        (`gradunc_viz.metrics.operating_point.reaches`). The benchmark's own code asks for strictly more.
    frames : iterable of frame ids or positions, optional
        All frames of the cache if left out.
    track : str
        A name in `TRACKS`.

    Returns
    -------
    dict
        Frame id to its table, ``None`` for a frame without anomaly labels.

    Raises
    ------
    GraduncError
        If the track is unknown or the threshold is NaN.
    UnknownScoreError, CacheError, KeyError
        If there is no such score or frame.
    """
    if track not in TRACKS:
        raise GraduncError(f"unknown track {track!r}, expected one of {', '.join(TRACKS)}")
    if np.isnan(threshold):
        raise GraduncError(f"threshold of {score_name!r} is NaN, expected a number")
    cache = opened(cache)
    limits = TRACKS[track]
    tables: dict[str, ComponentTable | None] = {}
    for frame in cache.ids if frames is None else frames:
        dataset = cache[frame]
        name = str(dataset.attrs["frame_id"])
        if "anomaly" not in dataset:
            tables[name] = None
            continue
        predicted = reaches(score(dataset, score_name).values, threshold)
        tables[name] = component_metrics(dataset["anomaly"].values, predicted, **limits._asdict())
    return tables


def evaluate_components(
    cache: Cache,
    score_name: str,
    threshold: float | None = None,
    frames: Sequence[str] | None = None,
    track: str = "anomaly",
) -> xr.Dataset:
    """Component metrics of a score, per frame and pooled over the components of all frames.

    Parameters
    ----------
    threshold : float, optional
        Oriented score from which on a pixel is called an unknown object; by default the one of the best F1 over all
        pixels of these frames.
    cache, score_name, frames, track
        As in `frame_components`.

    Returns
    -------
    xarray.Dataset
        Dims ``frame`` and ``siou_threshold``. Pooled, without ``frame``: everything that `pool_components` returns. Per
        frame, after ``frame_``: the same but ``f1_per_threshold``; and ``state``, which says what a frame lacks, if
        anything. A frame that lacks annotated components still counts with its false positives; one without anomaly
        labels counts nowhere. attrs say how values were pooled.

    Raises
    ------
    GraduncError, UnknownScoreError, CacheError, KeyError
        As `frame_components`.
    """
    cache = opened(cache)
    if threshold is None:
        best = evaluate(cache, "anomaly", scores=score_name, frames=frames, bootstrap=0)
        threshold = float(best["threshold"].sel(score=score_name, pooling="pixels").item())
    tables = frame_components(cache, score_name, threshold, frames, track)
    empty = ComponentTable(*(np.empty(0) for _ in range(5)))
    per_frame = [pool_components([table or empty]) for table in tables.values()]
    pooled = pool_components(table for table in tables.values() if table is not None)
    shape = len(per_frame), len(SIOU_THRESHOLDS)

    def rows(name: str) -> np.ndarray:
        return np.array([found[name] for found in per_frame])

    return xr.Dataset(
        {
            "siou": ((), pooled["siou"], {"long_name": "mean sIoU of annotated components"}),
            "ppv": ((), pooled["ppv"], {"long_name": "mean PPV of predicted components"}),
            "f1": ((), pooled["f1"], {"long_name": "F1, mean over sIoU thresholds"}),
            "n_truth": ((), pooled["n_truth"], {"long_name": "annotated components"}),
            "n_predicted": ((), pooled["n_predicted"], {"long_name": "predicted components"}),
            **{name: ("siou_threshold", pooled[name]) for name in ("f1_per_threshold", "tp", "fp", "fn")},
            **{f"frame_{name}": ("frame", rows(name).astype("f8")) for name in ("siou", "ppv", "f1")},
            **{f"frame_{name}": ("frame", rows(name).astype("i8")) for name in ("n_truth", "n_predicted")},
            **{
                f"frame_{name}": (("frame", "siou_threshold"), rows(name).reshape(shape).astype("i8"))
                for name in ("tp", "fp", "fn")
            },
            "state": ("frame", np.array([_state(table) for table in tables.values()], dtype=object)),
        },
        coords={"frame": np.array(list(tables), dtype=object), "siou_threshold": SIOU_THRESHOLDS},
        attrs={
            "task": "anomaly",
            "score": score_name,
            "score_threshold": float(threshold),
            "track": track,
            "min_truth": TRACKS[track].min_truth,
            "min_predicted": TRACKS[track].min_predicted,
            "pooling": "over the components of all frames",
            "n_frames": sum(table is not None for table in tables.values()),
        },
    )


def _state(table: ComponentTable | None) -> str:
    if table is None:
        return "no anomaly labels"
    lacking = [name for name, count in (("annotated", table.n_truth), ("predicted", table.n_predicted)) if count == 0]
    return f"no {' and no '.join(lacking)} component" if lacking else "evaluated"


def with_components(
    result: xr.Dataset,
    caches: Caches,
    track: str | Mapping[str, str] = "anomaly",
    *,
    frames: Sequence[str] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Add sIoU, PPV and mean F1 over the components of all frames to an evaluation of unknown objects.

    Parameters
    ----------
    result : xarray.Dataset
        From `gradunc_viz.evaluate` for the task ``anomaly``, one row per score, of the same frames; its thresholds are
        taken, so that nothing is evaluated again.
    caches : Cache, path, a sequence of these, or a mapping from names to these
        Those that were evaluated.
    track : str, or mapping from names of caches to these
        Names in `TRACKS`.
    frames : optional
        Ids of frames.
    progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    xarray.Dataset
        With ``component_siou``, ``component_ppv`` and ``component_f1`` (cache, score), at the threshold of the best F1
        over pixels; attrs: ``track``.

    Raises
    ------
    GraduncError
        If a track is unknown.
    """
    opened = named_caches(caches)
    tracks = {name: track if isinstance(track, str) else track.get(name, "") for name in opened}
    for name, own in tracks.items():
        if own not in TRACKS:
            raise GraduncError(f"unknown track {own!r} of cache {name!r}, expected one of {', '.join(TRACKS)}")
    selections = Selection.of_each(opened, "anomaly", frames=frames)
    thresholds = result["threshold"].sel(pooling="pixels")
    arrays = {name: np.full(thresholds.shape, np.nan) for name in _OF_COMPONENTS}
    places = list(np.ndindex(*thresholds.shape))
    with progress_bar(progress, what="components", unit="score"):
        for c, s in followed(places):
            cache_name, score_name = str(result["cache"].values[c]), str(result["score"].values[s])
            selection = selections[cache_name]
            threshold = float(thresholds[c, s])
            if score_name in selection.cache.scores and np.isfinite(threshold):
                found = evaluate_components(
                    selection.cache, score_name, float(threshold), selection.frames, tracks[cache_name]
                )
                for variable, source in _OF_COMPONENTS.items():
                    arrays[variable][c, s] = float(found[source])
    return result.assign({name: (("cache", "score"), array) for name, array in arrays.items()}).assign_attrs(
        track=", ".join(dict.fromkeys(tracks.values()))
    )


_OF_COMPONENTS = {"component_siou": "siou", "component_ppv": "ppv", "component_f1": "f1"}
"""Metrics of objects, and what `evaluate_components` calls them."""
