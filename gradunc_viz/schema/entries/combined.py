"""Scores made of others: of cached maps, by `gradunc_viz.combine`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..score import Score, ScorePattern

__all__ = ["HOW", "PATTERNS", "SCORES", "combined_score"]

HOW = {
    "rank": (
        "mean of the ranks in [0, 1] of {parts} among the pixels of other frames",
        "mean rank",
        "Borda, 1781",
    ),
    "logistic": (
        "sigma(b + sum_s w_s Phi^-1(rank of s)), s = {parts}; b, w and ranks fitted on other frames",
        "logistic",
        "Cox, 1958",
    ),
}
"""Ways in which scores are combined: formula, title and source of each."""


def combined_score(how: str, parts: Sequence[str], name: str = "") -> Score:
    """The score that is made of some others.

    Parameters
    ----------
    how : "rank" or "logistic"
    parts : sequence of str
        Names of scores.
    name : str, optional
        By default ``HOW:PART+PART``, parts in alphabetical order.
    """
    parts = tuple(sorted(parts))
    formula, title, source = HOW[how]
    named = name or f"{how}:{'+'.join(parts)}"
    return Score(
        named, "combined", +1, "1", formula.format(parts=", ".join(parts)),
        name.replace("$", r"\$") or f"{title}: {' + '.join(parts)}", source,
        needs=frozenset(), upper="1", parts=parts,
    )  # fmt: skip


def _of_parts(match: re.Match[str]) -> Score | None:
    parts = match["parts"].split("+")
    distinct = len(set(parts)) == len(parts) > 1
    return combined_score(match["how"], parts) if distinct else None


SCORES: tuple[Score, ...] = ()

PATTERNS = (
    ScorePattern(
        "{rank,logistic}:{SCORE}+{SCORE}[+..]",
        "scores that were combined, see 'gradunc combine'",
        re.compile(rf"(?P<how>{'|'.join(HOW)}):(?P<parts>[^+]+(?:\+[^+]+)+)"),
        _of_parts,
    ),
)
