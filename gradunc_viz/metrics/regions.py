"""Failures as objects: connected regions of frames where a score is wrong at a threshold, ranked, with crops.

Frames are read one after another and only the worst regions are kept, so that memory does not grow with the set.
Everything here raises `GraduncError` with a text to show; a damaged frame is named in `Progress.problems` and passed
over by `search_failures`, and is an error in `find_failures`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from scipy import ndimage

from ..schema.errors import CacheError, GraduncError
from ..schema.frame import IGNORE
from ..schema.tasks import NEEDS
from ..store.cache import Cache
from ..store.choice import choose_scores, frame_key
from ..store.frame import score
from .arrays.components import EIGHT

__all__ = ["FAILURES", "FOUND", "Failure", "FailureKind", "Progress", "find_failures", "search_failures"]

FOUND = 0.25
"""Share of an object from which it counts as found, or of an alarm from which it counts as right: the lowest overlap
that SegmentMeIfYouCan (arXiv:2104.14812) asks for."""

_COARSE = 600_000
_MASK = 256


@dataclass(frozen=True)
class FailureKind:
    """A way to fail: its title, one sentence of help, and the colour of its outline (RGB)."""

    title: str
    meaning: str
    color: tuple[int, int, int]


FAILURES: Mapping[str, FailureKind] = {
    "confident_mistakes": FailureKind(
        "Confident mistakes",
        "Connected pixels that should score high (errors, or unknown objects) and stay below the threshold.",
        (220, 38, 127),
    ),
    "missed_objects": FailureKind(
        "Missed objects",
        f"Whole segments of errors, or unknown objects, of which less than {FOUND:.0%} reaches the threshold.",
        (254, 97, 0),
    ),
    "false_alarms": FailureKind(
        "False alarms",
        f"Regions at or above the threshold of which less than {FOUND:.0%} is an error, or an unknown object.",
        (255, 176, 0),
    ),
    "needless_doubt": FailureKind(
        "Needless doubt",
        "Connected pixels that are right, or known, and reach the threshold all the same.",
        (100, 143, 255),
    ),
}
"""Kinds of failures by name."""


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
    predicted: str
    labelled: str
    mask: np.ndarray = field(repr=False)
    step: int = 1

    @property
    def text(self) -> str:
        """One line about it."""
        size = f"{self.pixels:,} px"
        if self.labelled and self.labelled != self.predicted:
            return f"{self.labelled} taken for {self.predicted}, {size}"
        return f"predicted {self.predicted}, {size}"


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


def search_failures(
    cache: Cache,
    kind: str,
    score_name: str,
    task: str,
    threshold: float,
    n: int = 24,
    frames: Sequence[str] | None = None,
) -> Iterator[Progress]:
    """Look through frames one by one, for an app that fills its list while the search goes on.

    Parameters
    ----------
    kind : str
        In `FAILURES`.
    task : "error" or "anomaly"
        What the score should find: wrong pixels, or unknown objects. Ignored pixels belong to no failure.
    threshold : float
        Of the oriented score; pixels with ``score >= threshold`` are found.
    n : int
        How many to keep.
    frames : optional
        Ids; all frames with labels of the task by default.

    Yields
    ------
    Progress
        After every frame.

    Raises
    ------
    GraduncError
        For an unknown kind, score, task or frame, a threshold that is NaN, or without labels of the task.
    """
    chosen = _checked(cache, kind, score_name, task, threshold, frames)
    worst: list[tuple[float, int, Failure]] = []
    problems: dict[str, str] = {}
    counter = 0
    for done, name in enumerate(chosen, 1):
        try:
            found = frame_failures(cache[name], kind, score_name, task, threshold, n)
        except (GraduncError, OSError, ValueError, KeyError, RuntimeError) as error:
            problems[name], found = str(error), []
        for failure in found:
            counter += 1
            # of equal ones the first stays
            heapq.heappush(worst, (failure.rank, -counter, failure))
            if len(worst) > n:
                heapq.heappop(worst)
        ranked = sorted(worst, key=lambda item: (-item[0], -item[1]))
        yield Progress(done, len(chosen), tuple(failure for *_, failure in ranked), dict(problems))


def find_failures(
    cache: Cache,
    kind: str,
    score_name: str,
    task: str,
    threshold: float,
    n: int = 24,
    frames: Sequence[str] | None = None,
) -> tuple[Failure, ...]:
    """The n worst failures of a kind, worst first. Parameters as `search_failures`.

    Raises
    ------
    GraduncError
        As `search_failures`, and for a frame that cannot be read.
    """
    last = None
    for last in search_failures(cache, kind, score_name, task, threshold, n, frames):
        for name, problem in last.problems.items():
            raise CacheError(f"frame {name!r} cannot be read: {problem}")
    return last.found if last is not None else ()


def _checked(
    cache: Cache, kind: str, name: str, task: str, threshold: float, frames: Sequence[str] | None
) -> tuple[str, ...]:
    if kind not in FAILURES:
        raise GraduncError(f"unknown kind of failure {kind!r}; expected one of {', '.join(FAILURES)}")
    if task not in NEEDS:
        raise GraduncError(f"unknown task {task!r}; expected one of {', '.join(NEEDS)}")
    choose_scores(cache, [name])
    if np.isnan(threshold):
        raise GraduncError(f"threshold of {name!r} is NaN; expected a number")
    wanted = frame_key(cache, frames) or cache.ids
    labelled = cache.summary["has_label" if task == "error" else "has_anomaly"].sel(frame=list(wanted)).values
    chosen = tuple(frame for frame, found in zip(wanted, labelled, strict=True) if found)
    if not chosen:
        which = "no frame" if frames is None else "none of the chosen frames"
        raise GraduncError(f"{cache.name}: {which} has {NEEDS[task]}, which failures are found with")
    return chosen


# --------------------------------------------------------------------------------------------------------------------
# one frame


def frame_failures(
    dataset: xr.Dataset, kind: str, score_name: str, task: str, threshold: float, n: int
) -> list[Failure]:
    """Return the n worst failures of one frame.

    Regions are 8-connected. In large frames they are found on blocks of pixels, any of which makes its block part of a
    region: none is lost, however small, and regions closer than a block become one. Sizes and means are of pixels.
    """
    values = score(dataset, score_name).values
    prediction = dataset["prediction"].values
    label = dataset["label"].values if "label" in dataset else None
    truth = label if task == "error" else dataset["anomaly"].values
    assert truth is not None
    evaluated = truth != IGNORE
    positive = (prediction != truth) & evaluated if task == "error" else truth == 1
    above = values >= np.float32(threshold)
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
    margins = np.abs(values - np.float32(threshold))
    if kind == "missed_objects":
        margins = np.where(above, np.float32(0), margins)
    size = _per_region(blocks, region, count, block)
    weight = _per_region(blocks, np.where(region, margins, np.float32(0)), count, block)
    rank = weight.copy()
    if excuse is not None:
        rank[_per_region(blocks, excuse, count, block) >= FOUND * size] = -1
    rank[0] = -1
    order = np.argsort(-rank, kind="stable")[:n]
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
                score=score_name,
                threshold=float(threshold),
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
        values = first.astype("f4")
        for part in rest:
            values += part
    return np.bincount(blocks.ravel(), values.ravel(), count + 1)


def _usual(dataset: xr.Dataset, ids: np.ndarray) -> str:
    """Name of the most frequent class; empty if all pixels are ignored."""
    known = ids[ids != IGNORE]
    return str(dataset["class"].values[np.bincount(known).argmax()]) if len(known) else ""
