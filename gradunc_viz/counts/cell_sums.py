"""Adding up the counts of frames over all classes, in cells of float32 numbers (see `gradunc_viz.counts.cells`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .cells import cell_scores
from .histogram import Histogram

__all__ = ["CELL_VARIABLES", "POOLED_CELLS", "CellCounts", "CellSum", "frame_cells"]

CELL_VARIABLES = ("score", "pooled_outcome", "cell", "cell_single", "cell_counts", "cell_shift")
"""What `frame_cells` reads of a frame."""

POOLED_CELLS = 2**18
"""Cells that a sum of frames may occupy; beyond that it is made coarser, so that memory does not grow with a set."""


@dataclass
class CellCounts:
    """Counts of one score.

    Attributes
    ----------
    number : array (m,)
        Cells that hold pixels, rising.
    shift : int
        Of the cells.
    counts : array (..., m)
    single : array (m,)
        Whether the scores in a cell are as good as one, so that they are tied; else they are spread over the cell.
    """

    number: np.ndarray
    shift: int
    counts: np.ndarray
    single: np.ndarray

    def at(self, shift: int) -> CellCounts:
        """The same counts in larger cells; exact, as those are unions of smaller ones."""
        if shift == self.shift:
            return self
        if shift < self.shift:
            raise ValueError(f"shift {shift} is finer than the counts, which have shift {self.shift}")
        number = self.number >> (shift - self.shift)
        first = _runs(number)
        single = self.single[first] & (np.diff(first, append=len(number)) == 1)
        return CellCounts(number[first], shift, _added(self.counts, first), single)

    def at_most(self, cells: int) -> CellCounts:
        """The same counts in the smallest cells of which there are not more than `cells`."""
        result = self
        while len(result.number) > cells:
            result = result.at(result.shift + 1)
        return result

    def histogram(self) -> Histogram:
        """Every cell as a bin, with empty ends; `low` is its smallest number and `high` its largest, if not single."""
        low = cell_scores(self.number, self.shift)
        high = np.where(self.single, low, cell_scores(((self.number.astype("i8") + 1) << self.shift) - 1, 0))
        empty = np.zeros((*self.counts.shape[:-1], 1), self.counts.dtype)
        weights = {"counts": np.concatenate([empty, self.counts, empty], -1)}
        return Histogram(0, self.shift, weights, np.r_[np.nan, low, np.nan], np.r_[np.nan, high, np.nan])


def _runs(number: np.ndarray) -> np.ndarray:
    """Where runs of equal numbers start."""
    return np.flatnonzero(np.r_[True, number[1:] != number[:-1]]) if len(number) else np.empty(0, int)


def _added(counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    if len(first) == counts.shape[-1]:
        return counts
    return np.add.reduceat(counts, first, axis=-1, dtype="i8")


class CellSum:
    """Running sum of the counts of one score in at most `cells` cells; its outcome does not depend on their order.

    Up to `waiting` times as many may wait to be added: sorting many at once is cheaper than sorting each into the sum.
    """

    def __init__(self, cells: int = POOLED_CELLS, waiting: int = 4) -> None:
        self.cells = cells
        self._most = waiting * cells
        self._waiting: list[CellCounts] = []
        self._size = 0

    def add(self, counts: CellCounts) -> None:
        """Add counts; their arrays are left as they are."""
        self._waiting.append(counts)
        self._size += len(counts.number)
        if self._size > self._most:
            self._unite()

    def _unite(self) -> None:
        shift = max(counts.shift for counts in self._waiting)
        parts = [counts.at(shift) for counts in self._waiting]
        number = np.concatenate([part.number for part in parts])
        order = np.argsort(number, kind="stable")
        counts = np.concatenate([part.counts for part in parts], axis=-1, dtype="i8")
        number, single = number[order], np.concatenate([part.single for part in parts])[order]
        first = _runs(number)
        single = np.logical_and.reduceat(single, first) if len(first) else single
        total = CellCounts(number[first], shift, _added(counts[..., order], first), single).at_most(self.cells)
        self._waiting, self._size = [total], len(total.number)

    @property
    def total(self) -> CellCounts | None:
        """The sum, None if there was nothing to add."""
        if len(self._waiting) > 1:
            self._unite()
        return self._waiting[0] if self._waiting else None


def frame_cells(dataset: xr.Dataset, scores: Sequence[str], outcomes: Sequence[str]) -> dict[str, CellCounts]:
    """Counts of a cached frame over all classes.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache, or its `CELL_VARIABLES`.
    scores : sequence of str
    outcomes : sequence of str
        Rows of ``cell_counts``, in this order.

    Returns
    -------
    dict of score -> CellCounts
        With counts (outcome, cell).
    """
    cached = [str(name) for name in dataset["score"].values]
    known = [str(name) for name in dataset["pooled_outcome"].values]
    rows, shift = [known.index(name) for name in outcomes], dataset["cell_shift"].values
    chosen = dataset[["cell", "cell_single", "cell_counts"]].isel(score=[cached.index(score) for score in scores])
    cells, singles, counts = (chosen[name].values for name in ("cell", "cell_single", "cell_counts"))
    by_score = {}
    for s, score in enumerate(scores):
        own = counts[rows, s]
        used = np.flatnonzero(own.any(0))  # of these outcomes, and no padding
        by_score[score] = CellCounts(
            cells[s, used], int(shift[cached.index(score)]), own[:, used], singles[s, used].astype(bool)
        )
    return by_score
