"""Norms of the last layer's gradient."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..score import GradientNorm, Score, ScorePattern

__all__ = ["PAPER_NORMS", "PAPER_NORM_NAMES", "PATTERNS", "SCORES"]

_LABEL_TEXT = {"oh": "one-hot of the predicted class", "uni": "1/C for every class"}


def _gradient_norm(label: Any, p: float, variant: Any) -> GradientNorm:
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
    return GradientNorm(
        name=f"pgn_{label}_p{number}{suffix}",
        family="gradient",
        orientation=orientation,
        formula=f"log2 || {delta} psi_d ||_{number} over (c, d, taps), y = {_LABEL_TEXT[label]}",
        units="log2",
        title=rf"$\|\nabla_K \mathcal{{L}}_{{\mathrm{{{label}}}}}\|_{{{number}}}$" + (" (paper)" if suffix else ""),
        source=_PAPER,
        at="head",
        needs=frozenset({"logits", "features"}),
        compute="gradunc_viz.scores.gradients:gradient_norm",
        label=label,
        p=p,
        variant=variant,
    )


_PAPER = "Maag and Riedlinger, arXiv:2303.06920"

PAPER_NORMS = (0.1, 0.3, 0.5, 1.0, 2.0)
"""The p of the paper's norms."""


def _of_any_p(match: re.Match[str]) -> Score | None:
    p = float(match["p"])
    return _gradient_norm(match["label"], p, "paper" if match["paper"] else "exact") if 0 < p < np.inf else None


SCORES: tuple[Score, ...] = tuple(
    _gradient_norm(label, p, variant) for variant in ("exact", "paper") for label in ("oh", "uni") for p in PAPER_NORMS
)

PAPER_NORM_NAMES = tuple(score.name for score in SCORES)
"""The norms that the paper compares."""

PATTERNS = (
    ScorePattern(
        "pgn_{oh,uni}_p{P}[_paper]",
        "any p > 0: pgn_oh_p0.7, pgn_uni_p3_paper",
        re.compile(r"pgn_(?P<label>oh|uni)_p(?P<p>\d+(?:\.\d+)?)(?P<paper>_paper)?"),
        _of_any_p,
    ),
)
