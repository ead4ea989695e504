"""Norms of the gradient with respect to the kernel of the last layer, or of the one before it, and their factors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UnknownScoreError
from ..score import GradientNorm, GradientScore, NormRequest, Score, ScorePattern

__all__ = ["PAPER_NORMS", "PAPER_NORM_NAMES", "PATTERNS", "SCORES"]

_PAPER = "Maag and Riedlinger, arXiv:2303.06920"
_IGOE = "Igoe et al., arXiv:2205.10439"
_LABEL_TEXT = {
    "oh": "one-hot of the predicted class",
    "uni": "1/C for every class",
    "exp": "one-hot of a class drawn from pi",
}
_MEAN_TEXT = "(sum_c pi_c ||pi - e_c||_{p}^{p}{times})^(1/{p}), e_c = one-hot of class c"
_LAST_LAYER: dict[str, Any] = {
    "family": "gradient",
    "units": "log2",
    "at": "head",
    "needs": frozenset({"logits", "features"}),
    "compute": "gradunc_viz.scores.gradients:gradient_norm",
}

PAPER_NORMS = (0.1, 0.3, 0.5, 1.0, 2.0)
"""The p of the paper's norms."""


def _number(p: float) -> str:
    return np.format_float_positional(p, trim="-")


def _orientation(label: str) -> int:
    # The exact uniform norm vanishes where the softmax is flat, whatever p is; so does its label part.
    return -1 if label == "uni" else 1


def _source(label: str, p: float) -> str:
    if label == "exp":
        return f"{_IGOE}, for p = 1; here for any p"
    return f"{_PAPER}; Lee and AlRegib, arXiv:2008.08030" if (label, p) == ("uni", 2) else _PAPER


def _gradient_norm(label: str, p: float, variant: str) -> GradientNorm:
    number = _number(p)
    suffix = "_paper" if variant == "paper" else ""
    orientation = _orientation(label)
    delta = "|pi_c - y_c|"
    if variant == "paper":
        delta = "|pi_c (1 - y_c)|"
        # (C-1)/C pi_c: its p-norm over classes grows with a flatter softmax for p < 1 and shrinks for p > 1. At
        # p = 1 it is constant and leaves the feature norm, which is small on what the network does not know.
        orientation = 1 if label == "oh" or p < 1 else -1
    formula = f"log2 || {delta} psi_d ||_{number} over (c, d, taps), y = {_LABEL_TEXT[label]}"
    if label == "exp":
        mean = _MEAN_TEXT.format(p=number, times=f" sum_(d, taps) |psi_d|^{number}")
        formula = f"log2 {mean}: the mean over classes drawn from pi"
    elif (label, p, variant) == ("uni", 2, "exact"):
        formula += "; ranks as the gradient score of Lee and AlRegib, whose label is 1 for every class"
    if label != "exp" and variant == "exact":
        formula += f"; of a query model log2 || dL/da_q psi_d ||_{number} over (q, d)"
    return GradientNorm(
        name=f"pgn_{label}_p{number}{suffix}",
        orientation=orientation,
        formula=formula,
        title=rf"$\|\nabla_K \mathcal{{L}}_{{\mathrm{{{label}}}}}\|_{{{number}}}$" + (" (paper)" if suffix else ""),
        source=_source(label, p),
        request=NormRequest(label, p, variant),
        **_LAST_LAYER,
    )


def _label_part(label: str, p: float) -> GradientScore:
    number = _number(p)
    norm = f"|| pi - y ||_{number}, y = {_LABEL_TEXT[label]}"
    if label == "exp":
        norm = _MEAN_TEXT.format(p=number, times="")
    return GradientScore(
        name=f"label_{label}_p{number}",
        orientation=_orientation(label),
        formula=f"log2 {norm}; oriented as pgn_{label}_p{number}, which is this plus feature_p{number}"
        + (f"; of a query model log2 || dL/da ||_{number}" if label != "exp" else ""),
        title=rf"label part $\|\pi - y_{{\mathrm{{{label}}}}}\|_{{{number}}}$",
        source=_source(label, p),
        request=NormRequest(label, p, part="label"),
        **_LAST_LAYER | {"needs": frozenset({"logits"})},
    )


def _feature_part(p: float) -> GradientScore:
    number = _number(p)
    return GradientScore(
        name=f"feature_p{number}",
        # activations are small on what a network does not know
        orientation=-1,
        formula=(
            f"log2 (sum_(d, taps) |psi_d|^{number})^(1/{number}), the factor of every pgn norm of this p that is of "
            "the features; small = uncertain: they tend to be small on what a network does not know, not always"
        ),
        title=rf"feature part $\|\psi\|_{{{number}}}$",
        source=_PAPER,
        request=NormRequest("", p, part="feature"),
        **_LAST_LAYER,
    )


def _second_to_last(label: str, p: float) -> GradientScore:
    number = _number(p)
    return GradientScore(
        name=f"pgn2_{label}_p{number}",
        orientation=_orientation(label),
        formula=(
            f"log2 || delta_k z_d ||_{number} over (k, d, taps), delta_k = f'(o_k) sum_c K_ck (pi_c - y_c), y = "
            f"{_LABEL_TEXT[label]}, of a head psi = f(o), o = convolution of z, phi = 1 x 1 convolution K of psi"
        ),
        title=rf"$\|\nabla_{{K_2}} \mathcal{{L}}_{{\mathrm{{{label}}}}}\|_{{{number}}}$",
        source=_PAPER,
        request=NormRequest(label, p, layer=2),
        **_LAST_LAYER | {"needs": frozenset({"logits", "hidden"})},
    )


SCORES: tuple[Score, ...] = (
    *(_gradient_norm(label, p, "exact") for label in ("oh", "uni") for p in PAPER_NORMS),
    *(_gradient_norm(label, p, "paper") for label in ("oh", "uni") for p in PAPER_NORMS),
    *(_gradient_norm("exp", p, "exact") for p in PAPER_NORMS),
    GradientScore(
        name="gradnorm",
        orientation=-1,
        formula="log2 || (pi_c - 1/C) psi_d ||_1 over (c, d, taps): equals pgn_uni_p1",
        title="GradNorm",
        source="Huang et al., arXiv:2110.00218",
        request=NormRequest("uni", 1.0),
        **_LAST_LAYER,
    ),
    GradientScore(
        name="expgrad",
        orientation=+1,
        formula="log2 sum_c pi_c || (pi - e_c) psi ||_1, e_c = one-hot of class c: equals pgn_exp_p1",
        title="ExGrad",
        source=_IGOE,
        request=NormRequest("exp", 1.0),
        **_LAST_LAYER,
    ),
    GradientScore(
        name="fisher",
        orientation=+1,
        formula=(
            "log2 of the trace of the last layer's Fisher information, (1 - sum_c pi_c^2) sum_(d, taps) psi_d^2: "
            "equals 2 pgn_exp_p2 there, and its square once resized to the image"
        ),
        title=r"Fisher information $\mathrm{tr}\, F$",
        source="Amari, Neural Computation 10 (1998), for the information of a layer",
        request=NormRequest("exp", 2.0, power=2),
        **_LAST_LAYER,
    ),
)  # fmt: skip

PAPER_NORM_NAMES = tuple(
    score.name for score in SCORES if isinstance(score, GradientNorm) and score.label in ("oh", "uni")
)
"""The norms that the paper compares."""


_P = r"_p(?P<p>\d+(?:\.\d+)?)"


def _pattern(text: str, about: str, name: str, make: Callable[[re.Match[str], float], Score]) -> ScorePattern:
    def of_any_p(match: re.Match[str]) -> Score | None:
        p = float(match["p"])
        return make(match, p) if 0 < p < np.inf else None

    return ScorePattern(text, about, re.compile(name), of_any_p)


def _norm_named(match: re.Match[str], p: float) -> Score:
    if match["label"] == "exp" and match["paper"]:
        raise UnknownScoreError(
            f"score {match[0]!r}: the paper's formula leaves out the class that is the label, and no class is where "
            f"the label is drawn from all; expected {match[0].removesuffix('_paper')!r}"
        )
    return _gradient_norm(match["label"], p, "paper" if match["paper"] else "exact")


PATTERNS = (
    _pattern(
        "pgn_{oh,uni,exp}_p{P}[_paper]",
        "any p > 0: pgn_oh_p0.7, pgn_uni_p3_paper; of pgn_exp there is no paper's formula",
        rf"pgn_(?P<label>oh|uni|exp){_P}(?P<paper>_paper)?",
        _norm_named,
    ),
    _pattern(
        "label_{oh,uni,exp}_p{P}",
        "the factor of such a norm that is of the label, any p > 0",
        rf"label_(?P<label>oh|uni|exp){_P}",
        lambda match, p: _label_part(match["label"], p),
    ),
    _pattern(
        "feature_p{P}",
        "the factor that is of the features, any p > 0",
        rf"feature{_P}",
        lambda match, p: _feature_part(p),
    ),
    _pattern(
        "pgn2_{oh,uni}_p{P}",
        "norm of the gradient of the second-to-last convolution before a 1 x 1 one, any p > 0",
        rf"pgn2_(?P<label>oh|uni){_P}",
        lambda match, p: _second_to_last(match["label"], p),
    ),
)
