"""Where the values of imported maps lie, for bins and digits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["HALF_LEVELS", "IMPORT_BINS", "HalfMap", "bin_edges", "half_map", "sample_pixels", "spread_evenly"]

_SAMPLE = 2**21  # pixels drawn from a set: 8 or 16 MB, and some hundred of them in the uppermost 1e-4
_SAMPLE_FRAMES = 1024  # frames they are drawn from at most

IMPORT_BINS = 2**14  # no bin of the middle holds more than 1.1e-4 of the pixels, which bounds the error of FPR95


def sample_pixels(maps: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Draw pixels from `count` maps, sorted, float32 or float64; all of them where the set is small."""
    each = max(_SAMPLE // max(count, 1), 1)
    parts = []
    for number, values in enumerate(map(np.ravel, maps)):
        few = values.size <= each
        drawn = slice(None) if few else np.random.default_rng(number).integers(0, values.size, each)
        parts.append(values[drawn].astype(np.result_type(values, "f4")))
    return np.sort(np.concatenate(parts))


def spread_evenly(ids: Sequence[str]) -> list[str]:
    """Frames to draw pixels from, evenly spread over all."""
    step = max(1, math.ceil(len(ids) / _SAMPLE_FRAMES))
    return list(ids[::step])


def bin_edges(sample: np.ndarray) -> np.ndarray:
    """Rising values that cut a set into bins, by the rank of a value among the drawn ones.

    Half of the quantiles u are spaced evenly, half in log2(u / (1 - u)): a bin holds about 1e-4 of the pixels, and
    towards either end less than 1 % of what lies beyond it, so that few positives at the very top are resolved as
    well as many. A value that many pixels share gets a bin of its own.
    """
    distinct = np.unique(sample)
    if len(distinct) <= IMPORT_BINS:
        return distinct
    end = np.log2(len(sample))
    odds = np.linspace(-end, end, IMPORT_BINS // 2)
    ranks = np.r_[1 / (1 + np.exp2(-odds)), np.linspace(0, 1, IMPORT_BINS // 2)]
    at = np.sort((len(sample) * ranks).astype("i8").clip(0, len(sample) - 1))
    values, repeats = np.unique(sample[at], return_counts=True)
    return np.unique(np.r_[values, np.nextafter(values[repeats > 1], values.dtype.type(np.inf))])


_LOWEST, HALF_LEVELS = 0x0400, 0x3C00 - 0x0400 + 1  # bits of 2^-14, and the float16 numbers from there to 1


_TAIL = 2.0**-14


@dataclass(frozen=True)
class HalfMap:
    """A rising step function from scores to float16 numbers in (0, 1]."""

    starts: np.ndarray
    halves: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The number of each score."""
        return self.halves[np.maximum(np.searchsorted(self.starts, values, side="right") - 1, 0)]


def half_map(sample: np.ndarray) -> HalfMap:
    """Spend the float16 numbers of [2^-14, 1] where ranking needs them.

    They are not evenly spaced (half of all lie below 2^-7), so numbers are counted, not values. With no more distinct
    scores than numbers, each score gets its own. Else half of the numbers goes evenly to the ranks u, and half to
    log2(1 - u): what is to be found is rare and ranks high, and there precision needs to be told apart.
    """
    distinct, counts = np.unique(sample, return_counts=True)
    if len(distinct) <= HALF_LEVELS:
        level = np.linspace(0, HALF_LEVELS - 1, len(distinct)).round().astype("i8")
        if len(distinct) == 1:
            level[:] = HALF_LEVELS // 2
    else:
        rank = (np.cumsum(counts) - counts / 2) / len(sample)
        top = np.log2((1 + _TAIL) / (1 - rank + _TAIL)) / np.log2((1 + _TAIL) / _TAIL)
        share = rank + top
        level = (share / share[-1] * (HALF_LEVELS - 1)).round().astype("i8")
    used, first = np.unique(level, return_index=True)
    return HalfMap(distinct[first], (used + _LOWEST).astype("u2").view("f2"))
