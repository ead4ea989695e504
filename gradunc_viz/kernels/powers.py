"""Which powers of a number follow from each other by multiplication, so that one exponential serves all norms.

The norms of the paper, p = 0.1, 0.3, 0.5, 1 and 2, are powers of u = x^0.1: one exponential and a few products.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import isclose

__all__ = ["PowerStep", "drawn_powers", "power_plan"]


@dataclass(frozen=True)
class PowerStep:
    """One power x^p and how it is made.

    Attributes
    ----------
    p : float
    kind : "given", "product", "root" or "exponential"
    factors : tuple of int
        Steps that a product multiplies, or the one whose square root is taken.
    wanted : bool
        Whether somebody asked for it, or other steps only.
    last : tuple of int
        Steps that no later step needs.
    """

    p: float
    kind: str
    factors: tuple[int, ...]
    wanted: bool
    last: tuple[int, ...] = ()


def drawn_powers(ps: Iterable[float]) -> frozenset[float]:
    """Of which powers of the probabilities the sums are needed for a label that is drawn from these, for every p.

    The expected |pi - y|^p adds up to sum_c pi^p (1 - pi) + pi (1 - pi)^p, which is sum_c pi (1 - pi) for p = 2 and
    twice that for p = 1.
    """
    return frozenset(power for p in ps for power in ((1.0, 2.0) if p in (1, 2) else (p, p + 1)))


@lru_cache
def power_plan(ps: tuple[float, ...], given: bool) -> tuple[PowerStep, ...]:
    """Steps that make x^p for every p, smallest p first.

    Parameters
    ----------
    ps : tuple of float
    given : bool
        Whether x itself is at hand, or its logarithm only.

    Returns
    -------
    tuple of PowerStep
        With ``given`` the first step is x itself.
    """
    found: list[tuple[float, str, tuple[int, ...]]] = [(1.0, "given", ())] if given else []

    def place(p: float) -> int | None:
        return next((i for i, step in enumerate(found) if isclose(step[0], p, rel_tol=1e-12)), None)

    def product(p: float) -> tuple[int, int] | None:
        for i, step in enumerate(found):
            j = place(p - step[0]) if p > step[0] else None
            if j is not None:
                return i, j
        return None

    for p in sorted(ps):
        if any(step[0] == p for step in found):  # another one that is close is no answer to who asked for p
            continue
        factors = product(p)
        if factors is None:  # one more square may open the way: 0.1, 0.2, 0.3
            for i, step in enumerate(tuple(found)):
                j = place(p - 2 * step[0]) if p > 2 * step[0] else None
                if j is not None:
                    found.append((2 * step[0], "product", (i, i)))
                    factors = len(found) - 1, j
                    break
        if factors is not None:
            found.append((p, "product", factors))
        elif (whole := place(2 * p)) is not None:
            found.append((p, "root", (whole,)))
        else:
            found.append((p, "exponential", ()))
    uses = {i: max((k for k, step in enumerate(found) if i in step[2]), default=i) for i in range(len(found))}
    return tuple(
        PowerStep(p, kind, factors, p in ps, tuple(i for i in uses if uses[i] == k))
        for k, (p, kind, factors) in enumerate(found)
    )
