"""Scores of features, compared with those of in-distribution frames."""

from __future__ import annotations

from ..score import Score, ScorePattern

__all__ = ["PATTERNS", "SCORES"]

SCORES: tuple[Score, ...] = ()

PATTERNS: tuple[ScorePattern, ...] = ()
