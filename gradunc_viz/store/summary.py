"""The table of a cache's frames, kept beside them and built anew whenever it is missing or stale."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..schema.errors import CacheError
from ..schema.frame import QUANTILES
from .backend import Backend
from .group import SUMMARY, UNREADABLE, Group, frame_group, group_content, ids_digest, open_complete, open_group
from .members import ZIP

__all__ = ["build_summary", "publish_summary", "stored_summary"]


def stored_summary(backend: Backend, ids: tuple[str, ...], scores: tuple[str, ...]) -> xr.Dataset | None:
    """The table as it was stored, or None where it is missing, damaged or about other frames or scores."""
    try:
        table = open_complete(backend, SUMMARY)
        current = table.attrs.get("frames") == ids_digest(ids) and tuple(table["score"].values) == scores
        return table.load() if current else None
    except Exception:  # damaged or half replaced: it holds nothing that the frames do not
        return None


def build_summary(
    backend: Backend, ids: tuple[str, ...], scores: tuple[str, ...], classes: tuple[str, ...]
) -> xr.Dataset:
    """The table of a cache, from its frames.

    Raises
    ------
    CacheError
        If a frame cannot be read.
    """
    n, s, c = len(ids), len(scores), len(classes)
    mean = np.full((n, s), np.nan)
    quantile = np.full((n, len(QUANTILES), s), np.nan)
    confusion = np.zeros((n, c, c), "i8")
    anomaly, known = np.full(n, -1, "i8"), np.full(n, -1, "i8")
    labelled = np.zeros(n, bool)
    size = np.zeros((n, 2), "i4")
    for i, frame_id in enumerate(ids):
        group = open_group(backend, frame_group(frame_id))

        def read(name: str, group: Group = group) -> np.ndarray:
            return np.asarray(group.array(name)[...])

        try:
            own_mean, own_quantile = read("score_mean"), read("score_quantile")
            if len(own_mean) != s:  # a score is being added to the frames, and not yet to the cache
                held = [str(name) for name in read("score")]
                chosen = [held.index(name) for name in scores]
                own_mean, own_quantile = own_mean[chosen], own_quantile[:, chosen]
            mean[i], quantile[i] = own_mean, own_quantile
            if "confusion" in group.arrays:
                confusion[i], labelled[i] = read("confusion"), True
            if "anomaly_count" in group.arrays:
                anomaly[i], known[i] = read("anomaly_count"), read("known_count")
            size[i] = group.array("prediction").shape
        except UNREADABLE as error:
            raise CacheError(f"{group.where}: frame cannot be read ({error})") from error
    total = confusion.sum((1, 2))
    right = np.trace(confusion, axis1=1, axis2=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        error_rate = np.where(total > 0, 1 - right / total, np.nan)
        anomaly_rate = np.where(anomaly + known > 0, anomaly / (anomaly + known), np.nan)
    names = np.array(classes, dtype=object)
    return xr.Dataset(
        {
            "height": ("frame", size[:, 0], {"units": "px"}),
            "width": ("frame", size[:, 1], {"units": "px"}),
            "score_mean": (
                ("frame", "score"),
                mean,
                {"long_name": "mean of the oriented score over all pixels"},
            ),
            "score_quantile": (("frame", "quantile", "score"), quantile),
            "error_rate": ("frame", error_rate, {"long_name": "share of labelled pixels predicted wrong"}),
            "anomaly_rate": (
                "frame",
                anomaly_rate,
                {"long_name": "share of unknown objects among evaluated pixels"},
            ),
            "has_label": ("frame", labelled),
            "has_anomaly": ("frame", anomaly >= 0),
            "labelled_count": ("frame", total, {"units": "px"}),
            "wrong_count": ("frame", total - right, {"units": "px"}),
            "anomaly_count": ("frame", anomaly.clip(0), {"units": "px"}),
            "known_count": ("frame", known.clip(0), {"units": "px"}),
            "confusion": (("frame", "label_class", "class"), confusion, {"units": "px"}),
        },
        coords={
            "frame": np.array(ids, dtype=object),
            "score": np.array(scores, dtype=object),
            "quantile": np.array(QUANTILES),
            "class": names,
            "label_class": names,
        },
        attrs={"frames": ids_digest(ids)},
    )


def publish_summary(backend: Backend, table: xr.Dataset) -> None:
    """Put the table into a cache, in place of an earlier one."""
    with backend.writing() as writing:
        writing.put(SUMMARY + ZIP, group_content(table), replace=True)
