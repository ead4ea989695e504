"""Arrays behind the panes: a frame read at once, scores as integer codes, counts at a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..cache import decode_image, score
from ..schema import IGNORE

__all__ = [
    "MAX_PIXELS",
    "FrameArrays",
    "Scale",
    "ThresholdCounts",
    "encode",
    "frame_range",
    "read_frame",
    "read_score",
    "set_range",
    "shrink_factor",
    "shrink_max",
    "shrink_nearest",
    "threshold_counts",
]

MAX_PIXELS = 4_200_000
"""Pixels a pane sends to the browser; larger frames are shrunk by the smallest whole number that suffices."""

_TOP_CODE = 65535


@dataclass(frozen=True)
class FrameArrays:
    """What the panes of one frame show, apart from its scores.

    Attributes
    ----------
    id : str
    image : array (y, x, 3), uint8
    prediction : array (y, x)
        Class ids.
    label : array (y, x), optional
        Class ids, 255 = ignore.
    anomaly : array (y, x), optional
        0 known, 1 unknown object, 255 = ignore.
    """

    id: str
    image: np.ndarray
    prediction: np.ndarray
    label: np.ndarray | None
    anomaly: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.prediction.shape[0], self.prediction.shape[1]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the frame has labels for."""
        found = {"error": self.label, "anomaly": self.anomaly}
        return tuple(task for task, label in found.items() if label is not None)

    def target(self, task: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Which pixels a score should find, and which are evaluated; both (y, x) bool. None without labels."""
        if task == "error" and self.label is not None:
            return self.prediction != self.label, self.label != IGNORE
        if task == "anomaly" and self.anomaly is not None:
            return self.anomaly == 1, self.anomaly != IGNORE
        return None


def read_frame(dataset: xr.Dataset) -> FrameArrays:
    """Read what the panes need of a cached frame.

    Raises
    ------
    CacheError
        If the image cannot be decoded.
    """
    return FrameArrays(
        id=str(dataset.attrs["frame_id"]),
        image=decode_image(dataset),
        prediction=dataset["prediction"].values,
        label=dataset["label"].values if "label" in dataset else None,
        anomaly=dataset["anomaly"].values if "anomaly" in dataset else None,
    )


def read_score(dataset: xr.Dataset, name: str) -> np.ndarray:
    """Read the oriented score at image resolution, (y, x) float32."""
    return np.asarray(score(dataset, name).values, "f4")


@dataclass(frozen=True)
class Scale:
    """How 16-bit codes stand for scores: ``value = low + code * step``."""

    low: float
    step: float

    def code(self, value: float) -> float:
        """Place of a score among the codes; not rounded, and beyond them for scores outside the map."""
        return (value - self.low) / self.step


def encode(values: np.ndarray) -> tuple[np.ndarray, Scale]:
    """Turn a score map into uint16 codes between its smallest and largest value.

    Codes are rounded down, so that ``codes >= floor(scale.code(t))`` never misses a pixel with ``values >= t``.
    """
    low, high = float(values.min()), float(values.max())
    scale = Scale(low, (high - low) / _TOP_CODE or 1.0)
    codes = (values.astype("f8") - low) / scale.step
    return np.floor(codes).clip(0, _TOP_CODE).astype("u2"), scale


def frame_range(values: np.ndarray) -> tuple[float, float]:
    """Colour range of one map: its 1st to 99.9th percentile, never empty."""
    # every 16th pixel of a large map is enough for a colour range, and ten times faster
    low, high = np.percentile(values.ravel()[:: max(1, values.size // 100_000)], (1, 99.9))
    return _widen(float(low), float(high))


def set_range(summary: xr.Dataset, name: str) -> tuple[float, float]:
    """Colour range shared by all frames: from the smallest 5 % quantile to the largest 99 % quantile of any frame."""
    quantiles = summary["score_quantile"].sel(score=name)
    low, high = float(quantiles.isel(quantile=0).min()), float(quantiles.isel(quantile=-1).max())
    return _widen(low, high)


def _widen(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, low + 0.5)


# --------------------------------------------------------------------------------------------------------------------
# shrinking


def shrink_factor(size: tuple[int, int], limit: int = MAX_PIXELS) -> int:
    """Smallest whole number by which a frame has to be divided to send no more than `limit` pixels."""
    factor = 1
    while -(-size[0] // factor) * -(-size[1] // factor) > limit:
        factor += 1
    return factor


def shrink_nearest(labels: np.ndarray, factor: int) -> np.ndarray:
    """One pixel of each block: class ids are never blended."""
    return np.ascontiguousarray(labels[::factor, ::factor])


def shrink_max(codes: np.ndarray, factor: int) -> np.ndarray:
    """Largest code of each block, so that a single uncertain pixel stays visible; edge blocks may be partial."""
    rows = np.maximum.reduceat(codes, np.arange(0, codes.shape[0], factor), axis=0)
    return np.maximum.reduceat(rows, np.arange(0, codes.shape[1], factor), axis=1)


# --------------------------------------------------------------------------------------------------------------------
# the threshold


@dataclass(frozen=True)
class ThresholdCounts:
    """Evaluated pixels of one frame by truth and by whether their score reaches the threshold."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float:
        """Share of true ones among the pixels found; NaN if none is found."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else float("nan")

    @property
    def recall(self) -> float:
        """Share of found ones among the true pixels; NaN if there is none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else float("nan")


def threshold_counts(values: np.ndarray, target: tuple[np.ndarray, np.ndarray], threshold: float) -> ThresholdCounts:
    """Count pixels with ``values >= threshold`` against `target`, see `FrameArrays.target`."""
    positive, evaluated = target
    # float32 as the values are: a threshold that is one of them finds it
    found = (values >= np.float32(threshold)) & evaluated
    positive = positive & evaluated
    tp = int(np.count_nonzero(found & positive))
    fp = int(np.count_nonzero(found)) - tp
    fn = int(np.count_nonzero(positive)) - tp
    return ThresholdCounts(tp, fp, fn, int(np.count_nonzero(evaluated)) - tp - fp - fn)
