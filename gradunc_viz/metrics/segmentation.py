"""Intersection over union and accuracy by class."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import xarray as xr

from ..store.cache import Cache
from ..store.choice import Selection

__all__ = ["accuracy", "iou", "segmentation"]


def segmentation(cache: Cache | str | os.PathLike[str], *, frames: Sequence[str] | None = None) -> xr.Dataset:
    """How good is the segmentation itself? IoU per class, mIoU, accuracy and the confusion matrix.

    Parameters
    ----------
    cache : Cache or path
    frames : optional
        Ids of frames; by default all.

    Returns
    -------
    xarray.Dataset
        ``iou`` (class), NaN for classes that do not occur; ``miou`` over those that occur in labels or
        predictions; ``accuracy``; ``confusion`` (label_class, class) in pixels.

    Raises
    ------
    GraduncError
        For an unknown frame.
    """
    selection = Selection.of(cache, "error", scores=(), frames=frames)
    confusion = selection.cache.summary["confusion"].sel(frame=list(selection.frames)).sum("frame").values
    per_class = iou(confusion)
    names = np.array(selection.cache.classes, dtype=object)
    return xr.Dataset(
        {
            "iou": ("class", per_class),
            "miou": ((), np.nanmean(per_class) if np.isfinite(per_class).any() else np.nan),
            "accuracy": ((), float(accuracy(confusion))),
            "confusion": (("label_class", "class"), confusion, {"units": "px"}),
        },
        coords={"class": names, "label_class": names},
    )


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union per class of a confusion matrix (..., label, prediction); NaN for absent classes."""
    matrix = np.asarray(confusion, "f8")
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, hit / union, np.nan)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of labelled pixels predicted right; NaN without any."""
    matrix = np.asarray(confusion, "f8")
    total = matrix.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, np.trace(matrix, axis1=-2, axis2=-1) / total, np.nan)
