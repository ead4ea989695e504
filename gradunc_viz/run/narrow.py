"""Types that maps are stored in: as narrow as keeps what can be told apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..schema.errors import SchemaError

__all__ = ["FEWEST_HALVES", "LOG2_STEP", "fits_half", "half_if_it_fits", "halved_maps", "keeps_apart", "quantise_log2"]

LOG2_STEP = 2.0**-9
"""log2 norms are stored as multiples of this: float32 values that compress like 16-bit integers."""

FEWEST_HALVES = 1024
"""Numbers of float16 in an octave, such as from 0.5 to 1."""


def quantise_log2(norms: Tensor) -> Tensor:
    """Round log2 norms to multiples of `LOG2_STEP`, as float32."""
    return (norms.float() / LOG2_STEP).round_().mul_(LOG2_STEP)


def fits_half(low: float, high: float) -> bool:
    """Whether numbers between two ends can be rounded to float16.

    Raises
    ------
    SchemaError
        If an end is not finite.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SchemaError("a score or logit is not finite")
    return max(-low, high) < 65000


def half_if_it_fits(values: Tensor) -> Tensor:
    """float16 where the range allows, else float32.

    Raises
    ------
    SchemaError
        If a value is not finite.
    """
    return values.half() if fits_half(*_ends(values)) else values.float()


def halved_maps(maps: Tensor) -> Tensor:
    """Maps (S, y, x), each rounded to float16 where that `keeps_apart` its pixels, in a type that holds all of them.

    Raises
    ------
    SchemaError
        If a value is not finite.
    """
    kept = [each.half() if keeps_apart(*_ends(each)) else each for each in maps]
    narrow = all(each.dtype == torch.float16 for each in kept)
    return torch.stack([each if narrow else each.float() for each in kept]) if kept else maps.half()


def keeps_apart(low: float, high: float) -> bool:
    """Whether a map between two ends keeps its pixels apart where it is rounded to float16.

    A map that overflows float16 does not; nor does one whose values lie so close together, beside how large they are,
    that fewer than `FEWEST_HALVES` numbers of float16 lie between its ends: rounded, most of its pixels would be equal.
    Softmaxes of a high temperature are such.

    Raises
    ------
    SchemaError
        If an end is not finite.
    """
    return fits_half(low, high) and not 0 < _halves_between(low, high) < FEWEST_HALVES


def _ends(values: Tensor) -> tuple[float, float]:
    return (*map(float, torch.aminmax(values)),) if values.numel() else (0.0, 0.0)  # type: ignore[return-value]


def _halves_between(low: float, high: float) -> float:
    """How many numbers of float16 lie between two, more than 0 if these are not equal."""
    bits = torch.tensor([low, high]).half().view(torch.int16).int()
    steps = torch.where(bits < 0, -(bits & 0x7FFF), bits)  # in the order of the numbers
    return max(float(steps[1] - steps[0]), 0.5 * float(high > low))
