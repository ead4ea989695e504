"""What a run did, and what its cache holds that the user should know of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from ..schema.tasks import TASKS, Task
from .stages import Stages

__all__ = ["Report", "cautions", "contents", "frames_with"]

_MOSTLY_WRONG = 0.8
"""Share of wrong pixels from which on labels and network are taken to mean different things."""


@dataclass
class Report:
    """What a run of `compute` did.

    Attributes
    ----------
    computed, existing : list of str
        Ids of the frames computed now, and of those found in the cache.
    skipped : list of (str, str)
        Id and error of each frame left out under ``on_error="skip"``.
    remarks : list of str
        What else there is to know of it, one line each.
    seconds : float
        Time for the frames computed now.
    device : str
    stages : Stages
        Seconds per stage of the run, see `gradunc_viz.run.stages.STAGES`.
    """

    computed: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    device: str = ""
    stages: Stages = field(default_factory=Stages)


def contents(summary: xr.Dataset) -> str:
    """How many frames a cache has, and how many with labels: ``60 frames: 0 with labels, 0 with anomalies``."""
    given = zip(TASKS.values(), ("with labels", "with anomalies"), strict=True)
    return f"{summary.sizes['frame']} frames: {', '.join(frames_with(summary, task, what) for task, what in given)}"


def frames_with(summary: xr.Dataset, task: Task, what: str = "frames") -> str:
    """How many frames of a cache have the labels of a task, and how many of these have no pixel that counts."""
    given = np.asarray(summary[task.flag].values, bool)
    empty = int((given & (task.counted(summary) == 0)).sum())
    return f"{int(given.sum())} {what}" + (f" ({empty} of them ignored throughout)" if empty else "")


def cautions(summary: xr.Dataset) -> list[str]:
    """What in the labels of a cache looks as if they meant something else, each as a line."""
    return [*_of_labels(summary), *_of_anomalies(summary)]


def _of_labels(summary: xr.Dataset) -> Iterator[str]:
    error = TASKS["error"]
    confusion = summary["confusion"].values.sum(0)
    labelled, given = int(confusion.sum()), summary[error.flag].values.astype(bool)
    if not labelled:
        if given.any():
            yield error.lack(summary)
        return
    wrong = 1 - float(np.trace(confusion)) / labelled
    if wrong > _MOSTLY_WRONG:
        better = {step: float(np.trace(confusion, -step)) / labelled for step in (1, -1)}
        step = max(better, key=lambda step: better[step])
        hint = f" With ids {'less' if step > 0 else 'plus'} 1 {better[step]:.0%} would be right."
        yield (
            f"{wrong:.1%} of the labelled pixels are predicted wrong: do masks and network number their classes alike?"
            + (hint if better[step] > 0.5 else "")
        )
    by_class = confusion.sum(1)
    if by_class[0] == labelled and len(by_class) > 1 and labelled < _pixels(summary, given):
        yield (
            f"all labelled pixels are of class 0, {str(summary['class'].values[0])!r}, and the others are ignored: "
            "where 255 in the masks is a class, map it with labels={0: 0, 255: 1}"
        )


def _of_anomalies(summary: xr.Dataset) -> Iterator[str]:
    task = TASKS["anomaly"]
    given = summary[task.flag].values.astype(bool)
    known, found = int(summary["known_count"].sum()), int(summary["anomaly_count"].sum())
    if given.any() and not found and known < _pixels(summary, given):
        lack = task.lack(summary) or "no pixel of the anomaly masks is an unknown object, and some are ignored"
        yield f"{lack}; where 255 in the masks is an unknown object, map it with anomalies={{0: 0, 255: 1}}"


def _pixels(summary: xr.Dataset, frames: np.ndarray) -> int:
    """Pixels of some frames."""
    size = summary["height"].values.astype("i8") * summary["width"].values
    return int(size[frames].sum())
