"""Which scores a network allows, and why not the others: all are tried on one frame before a run begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..schema.entries.passes import KINDS, WORDS, kind_needed
from ..schema.errors import GraduncError
from ..schema.scores import PAPER_NORMS, SCORES, lookup

__all__ = ["OF_MEAN", "ONE_PASS", "Candidates", "candidates", "every_score", "kind_of_run"]

ONE_PASS = "one pass"
"""The run whose scores come of one forward pass; others are of several, see `KINDS`, and have their own prediction."""

OF_MEAN = ("pgn_oh_p1", "pgn_oh_p2", "pgn_uni_p1")
"""Norms that are also taken of the mean prediction of several passes."""

Attempt = Callable[[str, tuple[str, ...]], object]


@dataclass(frozen=True)
class Candidates:
    """Scores that can be compared.

    Attributes
    ----------
    runs : dict of str to tuple of str
        Scores of each run.
    left_out : dict of str to list of str
        Why scores cannot be computed, and which.
    """

    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def every_score() -> tuple[str, ...]:
    """Every named score that can be computed, and factors and norms of other layers of the paper's p."""
    norms = [f"{p:g}" for p in PAPER_NORMS]
    factors = (f"{part}_p{p}" for part in ("label_oh", "label_uni", "label_exp", "feature") for p in norms)
    deeper = (f"pgn2_{label}_p{p}" for label in ("oh", "uni") for p in norms)
    of_queries = (f"pgn_{label}_p{p}_{of}" for of in ("embedding", "decoder") for label in ("oh", "uni") for p in norms)
    return (*(name for name, score in SCORES.items() if score.compute), *factors, *deeper, *of_queries)


def kind_of_run(score: str) -> str:
    """The run that a score belongs to: `ONE_PASS`, or a kind of several passes."""
    return kind_needed(lookup(score)) or ONE_PASS


def candidates(names: Sequence[str], attempt: Attempt, *, of_mean: bool = False) -> Candidates:
    """Divide scores into runs, and leave out those that cannot be computed.

    Parameters
    ----------
    names : sequence of str
        Scores to compare.
    attempt : callable
        Computes some scores of a run for one frame, or raises a `GraduncError`.
    of_mean : bool
        Whether `OF_MEAN` are compared too, for each run of several passes.
    """
    by_run: dict[str, dict[frozenset[str], list[str]]] = {}
    for name in names:
        by_run.setdefault(kind_of_run(name), {}).setdefault(lookup(name).needs, []).append(name)
    found = Candidates()
    for run, by_needs in by_run.items():
        # what needs the same fails together, as a rule
        parts = [_allowed(run, tuple(scores), attempt, found.left_out) for scores in by_needs.values()]
        allowed = tuple(score for part in parts for score in part)
        if run in KINDS and allowed and of_mean:
            # beside a score that says what the passes are
            more = [name for name in OF_MEAN if _works(run, (allowed[0], name), attempt, found.left_out)]
            allowed += tuple(more)
        if allowed:
            found.runs[run] = allowed
    return found


def _works(run: str, scores: tuple[str, ...], attempt: Attempt, left_out: dict[str, list[str]]) -> bool:
    word = next(word for word, kind in WORDS.items() if kind == run)
    try:
        attempt(run, scores)
    except GraduncError as error:
        left_out.setdefault(str(error), []).append(f"{scores[-1]} ({word})")
        return False
    return True


def _allowed(run: str, scores: tuple[str, ...], attempt: Attempt, left_out: dict[str, list[str]]) -> tuple[str, ...]:
    """Scores that can be computed: halves of those that fail together are tried apart, until one alone is to blame."""
    try:
        attempt(run, scores)
    except GraduncError as error:
        if len(scores) == 1:
            left_out.setdefault(str(error).replace(repr(scores[0]), "..."), []).append(scores[0])
            return ()
        half = len(scores) // 2
        parts = (scores[:half], scores[half:])
        return tuple(score for part in parts for score in _allowed(run, part, attempt, left_out))
    return scores
