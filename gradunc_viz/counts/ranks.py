"""Ranks of scores among the pixels of some frames: how large a share of them lies below."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..schema.frame import MAX_CELLS
from .cell_sums import CellCounts, CellSum
from .cells import float_keys

__all__ = ["Ranks", "pixel_cells"]

_LARGEST = np.finfo("f4").max


def _single(values: np.ndarray) -> np.ndarray:
    """As float32 numbers: what lies beyond them takes the largest there is."""
    return np.asarray(values).clip(-_LARGEST, _LARGEST).astype("f4")


def pixel_cells(values: np.ndarray) -> CellCounts:
    """Counts of all pixels of a map, whether labelled or not, in at most 65536 cells."""
    number, counts = np.unique(float_keys(_single(values)), return_counts=True)
    return CellCounts(number, 0, counts[None], np.ones(len(number), bool)).at_most(MAX_CELLS)


class Ranks:
    r"""Mid-rank of a score among counted pixels, :math:`(\#\{s' < s\} + \#\{s' \le s\}) / 2n`, in [0, 1].

    Scores are told apart as float32 numbers; inside a cell that holds several, they are taken to be spread evenly.

    Parameters
    ----------
    counts : iterable of CellCounts (1, m)
        Of some frames.
    """

    def __init__(self, counts: Iterable[CellCounts]) -> None:
        total = CellSum()
        for some in counts:
            total.add(some)
        if total.total is None:
            raise ValueError("no pixel was counted; expected those of one frame at least")
        histogram = total.total.histogram()
        inner = histogram.weights["counts"][0, 1:-1].astype("f8")
        self._low, self._high = (ends[1:-1].astype("f8") for ends in (histogram.low, histogram.high))
        self._below = np.r_[0.0, np.cumsum(inner)]
        self.pixels = int(self._below[-1])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Ranks of scores, float64 of their shape."""
        given = _single(values).astype("f8")
        at = (np.searchsorted(self._low, given, side="right") - 1).clip(0)
        low, high = self._low[at], self._high[at]
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = np.where(high > low, (given - low) / (high - low), (1 + np.sign(given - low)) / 2).clip(0, 1)
        below = self._below[at]
        return (below + inside * (self._below[at + 1] - below)) / self.pixels
