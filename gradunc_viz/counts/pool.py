"""One pass over the frames of a cache that adds up what evaluation needs, at fixed memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from ..schema.errors import CacheError, GraduncError
from ..schema.tasks import Task
from ..store.choice import Selection
from ..store.progress import followed
from .cell_sums import CELL_VARIABLES, CellCounts, CellSum, frame_cells
from .histogram import BIN_VARIABLES, Histogram, HistogramSum, coarsen, frame_histograms

__all__ = ["Bootstrap", "Pooled", "frame_counts", "frame_draws", "pool"]

_TABLES = ("confusion", "confidence_count", "confidence_sum", "brier_count", "brier_bin_sum", "nll_sum")

# an interval needs no 1e-4: few bins make resampling cheap
_BOOTSTRAP_COARSER = 3
_BOOTSTRAP_BINS = 64  # of which there are to be so many still
_BOOTSTRAP_CELLS = 1024


@dataclass(frozen=True)
class Bootstrap:
    """Samples of frames, drawn with replacement, and the seed of the draws.

    Raises
    ------
    GraduncError
        If either is no whole number of 0 or more.
    """

    samples: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("bootstrap", self.samples), ("seed", self.seed)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
                raise GraduncError(f"{name} is {value!r}; expected a whole number of 0 or more")


_NONE = Bootstrap()


@dataclass
class Pooled:
    """Counts of a set of frames.

    Attributes
    ----------
    histograms : dict of score -> Histogram
        ``counts`` has axes (positive or negative, bins), or (positive or negative, class, bins) if pooled by class;
        ``brier_sum`` likewise without the first. Over all classes, and without Brier scores, every cell of float32
        numbers is a bin; otherwise bins are those of the lattices, which are wider.
    replicates : dict of score -> Histogram
        The same for bootstrap samples of frames, (replicate, positive or negative, bins).
    coarse : dict of score -> Histogram
        All frames in the bins of `replicates`: what metrics of these differ from is not the exact one.
    tables : dict of name -> array
        Sums of the cached tables that belong to no score.
    frames : list of str
        Frames that have labels of the task.
    unlabelled : list of str
        Frames that have none.
    positives, negatives : list of int
        Pixels of each labelled frame.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    replicates: dict[str, Histogram] = field(default_factory=dict)
    coarse: dict[str, Histogram] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    frames: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    positives: list[int] = field(default_factory=list)
    negatives: list[int] = field(default_factory=list)

    def need(self, selection: Selection, table: str, what: str) -> None:
        """Raise unless there are labels, and the table of class probabilities that `what` needs.

        Raises
        ------
        GraduncError
            Naming the cache and what it lacks.
        """
        if not self.frames:
            raise selection.without_labels(what)
        if table not in self.tables:
            raise GraduncError(
                f"{selection.cache.path}: holds imported maps without class probabilities, which {what} needs"
            )


def frame_counts(
    dataset: xr.Dataset,
    task: Task,
    scores: Sequence[str],
    *,
    by: str | None = None,
    classes: Sequence[int] | None = None,
    brier: bool = False,
) -> dict[str, Histogram] | None:
    """Counts of one frame for a task, with the axes that `Pooled.histograms` has; None without labels of the task."""
    pair = _pair(dataset, task, by)
    if pair is None:
        return None
    outcomes = [str(name) for name in dataset["outcome"].values]
    rows = [outcomes.index(name) for name in pair]
    histograms = frame_histograms(dataset, scores, ("counts", "brier_sum") if brier else ("counts",))
    for histogram in histograms.values():
        weights = {**histogram.weights, "counts": histogram.weights["counts"][rows]}
        if classes is not None:
            weights = {k: v[..., list(classes), :] for k, v in weights.items()}
        if by is None:
            weights = {k: v.sum(-2, dtype="i8" if v.dtype.kind in "ui" else "f8") for k, v in weights.items()}
        histogram.weights = weights
    return histograms


def _pair(dataset: xr.Dataset, task: Task, by: str | None = None) -> tuple[str, str] | None:
    """Outcomes of positives and negatives; None without labels of the task."""
    outcomes = [str(name) for name in dataset["outcome"].values] if "outcome" in dataset.coords else []
    pair = (task.missed, task.negative) if by == "label" else task.outcomes
    return pair if pair[0] in outcomes else None


class _BinSums:
    """Sums of one score's counts in bins of its lattice."""

    def __init__(self) -> None:
        self.whole, self.samples = HistogramSum(), HistogramSum()

    def add(self, counts: Histogram, drawn: np.ndarray | None) -> None:
        self.whole.add(counts)
        if drawn is None:
            return
        only = replace(counts, weights={"counts": counts.weights["counts"]})
        many = counts.weights["counts"].shape[-1] >> _BOOTSTRAP_COARSER >= _BOOTSTRAP_BINS
        small = coarsen(only, only.level + _BOOTSTRAP_COARSER * many)
        values = small.weights["counts"]
        small.weights["counts"] = drawn.reshape(-1, *[1] * values.ndim) * values[None]
        self.samples.add(small)


class _CellSums:
    """Sums of one score's counts in cells of float32 numbers."""

    def __init__(self) -> None:
        self.whole, self.samples = CellSum(), CellSum(_BOOTSTRAP_CELLS, waiting=1)

    def add(self, counts: CellCounts, drawn: np.ndarray | None) -> None:
        self.whole.add(counts)
        if drawn is not None:
            small = counts.at_most(_BOOTSTRAP_CELLS)
            self.samples.add(replace(small, counts=drawn.reshape(-1, *[1] * small.counts.ndim) * small.counts[None]))


def _as_histogram(counts: Histogram | CellCounts) -> Histogram:
    return counts.histogram() if isinstance(counts, CellCounts) else counts


def frame_draws(frames: Sequence[str], bootstrap: Bootstrap) -> dict[str, np.ndarray]:
    """How often each bootstrap sample of some frames has drawn each of them, (samples,) by frame."""
    if not frames:
        return {}
    random = np.random.default_rng(bootstrap.seed)
    drawn = random.multinomial(len(frames), np.full(len(frames), 1 / len(frames)), bootstrap.samples)
    return dict(zip(frames, drawn.T, strict=True))


def pool(
    selection: Selection,
    *,
    by: str | None = None,
    also: Sequence[Literal["brier", "tables"]] = (),
    bootstrap: Bootstrap = _NONE,
    each: Callable[[str, Mapping[str, Histogram]], None] | None = None,
    damaged: Callable[[str, CacheError], None] | None = None,
) -> Pooled:
    """Add up the counts of frames.

    Parameters
    ----------
    selection : Selection
        Cache, task, scores, frames and classes.
    by : None, "class" or "label"
        Keep classes apart: those of the prediction, or (for ``error``) those of the label.
    also : sequence of "brier", "tables"
        Sums of Brier scores, and tables for calibration, that are added up too.
    bootstrap : Bootstrap
        Bootstrap samples of frames that are added up beside.
    each : callable, optional
        Called with the id and the counts of every labelled frame, for what is wanted per frame as well.
    damaged : callable, optional
        Called with the id of every frame that cannot be read, and why; such frames are left out then.

    Raises
    ------
    GraduncError
        For classes of labels of a task that has none.
    CacheError
        Without `damaged`, if a frame cannot be read.
    """
    cache, task, scores = selection.cache, selection.task, selection.scores
    if by == "label" and not task.missed:
        raise GraduncError(f"task {task.name!r} has no classes of labels; expected by='class' or task='error'")
    brier, tables = "brier" in also, "tables" in also
    imported = cache.key.get("settings", {}).get("edges") is not None  # such a cache counts in quantiles alone
    in_cells = by is None and selection.classes is None and not brier and not imported
    sums: dict[str, Any] = {name: _CellSums() if in_cells else _BinSums() for name in scores}
    draws = frame_draws(selection.labelled, bootstrap) if bootstrap.samples else {}
    draws = {frame: np.concatenate([[1], times]) for frame, times in draws.items()}  # each frame once, then samples
    result = Pooled()
    own = CELL_VARIABLES if in_cells else (*BIN_VARIABLES, "counts", *(("brier_sum",) if brier else ()))
    wanted = ("outcome", *own, *(_TABLES if tables else ()))
    for frame in followed(selection.frames):
        try:
            dataset = cache.read(frame, wanted, scores)
        except CacheError as error:
            if damaged is None:
                raise
            damaged(frame, error)
            continue
        pair = _pair(dataset, task, by)
        if pair is None:
            result.unlabelled.append(frame)
            continue
        counted: Mapping[str, Histogram | CellCounts]
        if in_cells:
            counted = frame_cells(dataset, scores, pair)
        else:
            counted = frame_counts(dataset, task, scores, by=by, classes=selection.classes, brier=brier) or {}
        result.frames.append(frame)
        if tables:
            for name in _TABLES:
                if name in dataset:
                    value = np.asarray(dataset[name].values, "f8" if dataset[name].dtype.kind == "f" else "i8")
                    result.tables[name] = result.tables.get(name, 0) + value
        for name, counts in counted.items():
            sums[name].add(counts, draws[frame] if bootstrap.samples else None)
        if counted:
            first = next(iter(counted.values()))
            array = first.counts if isinstance(first, CellCounts) else first.weights["counts"]
            positives, negatives = array.reshape(2, -1).sum(1, dtype="i8")
            result.positives.append(int(positives))
            result.negatives.append(int(negatives))
        if each is not None:
            each(frame, {name: _as_histogram(counts) for name, counts in counted.items()})
    result.histograms = {name: _as_histogram(s.whole.total) for name, s in sums.items() if s.whole.total is not None}
    if bootstrap.samples:
        samples = {name: s.samples.total for name, s in sums.items()}
        for name, total in samples.items():
            if total is not None:
                drawn = _as_histogram(total)
                weights = drawn.weights["counts"]
                result.coarse[name] = replace(drawn, weights={"counts": weights[0]})
                result.replicates[name] = replace(drawn, weights={"counts": weights[1:]})
    return result
