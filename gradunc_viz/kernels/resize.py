"""Bilinear resizing of stored maps in numpy, equal to torch's ``interpolate``: reading a cache needs no torch."""

from __future__ import annotations

import numpy as np

__all__ = ["bilinear", "bilinear_log2", "neighbours"]


def neighbours(source: int, target: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower neighbour, upper neighbour and weight of the upper one for every target index of an axis."""
    index = np.arange(target, dtype="f8")
    # as torch rounds: the scale to float32, then the position once (a fused multiply-add)
    if align_corners:
        place = (index * np.float32((source - 1) / (target - 1) if target > 1 else 0)).astype("f4")
    else:
        place = np.maximum((index + 0.5) * np.float32(source / target) - 0.5, 0).astype("f4")
    low = np.minimum(place.astype("i8"), source - 1)
    return low, np.minimum(low + 1, source - 1), np.minimum(place - low, 1).astype("f4")


def bilinear(values: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """Resize the last two axes to `size`, in float32; the values themselves where the size is right."""
    values = np.asarray(values, "f4")
    if values.shape[-2:] == tuple(size):
        return values
    top, bottom, down = neighbours(values.shape[-2], size[0], align_corners)
    # a weighted sum, not a + (b - a) w: a small value beside a large one keeps its digits, and its logarithm
    rows = values[..., top, :] * (1 - down[:, None]) + values[..., bottom, :] * down[:, None]
    left, right, across = neighbours(values.shape[-1], size[1], align_corners)
    return rows[..., left] * (1 - across) + rows[..., right] * across


def bilinear_log2(values: np.ndarray, size: tuple[int, int], floor: float, align_corners: bool = False) -> np.ndarray:
    """Resize log2 norms as norms: the maximum of each map is factored out, resized linearly, and put back.

    Parameters
    ----------
    values : array (..., v, u) of log2 norms
    size : (height, width)
    floor : float
        What a vanishing norm is given.
    """
    values = np.asarray(values, "f4")
    if values.shape[-2:] == tuple(size):
        return values
    top = values.max((-2, -1), keepdims=True)
    linear = bilinear(np.exp2(values - top), size, align_corners)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log2(linear) + top, np.float32(floor))
