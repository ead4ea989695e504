"""What a frame tells an evaluation: counts per bin of every score, which merge over frames.

Bins lie on a *lattice* that no frame chooses, so that counts of different frames add up. The lattice is uniform with a
step of 1/64 on an axis on which every score spreads evenly: the oriented score itself where it is unbounded (log2
norms, logits), and log2(s / (1 - s)) where it is bounded and scaled to s in [0, 1] (1 - max softmax, margin, entropy
over ln C). A frame stores the window of the lattice that it occupies. Where a window would exceed 4096 bins its
step is doubled (`bin_level`) until it does not, and where it would take less than 512 the step is halved; levels are
nested, so a finer frame is made coarser exactly.

Maps that others computed may be spread in any way whatever, so their lattice is one of values: the edges of its bins
are quantiles of the whole set, fixed when they are imported, and all frames occupy the whole of it. Where their numbers
are float64, they are counted as such.

The first and the last bin of a window are set apart for the lowest and the highest value a score can take: probability
exactly 0 or 1, a vanishing gradient. The smallest and the largest score in each bin are kept as well: where they are
equal the bin is one value and curves through it are exact, elsewhere they are interpolated.

Those are the counts by class. Over all classes pixels are counted once more in cells of float32 numbers
(`gradunc_viz.counts.cells`), of which a frame keeps those that hold pixels, at the finest shift at which they are at
most 65536: rounding a score to its cell leaves all metrics where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..kernels.threads import in_threads
from ..schema.frame import (
    BRIER_BINS,
    CONFIDENCE_BINS,
    IGNORE,
    MAX_CELLS,
    POOLED_OUTCOMES,
    QUANTILES,
    id_type,
    ignore_id,
)
from ..schema.scores import Score
from ..scores.maps import ScoredImage
from .cells import cell_scores
from .lattice import Windows, lattice_axis, tallies_of

__all__ = ["FrameCounts", "Strip", "count_frame", "count_strips"]


@dataclass
class FrameCounts:
    """The counting variables of one frame as numpy arrays; names, dims and meaning as in `schema.VARIABLES`."""

    outcomes: tuple[str, ...]
    arrays: dict[str, np.ndarray]


@dataclass
class Strip:
    """Some rows of a frame, or all of it.

    Attributes
    ----------
    maps : ScoredImage
        Oriented scores and the prediction; what it tells of probabilities is counted where there is a label.
    label, anomaly : LongTensor (y, x) or None
        Class id, or 255 (65535 of more than 255 classes) where ignored; 0, 1 or 255.
    """

    maps: ScoredImage
    label: Tensor | None = None
    anomaly: Tensor | None = None


def count_frame(
    maps: ScoredImage,
    entries: Sequence[Score],
    n_classes: int,
    *,
    label: Tensor | None = None,
    anomaly: Tensor | None = None,
    edges: Mapping[str, Tensor] | None = None,
) -> FrameCounts:
    """Count the pixels of one frame, see `count_strips`."""
    return count_strips([Strip(maps, label, anomaly)], entries, n_classes, edges=edges)


def count_strips(
    strips: Iterable[Strip],
    entries: Sequence[Score],
    n_classes: int,
    *,
    edges: Mapping[str, Tensor] | None = None,
) -> FrameCounts:
    """Count the pixels of one frame, strip by strip: all of it need not be in memory.

    Parameters
    ----------
    strips : iterable of Strip
        Gone through twice: the first time tells between what numbers a score lies. Scores are in the order of
        `entries`.
    entries : sequence of Score
    n_classes : int
    edges : dict of score name -> Tensor (n,), optional
        Rising values that cut the bins of scores whose lattice are quantiles; the same for all frames of a set.

    Returns
    -------
    FrameCounts
        Ignored pixels are in no count, but in `score_mean` and `score_quantile`, which need no label.
    """
    # a lattice of quantiles resolves scores that crowd just below 1, where numbers are wide apart
    with_cells = all(entry.lattice != "quantiles" for entry in entries)
    survey = _Survey(entries, n_classes, edges or {}, with_cells)
    for strip in strips:
        axes = survey.add(strip.maps.oriented.flatten(1))
    windows = Windows.of(survey.ranges, entries, edges)
    places = [_places(leading) for leading in survey.leading]
    found = _Counted()
    for strip in strips:
        found.add(_count_strip(strip, entries, n_classes, windows, places, axes if survey.strips == 1 else None))
    empty_bins = np.isposinf(found.low)
    arrays: dict[str, np.ndarray] = {
        "bin_start": np.array(windows.start, "i8"),
        "bin_level": np.array(windows.level, "i4"),
        "bin_min": np.where(empty_bins, np.nan, found.low),
        "bin_max": np.where(empty_bins, np.nan, found.high),
        "score_mean": np.array(survey.means),
        **found.sums,
    }
    if "brier_sum" in arrays:
        arrays["brier_sum"] = arrays["brier_sum"].astype("f4")
    if with_cells:
        tally, of_cells = tallies_of(strip.maps.oriented), found.cells
        by_cell = in_threads(lambda s: _cells(of_cells[s], places[s], tally), range(len(places)))
        arrays["score_quantile"] = np.stack([_quantiles(cells) for cells in by_cell], axis=1)
        if found.outcomes:
            arrays |= _stack_cells(by_cell, found)
    else:
        every = [
            np.concatenate([one.maps.oriented[s].flatten().cpu().double() for one in strips]) for s in _all(entries)
        ]
        arrays["score_quantile"] = np.stack([np.quantile(values, QUANTILES) for values in every], axis=1)
    return FrameCounts(found.outcomes, arrays)


def _all(entries: Sequence[Score]) -> range:
    return range(len(entries))


class _Survey:
    """What has to be known of all pixels of a frame before any of them is counted."""

    def __init__(self, entries: Sequence[Score], n_classes: int, edges: Mapping[str, Tensor], with_cells: bool) -> None:
        self.entries, self.n_classes, self.edges, self.with_cells = entries, n_classes, edges, with_cells
        self.strips = self.pixels = 0
        self.ranges: list[tuple[float, float] | None] = [None] * len(entries)
        self.means = [0.0] * len(entries)
        self.leading: list[np.ndarray] = []

    def add(self, scores: Tensor) -> list[Tensor]:
        """Take further pixels, (S, n); their scores on the axes of their lattices come back."""
        tally = tallies_of(scores)

        def look(s: int) -> tuple[Tensor, tuple[float, float] | None, float, np.ndarray | None]:
            values, entry = scores[s], self.entries[s]
            leading = tally.leading_counts(values) if self.with_cells else None
            if entry.lattice == "quantiles" and entry.name in self.edges:
                return values, None, _mean(values), leading
            axis = lattice_axis(values, entry, self.n_classes)
            return axis, tally.finite_range(axis), _mean(values), leading

        found = in_threads(look, _all(self.entries))
        self.strips += 1
        self.pixels += scores.shape[1]
        for s, (_, inside, mean, leading) in enumerate(found):
            before = self.ranges[s]
            if inside is not None and before is not None:
                inside = min(inside[0], before[0]), max(inside[1], before[1])
            self.ranges[s] = inside or before
            self.means[s] += (mean - self.means[s]) * (scores.shape[1] / max(1, self.pixels))
            if leading is not None and self.strips == 1:
                self.leading.append(leading)
            elif leading is not None:
                self.leading[s] = self.leading[s] + leading
        return [axis for axis, *_ in found]


@dataclass
class _StripCounts:
    """Counts of some rows: what is to be added up, and the smallest and the largest score in every bin."""

    outcomes: tuple[str, ...]
    rows: Callable[[np.ndarray], dict[str, np.ndarray]]
    low: np.ndarray
    high: np.ndarray
    cells: list[np.ndarray]
    sums: dict[str, np.ndarray]


@dataclass
class _Counted:
    """Counts of several strips, added up."""

    outcomes: tuple[str, ...] = ()
    low: np.ndarray = field(default_factory=lambda: np.array(np.inf, "f4"))
    high: np.ndarray = field(default_factory=lambda: np.array(-np.inf, "f4"))
    cells: list[np.ndarray] = field(default_factory=list)
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, strip: _StripCounts) -> None:
        """Take further rows."""
        self.outcomes, self.rows = strip.outcomes, strip.rows
        self.low, self.high = np.minimum(self.low, strip.low), np.maximum(self.high, strip.high)
        if not self.sums and not self.cells:
            self.sums, self.cells = strip.sums, strip.cells
            return
        self.sums = {name: array + strip.sums[name] for name, array in self.sums.items()}
        self.cells = [mine + other for mine, other in zip(self.cells, strip.cells, strict=True)]


def _count_strip(
    strip: Strip,
    entries: Sequence[Score],
    n_classes: int,
    windows: Windows,
    places: Sequence[_Places],
    axes: Sequence[Tensor] | None,
) -> _StripCounts:
    """Count some rows of a frame; `axes` are the scores on the axes of their lattices, where these are at hand."""
    maps = strip.maps
    flat, predicted = maps.oriented.flatten(1), maps.prediction.flatten()
    tally = tallies_of(flat)
    pixels = _Pixels(predicted, n_classes, tally)
    sums: dict[str, np.ndarray] = {}
    weight = None
    if strip.label is not None:
        truth = strip.label.flatten()
        labelled = truth != ignore_id(id_type(n_classes))
        known = labelled.nonzero()[:, 0]
        right = predicted[known] == truth[known]
        pixels.add_label(truth, known, right)
        sums |= _label_counts(truth, known, right, pixels, maps)
        if maps.brier is not None:
            weight = torch.where(labelled, maps.brier.flatten().double(), 0.0)
    if strip.anomaly is not None:
        unknown = strip.anomaly.flatten()
        positive, known_count = int((unknown == 1).sum()), int(((unknown != 1) & (unknown != IGNORE)).sum())
        pixels.add_anomaly(unknown)
        sums |= {"anomaly_count": np.int64(positive), "known_count": np.int64(known_count)}  # type: ignore[dict-item]
    if pixels.outcomes:
        _ = pixels.state_and_class  # once, before several threads ask for it

    def count(s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        values = flat[s]
        axis = lattice_axis(values, entries[s], n_classes) if axes is None else axes[s]
        number = windows.numbers(s, values, axis)
        low, high = tally.extremes(number, values, windows.width)
        cells = places[s].count(values, pixels) if places else None
        counts, brier_sum = _by_class(number, windows.width, pixels, weight) if pixels.outcomes else (None, None)
        return low, high, cells, counts, brier_sum

    found = in_threads(count, _all(entries))
    low, high = np.stack([one[0] for one in found]), np.stack([one[1] for one in found])
    if pixels.outcomes:
        sums["counts"] = np.stack([counts for *_, counts, _ in found if counts is not None], axis=2)
        summed = [brier_sum for *_, brier_sum in found if brier_sum is not None]
        if summed:
            sums["brier_sum"] = np.stack(summed, axis=1)
    of_cells = [cells for _, _, cells, *_ in found if cells is not None]
    return _StripCounts(pixels.outcomes, pixels.rows, low, high, of_cells, sums)


def _mean(values: Tensor) -> float:
    """Mean in float64, where a sum of large float64 numbers would be beyond it."""
    if values.dtype == torch.float64:
        return float((values / len(values)).sum())
    return float(values.mean(dtype=torch.float64))


class _Pixels:
    """What every pixel counts as, so that one pass per score counts all outcomes.

    `state` is 3 a + b with a = 0 unlabelled, 1 right, 2 wrong and b = 0 ignored, 1 normal, 2 anomaly; where there are
    no labels, or no anomaly labels, that digit is left out.
    """

    def __init__(self, predicted: Tensor, n_classes: int, tally: ModuleType) -> None:
        self.tally = tally
        self.predicted = predicted.to(tally.INDEX)
        self.n_classes = n_classes
        self.state = torch.zeros_like(self.predicted)
        self.shape = (1, 1)
        self.outcomes: tuple[str, ...] = ()
        self.missed: tuple[Tensor, Tensor] | None = None

    @property
    def states(self) -> int:
        """How many there are."""
        return self.shape[0] * self.shape[1]

    @cached_property
    def state_and_class(self) -> Tensor:
        """State and predicted class as one number, once both annotations are there."""
        return self.state * self.n_classes + self.predicted

    def add_label(self, truth: Tensor, known: Tensor, right: Tensor) -> None:
        self.state[known] = torch.where(right, 1, 2).to(self.tally.INDEX)
        self.shape = (3, 1)
        self.outcomes = ("right", "wrong", "missed")
        self.missed = known[~right], truth[known[~right]].to(self.tally.INDEX)

    def add_anomaly(self, unknown: Tensor) -> None:
        digit = torch.where(unknown == IGNORE, 0, torch.where(unknown == 1, 2, 1))
        self.state = self.state * 3 + digit.to(self.tally.INDEX)
        self.shape = (self.shape[0], 3)
        self.outcomes += ("normal", "anomaly")

    def rows(self, counted: np.ndarray) -> dict[str, np.ndarray]:
        """Counts per outcome from counts per state."""
        states = counted.reshape(*self.shape, *counted.shape[1:])
        found = {"right": (0, 1), "wrong": (0, 2), "normal": (1, 1), "anomaly": (1, 2)}
        return {name: states.take(digit, axis).sum(0) for name, (axis, digit) in found.items() if name in self.outcomes}


def _by_class(
    index: Tensor, width: int, pixels: _Pixels, weight: Tensor | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """``counts`` and ``brier_sum`` of one score."""
    n, states, tally = pixels.n_classes, pixels.states, pixels.tally
    counted = tally.joint_counts(pixels.state_and_class, index, states * n, width)
    found = pixels.rows(counted.reshape(states, n, width))
    if pixels.missed is not None:
        wrong, truth = pixels.missed
        found["missed"] = tally.joint_counts(truth, index[wrong], n, width)
    counts = np.stack([found[name] for name in pixels.outcomes]).astype("u4")
    if weight is None:
        return counts, None
    return counts, tally.joint_sums(pixels.predicted, index, weight, n, width)


@dataclass
class _Cells:
    """Cells of one score that hold pixels, in rising order."""

    number: np.ndarray  # (m,)
    shift: int
    counts: np.ndarray  # (states, m)
    single: np.ndarray  # (m,) whether all numbers are as good as one


_TOP = 16  # leading bits of a key; numbers that share them are few enough to be counted in a plain array
_DENSE = 2**18  # places in that array


@dataclass
class _Places:
    """Where the cells of one score are counted: those of the leading bits that occur have room, and no others.

    Attributes
    ----------
    tops : int array
        Leading bits that occur.
    shift : int
        Trailing bits that a cell leaves open.
    """

    tops: np.ndarray
    shift: int

    def count(self, values: Tensor, pixels: _Pixels) -> np.ndarray:
        """Pixels per state and place."""
        rank = np.zeros(2**16, "i8")
        rank[self.tops] = np.arange(len(self.tops))
        counts: np.ndarray = pixels.tally.cell_counts(values, rank, self.shift, pixels.state, pixels.states)
        return counts


def _places(leading: np.ndarray) -> _Places:
    tops = np.flatnonzero(leading)
    # only the tops that occur are given room, so that a few numbers far away cost the others no resolution
    return _Places(tops, max(0, _TOP + (len(tops) - 1).bit_length() - (_DENSE.bit_length() - 1)))


def _cells(counts: np.ndarray, places: _Places, tally: ModuleType) -> _Cells:
    tops, shift = places.tops, places.shift
    room = _TOP - shift
    used, counts = tally.occupied(counts)
    number = ((tops[used >> room] - 2**15) << room) + (used & (2**room - 1))
    coarser = 0
    while np.count_nonzero(np.diff(number >> coarser)) >= MAX_CELLS:
        coarser += 1
    first = np.flatnonzero(np.diff(number >> coarser, prepend=(number[0] >> coarser) - 1))
    single = np.diff(first, append=len(number)) == 1
    counts = np.add.reduceat(counts, first, axis=1) if coarser else counts
    return _Cells(number[first] >> coarser, shift + coarser, counts, single)


def _stack_cells(by_cell: Sequence[_Cells], pixels: _Counted) -> dict[str, np.ndarray]:
    """Arrays of one length: shorter ones repeat their last cell, with no pixel."""
    longest = max(len(cells.number) for cells in by_cell)
    outcomes = [name for name in POOLED_OUTCOMES if name in pixels.outcomes]
    number = np.empty((len(by_cell), longest), "i4")
    counts = np.zeros((len(outcomes), len(by_cell), longest), "u4")
    single = np.ones((len(by_cell), longest), "u1")
    for s, cells in enumerate(by_cell):
        size = len(cells.number)
        number[s, :size], number[s, size:] = cells.number, cells.number[-1]
        single[s, :size] = cells.single
        rows = pixels.rows(cells.counts)
        counts[:, s, :size] = [rows[name] for name in outcomes]
    shift = np.array([cells.shift for cells in by_cell], "i4")
    return {"cell": number, "cell_shift": shift, "cell_single": single, "cell_counts": counts}


def _label_counts(
    truth: Tensor,
    known: Tensor,
    right: Tensor,
    pixels: _Pixels,
    maps: ScoredImage,
) -> dict[str, np.ndarray]:
    """Everything that needs labelled pixels but no score; `known` are their places, `right` is known of those."""
    n, tally = pixels.n_classes, pixels.tally
    truth, predicted = truth[known].to(tally.INDEX), pixels.predicted[known]
    arrays: dict[str, np.ndarray] = {"confusion": tally.joint_counts(truth, predicted, n, n).astype("i8")}
    if maps.confidence is not None:
        value = maps.confidence.flatten()[known].double()
        # the last bin is closed at 1
        place = (value * CONFIDENCE_BINS).to(tally.INDEX).clamp_(0, CONFIDENCE_BINS - 1)
        counted = tally.joint_counts(predicted + (~right).to(tally.INDEX) * n, place, 2 * n, CONFIDENCE_BINS)
        arrays["confidence_count"] = counted.reshape(2, n, CONFIDENCE_BINS).astype("u4")
        arrays["confidence_sum"] = tally.joint_sums(predicted, place, value, n, CONFIDENCE_BINS)
    if maps.brier is not None:
        value = maps.brier.flatten()[known].double()
        place = (value * (BRIER_BINS / 2)).to(tally.INDEX).clamp_(0, BRIER_BINS - 1)
        arrays["brier_count"] = tally.joint_counts(predicted, place, n, BRIER_BINS).astype("u4")
        arrays["brier_bin_sum"] = tally.joint_sums(predicted, place, value, n, BRIER_BINS)
    if maps.nll is not None:
        value = maps.nll.flatten()[known].double()
        arrays["nll_sum"] = tally.joint_sums(truth, torch.zeros_like(truth), value, n, 1)[:, 0]
    return arrays


def _quantiles(cells: _Cells) -> np.ndarray:
    """Quantiles over all pixels, interpolated inside a cell between its smallest and largest number."""
    counts = cells.counts.sum(0)
    cumulated = np.cumsum(counts)
    low = cell_scores(cells.number, cells.shift).astype("f8")
    high = cell_scores(((cells.number + 1) << cells.shift) - 1, 0).astype("f8")
    positions = np.array(QUANTILES) * (cumulated[-1] - 1)
    lower, upper = np.floor(positions), np.ceil(positions)
    ranks = np.stack([lower, upper])
    at = np.searchsorted(cumulated, ranks, side="right")
    within = (ranks - cumulated[at] + counts[at]) / np.maximum(counts[at] - 1, 1)
    below, above = low[at] + (high[at] - low[at]) * within
    return below + (above - below) * (positions - lower)
