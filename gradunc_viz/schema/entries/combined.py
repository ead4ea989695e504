"""Scores made of others."""

from __future__ import annotations

from ..score import Score, ScorePattern

__all__ = ["PATTERNS", "SCORES"]

SCORES: tuple[Score, ...] = ()

PATTERNS: tuple[ScorePattern, ...] = ()
