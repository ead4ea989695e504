"""The state as a query string, and back: every value is held against what the caches have, and none is a path."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

from ...schema.errors import GraduncError
from ...store.cache import Cache
from .pane import MAX_PANES, MIN_PANES, letter_of, parse_pane, place_of
from .state import ExplorerState, choices

__all__ = ["read_query", "to_query"]

# Not `pn.state.location.sync`, which writes every parameter as it is and believes what it reads: here a thousand frames
# are a few ranges, what is usual is left out, and a value that fits nothing is passed over with a line why.

_CHOICES = ("tab", "task", "layout", "overlay", "scope", "norms", "curve", "curve_frames", "failure", "worst")
"""Parameters that are one of several words, those that the state knows."""

_SWITCHES = ("hide_ignored", "log_fpr")

_NAMES = {"frame_id": "frame", "selection": "frames"}
"""Names in the link where they differ from the state's."""

_LONGEST = 20_000
"""Characters of a value; what is longer was not written by us."""


def _name(parameter: str) -> str:
    return _NAMES.get(parameter, parameter)


# --------------------------------------------------------------------------------------------------------------------
# writing


def to_query(state: ExplorerState) -> str:
    """Everything that a person chose, as a query string without the question mark."""
    items: dict[str, str] = {}
    if state.several:
        items["main"] = letter_of(state.main)
    items |= {_name(name): str(getattr(state, name)) for name in ("tab", "frame_id", "score", "task")}
    items["threshold"] = repr(float(state.threshold))
    items["panes"] = ",".join(state.panes)
    for name in _CHOICES:
        if getattr(state, name) != state.param[name].default:
            items[_name(name)] = str(getattr(state, name))
    items |= {name: "1" for name in _SWITCHES if getattr(state, name)}
    items["curve_scores"] = ",".join(state.curve_scores)
    if state.scope == "fixed":
        items["fixed"] = ",".join(f"{name}={low!r}={high!r}" for name, (low, high) in state.fixed.items())
    if state.classes:
        items["classes"] = json.dumps(state.classes, separators=(",", ":"), ensure_ascii=False)
    if state.selection:
        items["frames"] = _pack(state.selection, state.cache)
    if state.pixel is not None:
        items["pixel"] = ",".join(str(int(value)) for value in state.pixel)
    if state.view is not None:
        items["view"] = ",".join(f"{value:.1f}" for value in state.view)
    return urlencode(items)


def _digest(cache: Cache) -> str:
    return hashlib.blake2b("\n".join(_listed(cache)).encode(), digest_size=4).hexdigest()


def _listed(cache: Cache) -> list[str]:
    """Ids in an order that is part of a link's form, so that links stay valid whatever the order on the page."""
    return sorted(cache.ids)


def _pack(ids: Sequence[str], cache: Cache) -> str:
    """Positions of frames among all ids as ranges, behind a digest of these ids: short whatever their number."""
    wanted = set(ids)
    places = [place for place, frame in enumerate(_listed(cache)) if frame in wanted]
    ranges: list[list[int]] = []
    for place in places:
        if ranges and place == ranges[-1][1] + 1:
            ranges[-1][1] = place
        else:
            ranges.append([place, place])
    text = "_".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
    return f"{_digest(cache)}.{text}"


# --------------------------------------------------------------------------------------------------------------------
# reading


def read_query(query: Mapping[str, str], caches: Sequence[Cache]) -> tuple[int, dict[str, Any], list[str]]:
    """Read what `to_query` wrote.

    Parameters
    ----------
    query : mapping of str to str
        As decoded from a URL; whatever else it holds is passed over.
    caches : sequence of Cache

    Returns
    -------
    main : int
        Which cache is the main one.
    params : dict
        For `ExplorerState`.
    problems : list of str
        One line for each value that is not used, because it fits nothing here.
    """
    problems: list[str] = []
    main = 0
    try:
        main = place_of(query.get("main", letter_of(0)), caches)
    except GraduncError as error:
        problems.append(f"link: {error}")
    cache = caches[main]
    readers: dict[str, Callable[[str], Any]] = {
        "frame_id": lambda text: _known(text, cache, "frame"),
        "score": lambda text: _known(text, cache.scores, "score"),
        "threshold": lambda text: _numbers(text, 1)[0],
        "panes": lambda text: _panes(text, caches),
        "curve_scores": lambda text: [_known(name, cache.scores, "score") for name in text.split(",") if name],
        "fixed": lambda text: _fixed(text, caches),
        "classes": lambda text: _classes(text, cache),
        "selection": lambda text: _unpack(text, cache),
        "pixel": lambda text: _pixel(text),
        "view": lambda text: _view(text),
        **{name: partial(_known, known=choices(name), what=name) for name in _CHOICES},
        **{name: (lambda text: _known(text, ("0", "1"), "switch") == "1") for name in _SWITCHES},
    }
    params: dict[str, Any] = {}
    for name, reader in readers.items():
        text = query.get(_name(name))
        if text is None:
            continue
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"{len(text)} characters long")
            params[name] = reader(text)
        except (ValueError, RecursionError, GraduncError) as error:
            problems.append(f"link: {_name(name)} is not used: {error}")
    if "frame_id" not in params:  # what belongs to a frame is nothing without it
        for name in ("pixel", "view"):
            params.pop(name, None)
    if params.get("scope") == "fixed" and "fixed" not in params:
        del params["scope"]
    return main, params, problems


def _known(text: str, known: Any, what: str) -> str:
    if text not in known:
        raise ValueError(f"no {what} {text[:80]!r} here")
    return text


def _numbers(text: str, count: int) -> list[float]:
    parts = text.split(",")
    if len(parts) != count:
        raise ValueError(f"expected {count} numbers, got {text[:80]!r}")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not made of numbers") from None
    if not all(math.isfinite(value) and abs(value) < 1e30 for value in values):
        raise ValueError(f"{text[:80]!r} is not finite")
    return values


def _panes(text: str, caches: Sequence[Cache]) -> list[str]:
    found = [str(parse_pane(part, caches)) for part in text.split(",")]
    if not MIN_PANES <= len(found) <= MAX_PANES:
        raise ValueError(f"expected {MIN_PANES} to {MAX_PANES} panes, got {len(found)}")
    return found


def _fixed(text: str, caches: Sequence[Cache]) -> dict[str, tuple[float, float]]:
    found = {}
    for part in text.split(","):
        name, _, limits = part.partition("=")
        _known(name, {score for cache in caches for score in cache.scores}, "score")
        low, high = _numbers(limits.replace("=", ","), 2)
        if not low < high:
            raise ValueError(f"range of {name} is empty")
        found[name] = (low, high)
    return found


def _classes(text: str, cache: Cache) -> list[str]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("expected a list of class names")
    return [_known(name, cache.classes, "class") for name in dict.fromkeys(found)]


def _unpack(text: str, cache: Cache) -> list[str]:
    digest, _, ranges = text.partition(".")
    if digest != _digest(cache):
        raise ValueError("the cache holds other frames than when the link was made")
    found: dict[str, None] = {}
    for part in ranges.split("_"):
        low, _, high = part.partition("-")
        if not (low.isascii() and low.isdigit() and (high or low).isascii() and (high or low).isdigit()):
            raise ValueError(f"{part[:40]!r} is no range of frames")
        first, last = int(low), int(high or low)
        if not first <= last < len(cache):
            raise ValueError(f"{part[:40]!r} lies outside the {len(cache)} frames")
        found |= dict.fromkeys(_listed(cache)[first : last + 1])
    return [frame for frame in cache.ids if frame in found]


def _pixel(text: str) -> tuple[int, int]:
    y, x = _numbers(text, 2)
    if y != int(y) or x != int(x) or min(y, x) < 0:
        raise ValueError(f"{text[:40]!r} is no pixel")
    return int(y), int(x)


def _view(text: str) -> tuple[float, float, float, float]:
    left, right, top, bottom = _numbers(text, 4)
    if not (left < right and top < bottom and max(abs(v) for v in (left, right, top, bottom)) < 1e6):
        raise ValueError(f"{text[:80]!r} is no part of a frame")
    return left, right, top, bottom
