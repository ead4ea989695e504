"""Look, title and unit of every score, the same on the page and on paper."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..schema.entries.passes import PassesScore
from ..schema.scores import GradientNorm, Score, lookup

__all__ = ["DASHES", "Look", "norm_look", "plain", "score_look", "score_title", "units_label", "units_text"]


DASHES: Mapping[str, tuple[float, ...]] = {
    "solid": (),
    "dashed": (4, 1.5),
    "dotted": (1, 1.5),
    "dotdash": (6, 1, 1, 1),
    "long": (8, 2),
    "dashdotdot": (4, 1, 1, 1, 1, 1),
    "short": (2, 2),
    "pairs": (4, 1, 4, 3),
    "longdotdot": (8, 1, 1, 1, 1, 1),
    "longdot": (8, 1.5, 1, 1.5),
    "longdots": (8, 1.5, 1, 1.5, 1, 1.5),
    "wide": (5, 3),
    "uneven": (6, 1.5, 2, 1.5),
    "fine": (1, 1),
}
"""Strokes and gaps of a line in turn, in widths of the line; none: it is not broken."""


@dataclass(frozen=True)
class Look:
    """How a score is drawn.

    Attributes
    ----------
    color : str
        ``#rrggbb``, of 3:1 or more against the white page, the dark page and paper.
    dash : str
        Name in `DASHES`.
    marker : str
        Marker along the line, in matplotlib's letters, where there is room for one.
    hollow : bool
        Whether markers, or bars, are not filled.
    """

    color: str
    dash: str
    marker: str
    hollow: bool = False


# Seven colours in the narrow band of lightness that stands out from white as from dark, as far apart there as normal,
# protan, deutan and tritan eyes allow: 22 or more in CIELAB. Norms go round from blue to brown with p.
_BY_P = {0.1: "#169bdd", 0.3: "#675ee1", 0.5: "#c629a6", 1.0: "#e0760c", 2.0: "#a45e28"}
_P_MARKERS = {0.1: "v", 0.3: "s", 0.5: "o", 1.0: "D", 2.0: "^"}
_NORM_DASHES = {
    ("oh", "exact"): "solid",
    ("uni", "exact"): "dashed",
    ("oh", "paper"): "dotted",
    ("uni", "paper"): "dotdash",
    ("exp", "exact"): "longdot",
}
_BY_NAME: Mapping[str, Look] = {
    "entropy": Look("#7a7779", "solid", "x"),
    "msp": Look("#b2886a", "long", "+"),
    "margin": Look("#2f9360", "dashdotdot", "1"),
    "energy": Look("#675ee1", "dashdotdot", "2"),
    "max_logit": Look("#e0760c", "dashdotdot", "3"),
    "gini": Look("#675ee1", "long", "4"),
    "variation_ratio": Look("#c629a6", "long", "x"),
    "gen": Look("#a45e28", "long", "|"),
    "kl_uniform": Look("#c629a6", "dashdotdot", "4"),
    "void": Look("#7a7779", "long", "_"),
    "gradnorm": Look("#169bdd", "longdotdot", "4"),
    "expgrad": Look("#c629a6", "longdotdot", "|"),
    "fisher": Look("#a45e28", "longdotdot", "_"),
    "mahalanobis": Look("#169bdd", "longdots", "v"),
    "mahalanobis_rel": Look("#675ee1", "longdots", "s"),
    "knn": Look("#c629a6", "longdots", "o"),
    "vim": Look("#e0760c", "longdots", "D"),
    "neco": Look("#a45e28", "longdots", "^"),
    "gradorth": Look("#2f9360", "longdots", "P"),
    "sml": Look("#7a7779", "longdots", "X"),
    "sml_bs": Look("#85851c", "longdots", "v"),
    "sml_ds": Look("#d6455d", "longdots", "s"),
    "sml_bs_ds": Look("#3d8fa8", "longdots", "X"),
    "odin": Look("#3d8fa8", "dashdotdot", "4"),
}
_PASSES_DASHES = {"dropout": "wide", "members": "uneven", "augmented": "fine"}
_BY_STATISTIC = {
    "entropy": ("#7a7779", "x"),
    "expected_entropy": ("#675ee1", "s"),
    "mutual_information": ("#c629a6", "o"),
    "msp": ("#e0760c", "+"),
    "variance": ("#169bdd", "D"),
    "variation_ratio": ("#a45e28", "^"),
}
_OTHER_COLORS = ("#2f9360", "#85851c", "#d6455d", "#3d8fa8", "#9a6ab8", "#8a7a4a", "#c2607a")
_OTHER_DASHES = ("short", "pairs")
_OTHER_MARKERS = ("*", "h", "p", "8", "<", ">")
_OTHER_P_MARKERS = ("P", "X", "d")


def _picked(choices: Sequence[str], text: str) -> str:
    """One of some choices by a text alone, so that it is the same in every cache and every session."""
    return choices[zlib.crc32(text.encode()) % len(choices)]


def score_look(name: str) -> Look:
    """How a score is drawn in every chart and every figure.

    The colour and the marker of a gradient norm tell its p, the dash its label and formula; markers of the published
    formula are hollow. Of scores of several passes the dash tells the kind of passes. What has no look of its own, a
    norm of another p or a score that is imported or a user's own, has one by its name, so that it looks the same
    wherever it is shown.

    Raises
    ------
    UnknownScoreError
        If there is no such score.
    """
    entry = lookup(name)
    if isinstance(entry, GradientNorm):
        number = f"p = {entry.p:g}"
        return Look(
            _BY_P.get(entry.p) or _picked(_OTHER_COLORS, number),
            _NORM_DASHES[entry.label, entry.variant],
            _P_MARKERS.get(entry.p) or _picked(_OTHER_P_MARKERS, f"marker of {number}"),
            hollow=entry.variant == "paper",
        )
    if isinstance(entry, PassesScore):
        color, marker = _BY_STATISTIC[entry.statistic]
        return Look(color, _PASSES_DASHES[entry.kind], marker)
    if name in _BY_NAME:
        return _BY_NAME[name]
    return Look(
        _picked(_OTHER_COLORS, name),
        _picked(_OTHER_DASHES, f"dash of {name}"),
        _picked(_OTHER_MARKERS, f"marker of {name}"),
    )


def norm_look(label: str, variant: str) -> Look:
    """How all the gradient norms of a label and a formula are drawn together, over p: dashes as of each of them."""
    color, marker = {"oh": ("#169bdd", "o"), "uni": ("#e0760c", "s"), "exp": ("#2f9360", "^")}[label]
    return Look(color, _NORM_DASHES[label, variant], marker, hollow=variant == "paper")


# --------------------------------------------------------------------------------------------------------------------
# words


def _is_bounded(entry: Score) -> bool:
    return entry.units == "1" and entry.upper == "1"


def units_text(name: str) -> str:
    """Units of a score as they stand in brackets behind its name; those of a number without any: its range."""
    entry = lookup(name)
    if entry.units == "1":
        return "0 to 1" if _is_bounded(entry) else "as given" if entry.family == "external" else "no unit"
    return entry.units


def units_label(name: str) -> str:
    """Units of a score at a number or an axis, math in ``$...$``; empty where a number has none."""
    units = lookup(name).units
    return {"1": "", "log2": r"$\log_2$"}.get(units, plain(units))


def score_title(name: str, width: int | None = None) -> str:
    """Title of a score for legends and axes; math in ``$...$``.

    Parameters
    ----------
    name : str
    width : int, optional
        Characters of a line, where names that others gave are broken into lines.
    """
    entry = lookup(name)
    if entry.family != "external":
        # an index below "max" would stand in the line underneath
        return entry.title.replace(r"\max_", r"\mathrm{max}_")
    return plain("\n".join(_lines(entry.title, width)) if width else entry.title)


def _lines(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken where words of a file's name end, if they do."""
    lines = [""]
    for word in re.findall(r"[^-_.+ ]*[-_.+ ]*", text):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return [line[start : start + width] for line in lines for start in range(0, len(line), width)]


def plain(text: str) -> str:
    """Text from data, such as a frame id, that is shown as it is: a dollar sign starts no formula."""
    return text.replace("$", r"\$")
