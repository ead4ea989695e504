"""Which scores stand on the wrong side, as figures mark them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics import evaluate
from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..style.scores import score_title

__all__ = ["MEANING", "marked_title", "wrong_sides"]

MEANING = r"$^\dagger$ on the wrong side: AuROC < 50 %"


def marked_title(score: str, wrong: bool, width: int | None = None) -> str:
    """Title of a score, with a dagger if it stands on the wrong side; see `gradunc_viz.style.scores.score_title`."""
    return score_title(score, width) + (r"$^\dagger$" if wrong else "")


def wrong_sides(
    caches: Mapping[str, Cache], task: str | None, scores: Sequence[str], **choice: Any
) -> dict[str, frozenset[str]]:
    """Scores of each cache that stand on the wrong side; none where there are no labels of the task."""
    held = [score for score in scores if any(score in cache.scores for cache in caches.values())]
    try:
        result = evaluate(dict(caches), task, scores=held, bootstrap=0, **choice)
    except GraduncError:
        return dict.fromkeys(caches, frozenset())
    wrong = result["wrong_side"].sel(pooling="pixels")
    return {name: frozenset(map(str, wrong["score"].values[wrong.sel(cache=name).values])) for name in caches}
