"""The table of a cache's frames."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import xarray as xr

from ..schema.errors import CacheError
from ..schema.frame import QUANTILES
from .local import _complete_attrs, _ids_digest, _open_complete, _small, _staging, _to_zarr

__all__ = ["build_summary", "publish_summary", "stored_summary"]


def stored_summary(path: Path, ids: tuple[str, ...]) -> xr.Dataset | None:
    """The table on disk, or None where it is missing, damaged or about other frames."""
    folder = path / "summary"
    if not (folder / "zarr.json").is_file():
        return None
    try:
        table = _open_complete(folder)
        return table.load() if table.attrs.get("frames") == _ids_digest(ids) else None
    except Exception:  # damaged or half replaced: it holds nothing that the frames do not
        return None


def build_summary(path: Path, ids: tuple[str, ...], scores: tuple[str, ...], classes: tuple[str, ...]) -> xr.Dataset:
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
        folder = path / "frames" / frame_id
        _complete_attrs(folder)
        try:
            mean[i], quantile[i] = _small(folder, "score_mean"), _small(folder, "score_quantile")
            found = _small(folder, "confusion")
            if found is not None:
                confusion[i], labelled[i] = found, True
            counted = _small(folder, "anomaly_count")
            if counted is not None:
                anomaly[i], known[i] = counted, _small(folder, "known_count")
            size[i] = json.loads((folder / "prediction" / "zarr.json").read_text())["shape"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(f"{folder}: frame cannot be read ({error})") from error
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
        attrs={"frames": _ids_digest(ids)},
    )


def publish_summary(path: Path, table: xr.Dataset) -> None:
    """Put the table into a cache, in place of an earlier one."""
    with _staging(path) as staging:
        _to_zarr(table, staging / "new")
        # rename replaces no folder that holds something: the old table steps aside first, and a reader that
        # comes between the two finds none and builds its own
        if (path / "summary").exists():
            os.rename(path / "summary", staging / "old")
        os.rename(staging / "new", path / "summary")
