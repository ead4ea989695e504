"""Scores of features and logits, compared with those of in-distribution frames."""

from __future__ import annotations

import re

from ..score import FittedScore, Score, ScorePattern

__all__ = ["PATTERNS", "SCORES"]

_FEATURES = frozenset({"features", "fit"})
_BOTH = frozenset({"logits", "features", "fit"})
_HOME = "gradunc_viz.scores"
_SUN = "Sun et al., arXiv:2204.06507"
_JUNG = "Jung et al., arXiv:2107.11264"


def _knn(name: str, k: int) -> FittedScore:
    return FittedScore(
        name, "fitted", +1, "1", f"distance of psi / ||psi|| to its {k}-th neighbour among 20,000 drawn ones",
        f"distance to the {k}-th neighbour", _SUN, "head", needs=_FEATURES, compute=f"{_HOME}.knn:Knn",
        options=(("k", k),),
    )  # fmt: skip


def _sml(suffix: str, what: str) -> FittedScore:
    parts = (("boundary_suppression", "_bs" in suffix), ("dilated_smoothing", "_ds" in suffix))
    symbol = r"standardized $-\max_c \phi_c$"
    return FittedScore(
        f"sml{suffix}", "fitted", +1, "1", f"-(max_c phi_c - mu_y) / sigma_y, y the prediction{what}",
        f"{symbol} ({suffix[1:].replace('_', ', ')})" if suffix else symbol, _JUNG,
        needs=frozenset({"logits", "fit"}), compute=f"{_HOME}.sml:Sml", options=parts,
    )  # fmt: skip


def _of_any_k(match: re.Match[str]) -> Score | None:
    k = int(match["k"])
    return _knn(f"knn_k{k}", k) if k > 0 else None


SCORES: tuple[Score, ...] = (
    FittedScore(
        "mahalanobis", "fitted", +1, "1", "min_c (psi - mu_c)^T Sigma^-1 (psi - mu_c)",
        r"Mahalanobis distance $\min_c \|\psi - \mu_c\|_{\Sigma}^2$", "Lee et al., arXiv:1807.03888", "head",
        needs=_FEATURES, compute=f"{_HOME}.mahalanobis:Mahalanobis",
    ),
    FittedScore(
        "mahalanobis_rel", "fitted", +1, "1", "mahalanobis - (psi - mu)^T Sigma_0^-1 (psi - mu), of all classes",
        "relative Mahalanobis distance", "Ren et al., arXiv:2106.09022", "head",
        needs=_FEATURES, compute=f"{_HOME}.mahalanobis:RelativeMahalanobis",
    ),
    _knn("knn", 50),
    FittedScore(
        "vim", "fitted", +1, "logit", "alpha ||psi_perp|| - ln sum_c exp phi_c",
        r"ViM $\alpha \|\psi^{\perp}\| - \ln \sum_c e^{\phi_c}$", "Wang et al., arXiv:2203.10807", "head",
        needs=_BOTH, compute=f"{_HOME}.vim:Vim",
    ),
    FittedScore(
        "neco", "fitted", +1, "1", "-||V^T psi|| / ||psi||, V: first principal directions",
        r"NECO $-\|V^T \psi\| / \|\psi\|$", "Ben Ammar et al., arXiv:2310.06823", "head",
        needs=_FEATURES, compute=f"{_HOME}.neco:Neco",
    ),
    _sml("", ""),
    _sml("_bs", ", boundaries suppressed"),
    _sml("_ds", ", smoothed by a dilated Gaussian"),
    _sml("_bs_ds", ", boundaries suppressed, smoothed by a dilated Gaussian"),
    FittedScore(
        "gradorth", "fitted", -1, "log2", "log2 of 2^pgn_oh_p2 ||V^T psi|| / ||psi||",
        r"GradOrth $\|\nabla_K \mathcal{L}_{\mathrm{oh}} V\|_2$", "Behpour et al., arXiv:2308.00310", "head",
        needs=_BOTH, compute=f"{_HOME}.neco:GradOrth",
    ),
)  # fmt: skip

PATTERNS = (
    ScorePattern(
        "knn_k{K}",
        "any k of 1 or more: knn_k10; 'knn' is that of k = 50",
        re.compile(r"knn_k(?P<k>[1-9]\d{0,8})"),
        _of_any_k,
    ),
)
