"""Scores of one's own: a function of logits and features, registered under a name."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, TypeVar

from torch import Tensor

from ..schema.scores import Score, lookup, register
from .needs import ForwardPass

__all__ = ["fingerprints", "register_score"]

Function = TypeVar("Function", bound=Callable[..., Tensor])


def register_score(
    name: str,
    *,
    orientation: int,
    formula: str,
    title: str = "",
    source: str = "",
    units: str = "1",
    family: str = "own",
    at: Literal["head", "pixel"] = "head",
    upper: str = "",
) -> Callable[[Function], Function]:
    """Register the decorated function as a score: computed, cached, evaluated, explored and drawn like any other.

    >>> @gv.register_score("renyi", orientation=+1, formula="-ln sum_c pi_c^2")                    # doctest: +SKIP
    ... def renyi(logits, features):
    ...     return -logits.softmax(1).square().sum(1).log()

    Parameters
    ----------
    name : str
        Unique name of letters, digits, ``_``, ``.`` and ``-``.
    orientation : int
        +1: larger is more uncertain; -1: smaller is more uncertain.
    formula, title, source, units, family, upper
        See `gradunc_viz.schema.scores.Score`. Values in units ``"log2"`` are resized as what they are logarithms of.
    at : "head" or "pixel"
        ``"head"``: the function takes logits (N, C, h, w) and features (N, D, h', w') as they leave and enter the last
        layer, and its map is resized to the image. ``"pixel"``: it takes the logits resized to the image alone.

    Returns
    -------
    decorator
        Which returns the function as it is. The function returns (N, h, w), finite and not oriented.

    Raises
    ------
    GraduncError
        If the name is taken, or orientation or `at` have no meaning.
    """

    def decorate(function: Function) -> Function:
        def of_pass(run: ForwardPass) -> Any:
            return function(run.head.logits, run.head.features)

        of_pass.__wrapped__ = function  # type: ignore[attr-defined]
        register(
            Score(
                name=name,
                family=family,
                orientation=orientation,
                units=units,
                formula=formula,
                title=title or name,
                source=source,
                at=at,
                needs=frozenset({"logits", "features"} if at == "head" else {"logits"}),
                compute=of_pass if at == "head" else function,
                upper=upper,
            )
        )
        return function

    return decorate


def fingerprints(names: Iterable[str]) -> dict[str, str]:
    """Digests of the scores that are not built in: another formula under the same name is another score.

    What a function calls is not looked at.
    """
    entries = [lookup(name) for name in names]
    return {entry.name: _fingerprint(entry) for entry in entries if not _is_built_in(entry)}


def _is_built_in(score: Score) -> bool:
    return isinstance(score.compute, str) and score.compute.startswith(f"{__package__}.")


def _fingerprint(score: Score) -> str:
    function = inspect.unwrap(score.function)
    if not (inspect.isroutine(function) or inspect.isclass(function) or isinstance(function, partial)):
        function = type(function)
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # typed into an interpreter, or no function of Python's
        text = repr(getattr(getattr(function, "__code__", None), "co_code", function))
    told = (score.orientation, score.units, score.formula, score.at, text)
    return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()
