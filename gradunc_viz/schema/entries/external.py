"""Maps that others computed."""

from __future__ import annotations

import re

from ..score import Score, ScorePattern

__all__ = ["PATTERNS", "SCORES"]


def _imported(match: re.Match[str]) -> Score:
    # turned on import where small values mean uncertain, so that the name alone tells the orientation
    return Score(
        match[0], "external", +1, "1", "imported map, larger is more uncertain", match["name"], "imported",
        lattice="quantiles", needs=frozenset(),
    )  # fmt: skip


SCORES: tuple[Score, ...] = ()

PATTERNS = (
    ScorePattern(
        "ext:{NAME}",
        "maps that were imported, see 'gradunc import'",
        re.compile(r"ext:(?P<name>[A-Za-z0-9][A-Za-z0-9_.+-]{0,63})"),
        _imported,
    ),
)
