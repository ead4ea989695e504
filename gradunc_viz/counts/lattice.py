"""The bins of a score, which no frame chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..kernels import tallies
from ..kernels.dispatch import kernels_on
from ..kernels.threads import in_threads
from ..schema.frame import BINS_PER_UNIT, MAX_BINS
from ..schema.scores import LOG2_FLOOR, Score

__all__ = ["Bins", "assign", "lattice_axis", "tallies_of"]


_FEWEST_BINS = MAX_BINS // 8


def tallies_of(scores: Tensor) -> ModuleType:
    """What counts these scores: kernels of their device, which take float32 alone, or else plain torch."""
    return kernels_on(scores.device).tallies if scores.dtype == torch.float32 else tallies


def lattice_axis(oriented: Tensor, entry: Score, n_classes: int) -> Tensor:
    """Place oriented scores on the axis of their lattice; the ends of a score's range become -inf and +inf.

    Parameters
    ----------
    oriented : Tensor
        Scores times their orientation.
    entry : Score
    n_classes : int
        The upper end of the entropy is ln of this.
    """
    if entry.upper:
        top = 1.0 if entry.upper == "1" else float(np.log(max(n_classes, 2)))
        s = (oriented / top + (entry.orientation < 0)).clamp(0, 1)  # turned round, -top to 0
        return (s / (1 - s)).log2_()
    if entry.units == "log2":
        end = LOG2_FLOOR * entry.orientation
        return torch.where(oriented == end, end * torch.inf, oriented)
    return oriented


@dataclass
class Bins:
    """Bin of every pixel per score; start, level, smallest and largest score of the bins."""

    index: list[Tensor]
    start: np.ndarray
    level: np.ndarray
    width: int
    low: np.ndarray
    high: np.ndarray


def assign(scores: Tensor, entries: Sequence[Score], n_classes: int, edges: Mapping[str, Tensor] | None = None) -> Bins:
    """Bin of every pixel per score, with the windows they need."""
    tally = tallies_of(scores)

    def window(s: int) -> tuple[Tensor, int, int, int]:
        """Values on their axis; start, level and width of their window."""
        axis = lattice_axis(scores[s], entries[s], n_classes)
        inside = tally.finite_range(axis)
        low, high = inside or (0.0, 0.0)
        # the window has to fit MAX_BINS, and a bin's number the integers that float32 holds exactly
        excess = max((high - low) / (MAX_BINS - 4), max(-low, high) / 2**24) * BINS_PER_UNIT
        level = 0
        while excess > 2.0**level:
            level += 1
        # a narrow range gets a finer step, down to what float32 holds
        while excess <= 2.0 ** (level - 1) and 0 < (high - low) * BINS_PER_UNIT < _FEWEST_BINS * 2.0**level:
            level -= 1
        step = BINS_PER_UNIT / 2.0**level
        start = int(np.floor(low * step))
        stop = int(np.floor(high * step)) - start + 2 if inside else 1
        return axis, start, level, stop + 1

    own = {
        s: edges[entry.name]
        for s, entry in enumerate(entries)
        if entry.lattice == "quantiles" and edges and entry.name in edges
    }
    on_lattice = [s for s in range(len(entries)) if s not in own]
    windows = dict(zip(on_lattice, in_threads(window, on_lattice), strict=True))
    widths = [len(own[s]) + 3 if s in own else windows[s][3] for s in range(len(entries))]
    # all windows get the widest one's length, and the bin for +inf stays the last one
    width = max(widths, default=2)

    def fill(s: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Bin of every pixel, and the smallest and the largest score in every bin."""
        if s in own:
            wide = torch.promote_types(scores.dtype, own[s].dtype)
            number = (torch.bucketize(scores[s].to(wide), own[s].to(wide), right=True) + 1).to(tally.INDEX)
            number[number == widths[s] - 1] = width - 1
        else:
            axis, start, level, _ = windows[s]
            number = tally.bin_numbers(axis, BINS_PER_UNIT / 2.0**level, start, width - 1)
        low, high = tally.extremes(number, scores[s], width)
        return number, np.where(np.isposinf(low), np.nan, low), np.where(np.isneginf(high), np.nan, high)

    filled = in_threads(fill, range(len(entries)))
    starts, levels = ([0 if s in own else windows[s][k] for s in range(len(entries))] for k in (1, 2))
    low, high = (np.stack([bins[k] for bins in filled]) for k in (1, 2))
    return Bins([bins[0] for bins in filled], np.array(starts, "i8"), np.array(levels, "i4"), width, low, high)
