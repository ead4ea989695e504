"""The registry of scores: what each is, apart from the function that computes it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .errors import UnknownScoreError

__all__ = [
    "DEFAULT_SCORES",
    "LOG2_FLOOR",
    "PAPER_NORMS",
    "PAPER_SCORES",
    "SCORES",
    "ScoreEntry",
    "resolve_scores",
    "score_entry",
]


LOG2_FLOOR = -149.0
"""log2 of the smallest positive float32: what a vanishing gradient is given, so that every map stays finite."""


@dataclass(frozen=True)
class ScoreEntry:
    """One number per pixel, described apart from the function that computes it.

    Attributes
    ----------
    name
        Unique name, for instance ``pgn_oh_p0.5``.
    family
        ``"gradient"`` (norms of the last layer's gradient), ``"softmax"`` (from class probabilities), ``"logit"``
        (from logits before the softmax) or ``"external"`` (maps that others computed, ``ext:NAME``).
    orientation
        +1: larger is more uncertain; -1: smaller is more uncertain.
    formula
        The definition as plain text.
    units
        ``"log2"`` for gradient norms, ``"nats"``, ``"1"`` or ``"logit"``.
    title
        Title for axes and tables, LaTeX in ``$...$``.
    upper
        Largest value the score can take given the number of classes: ``"1"``, ``"log C"`` or ``""`` (unbounded).
    label, p, layer, variant
        For gradient norms only: the label of the loss (``"oh"`` or ``"uni"``), the p of the norm, the layer
        (``"last"``) and the variant (``"exact"`` or ``"paper"``); otherwise ``None``.
    """

    name: str
    family: str
    orientation: int
    formula: str
    units: str
    title: str
    upper: str = ""
    label: str | None = None
    p: float | None = None
    layer: str | None = None
    variant: str | None = None

    @property
    def at_head(self) -> bool:
        """Whether the score is computed and cached at the head's resolution."""
        return self.family == "gradient"

    def _repr_html_(self) -> str:
        from .display import card, code

        ends = ("certain", "uncertain")[:: self.orientation]
        # viridis, as maps of scores are coloured
        stops = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")[:: self.orientation]
        ramp = (
            f"{ends[0]} (small) <span style='display:inline-block;width:110px;height:9px;"
            f"background:linear-gradient(90deg,{','.join(stops)})'></span> {ends[1]} (large)"
        )
        rows = {
            "formula": code(self.formula),
            "units": code(self.units),
            "values": ramp,
            "largest": code(self.upper),
            "computed": "at the head's resolution" if self.at_head else "at the image's resolution",
        }
        if not self.upper:
            del rows["largest"]
        return card(f"{self.name}: {self.family} score", rows)


_GRADIENT = re.compile(r"pgn_(oh|uni)_p(\d+(?:\.\d+)?)(_paper)?")


_EXTERNAL = re.compile(r"ext:[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


_LABEL_TEXT = {"oh": "one-hot of the predicted class", "uni": "1/C for every class"}


def _gradient_entry(label: str, p: float, variant: str) -> ScoreEntry:
    number = np.format_float_positional(p, trim="-")
    suffix = "_paper" if variant == "paper" else ""
    if variant == "exact":
        delta = "|pi_c - y_c|"
        # The exact uniform norm vanishes where the softmax is flat, whatever p is.
        orientation = 1 if label == "oh" else -1
    else:
        delta = "|pi_c (1 - y_c)|"
        # (C-1)/C pi_c: its p-norm over classes grows with a flatter softmax for p < 1 and shrinks for p > 1. At
        # p = 1 it is constant and leaves the feature norm, which is small on what the network does not know.
        orientation = 1 if label == "oh" or p < 1 else -1
    return ScoreEntry(
        name=f"pgn_{label}_p{number}{suffix}",
        family="gradient",
        orientation=orientation,
        formula=f"log2 || {delta} psi_d ||_{number} over (c, d, taps), y = {_LABEL_TEXT[label]}",
        units="log2",
        title=rf"$\|\nabla_K \mathcal{{L}}_{{\mathrm{{{label}}}}}\|_{{{number}}}$" + (" (paper)" if suffix else ""),
        label=label,
        p=p,
        layer="last",
        variant=variant,
    )


PAPER_NORMS = (0.1, 0.3, 0.5, 1.0, 2.0)
"""The p of the paper's norms."""


_SOFTMAX_ENTRIES = (
    ScoreEntry("msp", "softmax", +1, "1 - max_c pi_c", "1", r"$1 - \max_c \pi_c$", upper="1"),
    ScoreEntry("entropy", "softmax", +1, "-sum_c pi_c ln pi_c", "nats", r"entropy $H(\pi)$", upper="log C"),
    ScoreEntry(
        "margin",
        "softmax",
        +1,
        "1 - (pi_(1) - pi_(2)), the two largest",
        "1",
        r"$1 - (\pi_{(1)} - \pi_{(2)})$",
        upper="1",
    ),
    ScoreEntry("energy", "logit", +1, "-ln sum_c exp phi_c", "logit", r"energy $-\ln \sum_c e^{\phi_c}$"),
    ScoreEntry("max_logit", "logit", -1, "max_c phi_c", "logit", r"$\max_c \phi_c$"),
)


SCORES: dict[str, ScoreEntry] = {
    entry.name: entry
    for entry in (
        *(_gradient_entry(label, p, "exact") for label in ("oh", "uni") for p in PAPER_NORMS),
        *(_gradient_entry(label, p, "paper") for label in ("oh", "uni") for p in PAPER_NORMS),
        *_SOFTMAX_ENTRIES,
    )
}
"""Every named score. Gradient norms of any other p > 0 exist too: see `score_entry`."""


PAPER_SCORES = (*(name for name, entry in SCORES.items() if entry.family == "gradient"), "msp", "entropy")
"""What the paper compares: ten exact and ten paper norms of the last layer, msp and entropy."""


DEFAULT_SCORES = ("pgn_oh_p0.5", "pgn_oh_p1", "pgn_oh_p2", "pgn_uni_p0.5", "msp", "entropy")
"""What is computed when nothing is asked for."""


def score_entry(name: str) -> ScoreEntry:
    """Look up a score by name.

    Parameters
    ----------
    name
        A name in `SCORES`, a gradient norm of any other p > 0 such as ``pgn_oh_p0.7`` or ``pgn_uni_p3_paper``, or
        ``ext:NAME`` for maps that were imported.

    Raises
    ------
    UnknownScoreError
        If there is no such score; the message offers the nearest names.
    """
    if name in SCORES:
        return SCORES[name]
    match = _GRADIENT.fullmatch(name)
    if match and 0 < float(match[2]) < np.inf:
        entry = _gradient_entry(match[1], float(match[2]), "paper" if match[3] else "exact")
        if entry.name == name:
            return entry
        raise UnknownScoreError(f"unknown score {name!r}: write it {entry.name!r}")
    if _EXTERNAL.fullmatch(name):
        # turned on import where small values mean uncertain, so that the name alone tells the orientation
        return ScoreEntry(name, "external", +1, "imported map, larger is more uncertain", "1", name[4:])
    near = difflib.get_close_matches(name, SCORES, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise UnknownScoreError(f"unknown score {name!r}{hint} ('gradunc scores' lists them all)")


def resolve_scores(scores: str | Iterable[str] | None = None) -> tuple[str, ...]:
    """Turn what a user wrote into a tuple of score names.

    Parameters
    ----------
    scores
        ``None`` or ``"default"``, ``"paper"``, ``"all"``, a comma-separated string, or an iterable of names.

    Raises
    ------
    UnknownScoreError
        If a name is no score, or none is left.
    """
    if scores is None or scores == "default":
        return DEFAULT_SCORES
    if scores == "paper":
        return PAPER_SCORES
    if scores == "all":
        return tuple(SCORES)
    names = [part.strip() for part in scores.split(",")] if isinstance(scores, str) else list(scores)
    unique = tuple(dict.fromkeys(name for name in names if name))
    if not unique:
        raise UnknownScoreError("no score was named: expected names such as 'msp', 'paper' or 'all'")
    for name in unique:
        if score_entry(name).family == "external":
            raise UnknownScoreError(f"score {name!r} cannot be computed: its maps are imported ('gradunc import')")
    return unique
