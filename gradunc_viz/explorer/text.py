"""Texts of the page as HTML; everything that comes from data is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath

from ..metrics.operating_point import ThresholdCounts
from ..schema.scores import GradientNorm, lookup
from ..schema.tasks import _TRUTH
from ..style.palette import ANOMALY, FALSE_ALARM, GREY, MISSED, THRESHOLD, text_color
from ..style.scores import units_text
from .state.frame_store import FrameData
from .state.pane import Pane

__all__ = [
    "HELP",
    "annotation_note",
    "bar_title",
    "class_legend",
    "difference_note",
    "empty_cache",
    "error_note",
    "frame_caption",
    "message",
    "no_labels",
    "note",
    "overlay_note",
    "page_header",
    "pane_note",
    "plain_note",
    "readout",
    "score_axis",
    "score_help",
    "score_note",
    "score_options",
]

HELP: Mapping[str, str] = {
    "overview": (
        "The whole set at a glance: what it holds, how well each score finds the pixels in question, and the frames "
        "that fare worst. A click on a thumbnail opens the frame."
    ),
    "frames": (
        "Choose a frame in the table or with the arrow keys and look at it side by side. Every score gives one number "
        "per pixel and is <b>oriented: larger means more uncertain</b>; gradient norms are log2, one unit more is a "
        "norm twice as large. Scroll to zoom, drag to pan: all panes move together. Move the mouse over a pane to "
        "read every score of a pixel, click to pin it. Hatched pixels are ignored."
    ),
    "curves": (
        "How well scores separate the pixels to find from the rest, over all thresholds. Click on a curve to set the "
        "threshold there: masks, counts and the marks on all curves follow."
    ),
    "classes": (
        "The same questions class by class. Choose classes to restrict the curves, and the frames in the table, to "
        "them."
    ),
    "failures": (
        "Regions where score and truth disagree at the current threshold. A click on a crop opens its frame and zooms "
        "onto it."
    ),
}
"""What each tab is for."""

_LABELS = {"oh": "one-hot", "uni": "uniform"}


def score_options(names: Sequence[str]) -> dict[str, str]:
    """Options of the score selector: name by a title that tells units and kind."""
    options = {}
    for name in names:
        entry = lookup(name)
        kind = ""
        if isinstance(entry, GradientNorm):
            kind = f"{_LABELS[entry.label]} gradient norm, p = {entry.p}"
            kind += ", paper's formula" if entry.variant == "paper" else ""
        options[f"{name} [{units_text(name)}]" + (f" {kind}" if kind else "")] = name
    return options


def score_help(name: str) -> str:
    """Describe formula, units and orientation of a score."""
    entry = lookup(name)
    turned = "" if entry.orientation > 0 else " Shown with its sign turned."
    return (
        f"<div class='note'><code>{escape(entry.formula)}</code><br>Units: {units_text(name)}. "
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


def frame_caption(frame: FrameData | None, place: str = "") -> str:
    """Id, size and place in the list of the shown frame."""
    if frame is None:
        return "<div class='caption'>No frame shown</div>"
    height, width = frame.size
    return f"<div class='caption'><b>{escape(frame.id)}</b> <span>{width} × {height} px {escape(place)}</span></div>"


def class_legend(classes: Sequence[str], colors: Sequence[tuple[int, int, int]], present: Sequence[int]) -> str:
    """Names of all classes on their colours; those that are not in the frame are faded."""
    chips = "".join(
        f"<span class='chip{'' if number in present else ' absent'}' "
        f"style='background:rgb{tuple(color)};color:{text_color(color)}'>{escape(name)}</span>"
        for number, (name, color) in enumerate(zip(classes, colors, strict=True))
    )
    return f"<div class='legend'><span class='muted'>Classes (faded: not predicted here)</span>{chips}</div>"


# --------------------------------------------------------------------------------------------------------------------
# panes


def _swatch(color: str, words: str) -> str:
    return f"<span class='swatch' style='background:{color}'></span>{escape(words)}"


_IGNORED = "<span class='swatch hatched'></span>ignored"


def _note(html: str, full: str = "") -> str:
    tip = f" title='{escape(full, quote=True)}'" if full else ""
    return f"<div class='pane-note'{tip}>{html}</div>"


def plain_note(words: str) -> str:
    """What a pane shows, in words."""
    return _note(escape(words), words)


def pane_note(problem: str) -> str:
    """Why a pane shows nothing, or not all."""
    return _note(f"<b>{escape(problem)}</b>", problem) if problem else _note("")


def overlay_note(overlay: str, score: str, task: str) -> str:
    """Explain the mask over an image."""
    truth = _TRUTH[task][0]
    if overlay == "found":
        return _note(_swatch(THRESHOLD, f"{score} at or above the threshold"))
    if overlay == "outcomes":
        parts = (THRESHOLD, f"{truth} found"), (FALSE_ALARM, "false alarms"), (MISSED, f"{truth} missed")
        return _note(" ".join(_swatch(color, words) for color, words in parts))
    return plain_note("the frame as the network saw it")


def annotation_note(tasks: Sequence[str]) -> str:
    """Explain what the annotation pane shows of a frame with labels for `tasks`."""
    parts = ["true classes" if "error" in tasks else _swatch(GREY, "known")]
    if "anomaly" in tasks:
        parts.append(_swatch(ANOMALY, "unknown object"))
    return _note(" ".join([*parts, _IGNORED]))


def error_note() -> str:
    """Explain the error map."""
    return _note(" ".join([_swatch(GREY, "predicted right"), _swatch(ANOMALY, "wrong"), _IGNORED]))


_ABOUT = {
    "msp": "1 − largest class probability",
    "entropy": "entropy of the class probabilities",
    "margin": "1 − gap between the two largest probabilities",
    "energy": "free energy of the logits",
    "max_logit": "largest logit, negated",
}


def score_note(name: str) -> str:
    """Say in a few words what a score is."""
    entry = lookup(name)
    about = _ABOUT.get(name, "imported map")
    if isinstance(entry, GradientNorm):
        turned = ", negated" if entry.orientation < 0 else ""
        about = f"gradient norm against the {'prediction' if entry.label == 'oh' else 'uniform label'}{turned}"
    return _note(f"{escape(about)}; bright = uncertain", f"{entry.formula}; larger = more uncertain")


def difference_note(pane: Pane, several: bool) -> str:
    """Explain a difference map."""
    assert pane.minus is not None
    where = "the first is higher in its frame's ranking" if pane.by_rank else "the first is larger"
    return _note(f"orange: {where}, violet: the second", f"{pane.title(several)}; orange: {where}")


def no_labels(task: str) -> str:
    """Say that a frame cannot be judged."""
    return f"this frame has no {_TRUTH[task][1]}"


def bar_title(name: str, norms: str) -> str:
    """Title of the colour bar of a score."""
    entry = lookup(name)
    if entry.units == "log2" and norms == "linear":
        return f"{'−' if entry.orientation < 0 else ''}norm, linear"
    return f"{name} [{units_text(name)}]"


def score_axis(name: str) -> str:
    """Label of an axis along a score."""
    return f"{name} [{units_text(name)}], larger = more uncertain"


# --------------------------------------------------------------------------------------------------------------------
# numbers


def readout(
    name: str, threshold: float, share: float | None, task: str, counts: ThresholdCounts | None, where: str = "frame"
) -> str:
    """Show the threshold in the score's units, the share of pixels above it and how they agree with the labels."""
    units = "" if lookup(name).units == "1" else units_text(name)
    above = "" if share is None else f"<div class='big'>{share:.2%}</div><div>of pixels at or above</div>"
    head = (
        f"<div class='cell'><div class='big'>{threshold:.4g} <small>{units}</small></div>"
        f"<div>threshold</div></div><div class='cell'>{above}</div>"
    )
    truth, wanted = _TRUTH[task]
    if counts is None:
        tail = f"<div class='cell muted'>This {where} has no {wanted}: nothing to compare with.</div>"
    elif not counts.tp + counts.fn:
        tail = (
            f"<div class='cell muted'>This {where} has no {truth}: nothing to find.</div>"
            f"<div class='cell'><div class='big'>{counts.fp:,}</div><div><b>FP</b> false alarms</div></div>"
            f"<div class='cell'><div class='big'>{counts.tn:,}</div><div><b>TN</b> left out</div></div>"
        )
    else:
        cells: Mapping[str, tuple[str, str]] = {
            "Precision": (_percent(counts.precision), f"{truth} among those"),
            "Recall": (_percent(counts.recall), f"{truth} found"),
            "FPR": (_percent(counts.fpr), "of the rest"),
            "TP": (f"{counts.tp:,}", "found"),
            "FP": (f"{counts.fp:,}", "false alarms"),
            "FN": (f"{counts.fn:,}", "missed"),
            "TN": (f"{counts.tn:,}", "left out"),
        }
        tail = "".join(
            f"<div class='cell'><div class='big'>{value}</div><div><b>{key}</b> {meaning}</div></div>"
            for key, (value, meaning) in cells.items()
        )
    return f"<div class='readout'>{head}{tail}</div>"


def _percent(share: float) -> str:
    return "–" if share != share else f"{share:.1%}"


# --------------------------------------------------------------------------------------------------------------------
# messages


def note(words: str) -> str:
    """A remark; `words` is HTML."""
    return f"<div class='note'>{words}</div>"


def message(problem: str) -> str:
    """Show an error as the reader of the page sees it."""
    return f"<b>This cannot be shown.</b> {escape(problem)}"


def left_out(problems: Mapping[str, str]) -> str:
    """Say which frames are not counted because they cannot be read; empty if there is none."""
    if not problems:
        return ""
    names, reason = list(problems), next(iter(problems.values()))
    some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"<b>Left out, as {'it' if len(names) == 1 else 'they'} cannot be read:</b> {escape(some)}. {escape(reason)}"


def empty_cache(path: str) -> str:
    """Say what stands in place of the panes of a cache without frames."""
    return (
        f"<div class='empty'><b>This cache holds no frames yet.</b><br><code>{escape(path)}</code><br>"
        "Compute some with <code>gradunc compute</code>, then reload the page.</div>"
    )
