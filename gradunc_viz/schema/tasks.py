"""The tasks of a score: what it is to find, which pixels count, and in which words. Everything else asks here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import GraduncError
from .frame import ignored

__all__ = ["TASKS", "Task", "find_task"]


@dataclass(frozen=True)
class Task:
    """What a score is to find.

    Attributes
    ----------
    name : str
    mask : str
        Variable of a frame that tells which pixels count, those that are not ignored.
    positive, negative : str
        Outcomes (`gradunc_viz.schema.frame.OUTCOMES`) of the pixels to be found, and of the others.
    missed : str
        Outcome of the positives by the class of their label; empty where labels have no classes.
    flag, rate : str
        Columns of a cache's summary: whether a frame has the labels, and its share of positives.
    pixels : tuple of str
        Columns that add up to the pixels of a frame that count.
    needs : str
        The labels, in words.
    choice : str
        The positives as one of several things to choose: "errors".
    positives : str
        The positives in a title: "wrong predictions".
    one : str
        One of them: "wrong prediction".
    pixel : str
        One pixel of them: "wrong pixel".
    share : str
        Their share of all that counts: "error rate".
    """

    name: str
    mask: str
    positive: str
    negative: str
    missed: str
    flag: str
    rate: str
    pixels: tuple[str, ...]
    needs: str
    choice: str
    positives: str
    one: str
    pixel: str
    share: str

    @property
    def outcomes(self) -> tuple[str, str]:
        """Positive, negative: the order of every axis of counts."""
        return self.positive, self.negative

    def counted(self, summary: Mapping[Any, Any]) -> np.ndarray:
        """How many pixels of every frame of a cache's summary count, (frame,)."""
        return np.sum([np.asarray(summary[name]) for name in self.pixels], axis=0)

    def lack(self, summary: Mapping[Any, Any]) -> str:
        """What no frame of a summary has that the task needs, in words; empty where pixels count."""
        if self.counted(summary).any():
            return ""
        frames = int(np.asarray(summary[self.flag]).sum())
        ignored = f"all pixels in the {self.needs} of {frames} frames are ignored: " if frames else ""
        return f"{ignored}no frame has {self.needs}{' that count' if frames else ''}"

    def truth(self, frame: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray] | None:
        """Pixels to be found, and pixels that count, (y, x) bool each; None where the frame has not the labels.

        Parameters
        ----------
        frame : mapping from "prediction", "label", "anomaly" to arrays, such as a frame's dataset
        """
        if self.mask not in frame:
            return None
        mask = np.asarray(frame[self.mask])
        counted = ~ignored(mask)
        found = mask != np.asarray(frame["prediction"]) if self.name == "error" else mask == 1
        return found & counted, counted


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="error",
            mask="label",
            positive="wrong",
            negative="right",
            missed="missed",
            flag="has_label",
            rate="error_rate",
            pixels=("labelled_count",),
            needs="class labels",
            choice="errors",
            positives="wrong predictions",
            one="wrong prediction",
            pixel="wrong pixel",
            share="error rate",
        ),
        Task(
            name="anomaly",
            mask="anomaly",
            positive="anomaly",
            negative="normal",
            missed="",
            flag="has_anomaly",
            rate="anomaly_rate",
            pixels=("anomaly_count", "known_count"),
            needs="anomaly labels",
            choice="anomalies",
            positives="unknown objects",
            one="unknown object",
            pixel="pixel of an unknown object",
            share="anomaly rate",
        ),
    )
}
"""Tasks by name."""


def find_task(name: str) -> Task:
    """Look up a task by name.

    Raises
    ------
    GraduncError
        If there is no such task.
    """
    if name not in TASKS:
        raise GraduncError(f"unknown task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
