"""Bilinear resizing of stored maps in numpy, equal to torch's ``interpolate``: reading a cache needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Band", "bilinear", "bilinear_log2", "neighbours"]


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


@dataclass(frozen=True)
class Band:
    """Some lines of a resized map, to be made of those rows of its source that they need.

    Attributes
    ----------
    lines : slice
        Of the resized map.
    height : int
        Of the whole source.
    first : int
        The row of the source that what is at hand begins with.
    """

    lines: slice
    height: int
    first: int = 0

    def rows(self, target: int, align_corners: bool) -> slice:
        """The rows of the source that the lines of a map of `target` lines are made of."""
        if self.height == target:
            return self.lines
        above, below, _ = neighbours(self.height, target, align_corners)
        return slice(int(above[self.lines.start]), int(below[self.lines.stop - 1]) + 1)

    def neighbours(self, target: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As of the function, for the lines alone, counted from the first row at hand."""
        low, high, weight = (part[self.lines] for part in neighbours(self.height, target, align_corners))
        return low - self.first, high - self.first, weight

    def own(self) -> slice:
        """The same lines of what is at hand, where the source has as many rows."""
        return slice(self.lines.start - self.first, self.lines.stop - self.first)


def bilinear(
    values: np.ndarray, size: tuple[int, int], align_corners: bool = False, band: Band | None = None
) -> np.ndarray:
    """Resize the last two axes to `size`, in float32; the values themselves where the size is right.

    Of a `band` those lines alone, where `values` are the rows that they are made of.
    """
    values = np.asarray(values, "f4")
    band = band or Band(slice(0, size[0]), values.shape[-2])
    if (band.height, values.shape[-1]) == tuple(size):
        return values[..., band.own(), :]
    top, bottom, down = band.neighbours(size[0], align_corners)
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
