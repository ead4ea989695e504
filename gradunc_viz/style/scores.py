"""Look, title and unit of every score, the same on the page and on paper."""

from __future__ import annotations

import re
import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..schema.entries.passes import PassesScore
from ..schema.score import GradientScore, NormRequest
from ..schema.scores import SCORES, Score, lookup

__all__ = [
    "DASHES", "Look", "by_family", "norm_look", "plain", "score_look", "score_title", "units_label", "units_text",
]  # fmt: skip


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
    "twodots": (1, 1, 1, 3),
    "threedots": (1, 1, 1, 1, 1, 3),
    "sparse": (1, 3),
    "fourdots": (1, 1, 1, 1, 1, 1, 1, 3),
    "twodashes": (3, 1, 3, 1, 1, 1),
    "threedashes": (3, 1, 3, 1, 3, 1, 1, 1),
    "longshort": (10, 1.5, 3, 1.5),
    "longshorts": (10, 1.5, 3, 1.5, 3, 1.5),
    "longgap": (10, 4),
    "dashdots": (5, 1, 1, 1, 1, 1, 1, 1),
    "twolongs": (8, 1.5, 8, 1.5, 1, 1.5),
    "even": (3, 3),
    "wide": (5, 5),
    "tight": (2, 1),
    "shortgap": (2, 4),
    "longpause": (9, 3),
    "fourshorts": (2, 1, 2, 1, 2, 1, 2, 3),
    "threeshorts": (2, 1, 2, 1, 2, 3),
    "longtwodashes": (8, 1, 3, 1, 3, 1),
    "twolongsdash": (8, 1, 8, 1, 3, 1),
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
_LABEL_DASHES = {"oh": "twodots", "uni": "threedots", "exp": "fourdots"}
_LAYER_DASHES: Mapping[tuple[int | str, str], str] = {
    (2, "oh"): "twodashes",
    (2, "uni"): "threedashes",
    ("embedding", "oh"): "threeshorts",
    ("embedding", "uni"): "fourshorts",
    ("decoder", "oh"): "longtwodashes",
    ("decoder", "uni"): "twolongsdash",
}

_PASSES_DASHES = {"dropout": "longgap", "members": "longshort", "augmented": "longshorts"}
_STATISTICS = {  # as of one pass, where there is such a score
    "entropy": ("#7a7779", "x"),
    "expected_entropy": ("#675ee1", "s"),
    "mutual_information": ("#169bdd", "o"),
    "msp": ("#b2886a", "+"),
    "variance": ("#e0760c", "D"),
    "variation_ratio": ("#c629a6", "^"),
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
    "odin": Look("#169bdd", "long", "1"),
    "gradnorm": Look("#e0760c", "longdotdot", "4"),
    "expgrad": Look("#e0760c", "dashdots", "|"),
    "fisher": Look("#a45e28", "longdotdot", "_"),
    "mahalanobis": Look("#169bdd", "longdots", "v"),
    "mahalanobis_rel": Look("#675ee1", "longdots", "s"),
    "knn": Look("#c629a6", "longdots", "o"),
    "vim": Look("#e0760c", "longdots", "D"),
    "neco": Look("#a45e28", "longdots", "^"),
    "gradorth": Look("#169bdd", "twolongs", "P"),
    "sml": Look("#7a7779", "twolongs", "X"),
    "sml_bs": Look("#e0760c", "twolongs", "v"),
    "sml_ds": Look("#675ee1", "twolongs", "s"),
    "sml_bs_ds": Look("#c629a6", "twolongs", "o"),
    "max_mask": Look("#169bdd", "longpause", "v"),
    "rba": Look("#675ee1", "longpause", "s"),
    "neg_sum": Look("#c629a6", "longpause", "o"),
    "mask_energy": Look("#e0760c", "longpause", "D"),
    "eam": Look("#a45e28", "longpause", "^"),
}
_OTHER_COLORS = ("#2f9360", "#85851c", "#d6455d", "#3d8fa8", "#9a6ab8", "#8a7a4a", "#c2607a")
_OTHER_DASHES = ("short", "pairs")
_COMBINED_DASHES = ("even", "wide")
_VARIANT_DASHES = ("tight", "shortgap")
_OTHER_MARKERS = ("*", "h", "p", "8", "<", ">")
_OTHER_P_MARKERS = ("P", "X", "d")


def _picked(choices: Sequence[str], text: str) -> str:
    """One of some choices by a text alone, so that it is the same in every cache and every session."""
    return choices[zlib.crc32(text.encode()) % len(choices)]


def score_look(name: str) -> Look:
    """How a score is drawn in every chart and every figure.

    The colour and the marker of a gradient score tell its p, the dash which norm or factor it is; markers of the
    published formula are hollow. The dash of a score of several passes tells what they are, the colour what is taken of
    them. A score of other parameters, such as ``entropy_T1.5``, has the colour of the known one. What has no look of
    its own, a norm of another p or a score that is combined, imported or a user's own, has one by its name, so that it
    looks the same wherever it is shown.

    Raises
    ------
    UnknownScoreError
        If there is no such score.
    """
    entry = lookup(name)
    if name in _BY_NAME:
        return _BY_NAME[name]
    if isinstance(entry, GradientScore):
        number = f"p = {entry.request.p:g}"
        return Look(
            _BY_P.get(entry.request.p) or _picked(_OTHER_COLORS, number),
            _gradient_dash(entry.request),
            _P_MARKERS.get(entry.request.p) or _picked(_OTHER_P_MARKERS, f"marker of {number}"),
            hollow=entry.request.variant == "paper",
        )
    if isinstance(entry, PassesScore):
        color, marker = _STATISTICS[entry.statistic]
        return Look(color, _PASSES_DASHES[entry.kind], marker)
    color, dashes = _picked(_OTHER_COLORS, name), _OTHER_DASHES
    known = name.partition("_")[0]
    if name not in SCORES and known in _BY_NAME:
        color, dashes = _BY_NAME[known].color, _VARIANT_DASHES
    elif entry.family == "combined":
        dashes = _COMBINED_DASHES
    return Look(color, _picked(dashes, f"dash of {name}"), _picked(_OTHER_MARKERS, f"marker of {name}"))


def _gradient_dash(request: NormRequest) -> str:
    if request.layer != 1:
        return _LAYER_DASHES[request.layer, request.label]
    if request.part == "feature":
        return "sparse"
    return _LABEL_DASHES[request.label] if request.part == "label" else _NORM_DASHES[request.label, request.variant]


def norm_look(label: str, variant: str) -> Look:
    """How all the gradient norms of a label and a formula are drawn together, over p: dashes as of each of them."""
    color, marker = {"oh": ("#169bdd", "o"), "uni": ("#e0760c", "s"), "exp": ("#2f9360", "^")}[label]
    return Look(color, _NORM_DASHES[label, variant], marker, hollow=variant == "paper")


# --------------------------------------------------------------------------------------------------------------------
# words


_FAMILIES = {
    "gradient": "Gradients", "softmax": "Softmax", "logit": "Logits", "fitted": "Fitted", "passes": "Several passes",
    "queries": "Queries", "combined": "Combined", "external": "Imported",
}  # fmt: skip


def by_family(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of scores by the title of their family."""
    groups: dict[str, list[str]] = {}
    for name in names:
        family = lookup(name).family
        groups.setdefault(_FAMILIES.get(family, family), []).append(name)
    return groups


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
        Characters of a line, where names that others gave, and those of several scores, are broken into lines.
    """
    entry = lookup(name)
    if entry.family == "combined":
        return textwrap.fill(entry.title, width, break_on_hyphens=False) if width else entry.title
    if entry.family != "external":
        # an index below "max" or a sum would stand in the line underneath
        return re.sub(r"\\(max|min)_", r"\\mathrm{\1}_", entry.title).replace(r"\sum_", r"{\sum}_")
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
