"""The registry of scores."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

from .entries import combined, external, fitted, gradients, logits, passes, queries
from .entries.gradients import PAPER_NORMS
from .entries.logits import tempered_name
from .errors import GraduncError, SettingsError, UnknownScoreError
from .registry import loaded_entry_points, said_again
from .score import (
    FittedScore,
    GradientNorm,
    GradientScore,
    NormRequest,
    Score,
    ScorePattern,
    SoftmaxRequest,
    SoftmaxScore,
)

__all__ = [
    "BUILT_IN",
    "DEFAULT_SCORES",
    "LOG2_FLOOR",
    "PAPER_NORMS",
    "PAPER_SCORES",
    "PATTERNS",
    "SCORES",
    "SETS",
    "FittedScore",
    "GradientNorm",
    "GradientScore",
    "NormRequest",
    "Score",
    "ScorePattern",
    "SoftmaxRequest",
    "SoftmaxScore",
    "lookup",
    "recall",
    "register",
    "resolve_scores",
    "split_names",
    "tempered_name",
]

LOG2_FLOOR = -149.0
"""log2 of the smallest positive float32: what a vanishing gradient is given, so that every map stays finite."""

ENTRY_POINTS = "gradunc_viz.scores"
"""Group of the entry points of packages that bring scores: each names a `Score`, or a module that registers some."""

_KINDS = (gradients, logits, fitted, passes, queries, combined, external)

SCORES: dict[str, Score] = {entry.name: entry for kind in _KINDS for entry in kind.SCORES}
"""Every named score, registered ones too. Those with parameters in their names exist as well: see `lookup`."""

PATTERNS: tuple[ScorePattern, ...] = tuple(pattern for kind in _KINDS for pattern in kind.PATTERNS)
"""Scores with parameters in their names."""

BUILT_IN = frozenset(SCORES)
"""Names that are known wherever the package is."""

PAPER_SCORES = (*gradients.PAPER_NORM_NAMES, "msp", "entropy")
"""What the paper compares: ten exact and ten paper norms of the last layer, msp and entropy."""

DEFAULT_SCORES = ("pgn_oh_p0.5", "pgn_oh_p1", "pgn_oh_p2", "pgn_uni_p0.5", "msp", "entropy")
"""What is computed when nothing is asked for."""


UPPER = ("", "1", "log C")
"""What the largest value of a score may be."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


def register(score: Score) -> Score:
    """Add a score: it is then computed, cached, evaluated, explored, drawn and exported like any other.

    A function of the running program, such as a notebook's, may be registered again under its name.

    Raises
    ------
    GraduncError
        If the name is taken or no name for a score, or a field has no meaning.
    """
    if not _NAME.fullmatch(score.name):
        raise GraduncError(f"score {score.name!r}: expected a name of letters, digits, '_', '.' and '-'")
    known = SCORES.get(score.name) or _generated(score.name)
    # what was only recalled from a cache gives way
    if known is not None and known.compute and not said_again(score, known):
        raise GraduncError(f"score {score.name!r} is registered already")
    if score.orientation not in (-1, 1):
        raise GraduncError(f"score {score.name!r}: orientation is {score.orientation!r}; expected +1 or -1")
    if score.at not in ("head", "pixel"):
        raise GraduncError(f"score {score.name!r}: at is {score.at!r}; expected 'head' or 'pixel'")
    if score.lattice not in ("uniform", "quantiles"):
        raise GraduncError(f"score {score.name!r}: lattice is {score.lattice!r}; expected 'uniform' or 'quantiles'")
    if score.upper not in UPPER:
        raise GraduncError(f"score {score.name!r}: upper is {score.upper!r}; expected '1', 'log C' or ''")
    SCORES[score.name] = score
    return score


def recall(description: Mapping[str, Any]) -> None:
    """Know a score that a cache describes and nobody registered here: it can be shown, though not computed."""
    name = str(description.get("name", ""))
    if name in SCORES or _generated(name) is not None or not _NAME.fullmatch(name):
        return

    def text(key: str, default: str = "") -> str:
        return str(description.get(key) or default)

    SCORES[name] = Score(
        name=name,
        family=text("family", "unknown"),
        orientation=-1 if description.get("orientation") == -1 else 1,
        units=text("units", "1"),
        formula=text("formula"),
        title=text("title", name),
        source=text("source"),
        at="head" if description.get("at") == "head" else "pixel",
        lattice="quantiles" if description.get("lattice") == "quantiles" else "uniform",
        upper=upper if (upper := text("upper")) in UPPER else "",
        parts=tuple(map(str, description.get("parts") or ())),
    )


@cache
def _load_entry_points() -> None:
    """Register what installed packages bring, once: an entry point names a `Score`, or a module that registers some."""
    for found in loaded_entry_points(ENTRY_POINTS):
        if isinstance(found, Score) and found.name not in SCORES:
            try:
                register(found)
            except GraduncError as error:  # another's package: without it, everything else goes on
                warnings.warn(f"{ENTRY_POINTS}: {error}", stacklevel=3)


def lookup(name: str) -> Score:
    """Look up a score by name.

    Parameters
    ----------
    name
        A name in `SCORES`, a gradient norm of any other p > 0 such as ``pgn_oh_p0.7`` or ``pgn_uni_p3_paper``, or
        ``ext:NAME`` for maps that were imported.

    Raises
    ------
    UnknownScoreError
        If there is no such score; the message offers the nearest names.
    """
    if name not in SCORES:
        _load_entry_points()
    found = SCORES.get(name) or _generated(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, [*SCORES, *_similar(name)], n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise UnknownScoreError(
        f"unknown score {name!r}{hint} ('gradunc scores' lists them all; scores of your own come with --score-file)"
    )


def _similar(name: str) -> Iterator[str]:
    """Names of the patterns of norms, of the p of a name that is unknown."""
    p = re.search(r"_p(\d+(?:\.\d+)?)", name)
    for pattern in PATTERNS:
        if p and "{P}" in pattern.text:
            text = pattern.text.replace("{P}", p[1]).replace("[", "{,").replace("]", "}")
            words = (word.split(",") for word in re.split(r"[{}]", text))
            yield from (found for found in map("".join, product(*words)) if found not in SCORES)


def _generated(name: str) -> Score | None:
    """A score whose name tells all, by the pattern that it matches."""
    for pattern in PATTERNS:
        match = pattern.name.fullmatch(name)
        score = match and pattern.make(match)
        if score is None:
            continue
        for part in score.parts:
            if "+" in part or lookup(part).parts:
                raise UnknownScoreError(f"unknown score {name!r}: {part!r} cannot be part of another")
        if score.name != name:
            raise UnknownScoreError(f"unknown score {name!r}: write it {score.name!r}")
        return score
    return None


def split_names(names: str | Iterable[str]) -> list[str]:
    """Names from a text with commas between them, or one by one."""
    parts = [part.strip() for part in names.split(",")] if isinstance(names, str) else names
    return [part for part in parts if part]


SETS: Mapping[str, str] = {
    "default": "what is computed when nothing is asked for",
    "paper": "what the paper compares",
    "all": "every score of one forward pass of any network, registered ones too",
    **{word: f"all scores of {passes.KINDS[kind]}, {word}_..." for word, kind in passes.WORDS.items()},
    "queries": "the default ones, and what is made of class scores of queries, for query models",
    "fitted": "every named score that is fitted on in-distribution frames, registered ones too",
}
"""Words that stand for several scores, and for which."""


def _of_set(word: str) -> tuple[str, ...]:
    if word == "default":
        return DEFAULT_SCORES
    if word == "paper":
        return PAPER_SCORES
    if word == "queries":
        # the uniform norm under the name that is oriented for them
        named = (name + "_masks" if name.startswith("pgn_uni") else name for name in DEFAULT_SCORES)
        return (*named, *(score.name for score in queries.SCORES))
    if word in passes.WORDS:
        return passes.of_word(word)
    _load_entry_points()
    if word == "all":
        return tuple(name for name, score in SCORES.items() if score.compute and score.needs <= {"logits", "features"})
    return tuple(name for name, score in SCORES.items() if score.family == word)


def resolve_scores(scores: str | Iterable[str] | None = None) -> tuple[str, ...]:
    """Turn what a user wrote into a tuple of score names.

    Parameters
    ----------
    scores
        Names and words of `SETS`, as a comma-separated string or an iterable; None is ``"default"``.

    Raises
    ------
    UnknownScoreError
        If a name is no score, or none is left.
    SettingsError
        If these are no names.
    """
    if scores is not None and not isinstance(scores, Iterable):
        raise SettingsError(f"scores is {scores!r}; expected names of scores")
    given = split_names("default" if scores is None else scores)
    if other := [name for name in given if not isinstance(name, str)]:
        raise SettingsError(f"scores holds {other[0]!r}; expected names of scores")
    if not given:
        raise UnknownScoreError("no score was named: expected names such as 'msp', 'paper' or 'all'")
    unique = tuple(dict.fromkeys(name for word in given for name in (_of_set(word) if word in SETS else (word,))))
    for name in unique:
        entry = lookup(name)
        if entry.family == "external":
            raise UnknownScoreError(f"score {name!r} cannot be computed: its maps are imported ('gradunc import')")
        if entry.family == "combined":
            entry.function  # noqa: B018  says how it is made
    return unique
