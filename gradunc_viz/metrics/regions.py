"""Failures as objects: connected regions of frames where a score is wrong at a threshold, ranked.

The one definition, for the explorer, the figures and Python. A pixel *is found* if its oriented score reaches the
threshold (`gradunc_viz.metrics.operating_point.reaches`), and is *to be found* if it is a positive of the task: wrongly
predicted, or of an unknown object. Pixels without a label belong to no failure. The kinds:

=====================  ==============================================================================================
confident_mistakes     pixels to be found that are not found
missed_objects         all pixels to be found, but regions of which `FOUND` or more is found are no failures
false_alarms           all pixels found, but regions of which `FOUND` or more is to be found are no failures
needless_doubt         pixels found that are not to be found
=====================  ==============================================================================================

Regions are 8-connected and not split by class: a failure has its most frequent classes. The worst is the one with the
largest sum, over its pixels, of the distance between score and threshold (pixels of a missed object that are found
count nothing): large regions, and such where the score is far off, come first. A frame may have any number of failures,
and a region any size, unless options say otherwise.

Frames are read one after another and only the worst regions are kept, so that memory does not grow with the set.
Everything here raises `GraduncError` with a text to show; a damaged frame is named in `Progress.problems` and passed
over by `search_failures`, and is an error in `find_failures`.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import numpy as np
import xarray as xr
from scipy import ndimage

from ..schema.errors import CacheError, GraduncError
from ..schema.frame import ignored
from ..schema.tasks import find_task
from ..store.cache import Cache
from ..store.choice import Selection, default_task, opened
from ..store.frame import score as score_map
from .arrays.components import EIGHT
from .evaluation import evaluate
from .operating_point import reaches

__all__ = [
    "FAILURES",
    "FOUND",
    "Failure",
    "FailureKind",
    "FailureOptions",
    "FailureQuery",
    "Progress",
    "best_threshold",
    "find_failures",
    "frame_failures",
    "largest_region",
    "search_failures",
]

FOUND = 0.25
"""Share of an object from which it counts as found, or of an alarm from which it counts as right: the lowest overlap
that SegmentMeIfYouCan (arXiv:2104.14812) asks for."""

_COARSE = 600_000
_MASK = 256


@dataclass(frozen=True)
class FailureKind:
    """A way to fail: its title, and one sentence of help."""

    title: str
    meaning: str


FAILURES: Mapping[str, FailureKind] = {
    "confident_mistakes": FailureKind(
        "Confident mistakes",
        "Connected pixels that should score high (errors, or unknown objects) and stay below the threshold.",
    ),
    "missed_objects": FailureKind(
        "Missed objects",
        f"Whole segments of errors, or unknown objects, of which less than {FOUND:.0%} reaches the threshold.",
    ),
    "false_alarms": FailureKind(
        "False alarms",
        f"Regions at or above the threshold of which less than {FOUND:.0%} is an error, or an unknown object.",
    ),
    "needless_doubt": FailureKind(
        "Needless doubt",
        "Connected pixels that are right, or known, and reach the threshold all the same.",
    ),
}
"""Kinds of failures by name."""


@dataclass(frozen=True)
class FailureQuery:
    """Which failures are meant.

    Attributes
    ----------
    kind : str
        In `FAILURES`.
    score : str
    task : str
        In `gradunc_viz.schema.tasks.TASKS`: what the score is to find.
    threshold : float
        Of the oriented score.
    n : int
        How many are kept, the worst.
    min_pixels : int
        Smaller regions are no failures.
    per_frame : int, optional
        How many of one frame are kept, the worst; any number by default.
    """

    kind: str
    score: str
    task: str
    threshold: float
    n: int = 24
    min_pixels: int = 1
    per_frame: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in FAILURES:
            raise GraduncError(f"unknown kind of failure {self.kind!r}; expected one of {', '.join(FAILURES)}")
        find_task(self.task)
        if np.isnan(self.threshold):
            raise GraduncError(f"threshold of {self.score!r} is NaN; expected a number")
        for name, value in (("n", self.n), ("min_pixels", self.min_pixels), ("per_frame", self.per_frame)):
            if value is not None and value < 1:
                raise GraduncError(f"{name} is {value}; expected 1 or more")


class FailureLimits(TypedDict, total=False):
    """What may be said beside kind, score, task and threshold, see `FailureQuery`."""

    n: int
    min_pixels: int
    per_frame: int | None


class FailureOptions(FailureLimits, total=False):
    """The same, and `frames`: ids, all by default."""

    frames: Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Failure:
    """One region of a frame.

    Attributes
    ----------
    kind, frame, score : str
    threshold : float
    top, left, bottom, right : int
        Its box in pixels; bottom and right are exclusive.
    y, x : int
        The pixel whose score is farthest from the threshold.
    pixels : int
        Size of the region.
    margin : float
        Mean distance of the region's scores to the threshold, in units of the score.
    rank : float
        ``pixels * margin``: what lists are ordered by.
    mean : float
        Mean oriented score over the region.
    found : float
        Share of the region that reaches the threshold.
    predicted, labelled : str
        Most frequent class of the prediction and of the label; the latter is empty without class labels.
    mask : bool array
        The region within its box, every pixel of it standing for ``step`` by ``step`` pixels of the frame.
    step : int
    """

    kind: str
    frame: str
    score: str
    threshold: float
    top: int
    left: int
    bottom: int
    right: int
    y: int
    x: int
    pixels: int
    margin: float
    rank: float
    mean: float
    found: float
    predicted: str
    labelled: str
    mask: np.ndarray = field(repr=False)
    step: int = 1

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        return self.top, self.left, self.bottom, self.right

    @property
    def pixel_mask(self) -> np.ndarray:
        """The region within its box, every pixel of the frame; as coarse as `step` is."""
        return _repeat(self.mask, self.step)[: self.bottom - self.top, : self.right - self.left]

    @property
    def classes(self) -> str:
        """What it was taken for."""
        if self.labelled and self.labelled != self.predicted:
            return f"{self.labelled} taken for {self.predicted}"
        return f"predicted {self.predicted}"

    @property
    def text(self) -> str:
        """One line about it."""
        return f"{self.classes}, {self.pixels:,} px"


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes
    ----------
    done, total : int
        Frames.
    found : tuple of Failure
        The worst so far, worst first.
    problems : dict of frame id -> str
        Frames that could not be read, and why.
    """

    done: int
    total: int
    found: tuple[Failure, ...]
    problems: dict[str, str]


def search_failures(cache: Cache, query: FailureQuery, frames: Sequence[str] | None = None) -> Iterator[Progress]:
    """Look through frames one by one, for an app that fills its list while the search goes on.

    Parameters
    ----------
    cache : Cache
    query : FailureQuery
    frames : optional
        Ids; all frames with labels of the task by default.

    Yields
    ------
    Progress
        After every frame.

    Raises
    ------
    GraduncError
        For an unknown score or frame, or without labels of the task.
    """
    selection = Selection.of(cache, query.task, scores=query.score, frames=frames).require_frames()
    labelled = set(selection.labelled)
    if not labelled:
        which = "no frame" if frames is None else "none of the chosen frames"
        raise GraduncError(f"{cache.name}: {which} has {selection.task.needs}, which failures are found with")
    chosen = [frame for frame in cache.ids if frame in labelled]
    worst: list[tuple[float, int, Failure]] = []
    problems: dict[str, str] = {}
    counter = 0
    for done, name in enumerate(chosen, 1):
        try:
            found = frame_failures(cache[name], query)
        except (GraduncError, OSError, ValueError, KeyError, RuntimeError) as error:
            problems[name], found = str(error), []
        for failure in found:
            counter += 1
            # of equal ones the first stays
            heapq.heappush(worst, (failure.rank, -counter, failure))
            if len(worst) > query.n:
                heapq.heappop(worst)
        ranked = sorted(worst, key=lambda item: (-item[0], -item[1]))
        yield Progress(done, len(chosen), tuple(failure for *_, failure in ranked), dict(problems))


def find_failures(
    cache: Cache | str | os.PathLike[str],
    kind: str = "confident_mistakes",
    score: str = "entropy",
    task: str | None = None,
    threshold: float | None = None,
    **options: Unpack[FailureOptions],
) -> tuple[Failure, ...]:
    """The worst failures of a kind: what the explorer lists and `gradunc_viz.figures.gallery` draws.

    What counts as one, and what as worse, is said in `gradunc_viz.metrics.regions`.

    Parameters
    ----------
    cache : Cache or path
    kind : "confident_mistakes", "missed_objects", "false_alarms" or "needless_doubt"
    score : str
    task : "error" or "anomaly"
        What the score is to find. By default ``anomaly`` where there are anomaly labels.
    threshold : float, optional
        Of the oriented score; by default the one of the best F1 over all pixels.
    n : int
        How many at most, 24 by default.
    min_pixels : int
        Smallest region that is a failure, 1 by default.
    per_frame : int, optional
        At most so many of one frame.
    frames : optional
        Ids; all frames with labels of the task by default.

    Returns
    -------
    tuple of Failure
        Worst first.

    Raises
    ------
    GraduncError
        For an unknown kind, score, task or frame, a threshold that is NaN, a cache without labels of the task, or a
        frame that cannot be read.
    """
    one = opened(cache)
    task = task or default_task({"": one})
    frames, limits = _apart(**options)
    if threshold is None:
        threshold = best_threshold(one, score, task, frames)
    query = FailureQuery(kind, score, task, threshold, **limits)
    last = None
    for last in search_failures(one, query, frames):
        for name, problem in last.problems.items():
            raise CacheError(f"frame {name!r} cannot be read: {problem}")
    return last.found if last is not None else ()


def _apart(
    *, frames: Sequence[str] | None = None, **limits: Unpack[FailureLimits]
) -> tuple[Sequence[str] | None, FailureLimits]:
    return frames, limits


def best_threshold(cache: Cache, score: str, task: str, frames: Sequence[str] | None = None) -> float:
    """Threshold of the best F1 over all pixels, in the units of the oriented score.

    Raises
    ------
    GraduncError
        For an unknown score, task or frame, or without labels of the task.
    """
    result = evaluate(cache, task, scores=score, frames=frames, bootstrap=0)
    return float(result["threshold"].sel(pooling="pixels").item())


# --------------------------------------------------------------------------------------------------------------------
# one frame


def frame_failures(dataset: xr.Dataset, query: FailureQuery) -> list[Failure]:
    """The worst failures of one frame, at most ``query.n`` of them, or ``query.per_frame`` if that is less.

    In large frames regions are found on blocks of pixels, any of which makes its block part of a region: none is lost,
    however small, and regions closer than a block become one. Sizes and means are of pixels.

    Raises
    ------
    GraduncError
        Without labels of the task, or if the frame cannot be read.
    """
    kind, task = query.kind, find_task(query.task)
    values = score_map(dataset, query.score).values
    prediction = dataset["prediction"].values
    label = dataset["label"].values if "label" in dataset else None
    truth = task.truth(dataset)
    if truth is None:
        raise GraduncError(f"frame {dataset.attrs['frame_id']!r} has no {task.needs}, which failures are found with")
    positive, evaluated = truth
    above = reaches(values, query.threshold)
    region = {
        "confident_mistakes": positive & ~above,
        "missed_objects": positive,
        "false_alarms": above & evaluated,
        "needless_doubt": above & evaluated & ~positive,
    }[kind]
    # share of a region that, if large, makes it no failure
    excuse = {"missed_objects": above & positive, "false_alarms": positive & above}.get(kind)
    block = _block(values.shape)
    blocks, count = ndimage.label(_any(region, block), EIGHT)
    if not count:
        return []
    margins = np.abs(values - values.dtype.type(query.threshold))
    if kind == "missed_objects":
        margins = np.where(above, 0, margins)
    size = _per_region(blocks, region, count, block)
    weight = _per_region(blocks, np.where(region, margins, 0), count, block)
    rank = weight.copy()
    if excuse is not None:
        rank[_per_region(blocks, excuse, count, block) >= FOUND * size] = -1
    rank[size < query.min_pixels] = -1
    rank[0] = -1
    order = np.argsort(-rank, kind="stable")[: min(query.n, query.per_frame or query.n)]
    order = order[rank[order] >= 0]
    # boxes of the few that are kept: a noisy map has ten thousands
    kept = np.zeros(count + 1, "i4")
    kept[order] = np.arange(1, len(order) + 1)
    blocks = kept[blocks]
    result = []
    for place, (number, (rows, columns)) in enumerate(zip(order, ndimage.find_objects(blocks), strict=True), 1):
        inside = region[rows.start * block : rows.stop * block, columns.start * block : columns.stop * block]
        own = _repeat(blocks[rows, columns] == place, block)[: inside.shape[0], : inside.shape[1]] & inside
        ys, xs = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        own = own[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        top, left = rows.start * block + int(ys[0]), columns.start * block + int(xs[0])
        window = np.s_[top : top + own.shape[0], left : left + own.shape[1]]
        at = int(np.where(own, margins[window], -1).argmax())
        step = -(-max(own.shape) // _MASK)
        result.append(
            Failure(
                kind=kind,
                frame=str(dataset.attrs["frame_id"]),
                score=query.score,
                threshold=float(query.threshold),
                top=top,
                left=left,
                bottom=top + own.shape[0],
                right=left + own.shape[1],
                y=top + at // own.shape[1],
                x=left + at % own.shape[1],
                pixels=int(size[number]),
                margin=float(weight[number] / size[number]),
                rank=float(rank[number]),
                mean=float(values[window][own].mean(dtype="f8")),
                found=float(above[window][own].mean()),
                predicted=_usual(dataset, prediction[window][own]),
                labelled="" if label is None else _usual(dataset, label[window][own]),
                mask=_any(own, step),
                step=step,
            )
        )
    return result


def _block(shape: tuple[int, ...]) -> int:
    block = 1
    while -(-shape[0] // block) * -(-shape[1] // block) > _COARSE:
        block += 1
    return block


def _parts(values: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Yield the pixels at each place within the blocks of a map, as maps of blocks; zero beyond the edges."""
    if any(size % block for size in values.shape):
        values = np.pad(values, [(0, -size % block) for size in values.shape])
    for row in range(block):
        for column in range(block):
            yield values[row::block, column::block]


def _any(mask: np.ndarray, block: int) -> np.ndarray:
    """Whether any pixel of each block is set; blocks at the edge may be partial."""
    if block == 1:
        return mask
    first, *rest = _parts(mask, block)
    found = first.copy()
    for part in rest:
        found |= part
    return found


def _repeat(mask: np.ndarray, block: int) -> np.ndarray:
    return mask if block == 1 else mask.repeat(block, 0).repeat(block, 1)


def _per_region(blocks: np.ndarray, values: np.ndarray, count: int, block: int) -> np.ndarray:
    """Sum of `values` (y, x), zero outside of regions, per region."""
    if block > 1:
        first, *rest = _parts(values, block)
        values = first.astype(np.result_type(first, "f4"))
        for part in rest:
            values += part
    return np.bincount(blocks.ravel(), values.ravel(), count + 1)


def _usual(dataset: xr.Dataset, ids: np.ndarray) -> str:
    """Name of the most frequent class; empty if all pixels are ignored."""
    known = ids[~ignored(ids)]
    return str(dataset["class"].values[np.bincount(known).argmax()]) if len(known) else ""


def largest_region(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Box, (top, left, bottom, right), of the largest 8-connected region of a mask; None if it is empty."""
    ids, count = ndimage.label(mask, EIGHT)
    if not count:
        return None
    sizes = np.bincount(ids.ravel())
    sizes[0] = 0
    y, x = ndimage.find_objects((ids == sizes.argmax()).astype("u1"))[0]
    return y.start, x.start, y.stop, x.stop
