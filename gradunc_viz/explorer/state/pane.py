"""What a pane shows, as a short text that fits into a link: ``A:image``, ``B:msp``, ``A:msp~B:msp``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...schema.errors import GraduncError
from ...schema.scores import DEFAULT_SCORES, lookup
from ...store.cache import Cache
from ...style.scores import by_family

__all__ = [
    "MAX_PANES", "MIN_PANES", "Pane", "default_panes", "letter_of", "pane_options", "parse_pane", "place_of",
]  # fmt: skip

MIN_PANES, MAX_PANES = 2, 6

_PLAIN = {
    "image": "Image",
    "label": "Annotation",
    "prediction": "Prediction",
    "error": "Error map",
}

_PART = re.compile(r"([^:~]+):([^~]+)")

_LETTERS = re.compile(r"[A-Z]{1,4}")


def letter_of(place: int) -> str:
    """Name of a cache (network) by the place it was given at: A to Z, then AA, AB and so on."""
    name, rest = "", place + 1
    while rest:
        rest, last = divmod(rest - 1, 26)
        name = chr(ord("A") + last) + name
    return name


def place_of(letter: str, caches: Sequence[Cache]) -> int:
    """Read what `letter_of` writes.

    Raises
    ------
    GraduncError
        If there is no such cache.
    """
    place = -1
    if _LETTERS.fullmatch(letter):
        for one in letter:
            place = 26 * (place + 1) + ord(one) - ord("A")
    if not 0 <= place < len(caches):
        raise GraduncError(f"no network {letter[:20]!r}; there are {len(caches)}")
    return place


@dataclass(frozen=True)
class Pane:
    """What one pane shows.

    Attributes
    ----------
    network : int
        Which cache.
    what : str
        ``image``, ``label``, ``prediction``, ``error`` or the name of a score.
    minus : (network, score), optional
        The map that is taken off.
    """

    network: int
    what: str
    minus: tuple[int, str] | None = None

    def __str__(self) -> str:
        text = f"{letter_of(self.network)}:{self.what}"
        return text if self.minus is None else f"{text}~{letter_of(self.minus[0])}:{self.minus[1]}"

    @property
    def networks(self) -> tuple[int, ...]:
        """Positions of the caches that it shows."""
        return (self.network,) if self.minus is None else (self.network, self.minus[0])

    @property
    def is_score(self) -> bool:
        """Whether the pane shows one score."""
        return self.what not in _PLAIN and self.minus is None

    @property
    def is_difference(self) -> bool:
        """Whether the pane shows a difference of two scores."""
        return self.minus is not None

    @property
    def by_rank(self) -> bool:
        """Whether the difference is one of percentiles, as the two scores have no unit in common."""
        return self.minus is not None and not _comparable(self.what, self.minus[1])

    def title(self, several: bool) -> str:
        """Title for people; `several`: whether networks are told apart."""
        first = _PLAIN.get(self.what, self.what)
        before = f"{letter_of(self.network)}: " if several else ""
        if self.minus is None:
            return before + first
        after = f"{letter_of(self.minus[0])}: " if several else ""
        return f"{before}{first} − {after}{self.minus[1]}"


def _comparable(one: str, other: str) -> bool:
    """Whether values of two scores may be subtracted: the same score, or one unit and one kind."""
    if one == other:
        return True
    first, second = lookup(one), lookup(other)
    same_kind = (first.family, first.orientation) == (second.family, second.orientation)
    return same_kind and first.units == second.units and first.family in ("gradient", "softmax")


def parse_pane(text: str, caches: Sequence[Cache]) -> Pane:
    """Read what `Pane.__str__` writes.

    Raises
    ------
    GraduncError
        If it is not of that form, or names a cache or score that is not there.
    """
    parts = [_PART.fullmatch(part) for part in text.split("~")]
    if not 1 <= len(parts) <= 2 or None in parts:
        raise GraduncError(f"pane {text!r}: expected such as A:image, A:msp or A:msp~B:msp")
    found = []
    for match in parts:
        assert match is not None
        try:
            network, what = place_of(match[1], caches), match[2]
        except GraduncError as error:
            raise GraduncError(f"pane {text!r}: {error}") from None
        if what not in caches[network].scores and (what not in _PLAIN or len(parts) == 2):
            raise GraduncError(f"pane {text!r}: {caches[network].name} has no {what!r}")
        found.append((network, what))
    return Pane(*found[0], minus=found[1] if len(found) == 2 else None)


def default_panes(caches: Sequence[Cache], main: int, score: str | None = None) -> list[str]:
    """What the panes show first, `score` among it: two caches that have frames in common are set side by side."""
    letter, own = letter_of(main), caches[main].scores
    usual = [name for name in DEFAULT_SCORES if name in own] or list(own)
    usual = [score, *usual] if score in own else usual
    first = [f"{letter}:{name}" for name in usual[:1]]
    alike = [i for i, cache in enumerate(caches) if i != main and not frozenset(cache.ids).isdisjoint(caches[main].ids)]
    if not alike:
        return [f"{letter}:image", *first, f"{letter}:prediction", f"{letter}:label"]
    other = alike[0]
    shared = [name for name in usual if name in caches[other].scores][:1]
    twin = [f"{letter_of(other)}:{name}" for name in shared]
    between = [f"{letter}:{name}~{letter_of(other)}:{name}" for name in shared]
    prediction = [f"{letter}:prediction", f"{letter_of(other)}:prediction"]
    return [f"{letter}:image", *(first if not shared else [f"{letter}:{shared[0]}"]), *twin, *between, *prediction][:6]


def pane_options(caches: Sequence[Cache]) -> dict[str, dict[str, str]]:
    """Groups of what a pane may show, each from title to text of a `Pane`."""
    several = len(caches) > 1
    groups: dict[str, dict[str, str]] = {}
    for number, cache in enumerate(caches):
        head = f"{letter_of(number)}: {cache.name}" if several else "Frame"
        pieces = [Pane(number, what) for what in _PLAIN]
        groups[head] = {pane.title(several): str(pane) for pane in pieces}
        for family, names in by_family(cache.scores).items():
            scores = [Pane(number, name) for name in names]
            groups[f"{head}, {family}" if several else family] = {pane.title(several): str(pane) for pane in scores}
    return groups
