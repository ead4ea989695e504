"""The tab that shows a whole set at a glance."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import panel as pn

from ...metrics.metric import METRICS, pixel_metrics
from ...metrics.worst import WORST, worst_frames
from ...schema.errors import CacheError
from ...store.choice import Selection
from .. import text
from ..charts import overview
from ..charts.look import chart_opts
from ..css import compact_css
from ..state.frame_table import number_format
from ..state.memo import remember
from ..state.shared_counts import unreadable
from .parts import Gallery, csv_download, html, is_dark, labelled, score_choice, table, task_choice, wrapped
from .tab import AnalysisTab, heading

__all__ = ["OverviewTab"]

_SHOWN = 12


def _titles() -> dict[str, str]:
    """Titles of the columns of metrics, of registered ones too."""
    metrics = {name: f"{metric.short} {metric.arrow}" for name, metric in pixel_metrics().items()}
    return {
        "score": "Score",
        **metrics,
        "threshold": f"Best-{METRICS['f1'].short} threshold",
        "best": "Best in",
        "turned": "Turned round",
    }


class OverviewTab(AnalysisTab):
    """Size, classes, mIoU, the metrics of every score, distributions, and the worst frames."""

    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "card": (),
        "metrics": ("task",),
        "spread": ("task", "score", "threshold"),
        "worst": ("task", "score", "worst", "threshold"),
    }

    def _make(self) -> None:
        state = self.state
        self.card = html("", margin=(2, 6))
        self.metrics = table(None, sizing_mode="stretch_width", height=320, titles=_titles())
        self.metrics.on_click(self._on_score)
        self.csv = csv_download(f"{state.cache.name}_metrics", lambda: self.metrics.value)
        self.spread = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=330)
        self.gallery = Gallery(state.look_at)
        self.task = task_choice(state, 150)
        self.score = score_choice(state)
        self.worst = pn.widgets.Select.from_param(
            state.param.worst,
            label="",
            options={which.title: name for name, which in WORST.items()},
            width=240,
            stylesheets=[compact_css(is_dark())],
        )
        self.meaning = html("", margin=(8, 4))

    def view(self) -> pn.viewable.Viewable:
        """Arrange everything."""
        controls = wrapped(labelled("Pixels to find", self.task, 182), labelled("Score", self.score, 312))
        left = pn.Column(
            pn.Row(heading("How well each score finds them"), self.csv, sizing_mode="stretch_width"),
            html(
                text.note(
                    "In %, pooled over all pixels; arrows: better up or down; the threshold is in the score's units. "
                    "Click a row to choose its score. A dagger: it stands on the wrong side, its AuROC lies below 50 % "
                    "with its whole 95 % interval over frames; turned round is what it reaches negated."
                )
            ),
            self.metrics,
            sizing_mode="stretch_width",
            min_width=480,
        )
        right = pn.Column(
            heading("The score in the two groups"), self.spread, sizing_mode="stretch_width", min_width=420
        )
        return pn.Column(
            self.alert,
            self.working,
            self.card,
            controls,
            pn.Row(left, right, sizing_mode="stretch_width"),
            pn.Row(heading("Worst frames"), sizing_mode="stretch_width"),
            pn.Row(self.worst, self.meaning, sizing_mode="stretch_width"),
            self.gallery.view,
            sizing_mode="stretch_width",
        )

    def _on_score(self, event: Any) -> None:
        self.state.score = str(self.metrics.value["score"].iloc[event.row])

    def _fill_card(self) -> None:
        card = overview.set_card(self.state.cache)
        facts = {
            "frames": f"{card.frames:,}",
            "size [px]": card.sizes,
            "classes": str(len(card.classes)),
            "scores": str(len(card.scores)),
            "with class labels": f"{card.labelled:,}",
            "with anomaly labels": f"{card.with_anomaly_labels:,}",
            "mIoU": text.percent(card.miou),
            "pixels right": text.percent(card.accuracy),
            "pixels of unknown objects": text.percent(card.anomaly_rate),
        }
        self.card.object = text.fact_cells(facts)

    def _fill_metrics(self) -> None:
        every = Selection.of(self.state.cache, self.state.task)
        self._later("metrics", lambda: overview.metric_table(every), self._show_metrics)

    def _show_metrics(self, rows: Any) -> None:
        formatters = dict.fromkeys(pixel_metrics(), number_format(2))
        formatters |= {"threshold": number_format(3)}
        plain = {name: {"type": "plaintext"} for name in ("score", "best", "turned")}
        self.metrics.param.update(
            value=rows,
            formatters=formatters | plain,
            text_align=dict.fromkeys(formatters, "right"),
            titles=_titles(),
        )

    def _fill_spread(self) -> None:
        state = self.state
        whole, threshold = Selection.of(state.cache, state.task, scores=state.score), state.threshold
        self._later(
            "spread",
            lambda: overview.set_distribution(whole, threshold=threshold),
            lambda chart: setattr(self.spread, "object", chart.opts(**chart_opts(is_dark()), clone=True)),
        )

    def _fill_worst(self) -> None:
        state = self.state
        cache, which, score, task, threshold = state.cache, state.worst, state.score, state.task, state.threshold
        self.meaning.object = text.note(WORST[which].meaning)

        def work() -> list[tuple[str, bytes, str]]:
            kept = partial(remember, cache)  # for every session
            found = worst_frames(cache, which, score, task, _SHOWN, threshold=threshold, keep=kept)
            unreadable(cache).update(found.attrs["damaged"])  # told by the alert
            pictures: list[tuple[str, bytes, str]] = []
            for frame, words in zip(found["frame"], found["text"], strict=True):
                with suppress(CacheError):  # told by the alert
                    pictures.append((frame, overview.thumbnails(cache, [frame])[frame], f"{frame}\n{words}"))
            return pictures

        def failed(problem: str) -> None:
            self.gallery.show([])
            self.meaning.object = text.note(text.strong(problem))

        self.jobs.run("overview.worst", work, self.gallery.show, failed)
