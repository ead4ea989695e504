"""Powers, exponentials and logarithms of vectors as scores need them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..powers import power_plan
from .code import Value, exp2, log2

__all__ = ["LARGEST", "exp", "expm1", "log1p", "positive_log2", "powers_of"]

LARGEST = 3.4e38
"""Below infinity, and above what sums become."""

_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2)
_LIFT = 60  # log2 of a factor that makes every subnormal normal


def positive_log2(x: Value) -> Value:
    """Logarithm of finite x >= 0, subnormal or not, at most 2^60; that of 0 is any number."""
    return log2(x * 2.0**_LIFT, -_LIFT)


def powers_of(ps: Sequence[float], x: Value | None = None, log2_x: Value | None = None) -> dict[float, Value]:
    """x^p for every p, by the fewest exponentials; from x >= 0, or from its logarithm where that is at most 0."""
    made: list[Value] = []
    found = {}
    for step in power_plan(tuple(ps), x is not None):
        if step.kind == "given":
            assert x is not None
            power = x
        elif step.kind == "exponential":
            if log2_x is None:
                assert x is not None
                log2_x = positive_log2(x)
            power = exp2(log2_x * step.p)
            if x is not None:  # 0, infinity and NaN are their own powers
                power = power.where((x > 0.0) & (x < LARGEST), x)
        elif step.kind == "root":
            power = made[step.factors[0]].sqrt()
        else:
            power = made[step.factors[0]] * made[step.factors[1]]
        made.append(power)
        if step.wanted:
            found[step.p] = power
    return found


def exp(x: Value) -> Value:
    """e^x for x <= 0, down to the smallest subnormal and 0."""
    half = exp2(x * (_LOG2_E / 2))
    return half * half


def expm1(x: Value) -> Value:
    """e^x - 1 for x <= 0 with the digits of small x."""
    series = x * (1 / 8) + 1.0
    for k in range(7, 1, -1):
        series = series * (x * (1 / k)) + 1.0
    return (x * series).where(x > -0.4, exp(x) - 1.0)


def log1p(x: Value) -> Value:
    """ln(1 + x) for x >= -1/2 with the digits of small x."""
    above = x + 1.0
    return log2(above) * _LN_2 + (x - (above - 1.0)) / above
