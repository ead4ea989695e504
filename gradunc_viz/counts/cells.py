"""Cells of float32 numbers: those that share their leading bits.

The bits of a finite float32, read as an integer and mirrored for negative numbers, are a *key* that rises with the
number. Numbers whose keys agree but for their last `shift` bits form a cell. Cells of a larger shift are unions of
cells of a smaller one, no data chooses them, and they fit scores of any range: within an octave they are evenly wide,
and there are as many of them around 1e-30 as around 1e30. Counts per cell therefore add up over frames exactly, and
only cells that hold pixels have to be kept.
"""

from __future__ import annotations

import numpy as np

__all__ = ["cell_scores", "float_keys"]

_LARGEST = int(np.array(np.finfo("f4").max, "f4").view("i4"))


def float_keys(values: np.ndarray) -> np.ndarray:
    """Keys of finite float32 numbers, int32; of both zeros it is 0."""
    bits = (np.asarray(values, "f4") + np.float32(0)).view("i4")
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def cell_scores(cells: np.ndarray, shift: int) -> np.ndarray:
    """The smallest number of each cell, float32."""
    keys = np.clip(np.asarray(cells, "i8") << shift, -_LARGEST - 1, _LARGEST).astype("i4")
    return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).view("f4")
