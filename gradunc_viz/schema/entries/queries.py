"""Scores of query models, which return classes and masks of queries instead of logits of pixels."""

from __future__ import annotations

import re

import numpy as np

from ..score import GradientScore, NormRequest, Score, ScorePattern

__all__ = ["PATTERNS", "SCORES"]

_QUERIES = frozenset({"queries"})
_HOME = "gradunc_viz.scores.queries"


def _post_hoc(name: str, formula: str, title: str, source: str) -> Score:
    return Score(
        name, "queries", +1, "1", f"{formula}, S_k = sum_q P_qk s_q", title, source,
        needs=_QUERIES, compute=f"{_HOME}:{name}",
    )  # fmt: skip


SCORES: tuple[Score, ...] = (
    _post_hoc("max_mask", "1 - max_k S_k", r"$1 - \max_k S_k$", "Hendrycks and Gimpel, arXiv:1610.02136, of masks"),
    _post_hoc("rba", "-sum_k tanh S_k", r"RbA $-\sum_k \tanh S_k$", "Nayal et al., arXiv:2211.14293"),
    _post_hoc("neg_sum", "-sum_k S_k", r"$-\sum_k S_k$", "Nayal et al., arXiv:2211.14293, without tanh"),
    _post_hoc(
        "mask_energy", "-ln sum_k exp S_k", r"energy $-\ln \sum_k e^{S_k}$", "Liu et al., arXiv:2010.03759, of masks"
    ),
    Score(
        "eam", "queries", +1, "1", "1 - sum_q s_q max_k P_qk, s_q = sigma(a_q)",
        r"EAM $1 - \sum_q s_q \max_k P_{qk}$", "Grcic et al., arXiv:2301.03407", "head",
        needs=_QUERIES, compute=f"{_HOME}:eam",
    ),
)  # fmt: skip

_LAYERS = {
    "masks": ("M", "the mask embeddings", "|| g ||_{p} || psi ||_{p}"),
    "embedding": ("W_m", "the last linear layer of the mask embedding", "|| H^T g ||_{p} || psi ||_{p}"),
    "decoder": ("K", "the pixel decoder's last layer", "|| M^T g ||_{p} (sum_(d, taps) |z_d|^{p})^(1/{p})"),
}
_LABELS = {"oh": "-ln S_y, y the predicted class", "uni": "-(1/K) sum_k ln S_k"}


def _norm(match: re.Match[str]) -> Score | None:
    label, p, layer = match["label"], float(match["p"]), match["layer"]
    if not 0 < p < np.inf or (label, layer) == ("oh", "masks"):  # which is pgn_oh itself
        return None
    number = np.format_float_positional(p, trim="-")
    symbol, about, formula = _LAYERS[layer]
    return GradientScore(
        # of queries the uniform norm, too, is large where all of them reject a pixel
        f"pgn_{label}_p{number}_{layer}", "gradient", +1, "log2",
        f"log2 {formula.format(p=number)}: norm of the gradient of L = {_LABELS[label]} by {about}; g = dL/da",
        rf"$\|\nabla_{{{symbol}}} \mathcal{{L}}_{{\mathrm{{{label}}}}}\|_{{{number}}}$",
        "Maag and Riedlinger, arXiv:2303.06920, of the likelihood of query models", "head",
        needs=frozenset({"logits", "features", "queries"}),
        compute="gradunc_viz.scores.gradients:gradient_norm",
        request=NormRequest(label, p) if layer == "masks" else NormRequest(label, p, layer=layer),
    )  # fmt: skip


PATTERNS: tuple[ScorePattern, ...] = (
    ScorePattern(
        "pgn_{oh,uni}_p{P}_{embedding,decoder}",
        "of a query model, the gradient by the last layer of the mask embedding or of the pixel decoder, any p > 0",
        re.compile(r"pgn_(?P<label>oh|uni)_p(?P<p>\d+(?:\.\d+)?)_(?P<layer>embedding|decoder)"),
        _norm,
    ),
    ScorePattern(
        "pgn_uni_p{P}_masks",
        "of a query model, pgn_uni_p{P} oriented as it is there: large = uncertain",
        re.compile(r"pgn_(?P<label>uni)_p(?P<p>\d+(?:\.\d+)?)_(?P<layer>masks)"),
        _norm,
    ),
)
