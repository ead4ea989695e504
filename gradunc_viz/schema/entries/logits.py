"""Scores of logits alone: of the softmax, or before it."""

from __future__ import annotations

from ..score import Score, ScorePattern

__all__ = ["PATTERNS", "SCORES"]

_SOFTMAX = "gradunc_viz.scores.softmax"
_HENDRYCKS = "Hendrycks and Gimpel, arXiv:1610.02136"

SCORES: tuple[Score, ...] = (
    Score(
        "msp", "softmax", +1, "1", "1 - max_c pi_c", r"$1 - \max_c \pi_c$", _HENDRYCKS,
        compute=f"{_SOFTMAX}:msp", upper="1",
    ),
    Score(
        "entropy", "softmax", +1, "nats", "-sum_c pi_c ln pi_c", r"entropy $H(\pi)$", "Shannon, 1948",
        compute=f"{_SOFTMAX}:entropy", upper="log C",
    ),
    Score(
        "margin", "softmax", +1, "1", "1 - (pi_(1) - pi_(2)), the two largest", r"$1 - (\pi_{(1)} - \pi_{(2)})$",
        "Scheffer et al., 2001", compute=f"{_SOFTMAX}:margin", upper="1",
    ),
    Score(
        "energy", "logit", +1, "logit", "-ln sum_c exp phi_c", r"energy $-\ln \sum_c e^{\phi_c}$",
        "Liu et al., arXiv:2010.03759", compute=f"{_SOFTMAX}:energy",
    ),
    Score(
        "max_logit", "logit", -1, "logit", "max_c phi_c", r"$\max_c \phi_c$", "Hendrycks et al., arXiv:1911.11132",
        compute=f"{_SOFTMAX}:max_logit",
    ),
)  # fmt: skip

PATTERNS: tuple[ScorePattern, ...] = ()
