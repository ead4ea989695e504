"""What is being looked at: the dashboard's state, without any drawing."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import param

from ..cache import Cache
from ..schema import DEFAULT_SCORES, GraduncError
from . import frame_data, frame_table

__all__ = ["ExplorerState"]

_log = logging.getLogger(__name__)

_READ_ERRORS = (GraduncError, OSError, ValueError, KeyError, RuntimeError)
"""What a damaged frame raises, depending on which of its bytes are damaged."""


class ExplorerState(param.Parameterized):
    """What is being looked at in one cache, without any drawing.

    Set `frame_id`, `score`, `task`, `scope` or `threshold`; `frame`, `values` and `message` follow.
    """

    frame_id = param.String(default="", doc="Id of the frame shown.")
    score = param.Selector(doc="Name of the score shown.")
    task = param.Selector(default="error", objects=["error", "anomaly"], doc="What the score should find.")
    scope = param.Selector(default="frame", objects=["frame", "set"], doc="What sets the colour range.")
    threshold = param.Number(default=0.0, doc="In the units of the oriented score.")
    frame = param.Parameter(default=None, constant=True, doc="`FrameArrays` of the frame, None if unreadable.")
    values = param.Parameter(default=None, constant=True, doc="Oriented score (y, x), None if unreadable.")
    message = param.String(default="", constant=True, doc="Why there is nothing to show; empty if there is.")

    def __init__(self, cache: Cache, **params: Any) -> None:
        self.cache = cache
        self.dataset: Any = None
        self._thresholds: dict[str, float] = {}
        self.param.score.objects = list(cache.scores)
        usual = [name for name in DEFAULT_SCORES if name in cache.scores] or list(cache.scores)
        first = {"score": usual[0]} if usual else {}
        try:
            self.rows = frame_table.frame_rows(cache.summary) if len(cache) else frame_table.ids_only(())
            problem = ""
        except GraduncError as error:
            self.rows, problem = frame_table.ids_only(cache.ids), str(error)
        super().__init__(**(first | params))
        if "threshold" not in params:
            self.threshold = self._usual_threshold()
        if len(cache):
            self.frame_id = self.frame_id or cache.ids[0]
            self._read_frame()
        if problem and not self.message:
            self._publish(message=problem)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the frame has labels for."""
        return self.frame.tasks if self.frame is not None else ()

    @property
    def limits(self) -> tuple[float, float]:
        """Colour range of the score in its units."""
        if self.scope == "set" and "error_rate" in self.rows:
            return frame_data.set_range(self.cache.summary, self.score)
        return (0.0, 1.0) if self.values is None else frame_data.frame_range(self.values)

    def counts(self) -> frame_data.ThresholdCounts | None:
        """Count the evaluated pixels of the frame at the threshold; None without labels for the task."""
        target = None if self.frame is None else self.frame.target(self.task)
        if target is None or self.values is None:
            return None
        return frame_data.threshold_counts(self.values, target, self.threshold)

    def share_above(self) -> float | None:
        """Return the share of all pixels of the frame at or above the threshold."""
        if self.values is None:
            return None
        return float(np.count_nonzero(self.values >= np.float32(self.threshold)) / self.values.size)

    def step(self, by: int, order: Iterable[str]) -> None:
        """Go to the next or previous frame in `order`, stopping at its ends."""
        ids = list(order)
        if ids:
            at = ids.index(self.frame_id) + by if self.frame_id in ids else 0
            self.frame_id = ids[min(max(at, 0), len(ids) - 1)]

    def _usual_threshold(self) -> float:
        """Find a threshold to start from: what 5 % of the pixels of a usual frame exceed."""
        if self.score not in self.rows:
            return 0.0
        quantile = self.cache.summary["score_quantile"].sel(score=self.score, quantile=0.95)
        return float(quantile.median())

    def _publish(self, **values: Any) -> None:
        with param.edit_constant(self):
            self.param.update(**values)

    @param.depends("frame_id", watch=True)
    def _read_frame(self) -> None:
        try:
            self.dataset = self.cache[self.frame_id]
            frame = frame_data.read_frame(self.dataset)
            values = frame_data.read_score(self.dataset, self.score)
        except _READ_ERRORS as error:
            self._fail(error)
            return
        task = self.task if self.task in frame.tasks or not frame.tasks else frame.tasks[0]
        self._publish(frame=frame, values=values, task=task, message="")

    @param.depends("score", watch=True)
    def _read_score(self) -> None:
        threshold = self._thresholds.get(self.score, self._usual_threshold())
        if self.frame is None:  # it may be another score that could not be read
            self.threshold = threshold
            if self.frame_id:
                self._read_frame()
            return
        try:
            values = frame_data.read_score(self.dataset, self.score)
        except _READ_ERRORS as error:
            self._fail(error)
            return
        self._publish(values=values, threshold=threshold)

    @param.depends("threshold", watch=True)
    def _keep_threshold(self) -> None:
        self._thresholds[self.score] = self.threshold

    def _fail(self, error: Exception) -> None:
        _log.warning("frame %r cannot be shown", self.frame_id, exc_info=error)
        reason = str(error) if isinstance(error, GraduncError) else f"{type(error).__name__}: {error}"
        self.dataset = None
        self._publish(frame=None, values=None, message=f"Frame {self.frame_id!r} cannot be read: {reason}")
