"""Texts of the page as HTML; everything that comes from data is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath

from ..schema import score_entry
from .colors import ANOMALY, GREY, text_color
from .frame_data import FrameArrays, ThresholdCounts

__all__ = [
    "HELP",
    "anomaly_legend",
    "class_legend",
    "empty_cache",
    "frame_caption",
    "message",
    "page_header",
    "pane_title",
    "range_note",
    "readout",
    "score_axis",
    "score_help",
    "score_options",
    "units_text",
]

HELP = (
    "Every score gives one number per pixel and is <b>oriented: larger means more uncertain</b>. "
    "Scores whose original definition runs the other way are shown with the sign turned. "
    "Gradient norms are shown as log2: one unit more is a norm twice as large. "
    "Scroll to zoom and drag to pan; all panes move together. Hatched pixels are ignored in labels."
)

_UNITS = {"1": "0 to 1", "log2": "log2", "nats": "nats", "logit": "logit"}

_LABELS = {"oh": "one-hot", "uni": "uniform"}


def units_text(name: str) -> str:
    """Units of a score as they stand in brackets behind its name."""
    return _UNITS[score_entry(name).units]


def score_options(names: Sequence[str]) -> dict[str, str]:
    """Options of the score selector: name by a title that tells units and kind."""
    options = {}
    for name in names:
        entry = score_entry(name)
        kind = {"gradient": f"{_LABELS.get(entry.label or '', '')} gradient norm, p = {entry.p}"}.get(entry.family)
        if entry.variant == "paper":
            kind = f"{kind}, paper's formula"
        options[f"{name} [{_UNITS[entry.units]}]" + (f" {kind}" if kind else "")] = name
    return options


def score_help(name: str) -> str:
    """Describe formula, units and orientation of a score."""
    entry = score_entry(name)
    turned = "" if entry.orientation > 0 else " Shown with its sign turned."
    return (
        f"<div class='note'><code>{escape(entry.formula)}</code><br>Units: {_UNITS[entry.units]}. "
        f"Larger = more uncertain.{turned}</div>"
    )


def page_header(title: str, names: Sequence[str], network: str, frames: int) -> str:
    """Title, caches, network and number of frames."""
    if ".py:" in network:  # FILE.py:FUNCTION, where the folder says little
        network = PurePath(network).name
    caches = ", ".join(escape(name) for name in names)
    count = f"{frames:,} frame" + ("" if frames == 1 else "s")
    return (
        f"<div class='header'><h1>{escape(title)}</h1>"
        f"<span><b>{caches}</b></span><span>network <b>{escape(network)}</b></span><span>{count}</span></div>"
    )


def frame_caption(frame: FrameArrays | None) -> str:
    """Id and size of the shown frame."""
    if frame is None:
        return "<div class='caption'>No frame shown</div>"
    height, width = frame.size
    return f"<div class='caption'><b>{escape(frame.id)}</b> <span>{width} × {height} px</span></div>"


def class_legend(classes: Sequence[str], colors: Sequence[tuple[int, int, int]], present: Sequence[int]) -> str:
    """Names of all classes on their colours; those that are not in the frame are faded."""
    chips = "".join(
        f"<span class='chip{'' if number in present else ' absent'}' "
        f"style='background:rgb{tuple(color)};color:{text_color(color)}'>{escape(name)}</span>"
        for number, (name, color) in enumerate(zip(classes, colors, strict=True))
    )
    return f"<div class='legend'><span class='muted'>Classes (faded: not predicted here)</span>{chips}</div>"


def anomaly_legend(frame: FrameArrays | None) -> str:
    """Explain what the annotation pane shows of a frame."""
    if frame is None:
        return ""
    if not frame.tasks:
        return "<span class='muted'>this frame has no labels</span>"
    parts = []
    if frame.label is not None:
        parts.append("classes as in the prediction")
    elif frame.anomaly is not None:
        parts.append(f"<span class='swatch' style='background:{GREY}'></span>known")
    if frame.anomaly is not None:
        parts.append(f"<span class='swatch' style='background:{ANOMALY}'></span>unknown object")
    parts.append("<span class='swatch hatched'></span>ignored")
    return "<span class='muted'>" + " ".join(parts) + "</span>"


def pane_title(title: str, detail: str = "") -> str:
    """Heading of a pane; `detail` is HTML."""
    return f"<div class='pane-title'><span>{escape(title)}</span>{detail}</div>"


def score_axis(name: str) -> str:
    """Label of an axis along a score."""
    return f"{name} [{units_text(name)}], larger = more uncertain"


def range_note(scope: str) -> str:
    """Where the colour range comes from."""
    note = {
        "frame": "colours: 1st to 99.9th percentile of this frame",
        "set": "colours: 5 % to 99 % over the set",
    }
    return f"<span class='muted'>{note[scope]}</span>"


def readout(name: str, threshold: float, share: float | None, task: str, counts: ThresholdCounts | None) -> str:
    """Show the threshold in the score's units, the share of pixels above it and how they agree with the labels."""
    above = "" if share is None else f"<div class='big'>{share:.2%}</div><div>of pixels at or above</div>"
    head = (
        f"<div class='cell'><div class='big'>{threshold:.4g} <small>{_UNITS[score_entry(name).units]}</small></div>"
        f"<div>threshold</div></div><div class='cell'>{above}</div>"
    )
    if counts is None:
        wanted = {"error": "class labels", "anomaly": "anomaly labels"}[task]
        tail = f"<div class='cell muted'>This frame has no {wanted}: nothing to compare with.</div>"
    else:
        truth = {"error": "errors", "anomaly": "anomalies"}[task]
        cells: Mapping[str, tuple[str, str]] = {
            "Precision": (_percent(counts.precision), f"{truth} among those"),
            "Recall": (_percent(counts.recall), f"{truth} found"),
            "TP": (f"{counts.tp:,}", "found"),
            "FP": (f"{counts.fp:,}", "false alarms"),
            "FN": (f"{counts.fn:,}", "missed"),
            "TN": (f"{counts.tn:,}", "rightly left out"),
        }
        tail = "".join(
            f"<div class='cell'><div class='big'>{value}</div><div><b>{key}</b> {meaning}</div></div>"
            for key, (value, meaning) in cells.items()
        )
    return f"<div class='readout'>{head}{tail}</div>"


def _percent(share: float) -> str:
    return "–" if share != share else f"{share:.1%}"


def message(problem: str) -> str:
    """Show an error as the reader of the page sees it."""
    return f"<b>This cannot be shown.</b> {escape(problem)}"


def empty_cache(path: str) -> str:
    """Say what stands in place of the panes of a cache without frames."""
    return (
        f"<div class='empty'><b>This cache holds no frames yet.</b><br><code>{escape(path)}</code><br>"
        "Compute some with <code>gradunc compute</code>, then reload the page.</div>"
    )
