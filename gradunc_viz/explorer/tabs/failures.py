"""The tab of failures at the current threshold, each a crop that leads to its place in the panes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pandas as pd
import panel as pn

from ...metrics.regions import FAILURES, Failure, FailureQuery, Progress, search_failures
from .. import text
from ..charts.crops import crop
from ..markup import render
from .parts import Gallery, choice, csv_download, html, labelled, score_choice, task_choice, wrapped
from .tab import AnalysisTab

__all__ = ["FailuresTab"]

_SHOWN = 24

_COLUMNS = (
    "kind", "frame", "score", "threshold", "top", "left", "bottom", "right", "pixels", "mean", "predicted", "labelled",
)  # fmt: skip


class FailuresTab(AnalysisTab):
    """Confident mistakes, missed objects, false alarms and needless doubt."""

    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "list": ("failure", "score", "task", "threshold", "curve_frames", "selection")
    }

    def _make(self) -> None:
        state = self.state
        self.kind = choice(state.param.failure, {kind.title: name for name, kind in FAILURES.items()}, 520)
        self.task = task_choice(state, 160)
        self.score = score_choice(state)
        self.frames = choice(state.param.curve_frames, {"all": "all", "selected": "selected"}, 150)
        self.status = html("", margin=(4, 2))
        self.gallery = Gallery(self._on_failure, width=220, height=165)
        self.csv = csv_download(f"{state.cache.name}_failures", self._rows)

    def view(self) -> pn.viewable.Viewable:
        """Arrange everything."""
        return pn.Column(
            self.alert,
            wrapped(
                labelled("Kind of failure", self.kind, 532),
                labelled("Pixels to find", self.task, 172),
                labelled("Score", self.score, 312),
                labelled("Frames", self.frames, 162),
            ),
            pn.Row(self.status, self.csv, sizing_mode="stretch_width"),
            self.gallery.view,
            sizing_mode="stretch_width",
        )

    def _rows(self) -> pd.DataFrame:
        return pd.DataFrame([{name: getattr(found, name) for name in _COLUMNS} for found in self.gallery.items])

    def _on_failure(self, failure: Failure) -> None:
        self.state.look_at(failure.frame, (failure.top, failure.bottom, failure.left, failure.right))

    def _fill_list(self) -> None:
        state = self.state
        cache, kind, score, task, threshold = state.cache, state.failure, state.score, state.task, state.threshold
        frames, query = state.chosen_frames, FailureQuery(kind, score, task, threshold, _SHOWN)
        value = f"{threshold:.4g} {text.number_units(score)}".rstrip()
        about = f"{FAILURES[kind].meaning} Score {score}, threshold {value}."
        self.status.object = text.note(f"{about} Searching …")
        self.gallery.show([])

        def steps() -> Iterator[tuple[Progress, list[Any]]]:
            for progress in search_failures(cache, query, frames):
                last = progress.done == progress.total
                pictures = [(f, crop(cache, f), f"{f.text}\n{f.frame}") for f in progress.found] if last else []
                yield progress, pictures

        def show(step: tuple[Progress, list[Any]]) -> None:
            progress, pictures = step
            if progress.done < progress.total:
                self.status.object = text.note(f"{about} Searching, {progress.done} of {progress.total} frames …")
                return
            self.status.object = text.note(
                render(
                    "{{ about }} {% if found %}The <b>{{ found }}</b> worst in {{ total }} frames."
                    "{% else %}<b>None found.</b>{% endif %}"
                    "{% if damaged %} {{ damaged }} frame{{ 's' if damaged > 1 }} cannot be read.{% endif %}"
                    " Click one to look at it.",
                    about=about,
                    found=len(pictures),
                    total=progress.total,
                    damaged=len(progress.problems),
                )
            )
            self.gallery.show(pictures)

        def failed(problem: str) -> None:
            self.status.object = text.note(about)
            self._tell(problem)

        self.jobs.stream("failures.list", steps, show, failed)
