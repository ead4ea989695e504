"""The tab of curves: a tap on one sets the threshold, and the threshold is marked on all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import holoviews as hv
import panel as pn

from ...metrics.distributions import score_limits
from ...schema.errors import GraduncError
from ...store.choice import Selection
from .. import text
from ..charts import curves
from ..charts.look import chart_opts
from ..state.shared_counts import set_histograms
from .parts import choice, class_choice, html, is_dark, labelled, task_choice, titled, wrapped
from .tab import AnalysisTab

__all__ = ["CurvesTab"]

_DRAW: dict[str, Any] = {
    "roc": curves.roc,
    "pr": curves.pr,
    "sparsification": curves.sparsification,
    "reliability": curves.reliability,
}


@dataclass(frozen=True)
class _Drawn:
    """The chart that is on screen."""

    selection: Selection
    kind: str
    log_x: bool


class CurvesTab(AnalysisTab):
    """ROC, precision and recall, sparsification and reliability of several scores."""

    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "chart": ("curve", "curve_scores", "curve_frames", "selection", "classes", "task", "log_fpr"),
        "marks": ("threshold", "score", "curve_scores"),
        "numbers": ("threshold", "score", "task", "curve_frames", "selection", "classes"),
        "slider": ("threshold", "score"),
        "confidence": ("curve", "curve_frames", "selection"),
    }

    def _make(self) -> None:
        state = self.state
        kinds = {kind.title: name for name, kind in curves.KINDS.items()}
        self.kind = choice(state.param.curve, kinds, 430)
        self.task = task_choice(state, 160)
        self.scores = pn.widgets.MultiChoice.from_param(
            state.param.curve_scores, label="", options=list(state.cache.scores), sizing_mode="stretch_width"
        )
        self.classes = class_choice(state)
        self.frames = choice(state.param.curve_frames, {"all": "all", "selected": "selected"}, 150)
        self.log = labelled(
            "False-positive rate", choice(state.param.log_fpr, {"linear": False, "logarithmic": True}, 160), 172
        )
        self.slider = pn.widgets.FloatSlider(
            label="Threshold",
            start=0,
            end=1,
            value=0,
            step=0.001,
            format="0.000",
            sizing_mode="stretch_width",
            margin=(2, 14),
        )
        self.slider.param.watch(lambda event: setattr(state, "threshold", event.new), "value_throttled")
        self.readout = html("")
        self.scope = html("", margin=(0, 6))
        self.chart = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=430)
        self.confidence = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=430)
        self._marks = hv.streams.Counter()
        self._drawn: _Drawn | None = None

    def view(self) -> pn.viewable.Viewable:
        """Arrange everything."""
        return pn.Column(
            self.alert,
            self.working,
            wrapped(
                labelled("Curves", self.kind, 442),
                labelled("Pixels to find", self.task, 172),
                labelled("Frames", self.frames, 162),
                self.log,
            ),
            titled("Scores", self.scores),
            titled("Predicted classes (none chosen: all)", self.classes),
            self.slider,
            self.readout,
            self.scope,
            pn.Row(self.chart, self.confidence, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )

    def _compute(self, part: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Compute a part in the background, once what all parts need was pooled in one pass."""
        every = self.state.chosen(*sorted({self.state.score, *self.state.curve_scores}))

        def pooled() -> Any:
            with suppress(GraduncError):  # told by the part itself, where it matters to it
                set_histograms(every)
            return work()

        self._later(part, pooled, then)

    def _fill_chart(self) -> None:
        state = self.state
        kind, selection = state.curve, replace(state.chosen(), scores=tuple(state.curve_scores))
        log = state.log_fpr and kind == "roc"
        base = curves.tap_base(kind)
        self.log.visible = kind == "roc"
        options: dict[str, Any] = {"log_x": log} if kind == "roc" else {}
        drawn = _Drawn(selection, kind, log)
        self._compute(
            "chart", lambda: _DRAW[kind](selection, base=base, **options), lambda chart: self._show(chart, base, drawn)
        )

    def _show(self, chart: Any, base: Any, drawn: _Drawn) -> None:
        self._drawn = drawn
        drawable = any(element is base for element in chart)
        if drawable:
            tap = hv.streams.Tap(source=base)
            tap.add_subscriber(self._on_tap)
            options = chart.opts.get("plot", backend="bokeh").kwargs
            chart = (chart * hv.DynamicMap(self._points, streams=[self._marks])).opts(**options, backend="bokeh")
        self.chart.object = chart.opts(**chart_opts(is_dark()), clone=True)
        self._stale.discard("marks")

    def _points(self, counter: int) -> Any:
        # of the curves that are on screen: others are still being counted
        drawn, state = self._drawn, self.state
        assert drawn is not None  # marks are drawn on a chart
        thresholds = {name: state.threshold_of(name) for name in drawn.selection.scores}
        return curves.marks(drawn.selection, drawn.kind, thresholds, log_x=drawn.log_x)

    def _on_tap(self, x: float | None = None, y: float | None = None) -> None:
        if x is None or y is None:
            return
        # HoloViews calls without the lock that changing a pane's figure needs
        self.jobs.soon(lambda: self._guard(self._set_from, float(x), float(y)))

    def _set_from(self, x: float, y: float) -> None:
        drawn = self._drawn
        assert drawn is not None  # a tap is on a chart
        score, threshold = curves.nearest_threshold(drawn.selection, drawn.kind, (x, y), log_x=drawn.log_x)
        self.state.set_threshold(score, threshold)

    def _fill_marks(self) -> None:
        if self._drawn is not None and self.chart.object is not None:
            self._marks.event()

    def _fill_slider(self) -> None:
        score, threshold = self.state.score, self.state.threshold
        whole = replace(self.state.chosen(), frames=self.state.cache.ids, classes=None)

        def ends() -> tuple[float, float]:
            try:
                return score_limits(set_histograms(whole)[score])
            except GraduncError:
                return threshold, threshold  # no labels: the chart says so

        def show(limits: tuple[float, float]) -> None:
            start, end = min(threshold, limits[0]), max(threshold, limits[1])
            if not end > start:
                start, end = start - 0.5, end + 0.5
            self.slider.param.update(
                start=start,
                end=end,
                step=(end - start) / 1000,
                value=threshold,
                label=text.threshold_title(score),
            )

        self._compute("slider", ends, show)

    def _fill_numbers(self) -> None:
        state = self.state
        score, task, threshold, selection = state.score, state.task, state.threshold, state.chosen()
        frames, classes = state.chosen_frames, state.chosen_classes
        where = f"{len(frames):,} selected frames" if frames else f"all {len(state.cache):,} frames"
        if state.curve_frames == "selected" and not frames:
            where += " (none is selected)"
        of = f", pixels predicted as {', '.join(classes)}" if classes else ""
        self.scope.object = text.note(f"Counted over {where}{of}. Click on a curve to set the threshold there.")
        self._compute(
            "numbers",
            lambda: curves.counts_at(selection, threshold),
            lambda counts: setattr(
                self.readout, "object", text.readout(score, threshold, counts.above, task, counts, "set")
            ),
        )

    def _fill_confidence(self) -> None:
        state = self.state
        self.confidence.visible = state.curve == "reliability"
        if not self.confidence.visible:
            return
        selection = state.chosen()
        self._later(
            "confidence",
            lambda: curves.confidence_diagram(selection),
            lambda chart: setattr(self.confidence, "object", chart.opts(**chart_opts(is_dark()), clone=True)),
        )
