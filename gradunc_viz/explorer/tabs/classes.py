"""The tab that looks at classes one by one."""

from __future__ import annotations

from typing import Any, ClassVar

import panel as pn

from ...metrics import METRICS
from .. import text
from ..charts import classes
from ..charts.look import chart_opts
from ..state.frame_table import number_format
from .parts import class_choice, csv_download, html, is_dark, labelled, score_choice, table, task_choice, titled
from .tab import AnalysisTab, heading

__all__ = ["ClassesTab"]

_TITLES = {
    "class": "Class",
    "pixels": "Labelled [px]",
    "predicted": "Predicted [px]",
    "positives": "To find %",
    "iou": "IoU %",
    **{name: f"{METRICS[name].short} %" for name in ("auroc", "auprc")},
    "ece": "ECE %",
}


class ClassesTab(AnalysisTab):
    """Distributions, metrics and calibration per class, and the confusion matrix."""

    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "table": ("score", "task", "curve_frames", "selection"),
        "ridges": ("score", "task", "classes", "curve_frames", "selection"),
        "confusion": ("curve_frames", "selection"),
    }

    def _make(self) -> None:
        state = self.state
        self.task = task_choice(state, 150)
        self.score = score_choice(state)
        self.chosen = class_choice(state)
        self.table = table(None, sizing_mode="stretch_width", titles=_TITLES, height=430)
        self.table.on_click(self._on_class)
        self.csv = csv_download(f"{state.cache.name}_classes", lambda: self.table.value)
        self.ridges = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=470)
        self.confusion = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=560)

    def view(self) -> pn.viewable.Viewable:
        """Arrange everything."""
        return pn.Column(
            self.alert,
            self.working,
            pn.Row(labelled("Pixels to find", self.task, 172), labelled("Score", self.score, 312), margin=0),
            titled("Classes looked at (none chosen: all)", self.chosen),
            pn.Row(
                pn.Column(
                    pn.Row(heading("Metrics per class"), self.csv, sizing_mode="stretch_width"),
                    html(
                        text.note(
                            "By the predicted class. Click a row to look at that class, here and in the other tabs."
                        )
                    ),
                    self.table,
                    sizing_mode="stretch_width",
                    min_width=500,
                ),
                pn.Column(heading("Score per class"), self.ridges, sizing_mode="stretch_width", min_width=400),
                sizing_mode="stretch_width",
            ),
            heading("Confusion"),
            self.confusion,
            sizing_mode="stretch_width",
        )

    def _on_class(self, event: Any) -> None:
        name = str(self.table.value["class"].iloc[event.row])
        chosen = set(self.state.classes) ^ {name}
        self.state.classes = [known for known in self.state.cache.classes if known in chosen]

    def _fill_table(self) -> None:
        chosen = self.state.chosen()
        self._later("table", lambda: classes.class_table(chosen), self._show_table)

    def _show_table(self, rows: Any) -> None:
        formatters: dict[str, Any] = {
            name: number_format(0 if name in ("pixels", "predicted") else 2) for name in rows.columns if name != "class"
        }
        self.table.param.update(
            value=rows,
            formatters=formatters | {"class": {"type": "plaintext"}},
            text_align=dict.fromkeys(formatters, "right"),
            titles=_TITLES,
        )

    def _fill_ridges(self) -> None:
        chosen = self.state.chosen()
        self._later(
            "ridges",
            lambda: classes.class_distributions(chosen),
            lambda chart: setattr(self.ridges, "object", chart.opts(**chart_opts(is_dark()), clone=True)),
        )

    def _fill_confusion(self) -> None:
        chosen = self.state.chosen()
        self._later(
            "confusion",
            lambda: classes.confusion(chosen),
            lambda chart: setattr(self.confusion, "object", chart.opts(**chart_opts(is_dark()), clone=True)),
        )
