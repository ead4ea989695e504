"""Pixels per bin and per cell in plain torch and numpy: what `gradunc_viz.kernels.llvm.tallies` does in compiled loops.

Values are 1-D float32 tensors with one entry for each pixel, on any device; numbers of bins and rows are tensors of
`INDEX`, and counts are numpy arrays of integers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "INDEX",
    "bin_numbers",
    "cell_counts",
    "extremes",
    "finite_range",
    "joint_counts",
    "joint_sums",
    "leading_counts",
    "occupied",
]

INDEX = torch.int64


def finite_range(axis: Tensor) -> tuple[float, float] | None:
    """Smallest and largest finite number, if there is one."""
    is_finite = axis.isfinite()
    if not bool(is_finite.any()):
        return None
    low, high = (torch.where(is_finite, axis, end) for end in (torch.inf, -torch.inf))
    return float(low.min()), float(high.max())


def bin_numbers(axis: Tensor, step: float, start: int, last: int) -> Tensor:
    """Bin of every number: floor(axis * step) - start + 1; 0 for minus infinity and `last` for infinity."""
    finite = torch.where(axis.isfinite(), axis, 0.0)
    # the step of subnormal scores is beyond float32
    number = ((finite.double() if step > 2.0**70 else finite) * step).floor_().sub_(start - 1)
    return torch.where(axis.isposinf(), float(last), torch.where(axis.isneginf(), 0.0, number)).long()


def extremes(number: Tensor, values: Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value in each bin; infinity and minus infinity where there is none."""
    empty = values.new_full((width,), torch.inf)
    low = empty.scatter_reduce(0, number, values, "amin")
    high = (-empty).scatter_reduce(0, number, values, "amax")
    return low.cpu().numpy(), high.cpu().numpy()


def joint_counts(row: Tensor, number: Tensor, rows: int, width: int) -> np.ndarray:
    """Pixels per row and bin, (rows, width)."""
    return _bincount(row * width + number, rows * width).reshape(rows, width)


def joint_sums(row: Tensor, number: Tensor, weight: Tensor, rows: int, width: int) -> np.ndarray:
    """Sum of float64 weights per row and bin, (rows, width)."""
    index = row * width + number
    if index.device.type == "cpu":  # of no pixel numpy returns integers
        summed = np.bincount(index.numpy(), weight.numpy(), rows * width).astype("f8")
    else:
        summed = torch.bincount(index, weight, rows * width).cpu().numpy()
    return summed.reshape(rows, width)


def leading_counts(values: Tensor) -> np.ndarray:
    """Pixels per leading 16 bits of a value's key (see `gradunc_viz.counts.cells`), in rising order, (65536,)."""
    return _bincount((_keys(values) >> 16).long() + 2**15, 2**16)


def cell_counts(values: Tensor, rank: np.ndarray, shift: int, row: Tensor, rows: int) -> np.ndarray:
    """Pixels per row and cell of keys without their last `shift` bits.

    Parameters
    ----------
    rank : int array (65536,)
        Place of the leading 16 bits among those that occur.

    Returns
    -------
    (rows, number of ranks * 2^(16 - shift))
    """
    keys = _keys(values)
    size = (int(rank.max()) + 1) << (16 - shift)
    place = torch.from_numpy(rank).to(values.device, torch.long)[(keys >> 16).long() + 2**15] << (16 - shift)
    place += (keys & (2**16 - 1)) >> shift
    return _bincount(row * size + place, rows * size).reshape(rows, size)


def occupied(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of (rows, m) counts that hold pixels: their numbers, and what they hold."""
    used = np.flatnonzero(counts.any(0))
    return used, counts[:, used]


def _keys(values: Tensor) -> Tensor:
    bits = (values + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _bincount(index: Tensor, minlength: int) -> np.ndarray:
    if index.device.type == "cpu":  # several times faster than torch's
        return np.bincount(index.numpy(), minlength=minlength)
    return torch.bincount(index, None, minlength).cpu().numpy()
