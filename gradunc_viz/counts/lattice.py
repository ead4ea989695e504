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
from ..schema.frame import BINS_PER_UNIT, MAX_BINS
from ..schema.scores import LOG2_FLOOR, Score

__all__ = ["Windows", "lattice_axis", "tallies_of"]


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


@dataclass(frozen=True)
class Windows:
    """The part of its lattice that each score of a frame occupies.

    Attributes
    ----------
    start, level : list of int
        Of the first inner bin, and of the step.
    widths : list of int
        Bins of each score, with the two that are set apart.
    width : int
        The widest one's, which all windows get; the bin for +inf stays the last one.
    edges : dict of int -> Tensor
        What cuts the bins of those scores whose lattice are quantiles.
    """

    start: list[int]
    level: list[int]
    widths: list[int]
    width: int
    edges: dict[int, Tensor]

    @classmethod
    def of(
        cls,
        ranges: Sequence[tuple[float, float] | None],
        entries: Sequence[Score],
        edges: Mapping[str, Tensor] | None = None,
    ) -> Windows:
        """Windows for scores that lie between some finite numbers on their axes, or at its ends alone."""
        own = {
            s: edges[entry.name]
            for s, entry in enumerate(entries)
            if entry.lattice == "quantiles" and edges and entry.name in edges
        }
        windows = [_window(inside) for inside in ranges]
        widths = [len(own[s]) + 3 if s in own else width for s, (_, _, width) in enumerate(windows)]
        starts, levels = ([0 if s in own else one[k] for s, one in enumerate(windows)] for k in (0, 1))
        return cls(starts, levels, widths, max(widths, default=2), own)

    def numbers(self, s: int, values: Tensor, axis: Tensor) -> Tensor:
        """Bin of every pixel of the `s`-th score, of which these are values, and values on its axis."""
        tally = tallies_of(values)
        if s in self.edges:
            edges = self.edges[s]
            wide = torch.promote_types(values.dtype, edges.dtype)
            number = (torch.bucketize(values.to(wide), edges.to(wide), right=True) + 1).to(tally.INDEX)
            number[number == self.widths[s] - 1] = self.width - 1
            return number
        found: Tensor = tally.bin_numbers(axis, BINS_PER_UNIT / 2.0 ** self.level[s], self.start[s], self.width - 1)
        return found


def _window(inside: tuple[float, float] | None) -> tuple[int, int, int]:
    """Start, level and width of the window of a score whose finite values lie between two on its axis."""
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
    return start, level, stop + 1
