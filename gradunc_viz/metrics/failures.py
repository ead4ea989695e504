"""Where a network or a score fails, as regions of frames: confident mistakes, missed objects, false alarms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from scipy import ndimage

from ..schema.errors import GraduncError
from ..schema.frame import IGNORE
from ..store.cache import Cache
from ..store.choice import choose_frames, choose_scores, named_caches
from ..store.frame import score
from .arrays.components import EIGHT, TRACKS
from .evaluation import evaluate

__all__ = ["KINDS", "Failure", "find_failures", "largest_region"]

KINDS = {
    "mistakes": "confident mistakes: predicted wrong, and below the threshold",
    "missed": "missed objects: annotated as unknown, and hardly above the threshold",
    "alarms": "false alarms: above the threshold where nothing is wrong or unknown",
}
"""What can be looked for."""


@dataclass(frozen=True)
class Failure:
    """One region of a frame where something failed.

    Attributes
    ----------
    frame : str
        Id of the frame.
    box : (top, left, bottom, right)
        In pixels, ends excluded.
    pixels : int
        Size of the region.
    score : float
        Mean of the oriented score over the region.
    found : float
        Share of the region at or above the threshold.
    text : str
        What it is: the class of the label and the one predicted, what it was taken for, or what it lies in.
    mask : bool array
        Pixels of the region inside the box.
    """

    frame: str
    box: tuple[int, int, int, int]
    pixels: int
    score: float
    found: float
    text: str
    mask: np.ndarray = field(repr=False, compare=False)


def largest_region(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Box, (top, left, bottom, right), of the largest 8-connected region of a mask; None if it is empty."""
    ids, count = ndimage.label(mask, EIGHT)
    if not count:
        return None
    sizes = np.bincount(ids.ravel())
    sizes[0] = 0
    y, x = ndimage.find_objects((ids == sizes.argmax()).astype("u1"))[0]
    return y.start, x.start, y.stop, x.stop


def find_failures(
    cache: Cache | str | os.PathLike[str],
    kind: str = "mistakes",
    score_name: str = "entropy",
    *,
    threshold: float | None = None,
    frames: Sequence[str] | None = None,
    n: int = 12,
    min_pixels: int | None = None,
    track: str = "anomaly",
) -> tuple[list[Failure], float]:
    """Find the worst regions of one kind, one of each frame.

    Parameters
    ----------
    cache : Cache or path
    kind : str
        ``"mistakes"`` (needs class labels): regions of one wrong prediction that lie below the threshold, by size.
        ``"missed"`` (needs anomaly labels): annotated objects, by the share of their pixels that lies below the
        threshold. ``"alarms"``: regions above the threshold without any pixel that is unknown (or, without anomaly
        labels, wrong), by size.
    score_name : str
    threshold : float, optional
        Oriented score; by default the one of the best F1 over all pixels.
    frames : optional
        Ids of frames.
    n : int
        How many at most.
    min_pixels : int, optional
        Smallest region that counts: by default 0.05 % of the frame, for objects the limit of `track`.
    track : "anomaly" or "obstacle"

    Returns
    -------
    list of Failure, float
        Worst first, and the threshold.

    Raises
    ------
    GraduncError
        For an unknown kind, score, frame or track, or a cache without the labels that are needed.
    """
    opened = next(iter(named_caches(cache).values()))
    if kind not in KINDS:
        raise GraduncError(f"unknown kind of failure {kind!r}; expected one of {', '.join(KINDS)}")
    if track not in TRACKS:
        raise GraduncError(f"unknown track {track!r}, expected one of {', '.join(TRACKS)}")
    choose_scores(opened, score_name)
    some_anomaly = bool(opened.summary["has_anomaly"].any())
    task = "error" if kind == "mistakes" or (kind == "alarms" and not some_anomaly) else "anomaly"
    chosen = choose_frames(opened, frames)
    if threshold is None:
        result = evaluate(opened, task, scores=score_name, frames=frames, bootstrap=0)
        threshold = float(result["threshold"].sel(pooling="pixels").item())
    found: list[tuple[float, Failure]] = []
    for frame in chosen:
        dataset = opened[frame]
        truth = _truth(dataset, task)
        if truth is None:
            continue
        smallest = min_pixels
        if smallest is None:
            smallest = TRACKS[track].min_truth if kind == "missed" else max(10, round(5e-4 * truth.size))
        values = score(dataset, score_name).values
        own = _regions(opened, dataset, kind, truth, values, np.float32(threshold), smallest)
        found += sorted(own, key=lambda item: -item[0])[:1]
    found.sort(key=lambda item: (-item[0], item[1].frame, item[1].box))
    return [failure for _, failure in found[:n]], threshold


def _truth(dataset: xr.Dataset, task: str) -> np.ndarray | None:
    """1 where a score should be high, 0 where low, 255 where nothing counts."""
    if task == "anomaly":
        return dataset["anomaly"].values if "anomaly" in dataset else None
    if "label" not in dataset:
        return None
    label = dataset["label"].values
    return np.where(label == IGNORE, IGNORE, label != dataset["prediction"].values).astype("u1")


def _regions(
    cache: Cache,
    dataset: xr.Dataset,
    kind: str,
    truth: np.ndarray,
    values: np.ndarray,
    threshold: np.float32,
    smallest: int,
) -> list[tuple[float, Failure]]:
    """Regions of one frame with their badness."""
    above = values >= threshold
    prediction = dataset["prediction"].values
    label = dataset["label"].values if "label" in dataset else None
    if kind == "mistakes":
        assert label is not None
        wrong = (truth == 1) & ~above
        # one prediction against one label: neighbouring mistakes of another kind are another region
        code = np.where(wrong, prediction.astype("i4") * 256 + label + 1, 0)
        ids, count = _by_code(code, smallest)
    elif kind == "missed":
        ids, count = ndimage.label(truth == 1, EIGHT)
    else:
        ids, count = ndimage.label(above & (truth != IGNORE), EIGHT)
    sizes = np.bincount(ids.ravel(), minlength=count + 1)
    hits = np.bincount(ids.ravel(), above.ravel(), count + 1)
    positives = np.bincount(ids.ravel(), (truth == 1).ravel(), count + 1)
    sums = np.bincount(ids.ravel(), values.ravel(), count + 1)
    regions = []
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        size = int(sizes[number])
        if box is None or size < smallest or (kind == "alarms" and positives[number]):
            continue
        share = float(hits[number] / size)
        if kind == "missed" and share > 0.5:
            continue
        inside = ids[box] == number
        predicted = cache.classes[_mode(prediction[box][inside])]
        text = {"missed": "taken for", "alarms": "in"}.get(kind, "") + f" {predicted}"
        if kind == "mistakes" and label is not None:
            text = f"{cache.classes[_mode(label[box][inside])]} as {predicted}"
        badness = size * (1 - share) if kind == "missed" else float(size)
        y, x = box
        failure = Failure(
            frame=str(dataset.attrs["frame_id"]),
            box=(y.start, x.start, y.stop, x.stop),
            pixels=size,
            score=float(sums[number] / size),
            found=share,
            text=text.strip(),
            mask=inside,
        )
        regions.append((badness, failure))
    return regions


def _mode(values: np.ndarray) -> int:
    return int(np.bincount(values).argmax())


def _by_code(code: np.ndarray, smallest: int) -> tuple[np.ndarray, int]:
    """Number the 8-connected regions of equal code > 0; codes of too few pixels are left out."""
    ids, count = np.zeros(code.shape, "i4"), 0
    codes, pixels = np.unique(code, return_counts=True)
    for one in codes[(codes > 0) & (pixels >= smallest)]:
        own, n = ndimage.label(code == one, EIGHT)
        ids[own > 0] = own[own > 0] + count
        count += n
    return ids, count
